"""The membrane of 64 blocks: its solver against dense matrices and published numbers, its two likelihoods."""

import copy
import math
import pickle
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch

from physzoo.models.aristoff_bangerth import NOISE, AristoffBangerth, deflections, forward_checks, truth
from physzoo.physics import SolveError
from physzoo.physics.elliptic import Elliptic2D

SENSORS = [0.2, 0.55, 1.0]


def small(cells=8, blocks=4, **options):
    return Elliptic2D(SENSORS, cells, blocks, **{"source": 3.0, **options})


def unknowns(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_joint(model, data, **latents):
    return pyro.poutine.trace(pyro.condition(model, latents)).get_trace(**data).log_prob_sum()


def stiffness(problem, z):
    """Dense interior stiffness matrix, cell by cell, its element matrix by a Gauss rule."""
    n, m, size = problem.cells, problem.cells + 1, problem.cells // problem.blocks
    points = [0.5 - 0.5 / 3**0.5, 0.5 + 0.5 / 3**0.5]
    element = torch.zeros(4, 4, dtype=torch.float64)
    for x in points:
        for y in points:
            # corners (0, 0), (0, 1), (1, 0), (1, 1), y fastest
            gradient = torch.tensor([[y - 1, -y, 1 - y, y], [x - 1, 1 - x, -x, x]], dtype=torch.float64)
            element += gradient.T @ gradient / 4
    matrix = torch.zeros(m * m, m * m, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            corners = torch.tensor([i * m + j, i * m + j + 1, (i + 1) * m + j, (i + 1) * m + j + 1])
            matrix[corners[:, None], corners] += z[i // size + problem.blocks * (j // size)].exp() * element
    inside = torch.arange(m * m).reshape(m, m)[1:-1, 1:-1].flatten()
    return matrix[inside[:, None], inside]


def test_the_numbers_of_the_reference_code():
    checks, model = forward_checks(), AristoffBangerth()
    log_a = checks["theta"].log()
    z = model.problem.observe(model.problem.solve(log_a))
    torch.testing.assert_close(z, checks["z"], rtol=0, atol=1e-10)
    misfit = -(z - deflections()["y"]).square().sum(-1) / (2 * NOISE**2)
    torch.testing.assert_close(misfit, checks["loglikelihood"], rtol=1e-10, atol=1e-8)
    torch.testing.assert_close(-log_a.square().sum(-1) / 8, checks["logprior"], rtol=1e-10, atol=1e-8)


def test_the_joint_density_is_the_benchmarks_with_respect_to_the_coefficients():
    """log p(log a, y) = loglikelihood + logprior + sum log a + a constant: the last sum turns da into d(log a)."""
    checks, model, data = forward_checks(), AristoffBangerth(), deflections()
    log_a = checks["theta"].log()
    joint = torch.stack([log_joint(model, data, log_a=one) for one in log_a])
    rest = joint - checks["loglikelihood"] - checks["logprior"] - log_a.sum(-1)
    torch.testing.assert_close(rest, rest[:1].expand(5), rtol=0, atol=1e-7)


def test_the_data_are_those_of_the_truth_up_to_the_error_of_the_elements():
    model = AristoffBangerth()
    error = deflections()["y"] - model.problem.observe(model.problem.solve(truth()))
    assert 1e-4 < error.square().mean().sqrt() < 0.1 * NOISE


def test_exchanging_x_and_y_transposes_the_answer():
    model, data = AristoffBangerth(), deflections()["y"]
    log_a = 4.0 + 2.0 * unknowns(3, 64)
    turned = log_a.unflatten(-1, (8, 8)).mT.flatten(-2)
    reading = [model.problem.observe(model.problem.solve(z)).unflatten(-1, (13, 13)) for z in (log_a, turned)]
    torch.testing.assert_close(reading[1], reading[0].mT, rtol=1e-11, atol=0)
    torch.testing.assert_close(data.unflatten(-1, (13, 13)).mT.flatten(), data, rtol=0, atol=1e-12)
    # x fastest in the blocks, y fastest in the points: a soft block near (1, 0) raises u there
    soft = torch.zeros(64, dtype=torch.float64)
    soft[7] = -3.0
    reading = model.problem.observe(model.problem.solve(soft)).unflatten(-1, (13, 13))
    assert reading[-1, 0] > 2 * reading[0, -1]


@pytest.mark.parametrize(("cells", "blocks"), [(2, 1), (3, 3), (8, 4)])
def test_solution_residual_and_determinant_agree_with_the_dense_matrix(cells, blocks):
    problem, z = small(cells, blocks), unknowns(blocks**2)
    matrix = stiffness(problem, z)
    torch.testing.assert_close(problem.solve(z), torch.linalg.solve(matrix, problem.load))
    u = unknowns(len(matrix), seed=1)
    torch.testing.assert_close(problem.residual(u, z), matrix @ u - problem.load)
    torch.testing.assert_close(problem.logdet(u, z), torch.linalg.slogdet(matrix).logabsdet)


def test_residual_vanishes_at_the_solution_and_solve_inverts_it():
    problem, z = small(), unknowns(5, 16)
    assert problem.residual(problem.solve(z), z).abs().max() < 1e-13
    e = unknowns(5, 49, seed=2)
    torch.testing.assert_close(problem.residual(problem.solve(z, residual=e), z), e)


def test_manufactured_solution_converges_at_order_two():
    """-a laplace(u) = f with u = sin(pi x) sin(2 pi y) and log a = 0.7."""

    def exact(x, y):
        return torch.sin(math.pi * x) * torch.sin(2 * math.pi * y)

    solve_errors, residual_errors = [], []
    for n in (8, 16, 32, 64):
        problem = Elliptic2D([0.5], n, 1, source=lambda x, y: 5 * math.pi**2 * math.exp(0.7) * exact(x, y))
        z, u = torch.tensor([0.7], dtype=torch.float64), exact(*problem.nodes.T)
        solve_errors.append(float((problem.solve(z) - u).abs().max()))
        residual_errors.append(float(problem.residual(u, z).abs().max()) * n**2)
    for errors in (solve_errors, residual_errors):
        orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
        assert all(1.8 < order < 2.2 for order in orders), orders


def test_a_refined_grid_approaches_the_published_values():
    """The published values are those of cubic elements on a fine grid; blocks that jump slow the convergence down."""
    errors = []
    for cells in (16, 32, 64):
        problem = AristoffBangerth(cells=cells).problem
        errors.append(float((problem.observe(problem.solve(truth())) - deflections()["y"]).abs().max()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_gradients_of_solve_observe_residual_and_logdet():
    problem = small(6, 3)
    z, u, e = unknowns(2, 9), unknowns(2, 25, seed=1), unknowns(2, 25, seed=2)
    for value in (z, u, e):
        value.requires_grad_()
    assert torch.autograd.gradcheck(lambda z, e: problem.observe(problem.solve(z, residual=e)), (z, e))
    assert torch.autograd.gradcheck(problem.residual, (u, z))
    assert torch.autograd.gradcheck(lambda z: problem.logdet(u, z), (z,))


def test_the_gradient_has_a_gradient():
    problem = small(4, 2)
    z, e = unknowns(2, 4).requires_grad_(), unknowns(2, 9, seed=2).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda z, e: problem.solve(z, residual=e), (z, e))


def test_the_density_has_the_gradient_of_finite_differences():
    model, data = AristoffBangerth(), deflections()
    z, v = unknowns(64).requires_grad_(), unknowns(64, seed=1)
    (gradient,) = torch.autograd.grad(log_joint(model, data, log_a=z), z)
    step = 1e-5
    ahead, behind = (log_joint(model, data, log_a=z.detach() + sign * step * v) for sign in (1, -1))
    torch.testing.assert_close(gradient @ v, (ahead - behind) / (2 * step), rtol=1e-6, atol=0)


def test_adjoint_dot_product():
    """<J v, w> = <v, J'w>, with J v solved for directly: A (J v) = -(dA v) u."""
    problem = AristoffBangerth().problem
    z, v, w = 4.0 + 2.0 * unknowns(64), unknowns(64, seed=1), unknowns(961, seed=2)
    u = problem.solve(z)
    _, turned = torch.autograd.functional.jvp(lambda z: problem.residual(u, z), z, v)
    tangent = problem.solve(z, residual=-problem.load - turned)
    _, adjoint = torch.autograd.functional.vjp(problem.solve, z, w)
    torch.testing.assert_close(tangent @ w, v @ adjoint, rtol=1e-10, atol=0)


def test_batch_dimensions_broadcast():
    problem, z, u = small(), unknowns(3, 1, 16), unknowns(5, 49, seed=1)
    assert problem.solve(z).shape == (3, 1, 49)
    assert problem.observe(problem.solve(z)).shape == (3, 1, 9)
    residual = problem.residual(u, z)
    assert residual.shape == (3, 5, 49)
    assert problem.logdet(u, z).shape == (3, 5)
    torch.testing.assert_close(residual[2, 4], problem.residual(u[4], z[2, 0]))
    torch.testing.assert_close(problem.solve(z, residual=u)[2, 4], problem.solve(z[2, 0], residual=u[4]))


def test_factorisations_that_were_not_kept_are_made_again(monkeypatch):
    problem, w = small(), unknowns(5, 49, seed=1)
    z = unknowns(5, 16).requires_grad_()
    (expected,) = torch.autograd.grad(problem.solve(z), z, w)
    monkeypatch.setattr("physzoo.physics.elliptic.rectangle_autograd.KEPT", 2)
    (found,) = torch.autograd.grad(problem.solve(z), z, w)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -400.0])
def test_a_sample_without_a_solution_is_named_or_rejected(bad):
    z = unknowns(3, 16)
    z[1, 5] = bad
    with pytest.raises(SolveError, match=r"at sample \(1,\)"):
        small().solve(z)
    z.requires_grad_()
    u = small(on_failure="reject").solve(z)
    assert u.isnan().all(-1).tolist() == [False, True, False]
    (gradient,) = torch.autograd.grad(u[::2].sum(), z)
    assert gradient.isfinite().all()
    assert (gradient[1] == 0).all()
    torch.testing.assert_close(u[2].detach(), small().solve(z[2].detach()))


def test_a_numerically_singular_matrix_is_named_or_rejected():
    """A stiff block in a sea so soft that what holds it is lost in rounding."""
    z = torch.zeros(2, 16, dtype=torch.float64)
    z[1] = -40.0
    z[1, 5] = 0.0
    with pytest.raises(SolveError, match=r"from -40 to 0 at sample \(1,\)"):
        small(16).solve(z)
    with pytest.raises(SolveError, match="numerically singular"):
        small(16).logdet(torch.zeros(225, dtype=torch.float64), z)
    kept = small(16, on_failure="reject").logdet(torch.zeros(225, dtype=torch.float64), z.requires_grad_())
    torch.testing.assert_close(kept[0].detach(), small(16).logdet(torch.zeros(225, dtype=torch.float64), z[0].detach()))
    assert float(kept[1]) == -float("inf")
    (gradient,) = torch.autograd.grad(kept[0], z)
    assert gradient.isfinite().all()
    assert (gradient[1] == 0).all()
    u = small(16, on_failure="reject").solve(z)
    assert u.isnan().all(-1).tolist() == [False, True]
    (gradient,) = torch.autograd.grad(u[0].sum(), z)
    assert gradient[0].isfinite().all()
    assert (gradient[1] == 0).all()


def test_float32_is_float64_to_single_precision():
    data, z = deflections(), 4.0 + 2.0 * unknowns(64)
    double = log_joint(AristoffBangerth(), data, log_a=z)
    single = log_joint(AristoffBangerth().float(), {"y": data["y"].float()}, log_a=z.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-3)


def test_corrected_residual_joint_minus_flat_prior_is_the_density_of_the_residual_noise():
    """At u = solve(z, residual=e): p(z, u, y) = p(z) N(e; 0, s_r^2) |det dr/du| p(y | u) flat."""
    model, data, z = AristoffBangerth("residual", cells=8), deflections(), 4.0 + 2.0 * unknowns(64)
    e = model.residual_scale * unknowns(49, seed=1)
    u = model.problem.solve(z, residual=e)
    expected = dist.Normal(4.0, 2.0).log_prob(z).sum() + dist.Normal(0.0, model.residual_scale).log_prob(e).sum()
    expected = expected + model.problem.logdet(u, z)
    expected = expected + dist.Normal(model.problem.observe(u), NOISE).log_prob(data["y"]).sum()
    flat = log_joint(model, data, log_a=z, u=u) - expected
    level = dist.Normal(torch.zeros_like(u), 100.0).log_prob(torch.zeros_like(u)).sum()
    torch.testing.assert_close(flat, level, rtol=0, atol=1e-3)
    uncorrected = log_joint(AristoffBangerth("residual", cells=8, corrected=False), data, log_a=z, u=u)
    torch.testing.assert_close(log_joint(model, data, log_a=z, u=u) - uncorrected, model.problem.logdet(u, z))


def test_survives_copies_and_pickles():
    model, z = AristoffBangerth(), unknowns(64)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.problem.solve(z), model.problem.solve(z))


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("cells: got 10, expected a multiple of the 4 blocks", {"cells": 10}),
        ("source: got shape", {"source": torch.ones(3)}),
        ("on_failure: got 'stop'", {"on_failure": "stop"}),
    ],
)
def test_a_mistake_names_the_argument(words, options):
    with pytest.raises(ValueError, match=words):
        small(**options)


def test_a_mistake_of_the_model_names_the_argument():
    with pytest.raises(ValueError, match="likelihood: got 'weak'"):
        AristoffBangerth("weak")
    with pytest.raises(ValueError, match="points: got 0"):
        AristoffBangerth(points=0)
    with pytest.raises(ValueError, match=r"sensors: got \[1.5\]"):
        Elliptic2D([1.5])
    with pytest.raises(ValueError, match=r"z: got shape \(3,\), expected \(..., 16\)"):
        small().solve(torch.zeros(3))
