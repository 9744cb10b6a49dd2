"""Explicit Runge-Kutta steps whose length keeps a tolerance in every sample of a batch, whoever else is in it.

    k_i = f(t + c_i h, u + h sum_j a_ij k_j),   u(t + h) = u + h sum_i b_i k_i,   e = h sum_i (b_i - b*_i) k_i

A step counts if e is below its tolerance in the root mean square over the states of each sample. Every step ends within an
interval between two knots or on a knot, and lengths are in units of the interval, so that neither a jump of f at a knot nor
the unit of time matters.

Source: Hairer, Norsett, Wanner, Solving ODEs I (1993), section II.4; pairs: Bogacki, Shampine, Appl. Math. Lett. 2 (1989) 321;
Dormand, Prince, J. Comput. Appl. Math. 6 (1980) 19; Prince, Dormand, J. Comput. Appl. Math. 7 (1981) 67.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .failures import StepFailure
from .fixed_step import Velocity, combined, moved, within
from .tableaux import PAIRS, Pair

SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
FLOOR = 1e-2  # of the relative tolerance: what counts of the largest magnitude that a component has had so far
SHORTEST = 1e-15  # of the interval
PATIENCE = 8  # rejections in a row after which the rounding of f is looked at


@dataclass(frozen=True)
class Tolerance:
    """Largest error of a step in one component: relative |u| + absolute.

    Without ``absolute`` its place is taken by relative FLOOR times the largest magnitude that this component of this sample has
    had so far, which knows no unit.
    """

    relative: float
    absolute: float | None
    max_steps: int

    def __call__(self, before: Tensor, after: Tensor, largest: Tensor) -> Tensor:
        size = torch.maximum(before.abs(), after.abs())
        floor = self.relative * FLOOR * torch.maximum(largest, size) if self.absolute is None else self.absolute
        return self.relative * size + floor


def integrate(velocity: Velocity, start: Tensor, knots: Tensor, method: str, tolerance: Tolerance) -> Tensor:
    """Return the path at the knots t_0 < t_1 < ..., (knots, ..., k).

    Raises:
        StepFailure: in some sample no step keeps the tolerance.
    """
    path, largest, first, before = [start], start.detach().abs(), None, 1.0
    for begin, end, length in zip(knots[:-1], knots[1:], knots.diff().tolist(), strict=True):
        guess = None if first is None else first * before / length
        u, largest, first = _across(velocity, path[-1], begin, end, PAIRS[method], tolerance, largest, guess)
        path.append(u)
        before = length
    return torch.stack(path)


def across(velocity: Velocity, start: Tensor, begin: Tensor, end: Tensor, method: str, tolerance: Tolerance) -> Tensor:
    """Return the states at the ends of intervals that are taken together, (..., N, k), for their starts; begin, end: (N,).

    Raises:
        StepFailure: in some sample no step keeps the tolerance.
    """
    return _across(velocity, start, begin, end, PAIRS[method], tolerance, start.detach().abs(), None)[0]


def _across(
    velocity: Velocity,
    u: Tensor,
    begin: Tensor,
    end: Tensor,
    pair: Pair,
    tolerance: Tolerance,
    largest: Tensor,
    guess: float | None,
) -> tuple[Tensor, Tensor, float]:
    """The state at the end, the largest magnitudes so far and the next step, all steps in units of the interval."""
    whole = end - begin
    length = whole[:, None] if whole.dim() else whole
    begins, ends = within(begin, begin, end), within(end, begin, end)

    def at(place: float) -> Tensor:
        return (begin + place * whole).clamp(begins, ends)

    slope = velocity(begins, u)
    h = min(_first_step(velocity, u, slope, at, length, pair, tolerance, largest) if guess is None else guess, 1.0)
    place, rejected, noise = 0.0, 0, None
    for _ in range(tolerance.max_steps):
        if not bool(torch.isfinite(u).all()):
            raise StepFailure("non-finite values in the state")
        last = place + h >= 1.0 - 1e-12
        taken = 1.0 - place if last else h
        if taken < SHORTEST:
            raise StepFailure("the step became too short for the tolerance")
        slopes, width, after = [slope], taken * length, u
        for fraction, row in zip(pair.nodes, pair.rows, strict=True):
            after = moved(u, width, row, slopes)
            slopes.append(velocity(at(1.0 if last and fraction == 1.0 else place + fraction * taken), after))
        with torch.no_grad():
            error = width * combined(pair.errors, slopes)  # type: ignore[operator]
            allowed = tolerance(u, after, largest)
            if rejected >= PATIENCE:
                noise = _rounding(velocity, at(place), u, slope) if noise is None else noise
                allowed = allowed + width * noise
            ratio = _largest_ratio(error, allowed)
        factor = SAFETY * ratio ** (-1 / pair.order) if ratio > 0 else GROW
        if ratio <= 1:
            u, slope, place, noise = after, slopes[-1], place + taken, None
            largest = torch.maximum(largest, after.detach().abs())
            h = max(min(max(factor, SHRINK), 1.0 if rejected else GROW) * taken, h if last else 0.0)
            rejected = 0
            if last:
                return u, largest, h
        else:  # NaN, too
            h = (max(factor, SHRINK) if math.isfinite(ratio) else SHRINK) * taken
            rejected += 1
    raise StepFailure(f"more than max_steps={tolerance.max_steps} steps")


def _largest_ratio(error: Tensor, allowed: Tensor) -> float:
    """Of error and tolerance, in the root mean square over the states; the largest of all samples."""
    ratio = torch.where(error == 0, 0.0, error.abs() / allowed)
    return float(ratio.square().mean(-1).amax().sqrt())


def _rounding(velocity: Velocity, t: Tensor, u: Tensor, slope: Tensor) -> Tensor:
    """What the rounding of a state makes of f: smaller errors are not errors of the step."""
    eps = torch.finfo(u.dtype).eps
    beside = [(velocity(t, u * (1 + sign * 2 * eps)) - slope).abs() for sign in (-1, 1)]
    return 4 * (torch.maximum(*beside) + eps * slope.abs())


@torch.no_grad()
def _first_step(
    velocity: Velocity, u: Tensor, slope: Tensor, at, length: Tensor, pair: Pair, tolerance: Tolerance, largest: Tensor
) -> float:
    """The step of the sample that needs the shortest, in units of the interval."""

    def size(x: Tensor, scale: Tensor) -> Tensor:
        return torch.where(x == 0, 0.0, x / scale).square().mean(-1, keepdim=True).sqrt()

    slope = slope * length
    scale = tolerance(u, u, torch.maximum(largest, slope.abs()))
    before, speed = size(u, scale), size(slope, scale)
    tiny = torch.full_like(speed, 1e-6)
    trial = torch.where((before > 1e-5) & (speed > 1e-5), 0.01 * before / speed, tiny).clamp(max=1.0)
    later = velocity(at(float(trial.nan_to_num(1.0).amin())), u + trial * slope) * length
    bend = size(later - slope, scale) / trial
    most = torch.maximum(speed, bend)
    other = torch.where(most > 1e-15, (0.01 / most) ** (1 / pair.order), (1e-3 * trial).clamp(min=1e-6))
    found = torch.minimum(100 * trial, other)
    return min(max(float(found.nan_to_num(1e-6).amin()), 1e-12), 1.0)
