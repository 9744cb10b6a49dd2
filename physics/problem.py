"""The interface that every physical system offers: solve, observe, residual, logdet."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

Unknowns = Tensor | Mapping[str, Tensor]


class SolveError(ArithmeticError):
    """A solver failed; the message names the unknowns for which it did."""


class Problem(nn.Module):
    """Physics that serves a forward and a residual likelihood from one object.

    Notation: z unknowns, u discretised state, y data, r residual,

        F: z -> u        ``solve``      with r(F(z), z) = 0,
        H: u -> y        ``observe``,
        r(u, z)          ``residual``   as many entries as u has free ones, zero at the solution,
        log|det dr/du|   ``logdet``     the factor that makes virtual observables exact.

    z is a tensor of shape (..., d) or a mapping from names to tensors; all methods are differentiable in u and z and
    batched over leading dimensions, which broadcast.

    Source: Glyn-Davies, Vadeboncoeur, Akyildiz, Kazlauskaite, Girolami, arXiv:2409.06560, section 2.
    """

    def solve(self, z: Unknowns, residual: Tensor | None = None) -> Tensor:
        """Return the state u, shape (..., n), with r(u, z) = ``residual`` (zero where it is not given).

        Raises:
            SolveError: no solution was found; the message names z.
        """
        raise TypeError(f"{type(self).__name__} has no solve: a Problem defines solve, observe, residual and logdet")

    def observe(self, u: Tensor) -> Tensor:
        """Return what the sensors would read without noise, shape (..., n_y)."""
        raise TypeError(f"{type(self).__name__} has no observe: a Problem defines solve, observe, residual and logdet")

    def residual(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return the weighted residual r(u, z)."""
        raise TypeError(f"{type(self).__name__} has no residual: a Problem defines solve, observe, residual and logdet")

    def logdet(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return log|det dr/du|, shape (...)."""
        raise TypeError(f"{type(self).__name__} has no logdet: a Problem defines solve, observe, residual and logdet")
