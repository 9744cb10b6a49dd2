"""The bar that conducts better where it is warm: its exact solution, its determinant, its residual posterior."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine

from physzoo.physics.fem import require_dolfinx

try:
    require_dolfinx()
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)

from physzoo.guides.residual import ResidualGuide
from physzoo.models.nonlinear_poisson1d import (
    ELEMENTS,
    LARGEST_AT_PRIOR_MEAN,
    SOURCE,
    NonlinearPoisson1D,
    temperatures,
    truth,
)
from physzoo.physics import Elliptic1D

LINEAR = Elliptic1D(lambda z: z, [0.5], ELEMENTS, dtype=torch.float64)


def draws(model, count=5, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return model.field(torch.randn(count, len(model.origin), generator=generator, dtype=torch.float64))


@pytest.fixture(scope="module")
def model():
    return NonlinearPoisson1D()


def test_its_nodal_values_are_those_of_kirchhoffs_transform(model):
    kappa = draws(model)
    u = model.problem.solve(kappa)
    torch.testing.assert_close(u + u**3 / 3, SOURCE * LINEAR.solve(kappa), rtol=1e-10, atol=1e-10)
    assert not model.problem.linear
    # far from what the same bar would be without the dependence on u
    assert (u - SOURCE * LINEAR.solve(kappa)).abs().max() > 0.1


def test_its_determinant_at_the_state_is_that_of_the_linear_bar_times_the_conductivities(model):
    """r(u) = A w(u) - f, so dr/du = A diag(1 + u^2)."""
    kappa = draws(model)
    u = model.problem.solve(kappa) + 0.1
    expected = LINEAR.logdet(u, kappa) + (1 + u.square()).log().sum(-1)
    found = model.problem.logdet(u, kappa)
    # one constant for all unknowns and states may be left: the scaling of the linear bar's residual
    torch.testing.assert_close(found - found[0], expected - expected[0], rtol=0, atol=1e-8)


def test_the_residual_needs_no_assembly_and_vanishes_at_the_solution(model):
    kappa = draws(model)
    assert model.problem.tabulated
    assert model.problem.residual(model.problem.solve(kappa), kappa).abs().max() < 1e-9 * SOURCE


def test_the_field_keeps_the_stated_variance_and_the_state_its_stated_maximum(model):
    assert model.field.variance_kept == pytest.approx(0.86, abs=0.005)
    assert NonlinearPoisson1D(modes=2).field.variance_kept == pytest.approx(0.65, abs=0.005)
    u = model.problem.solve(model.field(model.origin))
    assert u.max().item() == pytest.approx(LARGEST_AT_PRIOR_MEAN, abs=5e-4)


def test_data_are_reproducible_and_noisy_at_two_percent(model):
    y = temperatures()["y"]
    assert torch.equal(y, temperatures()["y"])
    clean = model.problem.observe(model.problem.solve(model.field(truth())))
    chi_squared = ((y - clean) / model.noise).square().sum().item()
    assert 8 - 3 * 16**0.5 < chi_squared < 8 + 3 * 16**0.5


def test_with_the_determinant_at_the_state_the_residual_likelihood_is_the_forward_one():
    """The state integrated out by importance sampling from its conditional given z, exact in the residual."""
    exact, data = NonlinearPoisson1D(modes=2), {"y": temperatures()["y"]}
    generator = torch.Generator().manual_seed(7)
    z = 0.5 * torch.randn(6, 2, generator=generator, dtype=torch.float64)
    shifts = {}
    for corrected in (True, False):
        model = NonlinearPoisson1D("residual", modes=2, residual_scale=1e-4, corrected=corrected)
        guide = ResidualGuide(lambda: {"z": z}, model.problem, (ELEMENTS - 1,), model.residual_scale, field=model.field)
        guide.to(torch.float64)
        pyro.set_rng_seed(0)
        weights = []
        for _ in range(8):
            with pyro.plate("unknowns", 6):
                u = guide()["u"].detach()
                log_q = guide._noise_of(u, z)
                scored = guide._noise().log_prob(log_q[0]) - log_q[1]
                joint = log_joint(model, data, z=z, u=u)
            weights.append(joint - scored)
        marginal = torch.stack(weights).logsumexp(0) - math.log(8)
        with pyro.plate("unknowns", 6):
            forward = log_joint(exact, data, z=z)
        shifts[corrected] = (marginal - forward).detach().numpy()
    assert np.ptp(shifts[True]) < 0.05
    assert np.ptp(shifts[False]) > 5


def log_joint(model, data, **values):
    trace = poutine.trace(poutine.condition(model, data=values)).get_trace(**data)
    trace.compute_log_prob()
    sites = [site for site in trace.nodes.values() if site["type"] == "sample" and site["name"] != "unknowns"]
    return sum(site["log_prob"] for site in sites)
