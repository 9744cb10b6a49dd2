"""The truncated normal: its density, its draws and their derivatives against SciPy's."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest, truncnorm

from physzoo.physics.priors import TruncatedNormal

CASES = [(1.0, 0.5), (0.05, 0.05), (-1.0, 0.5), (-4.0, 1.0)]


def oracle(loc, scale):
    return truncnorm(-loc / scale, np.inf, loc=loc, scale=scale)


@pytest.mark.parametrize(("loc", "scale"), CASES)
def test_density_and_draws_are_scipys(loc, scale):
    prior = TruncatedNormal(torch.tensor(loc, dtype=torch.float64), scale)
    x = torch.linspace(0.01, 3.0, 50, dtype=torch.float64)
    np.testing.assert_allclose(prior.log_prob(x), oracle(loc, scale).logpdf(x.numpy()), rtol=1e-9)
    torch.manual_seed(0)
    draws = prior.sample((20_000,))
    assert (draws > 0).all()
    assert kstest(draws.numpy(), oracle(loc, scale).cdf).pvalue > 1e-3


def test_nothing_is_possible_below_zero():
    prior = TruncatedNormal(torch.tensor(1.0), 0.5, validate_args=False)
    assert prior.log_prob(torch.tensor(-0.1)) == -torch.inf


def test_draws_follow_their_parameters():
    """The pathwise derivative of the mean is that of the closed form."""
    loc = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(1)
    mean = TruncatedNormal(loc, 1.0).rsample((200_000,)).mean()
    (slope,) = torch.autograd.grad(mean, loc)
    step = 1e-5
    expected = (oracle(0.5 + step, 1.0).mean() - oracle(0.5 - step, 1.0).mean()) / (2 * step)
    assert abs(slope.item() - expected) < 0.01
