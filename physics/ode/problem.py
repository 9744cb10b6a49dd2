"""Ordinary differential equations as a problem: trajectories solved, defects as residuals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from ...core.require import dtype_of_floats, floats, function, increasing_times, one_of, real, shown, whole
from ..problem import Problem, Unknowns
from . import adaptive, fixed_step
from .adaptive import Tolerance
from .equation import Known, RightHandSide, check_samples, over_intervals, transformed, velocity
from .failures import Run, guarded
from .fixed_step import TABLEAUX, Compiled
from .gradient import Recursion, jacobian
from .step_check import check_steps
from .tableaux import PAIRS
from .unknowns import flattened, widened

FIXED_STEP = tuple(TABLEAUX)
ADAPTIVE = tuple(PAIRS)


class ODEProblem(Problem):
    """An initial value problem: du/dt = f(t, u; z), u(t0) = z["initial_state"], at times t_1 < ... < t_T.

    The state is the whole trajectory u, shape (..., T, k). With Phi the flow of the equation from one time to
    the next, the residual holds the one-step defects

        r_1 = u_1 - Phi(initial_state; t0 -> t_1),      r_n = u_n - Phi(u_{n-1}; t_{n-1} -> t_n),

    all computed in one batched solve, each interval in its own unit time; where t_1 = t0, r_1 = u_1 -
    initial_state. A defect is in units of the state.

    z is a mapping of named unknowns, "initial_state" of shape (..., k) among them; any other is a scalar
    (...,) or, by ``event_dims``, a vector. Batch shapes broadcast.

    Args:
        rhs: f(t, state, z) -> shape and dtype of state (..., k); every z arrives with the state's batch shape, t is a
            scalar. It may jump at the times, and does so exactly: no step sees the other side of t0, t_1, ..., t_T.
        times: t_1 ... t_T, increasing, spacing free, first not before t0. Doses and switches belong among them.
        t0: start time; None takes the first of the times, so that the first state is the initial state.
        method: fixed step (euler, midpoint, heun2, heun3, rk4) or adaptive (bosh3, dopri5, dopri8). An adaptive solver
            chooses one step for the whole batch, which keeps the tolerance in every sample; steps as long as the spacing of
            the times can escape dopri8's error estimate (7e-6 at a tolerance of 1e-10 was seen on pendulums): give it
            closer times.
        substeps: steps in each interval between consecutive times (fixed step); None takes one. The first solve of a
            batch shape compares with steps half as long, and warns where the state is off by a tenth and nobody chose
            ``substeps``, or where steps that were chosen make it grow.
        rtol, atol: tolerances (adaptive): largest error of a step relative to the state, and absolute in units of the
            state, in the root mean square over a sample's states. None for ``atol`` takes, for each component of each
            sample, 1e-2 rtol of the largest magnitude that it has had so far: the same in any unit.
        max_steps: adaptive steps after which an interval counts as failed.
        observation: H, state (..., T, k) -> data; None returns the state.
        event_dims: number of own dimensions of each unknown that is not a scalar.
        on_failure: "raise" a SolveError, or "reject": the failed samples' states are NaN, without a gradient,
            and ``observe`` gives them log-density -inf.
        gradient: "unrolled", backpropagation through the solver; or "parallel" (fixed step), the same numbers from one
            batched step over all intervals: faster for few states k, and differentiable once.
        compile: whether steps that need no gradient (all of a "parallel" path, simulations) are compiled by
            ``torch.compile`` when first used, which takes some seconds for each right-hand side (fixed step): pays for long
            trainings with a right-hand side of many small operations.
        dtype: of the times; None keeps that of a tensor and else takes torch's default.

    Raises:
        ValueError: an argument does not fit.

    Example:
        >>> decay = ODEProblem(lambda t, u, z: -z["rate"][..., None] * u, times=[0.0, 1.0, 3.0], substeps=20)
        >>> decay.solve({"rate": torch.tensor(1.0), "initial_state": torch.ones(1)}).squeeze(-1)
        tensor([1.0000, 0.3679, 0.0498])
    """

    times: Tensor
    state_event_dim = 2

    def __init__(
        self,
        rhs: RightHandSide,
        times: Sequence[float] | Tensor,
        t0: float | None = None,
        method: str = "rk4",
        substeps: int | None = None,
        rtol: float = 1e-6,
        atol: float | None = None,
        max_steps: int = 10_000,
        observation: Callable[[Tensor], Tensor] | None = None,
        event_dims: Mapping[str, int] | None = None,
        on_failure: str = "raise",
        gradient: str = "unrolled",
        compile: bool = False,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        function("rhs", rhs)
        exact, start = increasing_times(times, t0)
        one_of("method", method, FIXED_STEP + ADAPTIVE)
        given = substeps is not None
        substeps, max_steps = whole("substeps", substeps if given else 1, 1), whole("max_steps", max_steps, 1)
        rtol, atol = real("rtol", rtol), None if atol is None else real("atol", atol)
        one_of("on_failure", on_failure, ("raise", "reject"))
        fixed, context = method in FIXED_STEP, f" with method {method!r}"
        one_of("gradient", gradient, ("unrolled", "parallel") if fixed else ("unrolled",), context)
        one_of("compile", compile, (True, False) if fixed else (False,), context)
        if observation is not None:
            function("observation", observation)
        if event_dims is not None and not (
            isinstance(event_dims, Mapping) and all(isinstance(name, str) for name in event_dims)
        ):
            raise TypeError(f"event_dims: got {shown(event_dims)}, expected a mapping of names to numbers")
        dtype_of_floats(dtype)
        self.rhs = rhs
        self.t0 = start
        self.method = method
        self.substeps, self._given = substeps, given
        self.tolerance = Tolerance(rtol, atol, max_steps)
        self.observation = observation
        dims = {name: whole(f"event_dims[{name!r}]", value, 0) for name, value in (event_dims or {}).items()}
        self.event_dims = {**dims, "initial_state": 1}
        self.on_failure = on_failure
        self.gradient = gradient
        self._steps = Compiled() if compile else None
        self._starts_at_times = start == float(exact[0])
        if dtype is None and isinstance(times, Tensor) and times.is_floating_point():
            dtype = times.dtype
        self.register_buffer("times", exact.to(dtype or torch.get_default_dtype()))
        self._exact = exact if self._starts_at_times else torch.cat([exact.new_tensor([start]), exact])
        self._told_apart: set[torch.dtype] = set()
        self._known = Known()
        self._check_times(self.times.dtype)

    def solve(self, z: Unknowns, residual: Tensor | None = None) -> Tensor:
        """Return the trajectory u, shape (..., T, k), whose defects are ``residual`` (by default zero).

        Raises:
            SolveError: a sample failed and ``on_failure`` is "raise".
        """
        if residual is not None:
            floats("residual", residual, len(self.times), None)
        unknowns, batch = widened(self.event_dims, z, residual)
        if residual is None:
            return self._checked(self._trajectory, unknowns, batch)
        states, before = [], unknowns["initial_state"]
        begin, end = self._intervals(before)
        for n, defect in enumerate(residual.expand((*batch, *residual.shape[-2:])).unbind(-2)):
            if n or not self._starts_at_times:
                before = self._flow(before, unknowns, torch.stack([begin[n], end[n]]))[..., -1, :]
            before = before + defect
            states.append(before)
        return torch.stack(states, -2)

    def _trajectory(self, unknowns: Mapping[str, Tensor]) -> Tensor:
        if self.gradient == "parallel" and torch.is_grad_enabled() and len(self.times) > int(self._starts_at_times):
            return self._parallel(unknowns)
        return self._path(unknowns)

    def _path(self, unknowns: Mapping[str, Tensor]) -> Tensor:
        initial = unknowns["initial_state"]
        return self._flow(initial, unknowns, self._knots(initial))[..., -len(self.times) :, :]

    def _parallel(self, unknowns: Mapping[str, Tensor]) -> Tensor:
        """The trajectory without a graph, and then its gradient by ``gradient``."""
        with torch.no_grad():
            path = self._path(unknowns)
        if not bool(torch.isfinite(path).all()):
            return self._path(unknowns)  # rejected samples
        initial = unknowns["initial_state"]
        skip = int(self._starts_at_times)
        start = path[..., :-1, :] if skip else torch.cat([initial.detach().unsqueeze(-2), path[..., :-1, :]], -2)
        before = start.detach().requires_grad_()
        begin, end = self._intervals(path)
        steps = self._step(before, unknowns, begin[skip:], end[skip:])
        matrices = jacobian(steps, before)
        return cast(Tensor, Recursion.apply(steps, initial, matrices, path))

    def _checked(self, solve: Callable[..., Tensor], unknowns: Mapping[str, Tensor], batch: torch.Size) -> Tensor:
        """Return ``solve(unknowns)``; at the first use of a layout compare samples and steps with what they should be.

        Steps are looked at again at every use whose number is a power of two: later unknowns may be faster than the first.
        """
        layout = tuple(
            (name, value.shape, value.dtype, value.stride()[: len(batch)]) for name, value in unknowns.items()
        )
        if transformed():
            return solve(unknowns)
        uses = self._known.count(self.rhs, layout)
        if uses & (uses - 1):
            return solve(unknowns)
        if uses == 1:
            self._check_samples(unknowns, unknowns["initial_state"])
        path = solve(unknowns)
        with torch.no_grad():
            if uses == 1:
                self._check_samples(unknowns, path[..., -1, :].detach())
            if self.method in FIXED_STEP:
                how = self.method, self.substeps, self._given
                check_steps(self.rhs, self.event_dims, unknowns, path.detach(), batch, self._knots(path), how)
        return path

    def _check_samples(self, unknowns: Mapping[str, Tensor], u: Tensor) -> None:
        check_samples(self.rhs, self._intervals(u)[0][-1], u.detach(), unknowns, self.event_dims)

    def observe(self, u: Tensor) -> Tensor:
        """Return what is seen of the trajectory: ``observation(u)``, by default u itself."""
        if self.observation is None:
            return floats("u", u)
        return self.observation(floats("u", u, None, None))

    def residual(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return the one-step defects, shape (..., T, k); zero at the solution (adaptive: to the tolerance).

        Raises:
            SolveError: a sample failed and ``on_failure`` is "raise".
        """
        unknowns, batch = widened(self.event_dims, z, floats("u", u, len(self.times), None))
        u = u.expand((*batch, *u.shape[-2:]))
        if not transformed() and not self._known.note(self.rhs, ("residual", u.shape), True):
            self._check_samples(unknowns, u[..., -1, :])
        before = torch.cat([unknowns["initial_state"].unsqueeze(-2), u[..., :-1, :]], -2)
        begin, end = self._intervals(u)
        skip = int(self._starts_at_times)
        flown = before
        if len(self.times) > skip:
            after = self._step(before[..., skip:, :], unknowns, begin[skip:], end[skip:])
            flown = torch.cat([before[..., :skip, :], after], -2)
        return u - flown

    def logdet(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return log|det dr/du| = 0 exactly, shape (...).

        r_n depends on u_n with derivative I and else on u_{n-1} alone: dr/du is block lower triangular with a
        unit diagonal, whatever the equation. Virtual observables of an ODE's defects need no correction.
        """
        _, batch = widened(self.event_dims, z, floats("u", u, len(self.times), None))
        return u.new_zeros(batch)

    def _check_times(self, dtype: torch.dtype) -> None:
        """Refuse a dtype in which the intervals between the times are not what was given."""
        if dtype in self._told_apart:
            return
        lengths = self._exact.diff()
        if bool(((self._exact.to(dtype).double().diff() - lengths).abs() > 1e-2 * lengths).any()):
            raise ValueError(
                f"times: got {shown(self._exact.tolist())} in {dtype}, which cannot tell them apart, expected times further "
                "apart, a later start, or times and unknowns in torch.float64"
            )
        self._told_apart.add(dtype)

    def _knots(self, like: Tensor) -> Tensor:
        """The start, where it is before the times, and the times, in the dtype and on the device of a state."""
        self._check_times(like.dtype)
        times = self.times.to(like)
        return times if self._starts_at_times else torch.cat([times.new_tensor([self.t0]), times])

    def _intervals(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Begin and end of each interval; the first is empty where the first of the times is the start."""
        knots = self._knots(like)
        knots = torch.cat([knots[:1], knots]) if self._starts_at_times else knots
        return knots[:-1], knots[1:]

    def _step(self, start: Tensor, z: Mapping[str, Tensor], begin: Tensor, end: Tensor) -> Tensor:
        """Phi of intervals that are taken together, (..., N, k) for starts (..., N, k); begin and end: (N,)."""

        def run(u: Tensor, z: Mapping[str, Tensor]) -> Tensor:
            slope = over_intervals(self._known, self.rhs, z, self.event_dims)
            if self.method in FIXED_STEP:
                return fixed_step.across(slope, u, begin, end, self.method, self.substeps)
            return adaptive.across(slope, u, begin, end, self.method, self.tolerance)

        return self._guard(run, start, z, start.shape[:-2], start.shape[-2], apart=True)

    def _flow(self, start: Tensor, z: Mapping[str, Tensor], knots: Tensor) -> Tensor:
        """The path at the knots, shape (..., knots, k)."""

        def run(u: Tensor, z: Mapping[str, Tensor]) -> Tensor:
            if len(knots) == 1:
                return u.unsqueeze(-2)
            if self.method in ADAPTIVE:
                path = adaptive.integrate(velocity(self.rhs, z), u, knots, self.method, self.tolerance)
            elif self._steps is not None and not torch.is_grad_enabled():
                path = self._steps.integrate(self.rhs, z, u, knots, (self.method, self.substeps))
            else:
                path = fixed_step.integrate(velocity(self.rhs, z), u, knots, self.method, self.substeps)
            return path.movedim(0, -2)

        return self._guard(run, start, z, start.shape[:-1], len(knots))

    def _guard(
        self, run: Run, start: Tensor, z: Mapping[str, Tensor], batch: torch.Size, *shape: Any, **apart: bool
    ) -> Tensor:
        """What ``run`` gives, failures raised or rejected."""
        return guarded(
            run, start, z, batch, partial(flattened, self.event_dims), self.method, self.on_failure, *shape, **apart
        )
