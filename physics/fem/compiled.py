"""Compiled forms and factorisations that write in place. Imports dolfinx, see ``assembly``."""

# UFL and dolfinx annotate with unions of all that an operation might return.
# pyright: reportArgumentType=false
from __future__ import annotations

from typing import Any

import numpy as np
import ufl
from dolfinx import fem, jit
from petsc4py import PETSc

from . import forms as fem_forms
from .lock import compiling

PATIENCE = 24  # times WAIT seconds, while another process compiles the same form
WAIT = 5


def compile_form(form: ufl.Form) -> Any:
    """Compile a form, or load it.

    Raises:
        RuntimeError: there is no compiler, no folder for its results, or another process never ends.
        ValueError: the form has something that dolfinx cannot compile.
    """
    cache = jit.get_options()["cache_dir"]
    for _ in range(PATIENCE):
        with compiling(cache):
            try:
                return fem.form(form, jit_options={"timeout": WAIT})
            except Exception as error:
                reason = " ".join(str(error).split())
                if "JIT compilation timed out" not in reason:
                    raise _explained(reason, cache) from error
    raise RuntimeError(
        f"finite elements: got a form that another process has been compiling for {PATIENCE * WAIT} s, expected it to end; "
        f"if none is, delete libffcx_*.c in {cache}"
    )


def _explained(reason: str, cache: Any) -> Exception:
    """A failed compilation in one sentence."""
    if "CompileError" in reason or "No such file" in reason:
        return RuntimeError(
            "finite elements: got no C compiler that works, expected one (apt install gcc, or conda install c-compiler), "
            f"for forms are compiled when first used ({reason[-90:]})"
        )
    if "Permission denied" in reason or "Read-only" in reason or "No space left" in reason:
        return RuntimeError(
            f"finite elements: got no room in {cache} ({reason[-90:]}), expected to write: set XDG_CACHE_HOME"
        )
    return ValueError(f"form: got one that dolfinx cannot compile ({reason[:200]}), expected one that it can")


def local_dofs(space: fem.FunctionSpace) -> np.ndarray:
    """Return the dof of each local basis function, shape (cells, local dofs), block sizes unrolled."""
    blocks, size = space.dofmap.list, space.dofmap.bs
    return (blocks[:, :, None] * size + np.arange(size)).reshape(blocks.shape[0], -1)


class Gradient:
    """Values of dM/dp for a functional M(p), assembled into one array."""

    def __init__(self, functional: ufl.Form, parameter: fem_forms.Parameter) -> None:
        field = isinstance(parameter, fem.Function)
        self.value = np.zeros(parameter.x.array.size if field else parameter.value.size)
        forms = fem_forms.gradients(functional, parameter)
        compiled = [None if fem_forms.is_zero(form) else compile_form(form) for form in forms]
        self.is_zero = all(form is None for form in compiled)
        self._linear = compiled[0] if field else None
        self._components = [] if field else compiled

    def add(self) -> None:
        """Add dM/dp at the present values of all functions to ``value``."""
        if self._linear is not None:
            fem.assemble_vector(self.value, self._linear)
        for index, form in enumerate(self._components):
            if form is not None:
                self.value[index] += fem.assemble_scalar(form)

    def __call__(self) -> np.ndarray:
        """Return dM/dp at the present values of all functions; the next call writes the same array."""
        self.value[:] = 0.0
        self.add()
        return self.value


class Factor:
    """One LU (or Cholesky) factorisation, its memory and symbolic phase reused."""

    def __init__(self, matrix: PETSc.Mat, solver: str, symmetric: bool) -> None:
        self.solver, self.symmetric, self._source = solver, symmetric, matrix
        self._preconditioner = PETSc.PC().create(PETSc.COMM_SELF)
        self._preconditioner.setType("cholesky" if symmetric else "lu")
        self._preconditioner.setFactorSolverType(solver)
        if solver == "petsc":
            self._preconditioner.setFactorOrdering("nd")
        self._preconditioner.setOperators(matrix)
        self._matrix: PETSc.Mat | None = None

    def compute(self) -> bool:
        """Factorise the matrix as it is now; return whether that worked."""
        self._source.stateIncrease()  # its entries were written from outside
        try:
            self._preconditioner.setUp()
        except PETSc.Error:
            return False
        self._matrix = self._preconditioner.getFactorMatrix()
        return self._preconditioner.getFailedReason() == PETSc.PC.FailedReason.NOERROR

    # The factored matrix solves by itself: PC.apply would factorise again once another sample is assembled.
    def solve(self, right: PETSc.Vec, out: PETSc.Vec) -> None:
        """out = A^-1 right."""
        self._matrix.solve(right, out)  # pyright: ignore[reportOptionalMemberAccess]

    def solve_transposed(self, right: PETSc.Vec, out: PETSc.Vec) -> None:
        """out = A^-T right."""
        self._matrix.solveTranspose(right, out)  # pyright: ignore[reportOptionalMemberAccess]
