"""When an equation cannot be solved: which samples, and for which unknowns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...core.require import shown


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
