"""Ordinary differential equations as a problem: trajectories solved, defects as residuals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from torchdiffeq import odeint

from .fixed_step import TABLEAUX, Compiled, integrate
from .ode_failures import Named, brief, offenders
from .ode_gradient import Recursion, jacobian
from .problem import Problem, SolveError, Unknowns
from .require import clock, dtype_of_floats, floats, function, positive, shown, whole

FIXED_STEP = tuple(TABLEAUX)
ADAPTIVE = ("bosh3", "dopri5", "dopri8")
_FAILURES = ("underflow in dt", "non-finite values in state", "max_num_steps exceeded")

RightHandSide = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]


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
        rhs: f(t, state, z) -> shape of state (..., k); every z arrives with the state's batch shape, t is a
            scalar or broadcasts against that batch shape.
        times: t_1 ... t_T, increasing, spacing free, first not before t0.
        t0: start time; None takes the first of the times, so that the first state is the initial state.
        method: fixed step (euler, midpoint, heun2, heun3, rk4) or adaptive (bosh3, dopri5, dopri8). An
            adaptive solver chooses one step for the whole batch; steps as long as the spacing of the times can
            escape dopri8's error estimate (7e-6 at a tolerance of 1e-10 was seen on pendulums): give it closer times.
        substeps: steps in each interval between consecutive times (fixed step).
        rtol, atol: tolerances (adaptive).
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
        substeps: int = 1,
        rtol: float = 1e-6,
        atol: float = 1e-8,
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
        exact, start = clock(times, t0)
        if method not in FIXED_STEP + ADAPTIVE:
            raise ValueError(f"method: got {method!r}, expected one of {', '.join(FIXED_STEP + ADAPTIVE)}")
        substeps, max_steps = whole("substeps", substeps, 1), whole("max_steps", max_steps, 1)
        rtol, atol = positive("rtol", rtol), positive("atol", atol)
        if on_failure not in ("raise", "reject"):
            raise ValueError(f"on_failure: got {on_failure!r}, expected 'raise' or 'reject'")
        if gradient not in ("unrolled", "parallel") or (gradient == "parallel" and method in ADAPTIVE):
            expected = "'unrolled'" if method in ADAPTIVE else "'unrolled' or 'parallel'"
            raise ValueError(f"gradient: got {gradient!r} with method {method!r}, expected {expected}")
        if compile not in (False, True) or (compile and method in ADAPTIVE):
            expected = "False" if method in ADAPTIVE else "True or False"
            raise ValueError(f"compile: got {shown(compile)} with method {method!r}, expected {expected}")
        if observation is not None:
            function("observation", observation)
        if not isinstance(event_dims or {}, Mapping):
            raise TypeError(f"event_dims: got {shown(event_dims)}, expected a mapping of names to numbers")
        dtype_of_floats(dtype)
        self.rhs = rhs
        self.t0 = start
        self.method = method
        self.substeps = substeps
        self.rtol, self.atol, self.max_steps = rtol, atol, max_steps
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
        self._check_times(self.times.dtype)

    def solve(self, z: Unknowns, residual: Tensor | None = None) -> Tensor:
        """Return the trajectory u, shape (..., T, k), whose defects are ``residual`` (by default zero).

        Raises:
            SolveError: a sample failed and ``on_failure`` is "raise".
        """
        if residual is not None:
            floats("residual", residual, len(self.times), None)
        unknowns, batch = self._unknowns(z, residual)
        initial = unknowns["initial_state"]
        if residual is None:
            if self.gradient == "parallel" and torch.is_grad_enabled() and len(self.times) > int(self._starts_at_times):
                return self._parallel(unknowns, len(batch))
            return self._path(unknowns)
        states, before = [], initial
        begin, length = self._intervals(initial)
        for n, defect in enumerate(residual.expand((*batch, *residual.shape[-2:])).unbind(-2)):
            if n or not self._starts_at_times:
                before = self._step(before, unknowns, begin[n], length[n])
            before = before + defect
            states.append(before)
        return torch.stack(states, -2)

    def _path(self, unknowns: Mapping[str, Tensor]) -> Tensor:
        initial = unknowns["initial_state"]
        self._check_times(initial.dtype)
        knots = self.times if self._starts_at_times else torch.cat([self.times.new_tensor([self.t0]), self.times])
        return self._flow(initial, unknowns, knots.to(initial.dtype))[-len(self.times) :].movedim(0, -2)

    def _parallel(self, unknowns: Mapping[str, Tensor], depth: int) -> Tensor:
        """The trajectory without a graph, and then its gradient by ``ode_gradient``."""
        with torch.no_grad():
            path = self._path(unknowns)
        if not bool(torch.isfinite(path).all()):
            return self._path(unknowns)  # rejected samples
        initial = unknowns["initial_state"]
        skip = int(self._starts_at_times)
        start = path[..., :-1, :] if skip else torch.cat([initial.detach().unsqueeze(-2), path[..., :-1, :]], -2)
        before = start.detach().requires_grad_()
        begin, length = self._intervals(path)
        steps = self._step(before, _per_interval(unknowns, depth, before.shape[-2]), begin[skip:], length[skip:])
        matrices = jacobian(steps, before)
        return cast(Tensor, Recursion.apply(steps, initial, matrices, path))

    def observe(self, u: Tensor) -> Tensor:
        """Return what is seen of the trajectory: ``observation(u)``, by default u itself."""
        return u if self.observation is None else self.observation(u)

    def residual(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return the one-step defects, shape (..., T, k); zero at the solution (adaptive: to the tolerance).

        Raises:
            SolveError: a sample failed and ``on_failure`` is "raise".
        """
        unknowns, batch = self._unknowns(z, floats("u", u, len(self.times), None))
        u = u.expand((*batch, *u.shape[-2:]))
        before = torch.cat([unknowns["initial_state"].unsqueeze(-2), u[..., :-1, :]], -2)
        begin, length = self._intervals(u)
        skip = int(self._starts_at_times)
        flown = before
        if len(self.times) > skip:
            widened = _per_interval(unknowns, len(batch), len(self.times) - skip)
            after = self._step(before[..., skip:, :], widened, begin[skip:], length[skip:])
            flown = torch.cat([before[..., :skip, :], after], -2)
        return u - flown

    def logdet(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return log|det dr/du| = 0 exactly, shape (...).

        r_n depends on u_n with derivative I and else on u_{n-1} alone: dr/du is block lower triangular with a
        unit diagonal, whatever the equation. Virtual observables of an ODE's defects need no correction.
        """
        _, batch = self._unknowns(z, floats("u", u, len(self.times), None))
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

    def _intervals(self, like: Tensor) -> tuple[Tensor, Tensor]:
        self._check_times(like.dtype)
        times = self.times.to(like.dtype)
        knots = torch.cat([times.new_tensor([self.t0]), times])
        return knots[:-1], knots.diff()

    def _unknowns(self, z: Unknowns, path: Tensor | None) -> tuple[dict[str, Tensor], torch.Size]:
        """Every unknown expanded to the batch shape common with ``path`` (..., T, k), and that shape."""
        if not isinstance(z, Mapping) or "initial_state" not in z:
            got = list(z) if isinstance(z, Mapping) else type(z).__name__
            raise ValueError(f"z: got {got}, expected a mapping of named unknowns with 'initial_state'")
        dims = self.event_dims
        leads = {name: floats(f"z[{name!r}]", z[name]).dim() - dims.get(name, 0) for name in z}
        short = [name for name, lead in leads.items() if lead < 0]
        if short:
            raise ValueError(
                f"z[{short[0]!r}] got shape {tuple(z[short[0]].shape)}, expected (..., "
                f"{self.event_dims[short[0]]} dimensions of its own)"
            )
        states = z["initial_state"].shape[-1]
        if not states or (path is not None and path.shape[-1] != states):
            got = tuple(z["initial_state"].shape)
            wanted = "at least one state" if path is None else f"the {path.shape[-1]} states of the trajectory"
            raise ValueError(f"z['initial_state'] got shape {got}, expected {wanted}")
        shapes = {name: tuple(z[name].shape[:lead]) for name, lead in leads.items()}
        try:
            batch = torch.broadcast_shapes(() if path is None else path.shape[:-2], *shapes.values())
        except RuntimeError:
            raise ValueError(f"z: got batch shapes {shown(shapes)}, expected shapes that broadcast") from None
        widened = {name: z[name].expand((*batch, *z[name].shape[lead:])) for name, lead in leads.items()}
        return Named(widened), batch

    def _step(self, start: Tensor, z: Mapping[str, Tensor], begin: Tensor, length: Tensor) -> Tensor:
        """Phi from ``begin`` over ``length`` (numbers, or one for each entry of the last batch dimension)."""
        unit = torch.tensor([0.0, 1.0], dtype=start.dtype, device=start.device)
        return self._flow(start, z, unit, begin, length)[-1]

    def _flow(
        self,
        start: Tensor,
        z: Mapping[str, Tensor],
        knots: Tensor,
        begin: Tensor | None = None,
        length: Tensor | None = None,
    ) -> Tensor:
        """The path at the knots, shape (knots, ..., k), with failures raised or rejected."""
        path, reason = self._attempt(start, z, knots, begin, length)
        if path is not None and bool(torch.isfinite(path).all()):
            return path
        batch = start.shape[:-1]
        flat_start = start.reshape(-1, start.shape[-1])
        flat_z = {name: self._flatten(value, name, batch) for name, value in z.items()}
        flat_begin = None if begin is None else begin.expand(batch).reshape(-1)
        flat_length = None if length is None else length.expand(batch).reshape(-1)

        def attempt(rows: Tensor) -> tuple[Tensor | None, str]:
            part = {name: value[rows] for name, value in flat_z.items()}
            span = [None if value is None else value[rows] for value in (flat_begin, flat_length)]
            return self._attempt(flat_start[rows], part, knots, *span)

        everything = torch.arange(len(flat_start), device=start.device)
        if path is None:
            with torch.no_grad():
                failed = offenders(attempt, everything)
        else:
            failed = ~torch.isfinite(path).movedim(0, -1).flatten(-2).all(-1).reshape(-1)
        good = everything[~failed]
        if self.on_failure == "reject":
            result = start.new_full((len(knots), *flat_start.shape), math.nan)
            if len(good):
                # The survivors alone: a failed sample's infinities would turn shared gradients into NaN.
                survivors, reason = attempt(good)
                if survivors is not None:
                    return result.to(survivors).index_copy(1, good, survivors).reshape(len(knots), *start.shape)
            else:
                return result.reshape(len(knots), *start.shape)
        first = int(failed.nonzero()[0]) if bool(failed.any()) else 0
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(first), batch)) if batch else ()
        values = ", ".join(f"{name}={brief(value[first])}" for name, value in flat_z.items())
        raise SolveError(
            f"{self.method} failed for {int(failed.sum())} of {len(everything)} samples ({reason}), first at "
            f"sample {index}: {values}"
        )

    def _flatten(self, value: Tensor, name: str, batch: torch.Size) -> Tensor:
        own = value.shape[value.dim() - self.event_dims.get(name, 0) :]
        return value.expand((*batch, *own)).reshape(-1, *own)

    def _attempt(
        self,
        start: Tensor,
        z: Mapping[str, Tensor],
        knots: Tensor,
        begin: Tensor | None,
        length: Tensor | None,
    ) -> tuple[Tensor | None, str]:
        """The path, or None with the solver's reason."""
        if len(knots) == 1:
            return start.unsqueeze(0), "non-finite initial state"
        if begin is None or length is None:

            def velocity(t: Tensor, state: Tensor) -> Tensor:
                return self.rhs(t, state, z)
        else:

            def velocity(t: Tensor, state: Tensor) -> Tensor:
                return self.rhs(begin + t * length, state, z) * length[..., None]

        if self.method in FIXED_STEP:
            if self._steps is not None and begin is None and not torch.is_grad_enabled():
                path = self._steps.integrate(self.rhs, z, start, knots, (self.method, self.substeps))
            else:
                path = integrate(velocity, start, knots, self.method, self.substeps)
            return path, "non-finite state"
        # torchdiffeq's interpolant misses the tolerance (dopri8: 500 fold), so steps end on every knot.
        options = {"max_num_steps": self.max_steps, "step_t": knots}
        try:
            path = odeint(velocity, start, knots, rtol=self.rtol, atol=self.atol, method=self.method, options=options)
        except AssertionError as error:
            # torchdiffeq reports its failures as bare asserts; the equation's own are passed on.
            if not str(error).startswith(_FAILURES):
                raise
            return None, str(error).split(":")[0]
        return cast(Tensor, path), "non-finite state"


def _per_interval(unknowns: Mapping[str, Tensor], depth: int, intervals: int) -> Mapping[str, Tensor]:
    """Every unknown repeated for each interval, which is one more member of the batch, before its own dimensions."""
    wide = {}
    for name, value in unknowns.items():
        shape = (*value.shape[:depth], intervals, *value.shape[depth:])
        wide[name] = value.unsqueeze(depth).expand(shape)
    return Named(wide)
