"""The residual by tables is the one that dolfinx assembles, for all samples at once, with any number of derivatives."""

# UFL and dolfinx annotate with unions of all that an operation might return.
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("dolfinx_solver")

from fem_examples import advection, random_unknowns, reaction_diffusion, stokes

from physzoo.physics.fem import FEMProblem, require_dolfinx
from physzoo.physics.problem import Unknowns
from physzoo.physics.sparse import SparseMatrix


def built(
    kind: str, degree: int, form: Callable[..., Any], value_shape: tuple[int, ...] = (), held: float = 0.0
) -> FEMProblem:
    """A problem on a small mesh: unknown field k (linear) and constant c, the state held on the left."""
    require_dolfinx()
    import dolfinx.mesh
    import ufl
    from dolfinx import fem
    from mpi4py import MPI

    cells = {
        "triangle": dolfinx.mesh.CellType.triangle,
        "quadrilateral": dolfinx.mesh.CellType.quadrilateral,
        "tetrahedron": dolfinx.mesh.CellType.tetrahedron,
    }
    if kind == "interval":
        domain = dolfinx.mesh.create_unit_interval(MPI.COMM_SELF, 5)
    elif kind == "tetrahedron":
        domain = dolfinx.mesh.create_unit_cube(MPI.COMM_SELF, 2, 1, 2, cells[kind])
    else:
        domain = dolfinx.mesh.create_unit_square(MPI.COMM_SELF, 3, 2, cells[kind])
    space = fem.functionspace(domain, ("P", degree, value_shape))  # type: ignore[arg-type]
    scalar = fem.functionspace(domain, ("P", 1))
    u, k, c = fem.Function(space), fem.Function(scalar), fem.Constant(domain, 0.5)
    f: Any = form(u, ufl.TestFunction(space), k, c, ufl.SpatialCoordinate(domain))
    left = fem.locate_dofs_geometrical(space, lambda x: x[0] < 1e-9)
    value = fem.Function(space)
    value.x.array[:] = held
    return FEMProblem(f * ufl.dx(degree=4), u, {"k": k, "c": c}, [fem.dirichletbc(value, left)])


def nonlinear(u: Any, v: Any, k: Any, c: Any, x: Any) -> Any:
    import ufl

    return (
        ufl.exp(k) * (1 + u**2) * ufl.dot(ufl.grad(u), ufl.grad(v))
        + c * u / (1 + ufl.exp(-k)) * v
        - ufl.sin(x[0]) * v
        + ufl.conditional(ufl.gt(k, 0.1), u, ufl.cos(u)) * v
    )


def elastic(u: Any, v: Any, k: Any, c: Any, x: Any) -> Any:
    import ufl

    strain = ufl.sym(ufl.grad(u))
    stress = 2 * ufl.exp(k) * strain + c * ufl.tr(strain) * ufl.Identity(len(u))
    return ufl.inner(stress, ufl.grad(v)) - v[1] + ufl.sqrt(1 + ufl.dot(u, u)) * v[0]


CASES = {
    "interval": lambda: built("interval", 1, nonlinear, held=0.4),
    "triangle": lambda: built("triangle", 1, nonlinear, held=0.4),
    "quadratic": lambda: built("triangle", 2, nonlinear),
    "quadrilateral": lambda: built("quadrilateral", 1, nonlinear, held=-0.2),
    "tetrahedron": lambda: built("tetrahedron", 1, nonlinear),
    "elastic": lambda: built("triangle", 2, elastic, (2,), held=0.3),
    "advection": advection,
}


def unknowns(problem: FEMProblem, batch: tuple[int, ...] = ()) -> tuple[torch.Tensor, Unknowns]:
    torch.manual_seed(1)
    u = 0.5 * torch.randn(*batch, problem.free_dofs.numel(), dtype=torch.float64)
    return u, random_unknowns(problem, batch)


def assembled(problem: FEMProblem, u: torch.Tensor, z: Unknowns) -> torch.Tensor:
    """What dolfinx assembles, sample by sample."""
    from physzoo.physics.fem_autograd import Residual

    tensors, shape, like = problem._flat(z, u)
    return problem._back(Residual.apply(problem._system, *tensors), shape, like)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CASES)
def test_it_is_what_dolfinx_assembles(name: str) -> None:
    problem = CASES[name]()
    assert problem.tabulated
    u, z = unknowns(problem, (2, 3))
    found, expected = problem.residual(u, z), assembled(problem, u, z)
    assert found.shape == expected.shape == u.shape
    assert float((found - expected).detach().abs().max()) <= 1e-12 * float(expected.detach().abs().max())


@pytest.mark.parametrize("name", ["triangle", "advection"])
def test_its_derivatives_first_and_second(name: str) -> None:
    problem = CASES[name]()
    u, z = unknowns(problem, (2,))
    names, values = zip(*z.items(), strict=True) if isinstance(z, dict) else (("z",), (z,))
    inputs = tuple(x.clone().requires_grad_() for x in (u, *values))

    def residual(u: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return problem.residual(u, dict(zip(names, values, strict=True)))

    assert torch.autograd.gradcheck(residual, inputs)
    assert torch.autograd.gradgradcheck(residual, inputs)


def test_a_field_outside_the_unknowns_is_read_when_it_is_needed() -> None:
    problem = reaction_diffusion()
    assert not problem.tabulated  # it has a flux through the border, which dolfinx assembles
    u, z = unknowns(problem, (3,))
    assert torch.equal(problem.residual(u, z), assembled(problem, u, z))
    assert not stokes().tabulated


def test_single_precision_stays_and_many_samples_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = CASES["triangle"]()
    u, z = unknowns(problem, (7,))
    whole = problem.residual(u, z)
    single = problem.residual(u.float(), {name: value.float() for name, value in z.items()})  # type: ignore[union-attr]
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), whole, atol=1e-5)
    monkeypatch.setattr("physzoo.physics.fem_tables.IN_CACHE", 1)
    assert torch.allclose(problem.residual(u, z), whole, rtol=0, atol=1e-15)


def test_the_solution_has_no_residual() -> None:
    problem = CASES["triangle"]()
    _, z = unknowns(problem, (4,))
    assert float(problem.residual(problem.solve(z), z).abs().max()) < 1e-9


def test_a_sparse_matrix_and_its_transpose() -> None:
    torch.manual_seed(0)
    dense = torch.randn(4, 3, dtype=torch.float64)
    dense[dense.abs() < 0.6] = 0.0
    matrix, x = SparseMatrix(dense.numpy()), torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert matrix.shape == (4, 3)
    assert torch.allclose(matrix(x), dense @ x)
    assert torch.autograd.gradcheck(matrix, (x,))
    assert torch.autograd.gradgradcheck(matrix, (x,))
