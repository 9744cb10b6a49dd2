"""The residual by tables is the one that dolfinx assembles, for all samples at once, with any number of derivatives."""

# UFL and dolfinx annotate with unions of all that an operation might return.
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("dolfinx_solver")

from fem_examples import advection, random_unknowns, reaction_diffusion, stokes

from physzoo.physics.fem import FEMProblem
from physzoo.physics.fem import tables as fem_tables
from physzoo.physics.fem.arguments import back, flat
from physzoo.physics.fem.problem import require_dolfinx
from physzoo.physics.problem import Unknowns
from physzoo.physics.sparse import SparseMatrix, products, sum_of_products


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


def unknowns(problem: FEMProblem, batch: tuple[int, ...] = ()) -> tuple[Tensor, Unknowns]:
    torch.manual_seed(1)
    u = 0.5 * torch.randn(*batch, problem.free_dofs.numel(), dtype=torch.float64)
    return u, random_unknowns(problem, batch)


def assembled(problem: FEMProblem, u: Tensor, z: Unknowns) -> Tensor:
    """What dolfinx assembles, sample by sample."""
    from physzoo.physics.fem.autograd import Residual

    tensors, shape, like = flat(problem, z, u)
    return back(Residual.apply(problem._system, *tensors), shape, like)  # type: ignore[arg-type]


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

    def residual(u: Tensor, *values: Tensor) -> Tensor:
        return problem.residual(u, dict(zip(names, values, strict=True)))

    assert torch.autograd.gradcheck(residual, inputs)
    assert torch.autograd.gradgradcheck(residual, inputs)


def test_a_field_outside_the_unknowns_is_read_when_it_is_needed() -> None:
    problem = reaction_diffusion()
    assert not problem.tabulated  # it has a flux through the border, which dolfinx assembles
    u, z = unknowns(problem, (3,))
    assert torch.equal(problem.residual(u, z), assembled(problem, u, z))
    assert not stokes().tabulated


OTHERS = ("lumped mass", "symmetric tensor", "values at quadrature points")


@pytest.mark.parametrize("name", OTHERS)
def test_what_tables_do_not_hold_is_assembled(name: str) -> None:
    require_dolfinx()
    import basix.ufl
    import dolfinx.mesh
    import ufl
    from dolfinx import fem
    from mpi4py import MPI

    domain = dolfinx.mesh.create_unit_square(MPI.COMM_SELF, 2, 2)
    space = fem.functionspace(domain, ("P", 1))
    elements = {
        "lumped mass": ("DG", 0),
        "symmetric tensor": basix.ufl.element("DG", "triangle", 0, shape=(2, 2), symmetry=True),
        "values at quadrature points": basix.ufl.quadrature_element("triangle", degree=2),
    }
    k = fem.Function(fem.functionspace(domain, elements[name]))
    u, v = fem.Function(space), ufl.TestFunction(space)
    flux = {
        "lumped mass": lambda: ufl.grad(u),
        "symmetric tensor": lambda: (2 * ufl.Identity(2) + k) * ufl.grad(u),
        "values at quadrature points": lambda: ufl.exp(k) * ufl.grad(u),
    }
    form = ufl.dot(flux[name](), ufl.grad(v)) * ufl.dx(degree=2) - 10 * v * ufl.dx
    if name == "lumped mass":
        form += ufl.exp(k) * u * v * ufl.dx(metadata={"quadrature_rule": "vertex", "quadrature_degree": 1})
    left = fem.locate_dofs_geometrical(space, lambda x: x[0] < 1e-9)
    held = fem.dirichletbc(0.0, left, space)  # type: ignore[arg-type]
    problem = FEMProblem(form, u, {"k": k}, [held])
    z = 0.3 * torch.randn(3, k.x.array.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    solved = problem.solve(z)
    assert not problem.tabulated
    assert float(solved.abs().max()) > 1
    assert float(problem.residual(solved, z).abs().max()) < 1e-10


def test_single_precision_stays() -> None:
    problem = CASES["triangle"]()
    u, z = unknowns(problem, (7,))
    single = problem.residual(u.float(), {name: value.float() for name, value in z.items()})  # type: ignore[union-attr]
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), problem.residual(u, z), atol=1e-5)


def test_many_samples_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = CASES["triangle"]()
    u, z = unknowns(problem, (4, 10))
    names, inputs = list(z), (u, *z.values())  # type: ignore[union-attr]
    inputs = tuple(value.requires_grad_() for value in inputs)
    parts: list[int] = []
    integral = fem_tables._Integral.__call__

    def counted(self: Any, state: Tensor, fields: Any) -> Tensor:
        parts.append(state.shape[-1])
        return integral(self, state, fields)

    def found() -> tuple[Tensor, ...]:
        r = problem.residual(inputs[0], dict(zip(names, inputs[1:], strict=True)))
        return r, *torch.autograd.grad(r.square().sum(), inputs)

    whole = found()
    monkeypatch.setattr(fem_tables._Integral, "__call__", counted)
    monkeypatch.setattr(fem_tables, "IN_CACHE", 1)
    for one, other in zip(found(), whole, strict=True):
        assert torch.allclose(one, other, rtol=1e-13, atol=1e-15)
    assert parts == [16, 16, 8]


def test_the_solution_has_no_residual() -> None:
    problem = CASES["triangle"]()
    _, z = unknowns(problem, (4,))
    assert problem.residual(problem.solve(z), z).abs().max() < 1e-9


def sparse_matrices() -> tuple[list[Tensor], list[SparseMatrix]]:
    torch.manual_seed(0)
    dense = [torch.randn(rows, columns, dtype=torch.float64) for rows, columns in ((4, 3), (2, 3), (4, 2))]
    for matrix in dense:
        matrix[matrix.abs() < 0.6] = 0.0
    return dense, [SparseMatrix(matrix.numpy()) for matrix in dense]


def test_sparse_products_of_one_x() -> None:
    dense, held = sparse_matrices()
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    first, second = products(held[:2], x, (2, -1))
    assert held[0].shape == (4, 3)
    assert [first.shape, second.shape] == [(2, 2, 5), (2, 1, 5)]
    assert torch.allclose(first.flatten(0, 1), dense[0] @ x)
    assert torch.allclose(second.flatten(0, 1), dense[1] @ x)
    for used in (slice(2), slice(1), slice(1, 2)):  # of what is not used comes no gradient
        assert torch.autograd.gradcheck(lambda x, used=used: products(held[:2], x, (2, -1))[used], (x,))
        assert torch.autograd.gradgradcheck(lambda x, used=used: products(held[:2], x, (2, -1))[used], (x,))


def test_sum_of_sparse_products() -> None:
    dense, held = sparse_matrices()
    matrices = held[0], held[2]
    x = torch.randn(3, 1, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    assert torch.allclose(sum_of_products(matrices, x), dense[0] @ x[0].flatten(0, 1) + dense[2] @ x[1])
    for asked in ((True, True), (True, False), (False, True)):
        columns = tuple(part.clone().requires_grad_(wanted) for part, wanted in zip(x, asked, strict=True))
        assert torch.autograd.gradcheck(lambda *columns: sum_of_products(matrices, columns), columns)
        assert torch.autograd.gradgradcheck(lambda *columns: sum_of_products(matrices, columns), columns)
