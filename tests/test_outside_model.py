"""A model that the zoo has never seen goes the whole way: amortize, fit, posterior, calibrate, and one data set as well."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import physzoo
from physzoo.inference.importance import k_hat
from physzoo.inference.modes import laplace

TIMES = torch.linspace(0.1, 2.0, 6)


def decay(y=None, mask=None):
    """An activity that falls: y_t = a exp(-k t) with 5 % relative noise; a plain function, no class, no physics object."""
    amplitude = pyro.sample("amplitude", dist.LogNormal(torch.tensor(1.0), 0.5))
    rate = pyro.sample("rate", dist.Gamma(torch.tensor(4.0), torch.tensor(4.0)))
    mean = amplitude.unsqueeze(-1).log() - rate.unsqueeze(-1) * TIMES
    likelihood = dist.LogNormal(mean, 0.05)
    return pyro.sample("y", (likelihood if mask is None else likelihood.mask(mask)).to_event(1), obs=y)


DATA = {"y": 3.0 * torch.exp(-0.8 * TIMES)}


@pytest.fixture(scope="module")
def guide():
    guide = physzoo.amortize(decay, "mlp", "spline", example=DATA)
    physzoo.fit(
        decay, guide, physzoo.Simulator(512), physzoo.ForwardKL(), steps=2500, learning_rate=5e-3, progress=False
    )
    return guide


def exact():
    """Posterior means and sds by quadrature on a grid of (log amplitude, rate)."""
    log_a, rate = np.meshgrid(np.linspace(0.9, 1.3, 401), np.linspace(0.6, 1.0, 401), indexing="ij")
    log_y, times = DATA["y"].log().numpy(), TIMES.numpy()
    residual = log_y - log_a[..., None] + rate[..., None] * times
    log_p = -0.5 * (residual / 0.05).__pow__(2).sum(-1) - 0.5 * ((log_a - 1) / 0.5) ** 2 + 3 * np.log(rate) - 4 * rate
    weight = np.exp(log_p - log_p.max())
    weight /= weight.sum()
    moments = {}
    for name, value in (("amplitude", np.exp(log_a)), ("rate", rate)):
        mean = (weight * value).sum()
        moments[name] = (mean, np.sqrt((weight * (value - mean) ** 2).sum()))
    return moments


def test_the_posterior_of_one_data_set_agrees_with_quadrature(guide):
    tree = physzoo.posterior(decay, guide, DATA, draws=4000)
    for name, (mean, sd) in exact().items():
        draws = tree["posterior"][name].values.reshape(-1)
        assert abs(draws.mean() - mean) / sd < 0.25
        assert 0.8 < draws.std() / sd < 1.25
    stats = tree["sample_stats"]
    assert k_hat(stats["log_p"].values[0], stats["log_q"].values[0]) < 0.7


def test_the_guide_is_calibrated_and_its_spoiled_copy_is_not(guide):
    good = physzoo.calibrate(decay, guide, datasets=512, draws=100, progress=False)
    assert good.passed, good.verdict
    assert min(good.contraction.values()) > 0.5
    narrow = physzoo.calibrate(decay, guide, datasets=512, draws=100, widen=0.8, progress=False)
    assert not narrow.passed


def test_one_data_set_from_a_laplace_start():
    guide = physzoo.amortize(decay, None, "full", example=DATA, whitening=laplace(decay, DATA))
    physzoo.fit(decay, guide, DATA, physzoo.ELBO(32), steps=300, learning_rate=1e-2, progress=False)
    draws = guide.sample(DATA, 20_000)
    for name, (mean, sd) in exact().items():
        assert abs(draws[name].mean().item() - mean) / sd < 0.05
        assert 0.93 < draws[name].std().item() / sd < 1.07
