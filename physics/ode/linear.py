"""Linear ordinary differential equations with constant coefficients: trajectories by powers of one matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...core.require import dtype_of_floats, finite, floats, function, increasing_times, whole
from ..problem import Problem, SolveError, Unknowns
from .failures import Named

LARGEST_MATRIX = 10**5  # rows
Generator = Callable[[Mapping[str, Tensor]], Tensor]


class LinearODE(Problem):
    """An initial value problem du/dt = A(z) u, u(t0) = z["initial_state"], at times t_1 < ... < t_T.

    The flow over a time h is the matrix exp(A h), so there is no step to choose. With equal spacing h all frames are
    powers of one matrix, taken by doubling: T frames cost 2 log2 T matrix products.

        r_1 = u_1 - exp(A (t_1 - t0)) u(t0),      r_n = u_n - exp(A (t_n - t_{n-1})) u_{n-1}

    A defect is in units of the state. The state is the whole trajectory, (..., T, k).

    Args:
        generator: A, a mapping of the unknowns -> (..., k, k); an ``nn.Module`` is registered. Batch shapes broadcast.
        times: t_1 ... t_T, increasing, first not before t0.
        t0: start time; None takes the first of the times, so that the first state is the initial state.
        squarings: None takes ``torch.linalg.matrix_exp``. A whole number s takes the Taylor polynomial of degree 6 of
            A h / 2^s, squared s times: several times cheaper with its gradient, relative error of a mode of rate l about
            2^s (|l| h / 2^s)^7 / 5040, so 1e-7 for |l| h = 2 and s = 3.
        observation: H, state (..., T, k) -> data; None returns the state.
        dtype: of the times; None keeps that of a tensor and else takes torch's default.

    Raises:
        ValueError: an argument does not fit.

    Source: scaling and squaring: Higham, Functions of Matrices (2008), chapter 10.

    Example:
        >>> decay = LinearODE(lambda z: -z["rate"][..., None, None] * torch.eye(1), times=[0.0, 1.0, 3.0])
        >>> decay.solve({"rate": torch.tensor(1.0), "initial_state": torch.ones(1)}).squeeze(-1)
        tensor([1.0000, 0.3679, 0.0498])
    """

    times: Tensor
    state_event_dim = 2

    def __init__(
        self,
        generator: Generator,
        times: Sequence[float] | Tensor,
        t0: float | None = None,
        squarings: int | None = None,
        observation: Callable[[Tensor], Tensor] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        function("generator", generator)
        exact, start = increasing_times(times, t0)
        if squarings is not None:
            whole("squarings", squarings, 0, 1000)
        if observation is not None:
            function("observation", observation)
        dtype_of_floats(dtype)
        self.generator, self.t0, self.squarings, self.observation = generator, start, squarings, observation
        steps = torch.cat([exact.new_tensor([start]), exact]).diff().tolist()
        self.first, self.steps = steps[0], steps[1:]
        spread = max(self.steps, default=0.0) - min(self.steps, default=0.0)
        # Times that went through float32 are equally spaced to its rounding.
        self.equal = spread <= min(1e-6 * max(abs(float(exact[-1])), abs(start)), 1e-3 * min(self.steps, default=0.0))
        if dtype is None and isinstance(times, Tensor) and times.is_floating_point():
            dtype = times.dtype
        self.register_buffer("times", exact.to(dtype or torch.get_default_dtype()))

    def solve(self, z: Unknowns, residual: Tensor | None = None) -> Tensor:
        """Return the trajectory, (..., T, k), whose defects are ``residual`` (by default zero).

        Raises:
            SolveError: a trajectory is not finite.
        """
        matrix, state = self._system(z)
        if residual is not None:
            floats("residual", residual, len(self.times), state.shape[-1])
            return self._driven(matrix, state, residual)
        path = self._powers(matrix, state) if self.equal and self.steps else self._driven(matrix, state, None)
        if not bool(torch.isfinite(path).all()):
            bad = int((~torch.isfinite(path)).flatten(-2).any(-1).sum())
            raise SolveError(f"linear ODE: {bad} of {math.prod(path.shape[:-2])} trajectories are not finite")
        return path

    def propagator(self, z: Unknowns, step: float) -> Tensor:
        """Return exp(A(z) step), (..., k, k)."""
        return self._flow(self._system(z)[0], finite("step", step))

    def observe(self, u: Tensor) -> Tensor:
        """Return what is seen of the trajectory: ``observation(u)``, by default u itself."""
        if self.observation is None:
            return floats("u", u)
        return self.observation(floats("u", u, None, None))

    def residual(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return the one-step defects, (..., T, k)."""
        matrix, state = self._system(z)
        floats("u", u, len(self.times), state.shape[-1])
        start = self._step(matrix, state, self.first)
        first = (u[..., 0, :] - start).unsqueeze(-2)
        if not self.steps:
            return first
        flows = self._flow(matrix, self._spacing()) if self.equal else self._flows(matrix)
        before = u[..., :-1, :]
        after = before @ flows.mT if self.equal else (flows @ before.unsqueeze(-1)).squeeze(-1)
        rest = u[..., 1:, :] - after
        batch = torch.broadcast_shapes(first.shape[:-2], rest.shape[:-2])
        return torch.cat([part.expand(*batch, -1, -1) for part in (first, rest)], -2)

    def logdet(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return log|det dr/du| = 0 exactly, shape (...): dr/du is block lower triangular with a unit diagonal."""
        matrix, state = self._system(z)
        floats("u", u, len(self.times), state.shape[-1])
        return u.new_zeros(torch.broadcast_shapes(u.shape[:-2], matrix.shape[:-2], state.shape[:-1]))

    def at(self, times: Any) -> LinearODE:
        """Return the same equation, generator shared, at other times from the same t0."""
        start = self.t0
        return LinearODE(self.generator, times, start, self.squarings, self.observation, self.times.dtype)

    def _system(self, z: Unknowns) -> tuple[Tensor, Tensor]:
        if not isinstance(z, Mapping) or "initial_state" not in z:
            got = list(z) if isinstance(z, Mapping) else type(z).__name__
            raise ValueError(f"z: got {got}, expected a mapping of named unknowns with 'initial_state'")
        state = floats("z['initial_state']", z["initial_state"], None)
        for name, value in z.items():
            floats(f"z[{name!r}]", value)
        matrix = self.generator(Named(z))
        return floats("generator", matrix, state.shape[-1], state.shape[-1], like=state), state

    def _spacing(self) -> float:
        return sum(self.steps) / len(self.steps)

    def _flow(self, matrix: Tensor, step: float) -> Tensor:
        return exponential(matrix * step, self.squarings)

    def _flows(self, matrix: Tensor) -> Tensor:
        """exp(A h) of every interval, (..., T - 1, k, k); each distinct spacing is computed once."""
        known = {step: self._flow(matrix, step) for step in dict.fromkeys(self.steps)}
        return torch.stack([known[step] for step in self.steps], -3)

    def _step(self, matrix: Tensor, state: Tensor, step: float) -> Tensor:
        if step == 0.0:
            return state.expand(*torch.broadcast_shapes(state.shape[:-1], matrix.shape[:-2]), -1)
        return (self._flow(matrix, step) @ state.unsqueeze(-1)).squeeze(-1)

    def _powers(self, matrix: Tensor, state: Tensor) -> Tensor:
        path = self._step(matrix, state, self.first).unsqueeze(-2)
        power = self._flow(matrix, self._spacing()).mT
        while path.shape[-2] < len(self.times):
            more = min(path.shape[-2], len(self.times) - path.shape[-2])
            path = torch.cat([path, path[..., :more, :] @ power], -2)
            if path.shape[-2] < len(self.times):
                power = power @ power
        return path

    def _driven(self, matrix: Tensor, state: Tensor, residual: Tensor | None) -> Tensor:
        defects = [0.0] * len(self.times) if residual is None else residual.unbind(-2)
        states = [self._step(matrix, state, self.first) + defects[0]]
        flows = self._flows(matrix).unbind(-3) if self.steps else ()
        for flow, defect in zip(flows, defects[1:], strict=True):
            states.append((flow @ states[-1].unsqueeze(-1)).squeeze(-1) + defect)
        return torch.stack(states, -2)


def exponential(matrix: Tensor, squarings: int | None = None) -> Tensor:
    """Return exp of matrices (..., k, k); ``squarings`` as for ``LinearODE``."""
    if floats("matrix", matrix, None, None).shape[-1] != matrix.shape[-2]:
        raise ValueError(f"matrix: got shape {tuple(matrix.shape)}, expected (..., k, k)")
    if squarings is None:
        return torch.linalg.matrix_exp(matrix)
    whole("squarings", squarings, 0, 1000)
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    x = matrix / 2**squarings
    square = x @ x
    cube = square @ x
    power = one + x + square / 2 + cube @ (one / 6 + x / 24 + square / 120 + cube / 720)
    for _ in range(squarings):
        power = power @ power
    return power


class Banded(nn.Module):
    """Toeplitz matrices from a stencil: (A u)_i = sum_j s_j u_{i+j}, j = -reach ... reach, with u = 0 outside the grid.

    Args:
        points: k, the number of grid points.
        reach: how far the stencil goes to either side.

    Raises:
        ValueError: there is no point, or the stencil does not fit on the grid.
    """

    shifts: Tensor

    def __init__(self, points: int, reach: int = 1) -> None:
        super().__init__()
        if not whole("points", points, 1, LARGEST_MATRIX) > whole("reach", reach, 0):
            raise ValueError(f"reach: got {reach}, expected less than the {points} points")
        ones = [torch.ones(points - abs(j)) for j in range(-reach, reach + 1)]
        shifts = torch.stack([torch.diag(one, j) for one, j in zip(ones, range(-reach, reach + 1), strict=True)])
        self.register_buffer("shifts", shifts, persistent=False)

    def forward(self, stencil: Tensor) -> Tensor:
        """Return (..., k, k) for stencils (..., 2 reach + 1)."""
        size = self.shifts.shape[-1]
        floats("stencil", stencil, len(self.shifts), like=self.shifts)
        return (stencil @ self.shifts.flatten(1)).unflatten(-1, (size, size))
