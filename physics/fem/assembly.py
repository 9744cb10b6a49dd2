"""Numerical side of the finite elements: compiled forms, one matrix, its factorisations, Newton's method.

Works on numpy arrays and writes every result in place. Imports dolfinx; ``problem.FEMProblem`` imports this
module when a problem is built.
"""

# UFL and dolfinx annotate with unions of all that an operation might return.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false, reportReturnType=false, reportOptionalIterable=false
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sparse
import ufl
from dolfinx import fem, la
from petsc4py import PETSc

from ..problem import SolveError
from ..selected_inverse import transposed_entries
from . import forms as fem_forms
from .compiled import Factor, Gradient, compile_form
from .logdet import LogDet

NATIVE_LIMIT = 5000  # PETSc's own LU is the cheapest below (0.25 ms at 1,089 dofs, MUMPS 0.42), MUMPS above (11 and 21)
LINEAR_TOLERANCE = 1e-8
CAPACITY = 256  # factorisations that a call keeps for its backward pass; it factorises the other samples again
ROUNDING = 1e-13  # largest asymmetry of a matrix that Cholesky takes, relative to the entry or its diagonal ones


class System:
    """The assembled residual F(u, p; v) = 0 on the free dofs; values live in the functions of the form."""

    def __init__(
        self,
        form: ufl.Form,
        u: fem.Function,
        parameters: Mapping[str, fem_forms.Parameter],
        bcs: Sequence[fem.DirichletBC],
        linear: bool | None,
        newton,
    ) -> None:
        self.form, self.u, self.parameters, self.bcs, self.newton = form, u, parameters, list(bcs), newton
        self.space = u.function_space
        self.bilinear = fem_forms.jacobian(form, u)
        self.linear = not fem_forms.depends_on(self.bilinear, u) if linear is None else linear
        for bc in self.bcs:
            bc.set(u.x.array)
        self.state = u.x.array
        self.start = self.state.copy()
        self._values = [p.x.array if isinstance(p, fem.Function) else p.value for p in parameters.values()]
        self.n_dofs = self.start.size
        fixed = [bc.dof_indices()[0] for bc in self.bcs]
        self.fixed = np.unique(np.concatenate(fixed)) if fixed else np.zeros(0, dtype=np.int32)
        self.free = np.setdiff1d(np.arange(self.n_dofs), self.fixed)
        self._residual_form = compile_form(form)
        self._jacobian_form = compile_form(self.bilinear)
        self._csr = fem.create_matrix(self._jacobian_form, block_mode=la.BlockMode.expanded)
        self._data = self._csr.data
        self._pointers = self._csr.indptr.astype(PETSc.IntType)
        self._columns = self._csr.indices.astype(PETSc.IntType)
        self._matrices = tuple(self._wrap(symmetric) for symmetric in (False, True))
        mirrored = transposed_entries(self._pointers, self._columns)
        above = np.flatnonzero(mirrored > np.arange(mirrored.size))
        self._mirrored = above, mirrored[above]
        rows = np.repeat(np.arange(self.n_dofs), np.diff(self._pointers))
        on_diagonal = np.full(self.n_dofs, -1)
        on_diagonal[rows[rows == self._columns]] = np.flatnonzero(rows == self._columns)
        self._diagonals = on_diagonal[rows[above]], on_diagonal[self._columns[above]]
        self._parts = _parts(self.space)
        self._arrays = np.zeros((3, self.n_dofs))
        self._right, self._left, self._check = (
            PETSc.Vec().createWithArray(array, comm=PETSc.COMM_SELF) for array in self._arrays
        )
        self._vector = np.zeros(self.n_dofs)
        self._solver = "petsc" if self.n_dofs < NATIVE_LIMIT else "mumps"
        self.capacity = CAPACITY
        self._idle: tuple[list[Factor], list[Factor]] = ([], [])

    def _wrap(self, symmetric: bool) -> PETSc.Mat:
        """A PETSc matrix on the assembled entries."""
        matrix = PETSc.Mat().createAIJWithArrays(
            (self.n_dofs, self.n_dofs), (self._pointers, self._columns, self._data), comm=PETSc.COMM_SELF
        )
        if symmetric:
            matrix.setOption(PETSc.Mat.Option.SYMMETRIC, True)
        return matrix

    def set_parameters(self, values: Sequence[np.ndarray]) -> None:
        """Write one sample's parameters, in the order of ``parameters``."""
        for target, value in zip(self._values, values, strict=True):
            target[...] = value

    def set_state(self, u: np.ndarray) -> None:
        """Write one sample's free dofs."""
        self.state[self.free] = u

    def residual(self) -> np.ndarray:
        """Return F at the present state and parameters on the free dofs, a new array."""
        self._vector[:] = 0.0
        fem.assemble_vector(self._vector, self._residual_form)
        return self._vector[self.free]

    def assemble(self) -> None:
        """Assemble dF/du at the present values; rows and columns of fixed dofs are those of the identity."""
        self._data[:] = 0.0
        fem.assemble_matrix(self._csr, self._jacobian_form, self.bcs)

    def matrix(self) -> sparse.csr_array:
        """Return the assembled matrix on all dofs; its data are written again by the next assembly."""
        return sparse.csr_array((self._data, self._columns, self._pointers), shape=(self.n_dofs, self.n_dofs))

    def factorise(self) -> Factor:
        """Assemble and factorise dF/du at the present values.

        Raises:
            SolveError: the matrix is singular or not finite.
        """
        self.assemble()
        symmetric = self._is_symmetric()
        idle = self._idle[symmetric]
        factor = idle.pop() if idle else Factor(self._matrices[symmetric], self._solver, symmetric)
        if factor.compute():
            return factor
        return self._pivoted()

    def _is_symmetric(self) -> bool:
        if not np.isfinite(self._data).all():
            raise SolveError("the Jacobian dF/du is not finite")
        above, below = (self._data[place] for place in self._mirrored)
        size = np.maximum(np.abs(above), np.abs(below))
        first, second = (np.where(place < 0, 0.0, np.abs(self._data[place])) for place in self._diagonals)
        size = np.maximum(
            size, np.sqrt(first) * np.sqrt(second)
        )  # fields in different units have entries of different size
        return bool((np.abs(above - below) <= ROUNDING * size).all())

    def _pivoted(self) -> Factor:
        """Factorise with MUMPS, which pivots (PETSc's own LU does not: saddle points)."""
        if self._solver != "mumps":
            factor = Factor(self._matrices[False], "mumps", symmetric=False)
            if factor.compute():
                return factor
        raise SolveError("the Jacobian dF/du is singular")

    def release(self, factor: Factor) -> None:
        """Give a factorisation back for reuse."""
        if factor.solver == self._solver:
            idle = self._idle[factor.symmetric]
            if len(idle) < self.capacity:
                idle.append(factor)

    @cached_property
    def logdet(self) -> LogDet:
        """The log-determinant of dF/du; built on first use."""
        return LogDet(self)

    def _step(self, right: np.ndarray) -> tuple[np.ndarray, Factor]:
        """Return J^-1 right on the free dofs and the factorisation; a bad one is done again with pivots."""
        if not np.isfinite(right).all():
            raise SolveError("the residual is not finite")
        factor = self.factorise()
        for attempt in (0, 1):
            step = self.apply_inverse(factor, right)
            self._matrices[False].mult(self._left, self._check)
            defect = np.abs(self._arrays[2] - self._arrays[0]).max(initial=0.0)
            if defect <= LINEAR_TOLERANCE * np.abs(right).max(initial=0.0):
                if factor.solver != self._solver:  # pivots were needed and helped: take them from now on
                    self._solver, self._idle = factor.solver, ([], [])
                return step, factor
            if attempt == 0:
                factor = self._pivoted()
        raise SolveError(f"the linear solve left a residual of {defect:.1e}: the Jacobian dF/du is nearly singular")

    def apply_inverse(self, factor: Factor, right: np.ndarray, transposed: bool = False) -> np.ndarray:
        """Return J^-1 right (or J^-T right) on the free dofs, a new array."""
        self._arrays[0][self.free] = right
        (factor.solve_transposed if transposed else factor.solve)(self._right, self._left)
        return self._arrays[1][self.free]

    def solve(self, target: np.ndarray | None, keep: bool) -> Factor | None:
        """Move the state to F(u, p) = target; with ``keep`` return the factorisation at the solution.

        Raises:
            SolveError: Newton's method did not converge, or a Jacobian is singular.
        """
        self.state[:] = self.start

        def misfit() -> np.ndarray:
            return self.residual() if target is None else self.residual() - target

        residual = misfit()
        if not self.linear:
            self._newton(residual, misfit)
            return self.factorise() if keep else None
        step, factor = self._step(residual)
        self.state[self.free] -= step
        if keep:
            return factor
        self.release(factor)
        return None

    def _largest(self, values: np.ndarray) -> np.ndarray:
        """The largest entry of values at all dofs in each part of the space."""
        return np.array([np.abs(values[part]).max(initial=0.0) for part in self._parts])

    def _newton(self, residual: np.ndarray, misfit: Callable[[], np.ndarray]) -> None:
        """Newton's method, the step halved until the residual falls."""
        state, free = self.state, self.free
        scale, last = self._largest(self.start), np.full(len(self._parts), np.inf)
        whole_step = np.zeros(self.n_dofs)
        for _ in range(self.newton.max_iterations):
            step, factor = self._step(residual)
            self.release(factor)
            before, norm = state[free], np.linalg.norm(residual)
            state[free] = before - step
            whole_step[free] = step
            scale, size = np.maximum(scale, self._largest(state)), self._largest(whole_step)
            small = size <= self.newton.tolerance * scale
            # A part that stays where rounding leaves it, beside one that is far larger, is as good as it gets.
            if (small | (size >= 0.5 * last)).all() and size.max() <= self.newton.tolerance * scale.max():
                return
            last = size
            residual = misfit()
            fraction = 1.0
            while not np.linalg.norm(residual) < norm and fraction > 1e-3:
                fraction /= 2.0
                state[free] = before - fraction * step
                residual = misfit()
        size = np.linalg.norm(residual)
        raise SolveError(f"Newton stopped after {self.newton.max_iterations} iterations with a residual of {size:.1e}")

    @cached_property
    def _adjoint(self) -> fem.Function:
        return fem.Function(self.space)

    @cached_property
    def _weighted(self) -> ufl.Form:
        return fem_forms.weighted(self.form, self._adjoint)

    @cached_property
    def _pullbacks(self) -> dict[str, Gradient]:
        return {}

    def pull_back(self, weights: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return (dF/dp)^T weights for named parameters; the name "" stands for the state (its free dofs)."""
        self._adjoint.x.array[self.free] = weights
        gradients = {}
        for name in names:
            if name not in self._pullbacks:
                self._pullbacks[name] = Gradient(self._weighted, self.parameters[name] if name else self.u)
            value = self._pullbacks[name]()
            gradients[name] = value if name else value[self.free]
        return gradients

    @cached_property
    def _pushforwards(self) -> dict[str, tuple]:
        return {}

    def _push_forward(self, name: str, direction: np.ndarray) -> np.ndarray:
        """Return dF/dp . direction on the free dofs for one parameter, a new array."""
        if name not in self._pushforwards:
            parameter = self.parameters[name]
            if isinstance(parameter, fem.Function):
                along = fem.Function(parameter.function_space)
            else:
                along = fem.Constant(self.space.mesh, np.zeros(parameter.ufl_shape))
            form = fem_forms.directional(self.form, parameter, along)
            self._pushforwards[name] = along, None if fem_forms.is_zero(form) else compile_form(form)
        along, form = self._pushforwards[name]
        (along.x.array if isinstance(along, fem.Function) else along.value)[...] = direction
        self._vector[:] = 0.0
        if form is not None:
            fem.assemble_vector(self._vector, form)
        return self._vector[self.free]

    def tangent(self, values: Sequence[np.ndarray], direction: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return the solution u at some parameters and its derivative -J^-1 (dF/dp) direction."""
        self.set_parameters(values)
        self.solve(None, keep=False)
        factor = self.factorise()
        right = np.zeros(self.free.size)
        for name, step in zip(self.parameters, direction, strict=True):
            right -= self._push_forward(name, step)
        du = self.apply_inverse(factor, right)
        self.release(factor)
        return self.state[self.free], du


def _parts(space: fem.FunctionSpace) -> list[Any]:
    """The dofs of each part of a mixed space; of another one, all."""
    if space.num_sub_spaces == 0 or space.dofmap.index_map_bs > 1:
        return [slice(None)]
    return [np.concatenate(space.sub(i).collapse()[1]) for i in range(space.num_sub_spaces)]
