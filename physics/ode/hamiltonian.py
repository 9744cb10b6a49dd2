"""A learnt Hamiltonian whose motion has a closed form: oscillators seen through a learnt canonical map.

    H(q, p) = K(Phi^-1(q, p)),    K(Q, P) = sum_i w_i (Q_i^2 + P_i^2) / 2

Phi is canonical (symplectic), so Hamilton's equations dq/dt = dH/dp, dp/dt = -dH/dq are solved exactly by

    (q, p)(t) = Phi(R(t) Phi^-1(q(0), p(0))),    R(t) the rotation of every pair (Q_i, P_i) by w_i t.

With frequencies w_i that are whole multiples of 2 pi / T every motion has the period T, whatever the initial state: the
superintegrable (resonant) case. H is conserved and phase space volume is kept to rounding.

Source: V. I. Arnold, Mathematical Methods of Classical Mechanics (1989), sections 45 and 50; gradient modules as layers of
a canonical map: Jin et al., SympNets, Neural Networks 132 (2020), arXiv:2001.03750.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ...core.require import floats, real, whole, widths


class Shear(nn.Module):
    """The gradient of a learnt potential of n variables, zero at the start.

    V(x) = sum_j a_j log cosh(k_j . x + b_j) + x' S x / 2, of which this is dV/dx.
    """

    def __init__(self, freedoms: int, width: int, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.directions = nn.Parameter(torch.randn(freedoms, width))
        self.bias = nn.Parameter(torch.randn(width))
        self.weights = nn.Parameter(torch.zeros(width))
        self.quadratic = nn.Parameter(torch.zeros(freedoms, freedoms))

    def forward(self, x: Tensor) -> Tensor:
        """Return dV/dx, (..., n)."""
        bent = (x @ self.directions + self.bias).tanh() * (self.rate * self.weights)
        return bent @ self.directions.T + self.rate * (x @ (self.quadratic + self.quadratic.T))


class CanonicalMap(nn.Module):
    """Phi: (Q, P) -> (q, p), shears of q and of p in turn; the identity at the start.

    Args:
        freedoms: n, the length of q.
        depth: number of shears.
        width: terms in the potential of each.
        rate: factor on the learnt weights, which makes them faster or slower than other parameters under Adam.
    """

    def __init__(self, freedoms: int, depth: int = 8, width: int = 32, rate: float = 1.0) -> None:
        super().__init__()
        for name, value in (("freedoms", freedoms), ("depth", depth), ("width", width)):
            whole(name, value, 1, 10**4)
        real("rate", rate)
        self.shears = nn.ModuleList([Shear(freedoms, width, rate) for _ in range(depth)])

    def forward(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """Return Phi(q, p), (..., n) each."""
        self._pair(q, p)
        for i, shear in enumerate(self.shears):
            q, p = (q, p - shear(q)) if i % 2 else (q + shear(p), p)
        return q, p

    def inverse(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """Return Phi^-1(q, p), (..., n) each."""
        self._pair(q, p)
        for i in reversed(range(len(self.shears))):
            shear = self.shears[i]
            q, p = (q, p + shear(q)) if i % 2 else (q - shear(p), p)
        return q, p

    def _pair(self, q: Tensor, p: Tensor) -> None:
        like = cast(Shear, self.shears[0]).directions
        for name, value in (("q", q), ("p", p)):
            floats(name, value, len(like), like=like)


class PeriodicHamiltonian(nn.Module):
    """H(q, p) of n degrees of freedom all of whose motions have the same period.

    It has no ``residual`` of its own, because nothing is discretised: ``equations`` is the right-hand side for an
    ``ODEProblem``, whose residual is that of Hamilton's equations.

    Args:
        multiples: w_i in units of 2 pi / period, whole numbers, one for each degree of freedom.
        period: T, in units of time.
        depth, width, rate: of the canonical map.

    Raises:
        ValueError: no degree of freedom, a multiple that is not a positive whole number, or a period that is not positive.
    """

    multiples: Tensor

    def __init__(
        self, multiples: Sequence[int], period: float, depth: int = 8, width: int = 32, rate: float = 1.0
    ) -> None:
        super().__init__()
        multiples = widths("multiples", multiples)
        if not multiples:
            raise ValueError("multiples: got none, expected positive whole numbers")
        period = real("period", period)
        self.map = CanonicalMap(len(multiples), depth, width, rate)
        self.period = float(period)
        self.register_buffer("multiples", torch.tensor([float(m) for m in multiples]))  # exact in any dtype

    @property
    def frequencies(self) -> Tensor:
        """w, (n,), in radians per unit of time."""
        return 2 * math.pi / self.period * self.multiples

    def energy(self, state: Tensor) -> Tensor:
        """Return H of states (q, p), (..., 2 n) -> (...), in units of q^2 / time."""
        q, p = self.map.inverse(*self._halves("state", state))
        return 0.5 * (self.frequencies * (q.square() + p.square())).sum(-1)

    def _halves(self, name: str, state: Tensor) -> tuple[Tensor, ...]:
        return floats(name, state, 2 * len(self.multiples)).chunk(2, -1)

    def flow(self, initial_state: Tensor, times: Tensor) -> Tensor:
        """Return the motion from (q, p)(0), shape (..., 2 n), at times (T,), shape (..., T, 2 n)."""
        halves = self._halves("initial_state", initial_state)
        if floats("times", times, None, like=initial_state).dim() != 1:
            raise ValueError(f"times: got shape {tuple(times.shape)}, expected (T,)")
        q, p = (part.unsqueeze(-2) for part in self.map.inverse(*halves))
        angle = times[:, None] * self.frequencies
        cos, sin = angle.cos(), angle.sin()
        return torch.cat(self.map(q * cos + p * sin, p * cos - q * sin), -1)

    def equations(self, t: Tensor, state: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        """Return Hamilton's equations (dH/dp, -dH/dq) at a state, the right-hand side of an ``ODEProblem``."""
        self._halves("state", state)
        with torch.enable_grad():
            at = state if state.requires_grad else state.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.energy(at).sum(), at, create_graph=True)
        dq, dp = slope.chunk(2, -1)
        return torch.cat([dp, -dq], -1)
