"""How much narrower posteriors are than their prior, and whether they are wider, which no posterior is on average."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from ..arrays import Array


def contraction_of(truths: Array, draws: Array, names: list[str]) -> dict[str, float]:
    """Return 1 - E[var(z | y)] / var(z) of each coordinate, of truths (N, d) and draws (L, N, d)."""
    return dict(zip(_columns(truths, names), (1 - _shrinkage(truths, draws)[0]).tolist(), strict=True))


def _columns(truths: Array, names: list[str]) -> list[str]:
    """Names of the coordinates; a simplex loses an entry: its free coordinates carry no scalar's name."""
    return names if truths.shape[1] == len(names) else [f"x[{index}]" for index in range(truths.shape[1])]


def _shrinkage(truths: Array, draws: Array) -> tuple[Array, Array]:
    """Return E[var(z | y)] / var(z) of each coordinate and its standard error on logarithms, both from N data sets."""
    if len(draws) < 2:
        return np.ones(truths.shape[1]), np.full(truths.shape[1], np.inf)
    unit = np.abs(truths - truths.mean(0)).max(0)
    unit = np.where(unit > 0, unit, 1.0)  # squares stay in range
    moved, variances = (truths - truths.mean(0)) / unit, (draws / unit).var(0, ddof=1)
    variance, mean = moved.var(0, ddof=1), variances.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = (
            variances.var(0, ddof=1) / mean**2 + np.maximum((moved**2).var(0, ddof=1), 2 * variance**2) / variance**2
        )
        ratio = np.where((mean == 0) & (variance == 0), 1.0, mean / variance)
    return ratio, np.sqrt(error / len(truths))


def wider_than_the_prior(truths: Array, draws: Array, names: list[str], alpha: float) -> tuple[str, ...]:
    """Return where the draws are wider than the truths by more than chance, by Bonferroni's level.

    A ratio of variances is nearly normal in its cube root, by Wilson and Hilferty.
    """
    ratio, error = _shrinkage(truths, draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = 3 * (1 - ratio ** (-1 / 3)) / error
    level = norm.isf(alpha / len(ratio))
    return tuple(name for name, value in zip(_columns(truths, names), z, strict=True) if value > level)
