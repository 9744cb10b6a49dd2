"""A UFL residual as batched torch operations over tables that dolfinx made once: no assembly, no loop over samples.

At the quadrature points q of all cells every field and every derivative in the form is a sparse matrix times its dofs,

    f_q = (V u)_q,   (df/dx_d)_q = (G_d u)_q,      r = sum over t of T_t' (w c_t(f_q, ...)),

with c_t the coefficient of the test function's value or derivative t in the integrand (``fem_integrand``) and w the weights
times the Jacobian's determinant. Derivatives of linear elements on triangles are constant on a cell and tabulated once there.

Imports dolfinx; ``problem.FEMProblem`` imports this module when a problem is built.
"""

# UFL and dolfinx annotate with unions of all that an operation might return.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportOptionalMemberAccess=false, reportCallIssue=false, reportIndexIssue=false
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import basix
import numpy as np
import scipy.sparse as sparse
import torch
from torch import Tensor
from ufl.algorithms import expand_derivatives
from ufl.algorithms.expand_indices import expand_indices

from ..sparse import SparseMatrix, products, sum_of_products
from .compiled import local_dofs
from .integrand import VALUE, Factors, Reader, UnsupportedForm, times

if TYPE_CHECKING:
    from .assembly import System

IN_CACHE = 2**19  # bytes of one field at all points for the samples that go through together
FEWEST = 16  # samples that go through together on a mesh of any size: a sparse product of a few columns is slow


class Geometry:
    """Quadrature points of one degree on all cells: places, weights, and tables of elements there.

    Args:
        domain: a dolfinx mesh of one cell type.
        degree: of the quadrature.
    """

    def __init__(self, domain: Any, degree: int) -> None:
        self.dimension = domain.geometry.dim
        if domain.topology.dim != self.dimension:
            raise UnsupportedForm("a mesh of a surface or curve in a larger space")
        kind = domain.basix_cell()
        self.points, weights = basix.make_quadrature(kind, degree)
        map_ = domain.geometry.cmaps[0]
        element = basix.create_element(basix.ElementFamily.P, kind, map_.degree, basix.LagrangeVariant(map_.variant))
        tables = element.tabulate(1, self.points)[..., 0]  # (1 + dimension, points, corners)
        corners = domain.geometry.x[domain.geometry.dofmaps[0]][..., : self.dimension]  # (cells, corners, dimension)
        self.places = np.einsum("qa,cad->cqd", tables[0], corners)
        jacobian = np.einsum("eqa,cad->cqde", tables[1:], corners)
        self.inverse = np.linalg.inv(jacobian)  # (cells, points, reference axis, axis)
        self.weights = np.abs(np.linalg.det(jacobian)) * weights
        self.cells = len(corners)

    def table(self, space: Any, component: int, derivative: int | None) -> tuple[Any, bool]:
        """Return the matrix of a field's value or derivative at the points, and whether one row a cell serves.

        Raises:
            UnsupportedForm: an element whose basis is not one of nodal values.
        """
        size, element = space.dofmap.bs, space.ufl_element()
        if space.element.needs_dof_transformations or (element.num_sub_elements > 0 and size == 1):
            raise UnsupportedForm(f"the element {element}")
        base = element.sub_elements[0] if size > 1 else element
        if size != element.reference_value_size:  # a symmetric tensor
            raise UnsupportedForm(f"the element {element}")
        try:
            basis = base.basix_element
        except NotImplementedError as error:  # values at quadrature points
            raise UnsupportedForm(f"the element {element}") from error
        tables = basis.tabulate(1, self.points)
        if basis.map_type != basix.MapType.identity:
            raise UnsupportedForm(f"the element {element}")
        if derivative is VALUE:
            local = np.broadcast_to(tables[0, ..., 0], (self.cells, *tables.shape[1:3]))
        else:
            local = np.einsum("eqa,cqe->cqa", tables[1:, ..., 0], self.inverse[..., derivative])
        if once := bool(np.ptp(local, 1).max() <= 1e-12 * max(np.abs(local).max(), 1e-300)):
            local = local[:, :1]
        cells, points, width = local.shape
        columns = local_dofs(space)[:, component::size]
        rows = np.repeat(np.arange(cells * points), width)
        columns = np.repeat(columns[:, None], points, 1)
        size = space.dofmap.index_map.size_local * space.dofmap.bs
        table = sparse.csr_array((local.ravel(), (rows, columns.ravel())), shape=(cells * points, size))
        table.data[np.abs(table.data) <= 1e-14 * np.abs(table.data).max(initial=0.0)] = 0.0
        table.eliminate_zeros()  # a derivative along an edge's normal
        return table, once


class TabulatedResidual:
    """r(u, z) of a form on its free dofs, for many samples at once, in the dtype and on the device of the samples.

    Args:
        system: the form with its unknown, parameters and conditions.

    Raises:
        UnsupportedForm: an integral over facets or a part of the domain, or an element or operation that is not tabulated.
    """

    def __init__(self, system: System) -> None:
        self.space, self.free, self.fixed = system.space, system.free, system.fixed
        self.boundary = system.start[system.fixed]
        self.names = {parameter: name for name, parameter in system.parameters.items()}
        self.state = system.u
        expanded = expand_indices(expand_derivatives(system.form))
        alike: dict[int, list[Any]] = {}  # integrands by quadrature degree
        for integral in expanded.integrals():
            if integral.integral_type() != "cell" or integral.subdomain_id() not in ("everywhere", (-1,), -1):
                raise UnsupportedForm(f"a measure {integral.integral_type()} on {integral.subdomain_id()}")
            metadata = integral.metadata()
            if metadata.get("quadrature_rule", "default") != "default":
                raise UnsupportedForm(f"the quadrature rule {metadata['quadrature_rule']}")
            alike.setdefault(int(metadata["quadrature_degree"]), []).append(integral.integrand())
        self.integrals = [_Integral(sum(parts[1:], parts[0]), degree, self) for degree, parts in alike.items()]
        example = {name: torch.zeros(1, *_shape(p), dtype=torch.float64) for p, name in self.names.items()}
        with torch.no_grad():
            self(torch.zeros(1, self.free.size, dtype=torch.float64), example)  # what is not supported says so now

    def __call__(self, u: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return r, shape (samples, free dofs).

        Args:
            u: the free dofs, (samples, free dofs).
            parameters: name -> (samples, *shape).
        """
        wide = max(integral.geometry.weights.size for integral in self.integrals)
        rows = max(FEWEST, IN_CACHE // (wide * u.element_size()))
        columns = [_in_chunks(value, rows) for value in (u, *parameters.values())]
        totals = []
        for state, *values in zip(*columns, strict=True):
            fields = dict(zip(parameters, values, strict=True))
            total = self.integrals[0](state, fields)
            for integral in self.integrals[1:]:
                total = total + integral(state, fields)
            totals.append(total)
        return (totals[0] if len(totals) == 1 else torch.cat(totals, -1)).mT


def _in_chunks(x: Tensor, rows: int) -> list[Tensor]:
    """(samples, ...) -> tensors (..., at most ``rows`` samples), laid out anew.

    All is transposed before it is split: the gradient is then put together along the last axis, which is fast.
    """
    return [part.contiguous() for part in x.movedim(0, -1).split(rows, -1)]


def _shape(parameter: Any) -> tuple[int, ...]:
    return parameter.x.array.shape if hasattr(parameter, "x") else tuple(parameter.ufl_shape)


class _Integral:
    """One integral over all cells: its expression, points, and the tables of its fields and test functions."""

    def __init__(self, integrand: Any, degree: int, owner: TabulatedResidual) -> None:
        self.owner = owner
        self.expression = integrand
        self.geometry = Geometry(owner.space.mesh, degree)
        self._tables: dict[Any, dict[Any, _Table]] = {}  # by function, then component and derivative
        self._test_tables: dict[Any, tuple[Any, bool]] = {}
        self._tests: dict[Any, SparseMatrix] = {}
        cells, points = self.geometry.weights.shape
        pointers, columns = points * np.arange(cells + 1), np.arange(cells * points)
        weights = self.geometry.weights.ravel()
        self.over_points = SparseMatrix(sparse.csr_array((weights, columns, pointers), shape=(cells, cells * points)))
        self._numbers: dict[Any, Tensor] = {}

    def __call__(self, u: Tensor, fields: Mapping[str, Tensor]) -> Tensor:
        """Return the integral on the free dofs, (free dofs, batch)."""
        linear = Reader(_Samples(self, u, fields), u).read(self.expression)
        if not isinstance(linear, dict):
            raise UnsupportedForm("an integrand without the test function")
        sums: dict[int, Tensor] = {}
        found = [self._against(key, coefficient, u, sums) for key, coefficient in linear.items()]
        constant = [pair for pair in found if pair[1].shape[-1] == 1]
        others = [pair for pair in found if pair[1].shape[-1] > 1]
        parts = [sum_of_products(*zip(*group, strict=True)) for group in (others, constant) if group]
        total = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return total.expand(-1, u.shape[-1])

    def _against(
        self, key: tuple[int, int | None], coefficient: Factors, like: Tensor, sums: dict[int, Tensor]
    ) -> tuple[SparseMatrix, Tensor]:
        """A test function's transposed table, with the weights where the columns lack them, and the columns."""
        once, point = self._once(key), coefficient.point
        if once and point is not None:
            if id(point) not in sums:
                sums[id(point)] = products([self.over_points], point, (-1, 1))[0]  # (cells, 1, batch)
            return self._test(key, weighted=False), torch.as_tensor(times(sums[id(point)], coefficient.cell))
        rows = self.geometry.weights[:, :1].shape if once else self.geometry.weights.shape
        value = torch.as_tensor(coefficient.value).to(like)
        return self._test(key, weighted=True), value.expand(*rows, value.shape[-1] if value.dim() else 1)

    def _once(self, key: tuple[int, int | None]) -> bool:
        """Whether one row a cell serves a value or derivative of the test function."""
        if key not in self._test_tables:
            self._test_tables[key] = self.geometry.table(self.owner.space, *key)
        return self._test_tables[key][1]

    def _test(self, key: tuple[int, int | None], weighted: bool) -> SparseMatrix:
        """The transposed table of a value or derivative of the test function, times the weights or not."""
        if (key, weighted) not in self._tests:
            table, once = self._test_tables[key]
            table = sparse.csr_array(table.T)[self.owner.free]
            if weighted:
                weights = self.geometry.weights.sum(1) if once else self.geometry.weights.ravel()
                table = table @ sparse.diags_array(weights)
            self._tests[key, weighted] = SparseMatrix(table)
        return self._tests[key, weighted]

    def numbers(self, name: Any, make: Callable[[], np.ndarray], like: Tensor) -> Tensor:
        """Return an array in the dtype and on the device of a tensor, held by its name."""
        key = name, like.dtype, like.device
        if key not in self._numbers:
            self._numbers[key] = torch.from_numpy(np.ascontiguousarray(make())).to(like)
        return self._numbers[key]

    def table(self, function: Any, key: tuple[int, int | None]) -> _Table:
        """Return the table of a component's value or derivative, of the free dofs for the state."""
        tables = self._tables.setdefault(function, {})
        if key not in tables:
            table, once = self.geometry.table(function.function_space, *key)
            held = None
            if function == self.owner.state:
                held = (table[:, self.owner.fixed] @ self.owner.boundary).reshape(self.geometry.cells, -1, 1)
                table = table[:, self.owner.free]
            tables[key] = _Table(SparseMatrix(table), once, held if held is not None and held.any() else None)
        return tables[key]

    def tables(self, function: Any) -> Mapping[Any, _Table]:
        """Return all tables of a function that were asked for so far."""
        return self._tables[function]


@dataclass(frozen=True)
class _Table:
    """A field's value or derivative at the points: a matrix, whether it has one row a cell, what conditions add."""

    matrix: SparseMatrix
    once: bool
    held: np.ndarray | None


class _Samples:
    """The state and the parameters of the samples at hand, at the points of one integral."""

    def __init__(self, integral: _Integral, u: Tensor, fields: Mapping[str, Tensor]) -> None:
        self.integral, self.u, self.fields = integral, u, fields
        self._found: dict[Any, dict[Any, Tensor]] = {}

    def field(self, function: Any, component: int, derivative: int | None) -> Factors:
        key = component, derivative
        table = self.integral.table(function, key)
        found = self._found.setdefault(function, {})
        if key not in found:  # all that the form was seen to hold of the function, in one operation
            tables = self.integral.tables(function)
            rows = self.integral.geometry.cells, -1
            found.update(
                zip(tables, products([t.matrix for t in tables.values()], self._dofs(function), rows), strict=True)
            )
        value = found[key]
        if table.held is not None:
            value = value + self.integral.numbers((function, key), lambda: table.held, self.u)
        return Factors(None, value) if table.once else Factors(value, 1.0)

    def _dofs(self, function: Any) -> Tensor:
        owner = self.integral.owner
        if function == owner.state:
            return self.u
        if function in owner.names:
            return self.fields[owner.names[function]]
        return torch.from_numpy(function.x.array).to(self.u)[:, None]

    def constant(self, constant: Any, component: int) -> Factors:
        names = self.integral.owner.names
        if constant not in names:
            return Factors(None, float(np.asarray(constant.value).ravel()[component]))
        value = self.fields[names[constant]]
        return Factors(None, value.reshape(math.prod(constant.ufl_shape), -1)[component][None, None])

    def place(self, axis: int) -> Factors:
        places = self.integral.geometry.places
        return Factors(self.integral.numbers(("x", axis), lambda: places[..., axis, None], self.u), 1.0)
