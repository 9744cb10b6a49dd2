"""Explicit Runge-Kutta steps of fixed length, as they are or compiled.

    k_i = f(t + c_i h, u + h sum_j a_ij k_j),   u(t + h) = u + h sum_i b_i k_i

No stage is at a knot itself but one floating-point number inside: f may jump there. "rk4" is the 3/8 rule. A small equation of
few operations spends its time on calling them, and so gains most by ``Compiled``.

Source: W. Kutta, Zeitschrift fuer Mathematik und Physik 46 (1901); Hairer, Norsett, Wanner, Solving ODEs I, II.1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

# method -> (c, rows of a, b)
TABLEAUX: dict[str, tuple[tuple[float, ...], tuple[tuple[float, ...], ...], tuple[float, ...]]] = {
    "euler": ((0.0,), ((),), (1.0,)),
    "midpoint": ((0.0, 1 / 2), ((), (1 / 2,)), (0.0, 1.0)),
    "heun2": ((0.0, 1.0), ((), (1.0,)), (1 / 2, 1 / 2)),
    "heun3": ((0.0, 1 / 3, 2 / 3), ((), (1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4)),
    "rk4": (
        (0.0, 1 / 3, 2 / 3, 1.0),
        ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
        (1 / 8, 3 / 8, 3 / 8, 1 / 8),
    ),
}

FEWEST = 64  # samples below which a step is not worth compiling
VARIANTS = 64

Velocity = Callable[[Tensor, Tensor], Tensor]


def stage_times(begin: Tensor, end: Tensor, method: str, substeps: int) -> tuple[Tensor, Tensor]:
    """Return when the stages of equal steps from ``begin`` to ``end`` (...) are, (substeps, stages, ...), and the step h, (...)."""
    h = (end - begin) / substeps
    steps = torch.arange(substeps, dtype=begin.dtype, device=begin.device)
    places = steps[:, None] + begin.new_tensor(TABLEAUX[method][0])
    return within(begin + places.reshape(*places.shape, *[1] * begin.dim()) * h, begin, end), h


def within(t: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """Return times moved off the ends of their interval: there a right-hand side may jump, and has its value from within."""
    infinity = torch.full_like(begin, math.inf)
    return t.clamp(begin.nextafter(infinity), end.nextafter(-infinity))


def step(velocity: Velocity, method: str, times: Tensor, h: Tensor, u: Tensor) -> Tensor:
    """Return u(t + h), shape of u (..., k), for the times of the stages, (stages, ...); h broadcasts against u."""
    _, rows, weights = TABLEAUX[method]
    slopes: list[Tensor] = []
    for t, row in zip(times.unbind(), rows, strict=True):
        slopes.append(velocity(t, moved(u, h, row, slopes)))
    return moved(u, h, weights, slopes)


def moved(u: Tensor, h: Tensor, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """Return u + h sum_i w_i k_i."""
    total = combined(weights, slopes)
    return u if total is None else torch.addcmul(u, h, total)


def combined(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor | None:
    """Return sum_i w_i k_i, None where all weights are zero."""
    used = [(weight, slope) for weight, slope in zip(weights, slopes, strict=True) if weight]
    if not used:
        return None
    total = used[0][0] * used[0][1] if used[0][0] != 1.0 else used[0][1]
    for weight, slope in used[1:]:
        total = torch.add(total, slope, alpha=weight)
    return total


def integrate(
    velocity: Velocity, start: Tensor, knots: Tensor, method: str, substeps: int, one_step: Any = None
) -> Tensor:
    """Return the path at the knots t_0 < t_1 < ..., (knots, ..., k), with ``substeps`` equal steps between two of them.

    Args:
        one_step: (times, h, u) -> u(t + h), instead of ``step``.
    """
    path, u = [start], start
    times, lengths = stage_times(knots[:-1], knots[1:], method, substeps)
    for of_interval, h in zip(times.movedim(-1, 0).contiguous().unbind(), lengths.unbind(), strict=True):
        for at in of_interval.unbind():
            u = step(velocity, method, at, h, u) if one_step is None else one_step(at, h, u)
        path.append(u)
    return torch.stack(path)


def across(velocity: Velocity, start: Tensor, begin: Tensor, end: Tensor, method: str, substeps: int) -> Tensor:
    """Return the states at the ends of intervals that are taken together, (..., N, k), for their starts; begin, end: (N,)."""
    times, lengths = stage_times(begin, end, method, substeps)
    u = start
    for at in times.unbind():
        u = step(velocity, method, at, lengths[:, None], u)
    return u


class Compiled:
    """Steps of right-hand sides, compiled when first used; what cannot be compiled runs as it is, with a warning.

    Layouts, dtypes and right-hand sides of a process may make ``VARIANTS`` compiled steps together; what comes after these
    runs as it is. A deep copy starts empty: a compiled step holds on to the networks that it was compiled with.
    """

    def __init__(self) -> None:
        self._steps: dict[Any, tuple[Any, Any]] = {}  # key -> right-hand side, which the id in the key is of; step

    def __deepcopy__(self, memo: Any) -> Compiled:
        return Compiled()

    def __reduce__(self) -> Any:
        return Compiled, ()

    def integrate(
        self, rhs: Callable[..., Tensor], z: Mapping[str, Tensor], start: Tensor, knots: Tensor, how: tuple[str, int]
    ) -> Tensor:
        """Return the path of du/dt = rhs(t, u, z) as ``integrate`` does; ``how`` is method and substeps."""
        method, substeps = how

        def velocity(t: Tensor, u: Tensor) -> Tensor:
            return rhs(t, u, z)

        if start[..., 0].numel() < FEWEST:
            return integrate(velocity, start, knots, method, substeps)
        checks = Distribution._validate_args  # which torch.compile switches off for the whole process
        key = (id(getattr(rhs, "__self__", rhs)), getattr(rhs, "__func__", None), method)
        try:
            if key not in self._steps:
                self._steps[key] = rhs, _compiled(rhs, method)
            function = self._steps[key][1]
            if function is None:
                return integrate(velocity, start, knots, method, substeps)
            plain = {name: value.contiguous() for name, value in z.items()}  # each layout would be compiled anew
            compiled: Any = lambda at, h, u: function(at, h, u, plain)  # noqa: E731
            return integrate(velocity, start.contiguous(), knots, method, substeps, compiled)
        except Exception as error:
            path = integrate(velocity, start, knots, method, substeps)  # a mistake in the equation is told by itself
            self._steps[key] = rhs, None
            reason = str(error).strip().split("\n", 1)[0][:120]
            warnings.warn(f"compile: the step could not be compiled and runs as it is ({reason})", stacklevel=2)
            return path
        finally:
            Distribution._validate_args = checks


def _compiled(rhs: Callable[..., Tensor], method: str) -> Any:
    def one(times: Tensor, h: Tensor, u: Tensor, z: dict[str, Tensor]) -> Tensor:
        return step(lambda s, v: rhs(s, v, z), method, times, h, u)

    compiler: Any = torch.compile
    try:
        return compiler(one, recompile_limit=VARIANTS)
    except TypeError:  # an older torch, whose own limit is 8
        return compiler(one)
