"""Finite elements against the outside: an independent solver, manufactured solutions, finite differences."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from physzoo.physics.fem import FEMProblem
from physzoo.physics.fem.problem import require_dolfinx

try:
    require_dolfinx()
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)

import basix
import skfem
import ufl
from dolfinx import fem, mesh
from mpi4py import MPI

DEGREE = 3


def square(cells):
    unit = mesh.create_unit_square(MPI.COMM_SELF, cells, cells)
    unit.topology.create_connectivity(1, 2)
    return unit


def border(space):
    return fem.locate_dofs_topological(space, 1, mesh.exterior_facet_indices(space.mesh.topology))


def darcy(cells, sensors=None):
    """-div(exp(k) grad u) = 1, u = 0 on the border."""
    space = fem.functionspace(square(cells), ("P", 1))
    u, k, v = fem.Function(space), fem.Function(space), ufl.TestFunction(space)
    form = ufl.exp(k) * ufl.dot(ufl.grad(u), ufl.grad(v)) * ufl.dx - v * ufl.dx
    condition = fem.dirichletbc(0.0, border(space), space)
    return FEMProblem(form, u, {"k": k}, [condition], sensors, quadrature_degree=DEGREE)


class Independent:
    """The same problem in scikit-fem on the same triangles and quadrature points; nodes in dof order."""

    def __init__(self, problem):
        space = problem._system.space
        points = space.tabulate_dof_coordinates()[:, :2].T
        triangles = skfem.MeshTri(points, space.dofmap.list.T.astype(np.int64))
        rule = basix.make_quadrature(basix.CellType.triangle, DEGREE)
        self.basis = skfem.Basis(triangles, skfem.ElementTriP1(), quadrature=(rule[0].T, rule[1]))

    def __call__(self, k):
        @skfem.BilinearForm
        def stiffness(u, v, w):
            return np.exp(w["k"]) * (u.grad[0] * v.grad[0] + u.grad[1] * v.grad[1])

        matrix = stiffness.assemble(self.basis, k=self.basis.interpolate(k))
        load = skfem.LinearForm(lambda v, w: v).assemble(self.basis)
        return skfem.solve(*skfem.condense(matrix, load, D=self.basis.mesh.boundary_nodes()))


def test_poisson_on_16_by_16_has_the_known_maximum():
    problem = darcy(16)
    u = problem.solve(torch.zeros(17 * 17, dtype=torch.float64))
    assert u.max().item() == pytest.approx(0.07344576657, abs=1e-11)


def test_variable_coefficients_agree_with_scikit_fem():
    problem = darcy(16)
    k = torch.randn(17 * 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = problem.full(problem.solve(k)).numpy()
    assert np.abs(ours - Independent(problem)(k.numpy())).max() < 1e-12


def test_gradient_agrees_with_finite_differences_of_scikit_fem():
    problem = darcy(6, sensors=[[0.3, 0.4], [0.5, 0.7]])
    other = Independent(problem)
    k = 0.5 * torch.randn(49, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = torch.tensor([1.0, -2.0], dtype=torch.float64)
    k.requires_grad_()
    (gradient,) = torch.autograd.grad(problem.observe(problem.solve(k)) @ weights, k)

    def reading(values):
        state = problem.restrict(torch.from_numpy(other(values)))
        return float(problem.observe(state) @ weights)

    step = 1e-5
    for node in (3, 24, 31):
        unit = step * np.eye(49)[node]
        difference = (reading(k.detach().numpy() + unit) - reading(k.detach().numpy() - unit)) / (2 * step)
        # Truncation ~ step^2 = 1e-10 and rounding ~ 1e-16 / step = 1e-11, for gradients ~ 1e-2.
        assert gradient[node].item() == pytest.approx(difference, rel=1e-7, abs=1e-10)


def manufactured_error(cells, nonlinear):
    """L2 error for u = 0.2 + x + sin(pi x) sin(pi y) / 2 and diffusivity exp(k) (1 + u^2) or exp(k)."""
    unit = square(cells)
    space = fem.functionspace(unit, ("P", 1))
    u, k, v = fem.Function(space), fem.Function(space), ufl.TestFunction(space)
    x = ufl.SpatialCoordinate(unit)
    exact = 0.2 + x[0] + ufl.sin(math.pi * x[0]) * ufl.sin(math.pi * x[1]) / 2
    factor = (lambda w: 1 + w**2) if nonlinear else (lambda w: 1)
    source = -ufl.div(ufl.exp(x[1] / 2) * factor(exact) * ufl.grad(exact))
    flux = ufl.exp(x[1] / 2) * factor(exact) * ufl.dot(ufl.grad(exact), ufl.FacetNormal(unit))
    form = ufl.exp(k) * factor(u) * ufl.dot(ufl.grad(u), ufl.grad(v)) * ufl.dx
    form += -source * v * ufl.dx - flux * v * ufl.ds
    value = fem.Function(space)
    value.interpolate(lambda x: 0.2 + x[0])  # where y = 0 or 1; Neumann data elsewhere
    ends = fem.locate_dofs_geometrical(space, lambda x: x[1] * (1 - x[1]) < 1e-9)
    problem = FEMProblem(form, u, {"k": k}, [fem.dirichletbc(value, ends)], quadrature_degree=4)
    found = problem.to_function(problem.solve(problem.coordinates("k")[:, 1] / 2))
    squared = (found - exact) ** 2 * ufl.dx(metadata={"quadrature_degree": 6})
    return math.sqrt(fem.assemble_scalar(fem.form(squared)))


@pytest.mark.parametrize("nonlinear", [False, True], ids=["linear", "nonlinear"])
def test_manufactured_solutions_converge_at_order_two(nonlinear):
    errors = [manufactured_error(cells, nonlinear) for cells in (8, 16, 32)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders[0] > 1.9
    assert orders[1] > 1.95
