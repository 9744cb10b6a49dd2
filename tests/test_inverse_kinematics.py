"""The planar arm: geometry, both likelihoods, exact draws, and the symmetry of its data set."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pyro
import pytest
import torch
from torch.func import jacrev

from physzoo.models import get
from physzoo.models.inverse_kinematics import HAND, NOISE, SPREAD, InverseKinematics, exact_draws, hand, rejection
from physzoo.physics import PlanarArm
from physzoo.references import independent_reference
from physzoo.task import Budget, RunOptions

ARM = PlanarArm((0.5, 0.5, 1.0), dtype=torch.float64)


def unknowns(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_links_keep_their_lengths_and_a_straight_arm_points_away_from_the_rail():
    z = unknowns(7, 4)
    u = ARM.solve(z)
    base = torch.stack([z[:, 0], torch.zeros(7, dtype=torch.float64)], -1)
    steps = torch.cat([base[:, None], u], 1).diff(dim=1)
    torch.testing.assert_close(steps.norm(dim=-1), ARM.lengths.expand(7, 3))
    torch.testing.assert_close(ARM.observe(ARM.solve(torch.zeros(4).double())), torch.tensor([0.0, 2.0]).double())
    folded = torch.tensor([0.3, math.pi / 2, 0.0, math.pi / 2], dtype=torch.float64)
    torch.testing.assert_close(ARM.observe(ARM.solve(folded)), torch.tensor([1.3, -1.0]).double())


def test_the_residual_vanishes_at_the_solution_and_its_determinant_is_one():
    z, u = unknowns(5, 4), unknowns(3, 5, 3, 2, seed=1)
    assert ARM.residual(ARM.solve(z), z).abs().max() < 1e-15
    torch.testing.assert_close(ARM.solve(z, residual=ARM.residual(u, z)), u)
    jacobian = jacrev(lambda flat: ARM.residual(flat.reshape(3, 2), z[0]).flatten())(u[0, 0].flatten())
    torch.testing.assert_close(ARM.logdet(u, z), torch.linalg.slogdet(jacobian).logabsdet.expand(3, 5))


def test_the_gradient_is_the_derivative():
    assert torch.autograd.gradcheck(ARM.solve, (unknowns(2, 4).requires_grad_(),))


@pytest.fixture(scope="module")
def exact():
    return rejection(hand()["y"], 2000, seed=1)


def test_exact_draws_agree_with_a_quadrature_over_the_angles(exact):
    """The rail is integrated out by hand: y_1 given the angles is normal with variance 0.25^2 + 0.05^2."""
    axis = torch.linspace(-2.4, 2.4, 97, dtype=torch.float64)
    angles = torch.cartesian_prod(axis, axis, axis)
    hands = ARM.observe(ARM.solve(torch.nn.functional.pad(angles, (1, 0))))
    width = torch.tensor([(SPREAD[0] ** 2 + NOISE**2) ** 0.5, NOISE], dtype=torch.float64)
    log_density = -0.5 * (((hands - hand()["y"]) / width).square().sum(-1) + (angles / 0.5).square().sum(-1))
    p = torch.softmax(log_density, 0)
    bend = angles[:, 2] - angles[:, 0]
    for known, found in (
        (angles.abs(), exact[:, 1:].abs()),
        (angles.square(), exact[:, 1:].square()),
        (bend.abs()[:, None], (exact[:, 3] - exact[:, 1]).abs()[:, None]),
    ):
        assert ((p @ known - found.mean(0)).abs() < 4.5 * found.std(0) / len(exact) ** 0.5).all()


def test_half_of_the_posterior_bends_to_either_side_and_hardly_any_to_neither(exact):
    bend = (exact[:, 3] - exact[:, 1]) / 0.5
    assert abs((bend > 0).double().mean().item() - 0.5) < 4.5 * 0.5 / 2000**0.5
    assert (bend.abs() < 0.5).double().mean() < 0.1  # 28 % of the prior
    miss = ARM.observe(ARM.solve(exact)) - torch.tensor(HAND, dtype=torch.float64)
    assert miss.square().mean().sqrt() < 1.1 * NOISE


def test_a_run_is_judged_by_the_exact_draws_dealt_out_to_chains():
    budget = replace(Budget.of(True), chains=4, reference_draws=50)
    task = SimpleNamespace(animal=get("inverse_kinematics"), data=hand(), options=RunOptions(seed=1))
    found = independent_reference(task, budget)
    assert found.method == "exact draws"
    assert found.draws["z"].shape == (4, 50, 4)
    torch.testing.assert_close(torch.as_tensor(found.draws["z"]).reshape(-1, 4), rejection(hand()["y"], 200, 1))


def test_the_residual_density_is_that_of_its_parts():
    model, z = InverseKinematics("residual"), unknowns(4) * torch.tensor(SPREAD)
    u = model.problem.solve(z)
    y = hand()["y"]
    trace = pyro.poutine.trace(pyro.condition(model, {"z": z, "u": u})).get_trace(y=y)
    trace.compute_log_prob()
    forward = pyro.poutine.trace(pyro.condition(InverseKinematics(), {"z": z})).get_trace(y=y)
    forward.compute_log_prob()
    for name in ("z", "y"):
        torch.testing.assert_close(trace.nodes[name]["log_prob"], forward.nodes[name]["log_prob"])
    peak = torch.distributions.Normal(0.0, model.residual_scale).log_prob(torch.zeros(6, dtype=torch.float64)).sum()
    torch.testing.assert_close(trace.nodes["r"]["log_prob"], peak)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: PlanarArm(()), "lengths: got"),
        (lambda: PlanarArm((1.0, -1.0)), "lengths: got"),
        (lambda: ARM.solve(torch.zeros(3)), "z: got shape"),
        (lambda: ARM.observe(torch.zeros(3)), "u: got shape"),
        (lambda: InverseKinematics("weak"), "likelihood: got"),
        (lambda: rejection(torch.zeros(2), 0), "draws: got 0"),
        (lambda: exact_draws({**hand(), "mask": torch.tensor([True, False])}, 5, 0), "data: got a mask"),
    ],
)
def test_a_mistake_names_the_argument(call, words):
    with pytest.raises(ValueError, match=words):
        call()
