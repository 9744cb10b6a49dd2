"""A constant sparse matrix as a torch operation: batch last, gradients by its transpose."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import scipy.sparse as sparse
import torch
from torch import Tensor


class SparseMatrix:
    """x -> A x for columns x of shape (n, batch), differentiable as often as needed.

    Torch would transpose a compressed matrix anew in every backward pass; here both A and A' are held, once for each
    dtype and device that is asked for.

    Args:
        matrix: A, shape (m, n).
    """

    def __init__(self, matrix: Any) -> None:
        self._matrix: Any = sparse.csr_array(matrix)
        self._held: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        rows, columns = self._matrix.shape
        return int(rows), int(columns)

    def __call__(self, x: Tensor) -> Tensor:
        """Return A x, shape (m, batch)."""
        return _multiply(x, *self._at(x))

    def _at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        key = x.dtype, x.device
        if key not in self._held:
            self._held[key] = _compressed(self._matrix, x), _compressed(sparse.csr_array(self._matrix.T), x)
        return self._held[key]


def _compressed(matrix: Any, like: Tensor) -> Tensor:
    pointers, columns = (torch.from_numpy(part.astype("int32")) for part in (matrix.indptr, matrix.indices))
    values = torch.from_numpy(matrix.data.copy()).to(like.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(pointers, columns, values, matrix.shape, check_invariants=False).to(like.device)


def sum_of_products(matrices: Sequence[SparseMatrix], columns: Sequence[Tensor]) -> Tensor:
    """Return sum_i A_i x_i for columns x_i of shape (n_i, batch), without intermediate sums."""
    add: Any = _Sum.apply
    return add(*(part for matrix, x in zip(matrices, columns, strict=True) for part in (x, *matrix._at(x))))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        columns, matrices = parts[::3], parts[1::3]
        ctx.pairs = matrices, parts[2::3]
        out = columns[0].new_empty(matrices[0].shape[0], columns[0].shape[-1])
        for i, (matrix, x) in enumerate(zip(matrices, columns, strict=True)):
            out.addmm_(matrix, x.contiguous(), beta=float(i > 0))
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        grad, found = grad_outputs[0].contiguous(), []
        for i, pair in enumerate(zip(*ctx.pairs, strict=True)):
            needed = ctx.needs_input_grad[3 * i]
            found += [_multiply(grad, *reversed(pair)) if needed else None, None, None]
        return tuple(found)


def _multiply(x: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _product(x, matrix)  # a node of the graph costs time
    multiply: Any = _Multiply.apply
    return multiply(x, matrix, transposed)


def _product(x: Tensor, matrix: Tensor) -> Tensor:
    out = x.new_empty(matrix.shape[0], x.shape[-1])
    return out.addmm_(matrix, x.contiguous(), beta=0.0)  # matrix @ x would fill with zeros, copy and then multiply


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.pair = matrix, transposed
        return _product(x, matrix)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        matrix, transposed = ctx.pair
        return _multiply(grad_outputs[0], transposed, matrix), None, None
