"""A linear problem seen through few test functions: the state in their span, the residual weighted with them."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.require import dtype_of_floats, floats, shown, whole
from ..problem import Problem, Unknowns


class Galerkin(Problem):
    """The weighted residual of another problem in a basis: u = S c, r_S(c, z) = S' r(S c, z) (Bubnov-Galerkin).

    With the columns of S nodal values of functions v_i in the other problem's space, r_S_i is the integral of v_i times
    the equation's residual, for the other problem's r_j is that for its own test functions (finite-element hats).

    Args:
        problem: the other problem, with a residual that is affine in u and one event dimension.
        basis: S, shape (n, m), columns independent.

    Raises:
        ValueError, TypeError: an argument does not fit.

    Example:
        >>> from physzoo.physics import Elliptic1D
        >>> from physzoo.physics.galerkin import sines
        >>> bar = Elliptic1D(lambda z: z, sensors=[0.5], elements=64)
        >>> few = Galerkin(bar, sines(63, 12))
        >>> few.observe(few.solve(torch.zeros(64))).round(decimals=3)
        tensor([0.1250])
    """

    basis: Tensor
    state_event_dim = 1

    def __init__(self, problem: Problem, basis: Tensor) -> None:
        super().__init__()
        if not all(callable(getattr(problem, name, None)) for name in ("residual", "observe")):
            raise TypeError(f"problem: got {shown(problem)}, expected a Problem")
        if floats("basis", basis, None, None).dim() != 2 or torch.linalg.matrix_rank(basis) < basis.shape[1]:
            raise ValueError(f"basis: got {shown(basis)}, expected independent columns (n, m)")
        self.problem = problem
        self.register_buffer("basis", basis)

    def state(self, c: Tensor) -> Tensor:
        """Return the other problem's state u = S c, shape (..., n)."""
        return floats("u", c, self.basis.shape[1], like=self.basis) @ self.basis.mT

    def solve(self, z: Unknowns, residual: Tensor | None = None) -> Tensor:
        """Return the coefficients c, shape (..., m), with r_S(c, z) = ``residual`` (zero where not given).

        Raises:
            ValueError: the residual is not affine in u, so that c does not solve.
        """
        matrix, at_zero = self._matrix(z)
        target = -at_zero if residual is None else floats("residual", residual, self.basis.shape[1]) - at_zero
        c = torch.linalg.solve(matrix, target[..., None])[..., 0]
        with torch.no_grad():
            left = (self.residual(c, z) - at_zero - target).abs().max()
            gap = float(left / (matrix.abs().max() * c.abs().max()).clamp(min=torch.finfo(c.dtype).tiny))
        if gap > (1e-3 if c.dtype == torch.float32 else 1e-8):
            raise ValueError(
                f"problem: got a residual that bends by {gap:.2g} of its slope, expected one affine in the state"
            )
        return c

    def observe(self, u: Tensor) -> Tensor:
        """Return what the other problem's sensors read, shape (..., n_y)."""
        return self.problem.observe(self.state(u))

    def residual(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return S' r(S u, z), shape (..., m)."""
        found = self.problem.residual(self.state(u), z)
        if found.dtype != self.basis.dtype:
            raise TypeError(f"z: got a residual of {found.dtype} from it, expected {self.basis.dtype} as the basis")
        return found @ self.basis

    def logdet(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return log|det S' dr/du S|, shape (...)."""
        floats("u", u, self.basis.shape[1])
        value = torch.linalg.slogdet(self._matrix(z)[0])[1]
        return value.expand(torch.broadcast_shapes(value.shape, u.shape[:-1]))

    def _matrix(self, z: Unknowns) -> tuple[Tensor, Tensor]:
        """S' A(z) S, (..., m, m), and r_S(0, z), (..., m), from m + 1 residuals."""
        rows = floats("z", z, None)[..., None, :]
        columns = torch.eye(self.basis.shape[1], dtype=self.basis.dtype, device=self.basis.device)
        at_zero = self.residual(0 * columns[:1], rows)
        return (self.residual(columns, rows) - at_zero).mT, at_zero[..., 0, :]


def sines(nodes: int, modes: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return the ``modes`` longest sines at ``nodes`` equally spaced interior nodes, orthonormal columns (nodes, modes).

    Raises:
        ValueError: more modes than nodes, or fewer than one.
    """
    whole("nodes", nodes, 1, 10**6)
    dtype_of_floats(dtype)
    if whole("modes", modes, 1) > nodes:
        raise ValueError(f"modes: got {modes}, expected 1 to {nodes}, the number of nodes")
    x = torch.arange(1, nodes + 1, dtype=torch.float64) / (nodes + 1)
    waves = torch.sin(torch.pi * x[:, None] * torch.arange(1, modes + 1)) * (2 / (nodes + 1)) ** 0.5
    return waves.to(dtype or torch.get_default_dtype())
