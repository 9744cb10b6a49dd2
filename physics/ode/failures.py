"""When an equation cannot be solved: which samples, and for which unknowns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ...core.require import shown
from ..problem import SolveError

Run = Callable[[Tensor, Mapping[str, Tensor]], Tensor]


class StepFailure(ArithmeticError):
    """No step keeps the tolerance; the message says why."""


class Named(dict[str, Tensor]):
    """Unknowns by name; an equation that asks for another one is told in one sentence."""

    def __missing__(self, name: str) -> Tensor:
        raise ValueError(f"z: got {shown(list(self))}, expected also {name!r}, which the equation uses")


def offenders(attempt: Callable[[Tensor], tuple[Tensor | None, str]], rows: Tensor) -> Tensor:
    """Which rows fail, as booleans, by bisection: an adaptive solver fails for a batch as a whole."""
    path, _ = attempt(rows)
    if path is not None:
        return ~torch.isfinite(path).flatten(1).all(-1)
    if len(rows) == 1:
        return torch.ones(1, dtype=torch.bool, device=rows.device)
    half = len(rows) // 2
    return torch.cat([offenders(attempt, rows[:half]), offenders(attempt, rows[half:])])


class StepSizeWarning(RuntimeWarning):
    """Fixed steps are too long for an equation."""


def halved_steps(coarse: Tensor, fine: Tensor) -> tuple[float, float]:
    """Compare trajectories (S, T, k) with those of steps half as long: medians over the samples that are finite in both.

    Returns:
        Largest difference relative to what each component has been so far, and by which factor the largest component differs:
        steps that are not stable make it grow, whether they are halved or not.
    """
    usable = (torch.isfinite(coarse) & torch.isfinite(fine)).flatten(1).all(-1)
    if not bool(usable.any()):
        return 0.0, 1.0
    coarse, fine = coarse[usable], fine[usable]
    difference = (coarse - fine).abs()
    size = torch.maximum(fine.abs(), coarse.abs()).cummax(-2)[0]
    off = torch.where(difference == 0, 0.0, difference / size).flatten(1).amax(-1)
    most, least = coarse.abs().amax(-2), fine.abs().amax(-2)
    growth = torch.where(most == least, 1.0, torch.maximum(most / least, least / most)).amax(-1)
    return float(off.median()), float(growth.median())


def brief(value: Tensor) -> str:
    """Return the numbers of an unknown with six digits, or the range of many, for a message."""
    if value.numel() > 8:
        return f"from {float(value.min()):.6g} to {float(value.max()):.6g}"
    return f"{float(value):.6g}" if value.dim() == 0 else str([float(f"{float(v):.6g}") for v in value.reshape(-1)])


def guarded(
    run: Run,
    start: Tensor,
    z: Mapping[str, Tensor],
    batch: torch.Size,
    flatten: Callable[[Tensor, str, torch.Size], Tensor],
    method: str,
    on_failure: str,
    count: int,
    apart: bool = False,
) -> Tensor:
    """What ``run`` gives for starts and unknowns, shape (*batch, count, k), with failures raised or rejected.

    ``apart`` tells that the last but one dimension counts intervals, each with a start of its own.
    """

    def attempt(u: Tensor, z: Mapping[str, Tensor]) -> tuple[Tensor | None, str]:
        try:
            return run(u, z), "non-finite state"
        except StepFailure as error:
            return None, str(error)

    if not start.numel():
        return start.new_empty((*batch, count, start.shape[-1]))
    path, reason = attempt(start, z)
    if path is not None and bool(torch.isfinite(path).all()):
        return path
    flat_start = start.reshape(-1, *start.shape[len(batch) :])
    flat_z = {name: flatten(value, name, batch) for name, value in z.items()}

    def attempt_rows(rows: Tensor) -> tuple[Tensor | None, str]:
        return attempt(flat_start[rows], Named({name: value[rows] for name, value in flat_z.items()}))

    everything = torch.arange(len(flat_start), device=start.device)
    if path is None:
        with torch.no_grad():
            failed = offenders(attempt_rows, everything)
    else:
        failed = ~torch.isfinite(path).flatten(-2).all(-1).reshape(-1)
    if on_failure == "reject":
        good, states = everything[~failed], start.shape[-1]
        # The survivors alone: a failed sample's infinities would turn shared gradients into NaN.
        survivors, reason = attempt_rows(good) if len(good) else (start.new_empty((0, count, states)), reason)
        if survivors is not None:
            result = survivors.new_full((len(everything), count, states), math.nan)
            return result.index_copy(0, good, survivors).reshape(*batch, count, states)
    first = int(failed.nonzero()[0]) if bool(failed.any()) else 0
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(first), batch)) if batch else ()
    if apart and path is not None:
        lost = ~torch.isfinite(path).all(-1).reshape(-1, count)[first]
        reason += f" in {int(lost.sum())} of its {count} intervals"
    values = ", ".join(f"{name}={brief(value[first])}" for name, value in flat_z.items())
    raise SolveError(
        f"{method} failed for {int(failed.sum())} of {len(everything)} samples ({reason}), first at "
        f"sample {index}: {values}; on_failure='reject' gives such draws no weight"
    )
