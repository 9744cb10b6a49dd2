"""When an equation cannot be solved: which samples, and for which unknowns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .require import shown


class Named(dict[str, Tensor]):
    """Unknowns by name; an equation that asks for another one is told in one sentence."""

    def __missing__(self, name: str) -> Tensor:
        raise ValueError(f"z: got {shown(list(self))}, expected also {name!r}, which the equation uses")


def offenders(attempt: Callable[[Tensor], tuple[Tensor | None, str]], rows: Tensor) -> Tensor:
    """Which rows fail, as booleans, by bisection: an adaptive solver fails for a batch as a whole."""
    path, _ = attempt(rows)
    if path is not None:
        return ~torch.isfinite(path).movedim(0, -1).flatten(-2).all(-1)
    if len(rows) == 1:
        return torch.ones(1, dtype=torch.bool, device=rows.device)
    half = len(rows) // 2
    return torch.cat([offenders(attempt, rows[:half]), offenders(attempt, rows[half:])])


def brief(value: Tensor) -> str:
    """Return the numbers of an unknown with six digits, for a message."""
    return f"{float(value):.6g}" if value.dim() == 0 else str([float(f"{float(v):.6g}") for v in value.reshape(-1)])
