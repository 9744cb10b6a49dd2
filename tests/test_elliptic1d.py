"""The exact 1D elliptic problem against dense matrices and analytic solutions."""

import math
from itertools import pairwise

import pytest
import torch
from torch.func import jacrev, vmap

from physzoo.physics import Elliptic1D, KarhunenLoeve


def layered(elements=12, modes=4, dtype=torch.float64, **options):
    midpoints = (torch.arange(elements, dtype=torch.float64) + 0.5) / elements
    field = KarhunenLoeve(midpoints.to(dtype), modes, 0.3)
    options = {"sensors": [0.15, 0.5, 0.93], "boundary": (0.2, -0.1), "source": 1.5, **options}
    return Elliptic1D(field, elements=elements, dtype=dtype, **options)


def unknowns(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def stiffness(problem, z):
    """Dense interior stiffness matrix, assembled element by element."""
    n, h = problem.elements, problem.width
    k = problem.log_conductivity(z).exp()
    matrix = torch.zeros(n + 1, n + 1, dtype=k.dtype)
    for e in range(n):
        matrix[e : e + 2, e : e + 2] += k[e] / h * torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=k.dtype)
    return matrix


def test_solution_residual_and_determinant_agree_with_the_dense_matrix():
    problem, z = layered(), unknowns(4)
    full = stiffness(problem, z)
    inner = full[1:-1, 1:-1]
    lifted = problem.load - full[1:-1, 0] * 0.2 - full[1:-1, -1] * -0.1
    u = problem.solve(z)
    torch.testing.assert_close(u, torch.linalg.solve(inner, lifted))
    other = unknowns(11, seed=1)
    torch.testing.assert_close(problem.residual(other, z), inner @ other - lifted)
    torch.testing.assert_close(problem.logdet(u, z), torch.linalg.slogdet(inner).logabsdet)


def test_logdet_is_that_of_the_residuals_jacobian():
    problem, z = layered(), unknowns(4)
    u = problem.solve(z)
    jacobian = jacrev(problem.residual)(u, z)
    torch.testing.assert_close(problem.logdet(u, z), torch.linalg.slogdet(jacobian).logabsdet)


def test_residual_vanishes_at_the_solution_and_solve_inverts_it():
    problem, z = layered(), unknowns(5, 4)
    assert problem.residual(problem.solve(z), z).abs().max() < 1e-13
    e = unknowns(5, 11, seed=2)
    torch.testing.assert_close(problem.residual(problem.solve(z, residual=e), z), e)
    u = unknowns(5, 11, seed=3)
    torch.testing.assert_close(problem.solve(z, residual=problem.residual(u, z)), u)


def test_nodes_are_exact_for_piecewise_constant_conductivity():
    """Two layers, k = 1 and k = 4, f = 0: the flux is 1 / (1/2 + 1/8) and u(1/2) = 1 - 0.8."""
    problem = Elliptic1D(lambda z: z, [0.5], elements=2, source=0.0, boundary=(1.0, 0.0), dtype=torch.float64)
    log_k = torch.tensor([0.0, math.log(4.0)], dtype=torch.float64)
    torch.testing.assert_close(problem.observe(problem.solve(log_k)), torch.tensor([0.2], dtype=torch.float64))


def test_manufactured_solution_converges_at_order_two():
    """-(e^x u')' = f with u = sin(pi x): the error at the nodes comes from k at the midpoints alone."""

    def source(x):
        return math.pi * torch.exp(x) * (math.pi * torch.sin(math.pi * x) - torch.cos(math.pi * x))

    solve_errors, residual_errors = [], []
    for n in (16, 32, 64, 128):
        problem = Elliptic1D(lambda z: z, [0.5], elements=n, source=source, dtype=torch.float64)
        exact = torch.sin(math.pi * problem.nodes[1:-1])
        solve_errors.append(float((problem.solve(problem.midpoints) - exact).abs().max()))
        residual_errors.append(float(problem.residual(exact, problem.midpoints).abs().max()) / problem.width)
    for errors in (solve_errors, residual_errors):
        orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
        assert all(1.8 < order < 2.1 for order in orders), orders


def test_sensors_interpolate_between_nodes_and_reach_the_boundary():
    problem = layered(sensors=[0.0, 1 / 24, 1 / 12, 1.0])
    u = problem.solve(unknowns(4))
    left, right = problem.boundary
    expected = torch.stack([left, (left + u[0]) / 2, u[0], right])
    torch.testing.assert_close(problem.observe(u), expected)


def test_gradients_of_solve_observe_residual_and_logdet():
    problem = layered()
    z, u, e = unknowns(2, 4), unknowns(2, 11, seed=1), unknowns(2, 11, seed=2)
    for value in (z, u, e):
        value.requires_grad_()
    assert torch.autograd.gradcheck(lambda z, e: problem.observe(problem.solve(z, residual=e)), (z, e))
    assert torch.autograd.gradcheck(problem.residual, (u, z))
    assert torch.autograd.gradcheck(lambda z: problem.logdet(u, z), (z,))


def test_adjoint_dot_product():
    problem, z, v, w = layered(), unknowns(4), unknowns(4, seed=1), unknowns(11, seed=2)
    _, forward = torch.autograd.functional.jvp(problem.solve, z, v)
    _, adjoint = torch.autograd.functional.vjp(problem.solve, z, w)
    torch.testing.assert_close(forward @ w, v @ adjoint, rtol=1e-11, atol=0)


def test_batch_dimensions_broadcast():
    problem, z, u = layered(), unknowns(3, 1, 4), unknowns(5, 11, seed=1)
    assert problem.solve(z).shape == (3, 1, 11)
    assert problem.observe(problem.solve(z)).shape == (3, 1, 3)
    residual = problem.residual(u, z)
    assert residual.shape == (3, 5, 11)
    assert problem.logdet(u, z).shape == (3, 5)
    torch.testing.assert_close(residual[2, 4], problem.residual(u[4], z[2, 0]))
    torch.testing.assert_close(problem.solve(z, residual=u)[2, 4], problem.solve(z[2, 0], residual=u[4]))
    torch.testing.assert_close(vmap(problem.solve)(z[:, 0]), problem.solve(z[:, 0]))


def test_float32_is_float64_to_single_precision():
    z = unknowns(100, 8)
    single, double = (layered(64, 8, dtype=dtype) for dtype in (torch.float32, torch.float64))
    torch.testing.assert_close(single.solve(z.float()).double(), double.solve(z), rtol=1e-4, atol=1e-5)
    assert single.solve(z.float()).dtype == torch.float32


def test_other_domain_scales_the_solution():
    """-u'' = 1 on (-1, 1): u(0) = 1/2."""
    problem = Elliptic1D(lambda z: z, [0.0], elements=20, domain=(-1.0, 1.0), dtype=torch.float64)
    got = problem.observe(problem.solve(torch.zeros(20, dtype=torch.float64)))
    torch.testing.assert_close(got, torch.tensor([0.5], dtype=torch.float64))


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("elements: got 1", {"elements": 1}),
        ("sensors: got", {"sensors": [1.5]}),
        ("source: got shape", {"source": torch.ones(3)}),
        ("domain: got", {"domain": (1.0, 0.0)}),
    ],
)
def test_a_mistake_names_the_argument(words, options):
    with pytest.raises(ValueError, match=words):
        Elliptic1D(lambda z: z, **{"sensors": [0.5], "elements": 4, **options})


def test_field_of_the_wrong_size_is_refused():
    with pytest.raises(ValueError, match=r"log_conductivity\(z\): got shape"):
        Elliptic1D(lambda z: z, [0.5], elements=4).solve(torch.zeros(5))
