"""How far draws lie from those of a reference, and the control that every such comparison must see."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from physzoo.inference.compare import c2st

NARROW = 0.8  # times the sd: the negative control


def narrowed(draws: Any) -> Any:
    """Return draws, (S, ...), with 0.8 times their sd around their mean."""
    mean = draws.mean(0)
    return mean + NARROW * (draws - mean)


def against(draws: NDArray[Any], references: NDArray[Any], limit: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Return C2ST, means and sds of draws (B, S, d) against references (B, R, d), and C2ST of the draws with 0.8 times the sd.

    "worst" and "smallest" are over data sets, and unknowns where there are several; chains are shuffled before they are cut.
    """
    shuffled = references[:, np.random.default_rng(seed).permutation(references.shape[1])]
    pairs = list(zip(draws, shuffled, strict=True))
    scores = [c2st(mine, theirs, limit=limit) for mine, theirs in pairs]
    control = [c2st(narrowed(mine), theirs, limit=limit) for mine, theirs in pairs]
    mean, sd = references.mean(1), references.std(1)
    ratios, errors = draws.std(1) / sd, np.abs(draws.mean(1) - mean) / sd
    return {
        "median_c2st": float(np.median(scores)),
        "worst_c2st": max(scores),
        "median_c2st_sd_x_0.8": float(np.median(control)),
        "smallest_c2st_sd_x_0.8": min(control),
        "smallest_sd_ratio": float(ratios.min()),
        "median_sd_ratio": float(np.median(ratios)),
        "largest_sd_ratio": float(ratios.max()),
        "median_mean_error_sd": float(np.median(errors)),
        "worst_mean_error_sd": float(errors.max()),
    }
