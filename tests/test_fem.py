"""A UFL form is a differentiable operation: solve, residual, log-determinant and their gradients."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse as sparse
import torch

from physzoo.physics.fem import FEMProblem, NewtonOptions
from physzoo.physics.fem.problem import require_dolfinx

try:
    require_dolfinx()
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)

from fem_examples import advection, random_unknowns, reaction_diffusion, stokes
from torch.autograd import gradcheck

from physzoo.physics.problem import SolveError
from physzoo.physics.selected_inverse import SelectedInverse

BUILDERS = {
    "linear": reaction_diffusion,
    "nonlinear": lambda: reaction_diffusion(nonlinear=True),
    "unsymmetric": advection,
    "saddle point": stokes,
}


@pytest.fixture(scope="module", params=BUILDERS)
def problem(request):
    return BUILDERS[request.param]()


@pytest.fixture(scope="module")
def linear():
    return reaction_diffusion()


@pytest.fixture(scope="module")
def nonlinear():
    return reaction_diffusion(nonlinear=True)


def named(problem, values):
    return dict(zip(problem.parameter_shapes, values, strict=True))


def off_solution(problem, z, seed=1):
    """A batch of states near the solution, where the residual does not vanish."""
    u = problem.solve(z).detach()
    noise = torch.randn(u.shape, generator=torch.Generator().manual_seed(seed), dtype=u.dtype)
    return (u + 0.1 * noise).requires_grad_()


def test_linearity_is_recognised(linear, nonlinear):
    assert linear.linear
    assert not nonlinear.linear


def test_solve_gradient_in_every_parameter_and_the_target(problem):
    z = random_unknowns(problem)
    target = (0.01 * torch.ones(problem.free_dofs.numel(), dtype=torch.float64)).requires_grad_()
    assert gradcheck(lambda r, *a: problem.solve(named(problem, a), residual=r), (target, *z.values()))


def test_residual_gradient_in_state_and_parameters(problem):
    z = random_unknowns(problem)
    u = off_solution(problem, z)
    assert gradcheck(lambda u, *a: problem.residual(u, named(problem, a)), (u, *z.values()))


def test_logdet_gradient_in_state_and_parameters(problem):
    z = random_unknowns(problem)
    u = off_solution(problem, z)
    assert gradcheck(lambda u, *a: problem.logdet(u, named(problem, a)), (u, *z.values()))


def test_logdet_is_that_of_the_dense_jacobian(problem):
    z = random_unknowns(problem)
    u = off_solution(problem, z).detach()
    fixed = {name: value.detach() for name, value in z.items()}
    jacobian = torch.autograd.functional.jacobian(lambda state: problem.residual(state, fixed), u)
    torch.testing.assert_close(problem.logdet(u, fixed), torch.linalg.slogdet(jacobian)[1], rtol=1e-11, atol=1e-11)


def test_residual_vanishes_at_the_solution(problem):
    z = random_unknowns(problem, batch=(2,))
    u = problem.solve(z)
    scale = problem.residual(u + 1.0, z).abs().max()
    assert problem.residual(u, z).abs().max() < 1e-11 * scale


def test_solve_hits_a_target_residual(problem):
    z = random_unknowns(problem)
    generator = torch.Generator().manual_seed(2)
    target = 0.01 * torch.randn(problem.free_dofs.numel(), generator=generator, dtype=torch.float64)
    u = problem.solve(z, residual=target)
    torch.testing.assert_close(problem.residual(u, z), target, rtol=1e-9, atol=1e-12)


def test_adjoint_and_tangent_agree(problem):
    """<J dz, g> = <dz, J^T g>, the tangent through its own assembled forms."""
    z = random_unknowns(problem)
    generator = torch.Generator().manual_seed(3)
    direction = {name: torch.randn(value.shape, generator=generator, dtype=value.dtype) for name, value in z.items()}
    u, du = problem.tangent({name: value.detach() for name, value in z.items()}, direction)
    g = torch.randn(u.shape, generator=generator, dtype=u.dtype)
    solution = problem.solve(z)
    gradients = torch.autograd.grad(solution, list(z.values()), g)
    left = (du * g).sum()
    right = sum((a * b).sum() for a, b in zip(gradients, direction.values(), strict=True))
    torch.testing.assert_close(u, solution.detach(), rtol=1e-9, atol=1e-12)
    assert abs(left - right) < 1e-10 * du.norm() * g.norm()


def test_a_batch_is_its_samples_and_leading_dimensions_broadcast(linear):
    z = {name: value.detach() for name, value in random_unknowns(linear, batch=(3,)).items()}
    z["reaction"] = torch.tensor([[0.1], [2.0]], dtype=torch.float64)
    z["k"] = z["k"][0].clone().requires_grad_()
    u = linear.solve(z)
    assert u.shape == (2, 3, linear.free_dofs.numel())
    own = {name: value[2] for name, value in z.items() if name in ("source", "flux")}
    one = linear.solve({**own, "k": z["k"], "reaction": z["reaction"][1, 0]})
    assert torch.equal(u[1, 2], one)
    (together,) = torch.autograd.grad(u[1, 2].sum(), z["k"])
    (alone,) = torch.autograd.grad(one.sum(), z["k"])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    assert linear.residual(u, z).shape == u.shape
    assert linear.logdet(u, z).shape == (2, 3)


def test_one_factorisation_serves_solve_adjoint_and_gradient(linear, monkeypatch):
    from physzoo.physics.fem import compiled as fem_compiled

    counted = []
    compute = fem_compiled.Factor.compute
    monkeypatch.setattr(fem_compiled.Factor, "compute", lambda self: counted.append(self) or compute(self))
    z = random_unknowns(linear, batch=(4,))
    u = linear.solve(z)
    u.sum().backward(retain_graph=True)
    u.square().sum().backward()
    assert len(counted) == 4
    del u
    linear.solve(z).sum().backward()
    assert len(set(map(id, counted))) == 4


def test_samples_beyond_the_capacity_are_factorised_again_with_the_same_gradient(nonlinear, monkeypatch):
    z = random_unknowns(nonlinear, batch=(3,))
    kept = torch.autograd.grad(nonlinear.solve(z).square().sum(), list(z.values()))
    monkeypatch.setattr(nonlinear._system, "capacity", 1)
    again = torch.autograd.grad(nonlinear.solve(z).square().sum(), list(z.values()))
    for first, second in zip(kept, again, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-14)


def test_single_precision_comes_back_as_single_precision(linear):
    z = random_unknowns(linear)
    single = {name: value.detach().float().requires_grad_() for name, value in z.items()}
    u = linear.solve(single)
    u.sum().backward()
    assert u.dtype == single["k"].grad.dtype == torch.float32
    torch.testing.assert_close(u.double(), linear.solve(z), rtol=1e-5, atol=1e-5)


def test_full_holds_the_boundary_values_and_restrict_undoes_it(linear):
    u = linear.solve(random_unknowns(linear)).detach()
    full = linear.full(u)
    assert torch.equal(linear.restrict(full), u)
    x = linear.coordinates()
    left = x[:, 0] < 1e-9
    torch.testing.assert_close(full[left], 0.3 + x[left, 1])
    torch.testing.assert_close(torch.from_numpy(linear.to_function(u).x.array), full)


def test_sensors_interpolate_the_state(linear):
    x = linear.coordinates()
    plane = linear.restrict(0.3 + 2 * x[:, 0] + x[:, 1])
    expected = torch.tensor([0.3 + 0.6 + 0.4, 0.3 + 1.42 + 0.2], dtype=torch.float64)
    torch.testing.assert_close(linear.observe(plane), expected)
    batch = plane.expand(2, 1, -1).clone().requires_grad_()
    assert gradcheck(linear.observe, (batch,))


def test_first_derivatives_only(linear):
    z = random_unknowns(linear)
    (gradient,) = torch.autograd.grad(linear.solve(z).square().sum(), z["k"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_failed_sample_is_named(nonlinear):
    z = random_unknowns(nonlinear, batch=(2, 3))
    k = z["k"].detach().clone()
    k[1, 2, 0] = float("nan")
    with pytest.raises(SolveError, match=r"k: expected finite values.*sample \(1, 2\)"):
        nonlinear.solve({**z, "k": k})
    hasty = reaction_diffusion(nonlinear=True, newton=NewtonOptions(max_iterations=1))
    with pytest.raises(SolveError, match=r"Newton stopped after 1 .*sample \(0, 0\) with k in \["):
        hasty.solve(z)


def test_a_singular_problem_is_an_error(linear):
    z = random_unknowns(linear)
    nothing = {"k": torch.full_like(z["k"], -800.0), "reaction": torch.zeros_like(z["reaction"])}
    with pytest.raises(SolveError, match="singular"):
        linear.solve({**z, **nothing})
    with pytest.raises(SolveError, match="not finite"):
        linear.solve({**z, "k": torch.full_like(z["k"], 800.0)})
    assert torch.isfinite(linear.solve(z)).all()


def test_a_rejected_sample_leaves_its_neighbours_alone():
    problem = reaction_diffusion(on_failure="reject")
    z = random_unknowns(problem, batch=(2,))
    source = z["source"].detach().clone()
    source[0] = float("inf")
    u = problem.solve({**z, "source": source})
    assert torch.isnan(u[0]).all()
    torch.where(torch.isnan(u), 0.0, u).sum().backward()
    assert (z["k"].grad[0] == 0).all()
    assert torch.isfinite(z["k"].grad[1]).all()
    assert z["k"].grad[1].abs().max() > 0


def test_a_problem_copies_as_itself_and_pickles_by_its_builder(linear):
    assert copy.deepcopy(linear) is linear
    with pytest.raises(TypeError, match="from_builder"):
        pickle.dumps(linear)
    built = FEMProblem.from_builder(reaction_diffusion, 2)
    z = random_unknowns(built)
    assert torch.equal(pickle.loads(pickle.dumps(built)).solve(z), built.solve(z))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda z: {"k": z["k"]}, ValueError, "z: got the names k, expected flux, k, reaction, source"),
        (lambda z: z["k"], TypeError, "z: got one tensor, expected a mapping with k, source"),
        (lambda z: {**z, "k": z["k"][:3]}, ValueError, r"k: got shape \(3,\), expected \(..., 16\)"),
        (lambda z: {**z, "flux": 1.0}, TypeError, "flux: got 1.0, expected a floating-point tensor"),
        (
            lambda z: {**z, "k": z["k"].expand(2, -1), "source": z["source"].expand(3, -1)},
            ValueError,
            r"leading shapes: got k \(2,\), source \(3,\)",
        ),
    ],
)
def test_wrong_unknowns_are_named(linear, change, error, message):
    with pytest.raises(error, match=message):
        linear.solve(change(random_unknowns(linear)))


def test_wrong_state_is_named(linear):
    z = random_unknowns(linear)
    with pytest.raises(ValueError, match=r"(state|u): got shape \(16,\), expected \(..., 12\)"):
        linear.residual(torch.zeros(16, dtype=torch.float64), z)


def test_wrong_parts_are_named(linear):
    from dolfinx import fem

    system = linear._system
    form, u = system.form, system.u
    with pytest.raises(TypeError, match="form: got int"):
        FEMProblem(3, u, system.parameters)
    with pytest.raises(ValueError, match="'other': got a function that the form does not hold"):
        FEMProblem(form, u, {"other": fem.Function(u.function_space)})
    with pytest.raises(ValueError, match="parameters: got none"):
        FEMProblem(form, u, {})
    with pytest.raises(ValueError, match=r"expected points inside the mesh, got \[2.0, 0.5\]"):
        FEMProblem(form, u, system.parameters, sensors=[[2.0, 0.5]])
    with pytest.raises(ValueError, match="sensors: got None"):
        advection().observe(torch.zeros(1, dtype=torch.float64))


def test_one_quadrature_degree_on_every_measure_and_stated_ones_are_kept(linear):
    import ufl

    from physzoo.physics.fem.forms import fix_degree

    u = linear._system.u
    v = ufl.TestFunction(u.function_space)
    form = ufl.exp(u) * v * ufl.dx + v * ufl.ds + u * v * ufl.dx(metadata={"quadrature_degree": 7})

    def degrees(fixed):
        return sorted(integral.metadata()["quadrature_degree"] for integral in fixed.integrals())

    assert degrees(fix_degree(form)) == [4, 4, 7]
    assert degrees(fix_degree(form, 5)) == [5, 5, 5]


def test_selected_inverse_is_that_of_the_dense_matrix():
    """Two separate components, unsymmetric values; then a matrix whose leading block is singular."""
    chain = sparse.diags_array([np.ones(5), np.ones(6), np.ones(5)], offsets=[-1, 0, 1])
    pattern = sparse.csr_array(sparse.block_diag([sparse.kron(chain, chain), chain]))
    pattern.sort_indices()
    rng = np.random.default_rng(0)
    matrix = sparse.csr_array((rng.normal(size=pattern.nnz), pattern.indices, pattern.indptr))
    matrix.setdiag(5.0 + rng.normal(size=matrix.shape[0]))
    selected = SelectedInverse(matrix.indptr, matrix.indices)
    logdet, inverse = selected(matrix.data)
    rows, columns = matrix.nonzero()
    dense = matrix.toarray()
    assert logdet == pytest.approx(np.linalg.slogdet(dense)[1], rel=1e-12)
    np.testing.assert_allclose(inverse, np.linalg.inv(dense)[rows, columns], rtol=1e-10, atol=1e-12)
    zero_first = sparse.csr_array(np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]) + 1e-300 * np.eye(3))
    logdet, inverse = SelectedInverse(zero_first.indptr, zero_first.indices)(zero_first.data)
    assert logdet == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(inverse, np.linalg.inv(zero_first.toarray())[zero_first.nonzero()], atol=1e-12)
    logdet, _ = selected(np.zeros_like(matrix.data))
    assert logdet == -np.inf
