"""A Gaussian at the mode: where there is none, or a ridge in its place, one sentence says so."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

from physzoo.inference.modes import laplace
from physzoo.inference.modes.gaussian import _inverse_root
from physzoo.inference.warn import TrustWarning

DOUBLE = torch.float64


def plateau(y=None):
    """For z = y the density rises to a level as w goes to zero, and stays there: log w has no mode."""
    z = pyro.sample("z", dist.Cauchy(0.0, 1.0))
    w = pyro.sample("w", dist.HalfCauchy(2.0))
    return pyro.sample("y", dist.StudentT(2.0, z, w), obs=y)


def spike(y=None):
    """Centred groups: without end the density rises as tau goes to zero."""
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("groups", 4):
        theta = pyro.sample("theta", dist.Normal(torch.tensor(0.0), tau))
        return pyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def test_a_plateau_is_told_of_by_the_site_that_lies_along_it():
    with pytest.warns(TrustWarning, match="hardly falls along 'w', expected"):
        found = laplace(plateau, {"y": torch.tensor(0.5)})
    assert found.tril[0, 0] < 0.01
    assert 0.5 < found.tril[1, 1] < 4  # log of a half-Cauchy: pi / 2


def test_a_density_without_a_mode_is_refused():
    with pytest.raises(ValueError, match=r"still rises by .* expected a mode"):
        laplace(spike, {"y": torch.tensor([2.8, 0.8, -0.3, 0.7])})


def test_the_root_of_a_matrix_that_no_cholesky_method_bears():
    """Curvatures from 1 to 1e24 in turned directions: L L' applied to an eigenvector gives its variance."""
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)))[0]
    variance = torch.tensor([1.0, 1e-6, 1e-8], dtype=DOUBLE)
    root, flat = _inverse_root(turn @ torch.diag(1 / variance) @ turn.T, torch.ones(3, dtype=DOUBLE), 1e-30)
    torch.testing.assert_close((root.T @ turn).square().sum(0), variance, rtol=1e-6, atol=0.0)
    assert bool((root == root.tril()).all())
    assert bool((root.diagonal() > 0).all())
    assert not bool(flat.any())
    steep = torch.diag(torch.tensor([1.0, 1e24, 1e-3], dtype=DOUBLE))
    root, flat = _inverse_root(steep, torch.ones(3, dtype=DOUBLE), 1e-30)
    torch.testing.assert_close(root.diagonal(), torch.tensor([1.0, 1e-12, 1.0], dtype=DOUBLE))
    assert flat.tolist() == [False, False, True]
