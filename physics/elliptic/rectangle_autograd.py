"""Solves on a rectangle that torch differentiates: factors, bands, the adjoint."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.linalg import get_lapack_funcs
from torch import Tensor, nn

_FACTORISE, _BACKSOLVE = get_lapack_funcs(("pbtrf", "pbtrs"), dtype=np.float64)
LARGEST_LOG = 300.0  # beyond it sums of coefficients overflow sooner or later
_ELEMENT = torch.tensor([[4, -1, -1, -2], [-1, 4, -2, -1], [-1, -2, 4, -1], [-2, -1, -1, 4]], dtype=torch.float64) / 6
KEPT = 512  # factorisations that wait for backward, 0.25 MB each on 32 x 32 cells; others are made again


class _Factors:
    """Cholesky factors of A for samples of log a, (S, B^2), made when first asked for; those that fail become those of a = 1."""

    def __init__(self, block: Tensor, keep: bool) -> None:
        self.block = block
        self._kept: dict[int, np.ndarray] = {}
        self._room = KEPT if keep else 0
        self._coefficients: Any = None
        self.samples = 0
        self.failed: set[int] = set()

    def solve(self, log_a: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return A^-1 right, shape (V S, N): V right sides for each sample, the samples counted fastest."""
        if self._coefficients is None:
            outside = ~(np.abs(log_a) <= LARGEST_LOG).all(-1)
            self.failed.update(np.flatnonzero(outside).tolist())
            self._coefficients = np.exp(np.where(outside[:, None], 0.0, log_a))[:, self.block.numpy()]
            self.samples = len(log_a)
        sides = right.reshape(-1, self.samples, right.shape[-1])
        out = np.empty(sides.shape)
        for sample in range(self.samples):
            factor = self._factor(self._coefficients[sample], sample)
            out[:, sample] = _BACKSOLVE(factor, sides[:, sample].T, lower=1)[0].T
        return out.reshape(right.shape)

    def _factor(self, coefficients: np.ndarray, sample: int) -> np.ndarray:
        if sample in self._kept:
            return self._kept[sample]
        factor, info = _FACTORISE(_bands(coefficients), lower=1, overwrite_ab=1)
        if info:
            self.failed.add(sample)
            factor, _ = _FACTORISE(_bands(np.ones_like(coefficients)), lower=1, overwrite_ab=1)
        if len(self._kept) < self._room:
            self._kept[sample] = factor
        return factor


class _Solve(torch.autograd.Function):
    """u = A(z)^-1 f, both derivatives out of differentiable operations.

    adjoint    A lambda = du, df = lambda, dz_k = -exp(z_k) lambda' A_k u
    tangent    A du = df - sum_k exp(z_k) dz_k A_k u
    """

    @staticmethod
    def forward(factors: _Factors, corners: Tensor, z: Tensor, right: Tensor) -> Tensor:  # type: ignore[override]
        return torch.from_numpy(factors.solve(z.detach().numpy(), right.detach().numpy()))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.factors, ctx.corners, z, _ = inputs
        ctx.save_for_backward(z, output)
        ctx.save_for_forward(z, output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        z, u = ctx.saved_tensors
        weight: Any = _Solve.apply(ctx.factors, ctx.corners, z, grad_outputs[0])
        if not ctx.needs_input_grad[2]:
            return None, None, None, weight
        left, right = _at_corners(torch.stack([weight, u]), ctx.corners)
        return None, None, -_usable(z, ctx.factors).exp() * ((left @ _ELEMENT) * right).sum((-2, -1)), weight

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Any:
        (z, u), (dz, force) = ctx.saved_tensors, grad_inputs[2:]
        change = (_usable(z, ctx.factors).exp() * dz)[..., ctx.factors.block]
        return _Solve.apply(ctx.factors, ctx.corners, z, force - _applied(change, u))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, int]:  # type: ignore[override]
        factors, corners, z, right = inputs
        if in_dims[2] is not None:
            raise RuntimeError("vmap over the coefficients of Elliptic2D: batch them in front instead")
        sides = right.movedim(in_dims[3], 0)
        u: Any = _Solve.apply(factors, corners, z.expand(len(sides), *z.shape).flatten(0, 1), sides.flatten(0, 1))
        return u.unflatten(0, sides.shape[:2]), 0


def _usable(z: Tensor, factors: _Factors) -> Tensor:
    """z, with zero for the samples that failed, whose gradient is zero."""
    if not factors.failed:
        return z
    rows = torch.arange(len(z)) % factors.samples
    return z.index_fill(0, torch.isin(rows, torch.tensor(sorted(factors.failed))).nonzero()[:, 0], 0.0)


def _applied(a: Tensor, u: Tensor) -> Tensor:
    """A u for cell coefficients a (..., n, n), shape (..., (n - 1)^2)."""
    centre, up, right, slant = _couplings(a)
    v, pad = u.unflatten(-1, centre.shape[-2:]), nn.functional.pad
    total = centre * v + pad(up * v[..., :-1], (1, 0)) + pad(up * v[..., 1:], (0, 1))
    total = total + pad(right * v[..., :-1, :], (0, 0, 1, 0)) + pad(right * v[..., 1:, :], (0, 0, 0, 1))
    total = total + pad(slant * v[..., :-1, :-1], (1, 0, 1, 0)) + pad(slant * v[..., 1:, 1:], (0, 1, 0, 1))
    total = total + pad(slant * v[..., :-1, 1:], (0, 1, 1, 0)) + pad(slant * v[..., 1:, :-1], (1, 0, 0, 1))
    return total.flatten(-2)


def _at_corners(u: Tensor, corners: Tensor) -> Tensor:
    """u at the corners of the cells, shape (..., B^2, (n / B)^2, 4); zero on the border."""
    return nn.functional.pad(u, (0, 1))[..., corners]


def _couplings(a: Any) -> tuple[Any, Any, Any, Any]:
    """Entries of A from the cells' coefficients (..., n, n): of a node with itself, its y, its x and its slant neighbours.

    Shapes (..., m, m), (..., m, m - 1), (..., m - 1, m), (..., m - 1, m - 1) with m = n - 1. Both slants of a cell have
    the same entry. Takes NumPy arrays and tensors.
    """
    beside = a[..., :-1, :] + a[..., 1:, :]
    above = a[..., 1:-1, :-1] + a[..., 1:-1, 1:]
    centre = (beside[..., :-1] + beside[..., 1:]) * (2 / 3)
    return centre, beside[..., 1:-1] * (-1 / 6), above * (-1 / 6), a[..., 1:-1, 1:-1] * (-1 / 3)


def _bands(a: np.ndarray) -> np.ndarray:
    """A in LAPACK's lower band storage, shape (n + 1, (n - 1)^2), Fortran order, from cell coefficients (n, n)."""
    inner = len(a) - 1
    centre, up, right, slant = _couplings(a)
    bands = np.zeros((inner, inner, inner + 2))
    bands[:, :, 0] = centre
    bands[:, :-1, 1] = up
    bands[:-1, :, inner] = right
    bands[:-1, :-1, inner + 1] = slant
    bands[:-1, 1:, inner - 1] = slant
    return bands.reshape(inner**2, inner + 2).T


def _tridiagonal(centre: Tensor, beside: Tensor) -> Tensor:
    """Symmetric tridiagonal matrices, shape (..., m, m)."""
    return torch.diag_embed(centre) + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)


def _range(log_a: Tensor) -> str:
    return f"from {float(log_a.min()):.6g} to {float(log_a.max()):.6g}"
