"""The two-dimensional elliptic problem with a coefficient that is constant on blocks: exact assembly, banded Cholesky."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.require import floats, function, numbers, one_of, shown, whole
from ..problem import Problem, SolveError, Unknowns
from .rectangle_autograd import _applied, _couplings, _Factors, _range, _Solve, _tridiagonal

# w' K u is the Dirichlet integral of a cell whose corners are (0, 0), (0, 1), (1, 0), (1, 1).


class Elliptic2D(Problem):
    """Diffusion through a square of blocks: -div(a grad u) = f on (0, 1)^2, u = 0 on its border.

    a is constant on each of B x B equal blocks and u bilinear (Q1) on n x n square cells, of which a block holds
    (n / B)^2. The unknowns z are the log a_k, shape (..., B^2), k = i + B j with i counted along x (x fastest). The
    state u holds the (n - 1)^2 interior nodal values, y fastest. With the element matrix K of -div grad, which does
    not depend on the cell's size, and the nodal loads F_i = integral of f v_i (v_i: hat function)

        r = A(z) u - F,      A(z) = sum_k exp(z_k) A_k,      A_k = sum over the cells of block k of K,
        u = A^-1 F by banded Cholesky, half bandwidth n,     det A by elimination line by line,
        dJ/dz_k = -exp(z_k) lambda' A_k u,                   A lambda = dJ/du.

    The adjoint solve takes the factorisation of the forward solve. Solving happens in float64 on the CPU, whatever the
    dtype and device of z; sums over a thousand cells of different coefficients need it. The gradient can itself be
    differentiated, and torch.func.jvp takes tangents, under torch.func.vmap with one factorisation for all of them.

    Args:
        sensors: positions along an axis, shape (s,), in [0, 1]; u is read at all pairs (x, y) of them, y fastest.
        cells: n, a multiple of ``blocks``.
        blocks: B.
        source: f as a number, or as a function (x, y) -> f (Gauss rule of 2 x 2 points).
        on_failure: "raise" a SolveError, or "reject": a failed sample's state is NaN, without a gradient.

    Raises:
        ValueError, TypeError: an argument does not fit.

    Source: elements: Strang & Fix, An Analysis of the Finite Element Method (1973), section 1; banded Cholesky: LAPACK
        (pbtrf, pbtrs); adjoint: Plessix, Geophys. J. Int. 167 (2006) 495.

    Example:
        >>> problem = Elliptic2D([0.5], cells=2, blocks=1)
        >>> problem.observe(problem.solve(torch.zeros(1, dtype=torch.float64)))
        tensor([0.0938], dtype=torch.float64)
    """

    load: Tensor
    sensors: Tensor
    reading: Tensor
    block: Tensor
    corners: Tensor
    state_event_dim = 1

    def __init__(
        self,
        sensors: Sequence[float] | Tensor,
        cells: int = 32,
        blocks: int = 8,
        source: float | Callable[[Tensor, Tensor], Tensor] = 1.0,
        on_failure: str = "raise",
    ) -> None:
        super().__init__()
        self.cells, self.blocks = whole("cells", cells, 2, 10**4), whole("blocks", blocks, 1)
        if self.cells % self.blocks:
            raise ValueError(f"cells: got {cells}, expected a multiple of the {blocks} blocks")
        one_of("on_failure", on_failure, ("raise", "reject"))
        expected = "positions in [0, 1]"
        positions = numbers("sensors", sensors, expected)
        if positions.dim() != 1 or not len(positions) or not bool(((positions >= 0) & (positions <= 1)).all()):
            raise ValueError(f"sensors: got {shown(positions.tolist())}, expected at least one of {expected}")
        self.on_failure = on_failure
        self.inner = self.cells - 1
        node = torch.arange(1, self.cells, dtype=torch.float64)
        hats = (1 - (positions[:, None] * self.cells - node).abs()).clamp_min(0.0)
        along = torch.arange(self.cells) // (self.cells // self.blocks)
        self.register_buffer("sensors", positions)
        self.register_buffer("reading", hats)  # (s, n - 1), along either axis
        self.register_buffer("block", along[:, None] + self.blocks * along)  # of cell (x, y)
        self.register_buffer("corners", self._corners())
        self.register_buffer("load", self._load(source))

    @property
    def nodes(self) -> Tensor:
        """x and y of the interior nodes, shape ((n - 1)^2, 2), in the order of the state."""
        line = torch.arange(1, self.cells, dtype=torch.float64, device=self.load.device) / self.cells
        return torch.cartesian_prod(line, line)

    def solve(self, z: Unknowns, residual: Tensor | None = None) -> Tensor:
        """Return u, shape (..., (n - 1)^2), with A(z) u = F + ``residual``, in the dtype of z.

        Raises:
            SolveError: coefficients that are not finite or beyond exp(300), or a matrix that is numerically
                singular, which contrasts above 1e15 may make it; the message names the sample.
        """
        log_a = self._log_a(z)
        right = self.load if residual is None else self.load + floats("residual", residual, self.inner**2)
        shape = torch.broadcast_shapes(log_a.shape[:-1], right.shape[:-1])
        flat = log_a.to("cpu", torch.float64).expand(*shape, -1).reshape(-1, self.blocks**2)
        loads = right.to("cpu", torch.float64).expand(*shape, -1).reshape(-1, self.inner**2)
        keep = torch.is_grad_enabled() and (flat.requires_grad or loads.requires_grad)
        factors = _Factors(self.block.cpu(), keep)
        u: Any = _Solve.apply(factors, self.corners.cpu(), flat, loads)
        if factors.failed:
            if self.on_failure == "raise":
                self._raise(min(factors.failed), shape, log_a)
            u = u.index_fill(0, torch.tensor(sorted(factors.failed)), torch.nan)
        return u.to(log_a).reshape(*shape, -1)

    def observe(self, u: Tensor) -> Tensor:
        """Return u at the pairs of sensors, shape (..., s^2), y fastest."""
        square = floats("u", u, self.inner**2).unflatten(-1, (self.inner, self.inner))
        reading = self.reading.to(u)
        return (reading @ square @ reading.T).flatten(-2)

    def residual(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return A(z) u - F, shape (..., (n - 1)^2), in units of the nodal load f h^2."""
        floats("u", u, self.inner**2)
        return _applied(self._log_a(z).exp()[..., self.block], u) - self.load.to(u)

    def logdet(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return log det A(z), shape (...): the log determinants of the lines, each after the one before is eliminated.

        Where ``on_failure`` is "reject", it is -inf for a sample whose matrix is numerically singular.

        Raises:
            SolveError: the matrix is numerically singular and ``on_failure`` is "raise".

        Source: Golub & Van Loan, Matrix Computations (2013), section 4.5 (block tridiagonal elimination).
        """
        floats("u", u, self.inner**2)
        log_a = self._log_a(z).double()
        value, failed = self._log_determinants(log_a)
        if bool(failed.any()):
            if self.on_failure == "raise":
                raise SolveError(f"z: got log coefficients {_range(log_a)}, whose matrix is numerically singular")
            # again without them: their infinities would turn shared gradients into NaN
            value, _ = self._log_determinants(torch.where(failed[..., None], 0.0, log_a))
            value = value.masked_fill(failed, -math.inf)
        return value.to(u).expand(torch.broadcast_shapes(value.shape, u.shape[:-1]))

    def _log_determinants(self, log_a: Tensor) -> tuple[Tensor, Tensor]:
        """log det A, (...), and which of them failed."""
        centre, up, right, slant = _couplings(log_a.exp()[..., self.block])
        within, between = _tridiagonal(centre, up), _tridiagonal(right, slant)
        value, failed = log_a.new_zeros(()), torch.zeros(log_a.shape[:-1], dtype=torch.bool, device=log_a.device)
        line = within[..., 0, :, :]
        for i in range(self.inner):
            factor, info = torch.linalg.cholesky_ex(line)
            failed = failed | (info != 0)
            value = value + 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            if i + 1 < self.inner:
                half = torch.linalg.solve_triangular(factor, between[..., i, :, :], upper=False)
                line = within[..., i + 1, :, :] - half.mT @ half
        return value, failed | ~torch.isfinite(value.detach())

    def _log_a(self, z: Unknowns) -> Tensor:
        return floats("z", z, self.blocks**2)

    def _raise(self, sample: int, shape: torch.Size, log_a: Tensor) -> None:
        place = f" at sample {tuple(int(i) for i in np.unravel_index(sample, shape))}" if shape else ""
        found = _range(log_a.detach().expand(*shape, -1).reshape(-1, self.blocks**2)[sample])
        raise SolveError(f"z: got log coefficients {found}{place}, expected finite ones of a regular matrix")

    def _corners(self) -> Tensor:
        """Place in the state of each cell's corners, cells by blocks, shape (B^2, (n / B)^2, 4); the border's is its end."""
        place = torch.full((self.cells + 1, self.cells + 1), self.inner**2)
        place[1:-1, 1:-1] = torch.arange(self.inner**2).reshape(self.inner, self.inner)
        of_cell = torch.stack([place[:-1, :-1], place[:-1, 1:], place[1:, :-1], place[1:, 1:]], -1).flatten(0, 1)
        by_block = self.block.flatten().argsort(stable=True)
        return of_cell[by_block].reshape(self.blocks**2, -1, 4)

    def _load(self, source: float | Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """F at the interior nodes, float64."""
        n, h = self.cells, 1 / self.cells
        if not callable(source):
            value = numbers("source", source, "a number or a function of x and y")
            if value.dim():
                raise ValueError(f"source: got shape {tuple(value.shape)}, expected a number or a function of x and y")
            return (value * h**2).repeat((n - 1) ** 2)
        function("source", source)
        ends = torch.tensor([0.5 - 0.5 / 3**0.5, 0.5 + 0.5 / 3**0.5], dtype=torch.float64)
        line = ((torch.arange(n, dtype=torch.float64)[:, None] + ends) * h).flatten()
        x, y = torch.meshgrid(line, line, indexing="ij")
        found = numbers("source", source(x, y), "a function of x and y to numbers").expand(2 * n, 2 * n)
        hats = torch.stack([1 - ends, ends])  # (corner, point)
        corners = h**2 / 4 * torch.einsum("ipjq,ap,bq->abij", found.reshape(n, 2, n, 2), hats, hats)
        load = corners[1, 1, :-1, :-1] + corners[0, 0, 1:, 1:] + corners[1, 0, :-1, 1:] + corners[0, 1, 1:, :-1]
        return load.flatten()
