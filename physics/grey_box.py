"""Incomplete physics completed by learnt parts: ordinary differential equations solved with and without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.require import function
from .ode.equation import RightHandSide
from .ode.failures import Named
from .ode.problem import ADAPTIVE, ODEProblem
from .ode.unknowns import widened
from .problem import SolveError


@dataclass(frozen=True)
class Decoded:
    """The four outputs of a decoder made of physics P, learnt dynamics A and a learnt correction B, data space each.

    Attributes:
        full: physics, dynamics and correction (PAB): the mean of the data.
        without_correction: physics and dynamics (PA).
        without_dynamics: physics and correction (PB).
        physics: physics alone (P).
    """

    full: Tensor
    without_correction: Tensor
    without_dynamics: Tensor
    physics: Tensor


class GreyBoxODE(ODEProblem):
    """An initial value problem with an incomplete right-hand side and a learnt rest.

        du/dt = f_P(t, u; z) + f_A(t, u; z),    u(t0) = z["initial_state"].

    As an ``ODEProblem`` (solve, observe, residual, logdet) it stands for the completed equation. ``branches`` solves the
    completed and the incomplete one together: in one batch by a method of fixed step.

    Args:
        physics: f_P(t, state, z) -> shape of state (..., k), as for ``ODEProblem``.
        dynamics: f_A, likewise; an ``nn.Module`` is registered. z holds what ``branches`` was given: codes, or
            coefficients that were computed from them once, before the solve.
        times: t_1 ... t_T.
        **options: those of ``ODEProblem``.

    Source: Takeishi & Kalousis, arXiv:2102.13156, section 3.
    """

    def __init__(self, physics: RightHandSide, dynamics: Callable[..., Tensor], times: Any, **options: Any) -> None:
        function("physics", physics)
        function("dynamics", dynamics)
        super().__init__(self._completed, times, **options)
        self.physics = physics
        self.dynamics = dynamics
        self._options = options

    def _completed(self, t: Tensor, u: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        return self.physics(t, u, z) + self.dynamics(t, u, z)

    def _two(self, t: Tensor, u: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        """The right-hand side of a state (2, ..., k): completed, incomplete."""
        physics = self.physics(t, u, z)
        learnt = self.dynamics(t, u[0], Named({name: value[0] for name, value in z.items()}))
        return torch.stack([physics[0] + learnt, physics[1]])

    def branches(self, z: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the trajectories of the completed and of the incomplete equation, (..., T, k) each.

        Raises:
            SolveError: a sample failed and ``on_failure`` is "raise".
        """
        unknowns, batch = widened(self.event_dims, z, None)
        if self.method in ADAPTIVE:  # a failure is looked for among rows of the batch, which must stay two equations
            return ODEProblem.solve(self._twin(self._completed), unknowns), self.incomplete(unknowns)
        doubled = Named({name: value.expand(2, *value.shape) for name, value in unknowns.items()})
        together = self._twin(self._two, on_failure="raise")
        others = []

        def completed(_: Mapping[str, Tensor]) -> Tensor:
            first, second = together._trajectory(doubled).unbind(0)
            others.append(second)
            return first

        try:
            return self._checked(completed, unknowns, batch), others[0]
        except SolveError:  # find the failed samples of each equation by itself
            return ODEProblem.solve(self._twin(self._completed), unknowns), self.incomplete(unknowns)

    def incomplete(self, z: Mapping[str, Tensor]) -> Tensor:
        """Return the trajectory of the physics alone, (..., T, k)."""
        return ODEProblem.solve(self.alone(), z)

    def alone(self) -> ODEProblem:
        """Return the incomplete equation as a problem of its own."""
        return self._twin(self.physics)

    def at(self, times: Any) -> GreyBoxODE:
        """Return the same equation from the same start, learnt parts shared, at other times (extrapolation)."""
        kept = {**self._options, "t0": self.t0, "dtype": self.times.dtype}
        return GreyBoxODE(self.physics, self.dynamics, times, **kept)

    def _twin(self, rhs: RightHandSide, **changes: Any) -> ODEProblem:
        """This problem with another right-hand side; times and learnt parts are shared, so it cannot fall behind."""
        twin = copy(self)
        twin.__dict__.update(changes, rhs=rhs)
        return twin
