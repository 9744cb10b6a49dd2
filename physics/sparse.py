"""A constant sparse matrix as a torch operation: batch last, gradients by its transpose.

Several products of one x are one operation, and so is a sum of products: each is the other's derivative.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import scipy.sparse as sparse
import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]  # A and A', compressed rows


class SparseMatrix:
    """A matrix for ``products`` and ``sum_of_products``, which are differentiable as often as needed.

    Torch would transpose a compressed matrix anew in every backward pass; here both A and A' are held, once for each
    dtype and device that is asked for.

    Args:
        matrix: A, shape (m, n).
    """

    def __init__(self, matrix: Any) -> None:
        self._matrix: Any = sparse.csr_array(matrix)
        self._held: dict[tuple[torch.dtype, torch.device], Pair] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        rows, columns = self._matrix.shape
        return int(rows), int(columns)

    def at(self, like: Tensor) -> Pair:
        """Return A and A' in the dtype and on the device of a tensor."""
        key = like.dtype, like.device
        if key not in self._held:
            self._held[key] = _compressed(self._matrix, like), _compressed(sparse.csr_array(self._matrix.T), like)
        return self._held[key]


def _compressed(matrix: Any, like: Tensor) -> Tensor:
    pointers, columns = (torch.from_numpy(part.astype("int32")) for part in (matrix.indptr, matrix.indices))
    values = torch.from_numpy(matrix.data.copy()).to(like.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(pointers, columns, values, matrix.shape, check_invariants=False).to(like.device)


def products(matrices: Sequence[SparseMatrix], x: Tensor, rows: tuple[int, ...]) -> Sequence[Tensor]:
    """Return every A_i x, shape (*rows, batch), for x of shape (n, batch)."""
    return _products([matrix.at(x) for matrix in matrices], x, [rows] * len(matrices))


def sum_of_products(matrices: Sequence[SparseMatrix], columns: Sequence[Tensor]) -> Tensor:
    """Return sum_i A_i x_i, shape (m, batch), without intermediate sums.

    Args:
        matrices: A_i, each of m rows.
        columns: x_i, (..., batch) with as many entries before the batch as A_i has columns.
    """
    pairs = [matrix.at(x) for matrix, x in zip(matrices, columns, strict=True)]
    return _sum(pairs, columns, (matrices[0].shape[0],))


def _products(pairs: Sequence[Pair], x: Tensor, rows: Sequence[tuple[int, ...]]) -> Sequence[Tensor]:
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _Products.run(pairs, x, rows)  # a node of the graph costs time
    apply: Any = _Products.apply
    return apply(pairs, rows, x)


def _sum(pairs: Sequence[Pair], columns: Sequence[Tensor], rows: tuple[int, ...]) -> Tensor:
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in columns)):
        return _Sum.run(pairs, columns, rows)
    apply: Any = _Sum.apply
    return apply(pairs, rows, *columns)


class _Products(torch.autograd.Function):
    @staticmethod
    def run(pairs: Sequence[Pair], x: Tensor, rows: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
        x = _columns(x)
        out = [x.new_empty(matrix.shape[0], x.shape[-1]).addmm_(matrix, x, beta=0.0) for matrix, _ in pairs]
        return tuple(part.view(*shape, x.shape[-1]) for part, shape in zip(out, rows, strict=True))

    @staticmethod
    def forward(ctx: Any, pairs: Sequence[Pair], rows: Sequence[tuple[int, ...]], x: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.pairs, ctx.rows = pairs, x.shape[:-1]
        return _Products.run(pairs, x, rows)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Any, ...]:
        known = [i for i, grad in enumerate(grad_outputs) if grad is not None]
        turned: list[Pair] = [ctx.pairs[i][::-1] for i in known]
        columns: list[Any] = [grad_outputs[i] for i in known]
        return None, None, _sum(turned, columns, ctx.rows) if known else None


class _Sum(torch.autograd.Function):
    @staticmethod
    def run(pairs: Sequence[Pair], columns: Sequence[Tensor], rows: tuple[int, ...]) -> Tensor:
        out = columns[0].new_empty(pairs[0][0].shape[0], columns[0].shape[-1])
        for i, ((matrix, _), x) in enumerate(zip(pairs, columns, strict=True)):
            out.addmm_(matrix, _columns(x), beta=float(i > 0))
        return out.view(*rows, columns[0].shape[-1])

    @staticmethod
    def forward(ctx: Any, pairs: Sequence[Pair], rows: tuple[int, ...], *columns: Tensor) -> Tensor:
        ctx.pairs, ctx.rows = pairs, [x.shape[:-1] for x in columns]
        return _Sum.run(pairs, columns, rows)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[2:]
        known = [i for i, asked in enumerate(needed) if asked]
        turned: list[Pair] = [ctx.pairs[i][::-1] for i in known]
        found = iter(_products(turned, grad_outputs[0], [ctx.rows[i] for i in known]))
        return None, None, *(next(found) if asked else None for asked in needed)


def _columns(x: Tensor) -> Tensor:
    """(..., batch) -> (n, batch), laid out in rows."""
    return x.reshape(-1, x.shape[-1]).contiguous()
