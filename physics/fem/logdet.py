"""log|det dr/du| of an assembled system and its gradients. Imports dolfinx, see ``assembly``."""

# UFL and dolfinx annotate with unions of all that an operation might return.
# pyright: reportArgumentType=false, reportReturnType=false, reportCallIssue=false
from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sparse
from dolfinx import fem

from ..selected_inverse import SelectedInverse
from . import forms as fem_forms
from .compiled import Gradient, local_dofs


class Assembled(Protocol):
    """What the determinant asks of a form's ``System``."""

    space: Any
    u: Any
    parameters: Any
    bilinear: Any
    n_dofs: int
    free: np.ndarray

    def matrix(self) -> Any: ...
    def assemble(self) -> None: ...


class LogDet:
    """Log-determinant of the Jacobian J = dF/du on the free dofs, and its derivatives.

        d log|det J| = sum_ij W_ij dJ_ij,  W = J^-T,  J_ij = a(phi_j, phi_i),

    needs W on the sparsity pattern only. Cell by cell the sum is sum_l a(phi_l, sum_k W_kl phi_k) over the
    local basis: the bilinear form a with discontinuous functions for its arguments, assembled once for each
    l.
    """

    def __init__(self, system: Assembled) -> None:
        self._system = system
        full = system.matrix()
        numbered = sparse.csr_array((np.arange(1, full.nnz + 1), full.indices, full.indptr), shape=full.shape)
        kept = sparse.csr_array(numbered[system.free][:, system.free])
        kept.sort_indices()
        self._entries = kept.data - 1
        self._inverse = SelectedInverse(kept.indptr, kept.indices)
        self._pattern = kept

    def evaluate(self) -> tuple[float, np.ndarray]:
        """Return log|det J| at the present values and J^-1 on the pattern, shape (entries,)."""
        self._system.assemble()
        return self._inverse(self._system.matrix().data[self._entries])

    @cached_property
    def _cell_entries(self) -> np.ndarray:
        """Place of J^-1[l, k] in the pattern, by cell and local pair (k, l); the last place is a zero."""
        dofs, n_dofs, free = local_dofs(self._system.space), self._system.n_dofs, self._system.free
        number = np.full(n_dofs, -1)
        number[free] = np.arange(free.size)
        local = number[dofs]
        rows, columns = np.broadcast_arrays(local[:, None, :], local[:, :, None])
        places = np.full(rows.shape, self._entries.size)
        both = (rows >= 0) & (columns >= 0)
        lookup = sparse.csr_array(
            (np.arange(1, self._entries.size + 1), self._pattern.indices, self._pattern.indptr),
            shape=self._pattern.shape,
        )
        places[both] = lookup[rows[both], columns[both]] - 1
        return places

    @cached_property
    def _cut(self) -> tuple[fem.Function, fem.Function, np.ndarray]:
        mesh = self._system.space.mesh
        space = fem.functionspace(mesh, fem_forms.discontinuous(self._system.space.ufl_element()))
        return fem.Function(space), fem.Function(space), local_dofs(space)

    @cached_property
    def _gradients(self) -> dict[str, Gradient]:
        test, trial, _ = self._cut
        functional = fem_forms.cut_bilinear(self._system.bilinear, test, trial)
        parameters = {**self._system.parameters, "": self._system.u}
        return {name: Gradient(functional, parameter) for name, parameter in parameters.items()}

    def gradients(self, inverse: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Return d log|det J| / dp for named parameters at the present values, "" for the free dofs."""
        test, trial, dofs = self._cut
        cells = np.append(inverse, 0.0)[self._cell_entries]
        wanted = {name: self._gradients[name] for name in names}
        for gradient in wanted.values():
            gradient.value[:] = 0.0
        moving = [gradient for gradient in wanted.values() if not gradient.is_zero]
        for basis in range(dofs.shape[1] if moving else 0):
            trial.x.array[:] = 0.0
            trial.x.array[dofs[:, basis]] = 1.0
            test.x.array[dofs] = cells[:, :, basis]
            for gradient in moving:
                gradient.add()
        free = self._system.free
        return {name: gradient.value if name else gradient.value[free] for name, gradient in wanted.items()}
