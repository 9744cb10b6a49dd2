"""How far weighted draws of one scalar are from a reference's: moments, Wasserstein-1, shares below quantiles.

Everything is in units of the reference, so that no unit of an unknown matters and no square leaves the range of numbers.
"""

from __future__ import annotations

import math

import numpy as np

from .arrays import Array

QUANTILES = (0.05, 0.5, 0.95)


def unit(b: Array) -> Array:
    """Return the size of the reference's draws about their median, or their own where all are equal; never zero."""
    size = np.abs(b - np.median(b, 0)).max(0)
    size = np.where(size > 0, size, np.abs(b).max(0))
    return np.where(size > 0, size, 1.0)


def moments(a: Array, b: Array, weights: Array) -> tuple[Array, Array]:
    """Return the errors of the means in the reference's sd and the sd ratios, of columns (S, d) and (R, d).

    A constant that is met has 0 and 1, one that is not an infinite ratio.
    """
    a, b = a / unit(b), b / unit(b)
    effective = 1 / float(np.sum(weights**2))
    mean = weights @ a
    sd = np.sqrt(weights @ (a - mean) ** 2 * effective / max(effective - 1, 1e-12))
    spread = np.where(np.ptp(b, 0) > 0, b.std(0, ddof=1), 0.0)
    met = (spread == 0) & (np.ptp(a, 0) == 0) & (a[0] == b[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        error, ratio = (mean - b.mean(0)) / spread, sd / spread
    return np.where(met, 0.0, error), np.where(met, 1.0, np.where(spread > 0, ratio, np.inf))


def wasserstein(a: Array, b: Array, weights: Array) -> float:
    """Return the Wasserstein-1 distance of draws (S,) from a reference (R,) in the reference's sd."""
    from scipy.stats import wasserstein_distance

    a, b = a / unit(b), b / unit(b)
    distance = float(wasserstein_distance(a, b, weights))
    spread = float(b.std(ddof=1)) if np.ptp(b) > 0 else 0.0
    return distance / spread if spread else (math.inf if distance else 0.0)


def shares(a: Array, b: Array, weights: Array) -> dict[float, float]:
    """Return level -> share of draws (S,) below the reference's quantile of that level, ties by half.

    Where the reference (R,) has a lump of equal draws there, the share is told from its own.
    """
    found = {}
    for level in QUANTILES:
        at = np.quantile(b, level)
        found[level] = float(weights[a < at].sum() + 0.5 * weights[a == at].sum())
        if (b == at).sum() > 2:
            found[level] += level - float((b < at).mean() + 0.5 * (b == at).mean())
    return found
