"""The bar that conducts better where it is warm: its exact solution, its determinant, its residual posterior."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine

from physzoo.physics.fem.problem import require_dolfinx

try:
    require_dolfinx()
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)

from physzoo.guides.state import ResidualGuide
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


def by_kirchhoff(kappa, residual=None):
    """The state of a given residual and log|det dr/du|, from the linear bar and Kirchhoff's transform alone."""
    w = SOURCE * LINEAR.solve(kappa, residual=None if residual is None else residual / SOURCE)
    u = 2 * torch.sinh(torch.asinh(1.5 * w) / 3)
    return u, LINEAR.logdet(w, kappa) + (1 + u.square()).log().sum(-1)


def test_the_state_of_a_residual_is_that_of_kirchhoffs_transform(model):
    kappa, e = draws(model), 1e-2 * torch.randn(5, 63, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, log_determinant = by_kirchhoff(kappa, e)
    torch.testing.assert_close(model.problem.solve(kappa, residual=e), u, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.problem.logdet(u, kappa), log_determinant, rtol=0, atol=1e-9)


@pytest.mark.parametrize("wrong", [0.0, 0.2], ids=["right", "wrong determinant"])
def test_with_the_determinant_at_the_state_the_residual_likelihood_is_the_forward_one(wrong, monkeypatch):
    """The state integrated out by importance sampling from its conditional given z, which is drawn and scored without the
    model's solver and determinant; a determinant that is off by 0.2 in z is found out."""
    exact, data = NonlinearPoisson1D(modes=2), {"y": temperatures()["y"]}
    generator = torch.Generator().manual_seed(7)
    z = 0.5 * torch.randn(6, 2, generator=generator, dtype=torch.float64)
    shifts = {}
    for corrected in (True, False):
        model = NonlinearPoisson1D("residual", modes=2, residual_scale=1e-4, corrected=corrected)
        right = model.problem.logdet
        monkeypatch.setattr(model.problem, "logdet", lambda u, k, right=right: right(u, k) + wrong * k[..., 0])
        kappa, s_r = model.field(z), model.residual_scale
        weights = []
        for _ in range(8):
            e = s_r * torch.randn(6, 63, generator=generator, dtype=torch.float64)
            u, log_determinant = by_kirchhoff(kappa, e)
            scored = torch.distributions.Normal(0.0, s_r).log_prob(e).sum(-1) + log_determinant
            with pyro.plate("unknowns", 6):
                joint = log_joint(model, data, z=z, u=u)
            weights.append(joint - scored)
        marginal = torch.stack(weights).logsumexp(0) - math.log(8)
        with pyro.plate("unknowns", 6):
            forward = log_joint(exact, data, z=z)
        shifts[corrected] = np.ptp((marginal - forward).detach().numpy())
    assert shifts[False] > 5
    assert shifts[True] > 0.1 if wrong else shifts[True] < 0.05


def guided(model, values, **options):
    guide = ResidualGuide(values, model.problem, (ELEMENTS - 1,), model.residual_scale, field=model.field, **options)
    return guide.to(torch.float64)


class Fixed:
    """A guide of z that knows one value."""

    def __init__(self, z):
        self.z = z

    def __call__(self, **_):
        return {"z": self.z}

    def log_prob(self, values, data):
        return values["z"].new_zeros(values["z"].shape[:-1])


def test_the_guide_scores_a_state_through_the_field_by_the_jacobian_of_the_residual():
    model = NonlinearPoisson1D("residual", modes=2)
    z = torch.tensor([0.7, -0.4], dtype=torch.float64)
    guide, kappa = guided(model, Fixed(z)), model.field(z)
    e = model.residual_scale * torch.linspace(-1, 1, 63, dtype=torch.float64)
    u, _ = by_kirchhoff(kappa, e)
    jacobian = torch.autograd.functional.jacobian(lambda u: model.problem.residual(u, kappa), u)
    expected = torch.distributions.Normal(0.0, model.residual_scale).log_prob(e).sum() + jacobian.slogdet().logabsdet
    torch.testing.assert_close(guide.log_prob({"z": z, "u": u}, {}).detach(), expected, rtol=0, atol=1e-4)


def test_a_field_that_cannot_be_called_is_refused():
    model = NonlinearPoisson1D("residual", modes=2)
    with pytest.raises(TypeError, match="field"):
        ResidualGuide(Fixed(model.origin), model.problem, (63,), 1e-2, field=model.origin)  # type: ignore[arg-type]


def test_a_draw_without_a_state_has_no_weight_and_its_neighbour_keeps_its_own():
    """Where nothing can be solved the guide's log q is inf and the model's density finite: the weight is zero."""
    model, data = NonlinearPoisson1D("residual", modes=2), {"y": temperatures()["y"]}
    z = torch.tensor([[0.3, 0.3], [1000.0, -1000.0]], dtype=torch.float64, requires_grad=True)

    def weights(z):
        pyro.set_rng_seed(0)
        with pyro.plate("draws", len(z)):
            sampled = poutine.trace(guided(model, Fixed(z))).get_trace()
            u = sampled.nodes["u"]["value"]
            joint = log_joint(model, data, z=z, u=u)
        sampled.compute_log_prob()
        return joint - sampled.nodes["u"]["log_prob"] - sampled.nodes["_u_residual"]["log_prob"]

    found = weights(z)
    assert found[1] == -torch.inf
    (gradient,) = torch.autograd.grad(found[0], z)
    assert found[0].isfinite()
    assert gradient[0].isfinite().all()
    assert gradient[0].any()


def log_joint(model, data, **values):
    trace = poutine.trace(poutine.condition(model, data=values)).get_trace(**data)
    trace.compute_log_prob()
    sites = [site for site in trace.nodes.values() if site["type"] == "sample" and site["name"] != "unknowns"]
    return sum(site["log_prob"] for site in sites)
