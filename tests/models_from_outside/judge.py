"""Are two sets of draws of one posterior? Distribution functions and widths of every scalar and of sums of scalars."""

from __future__ import annotations

import numpy as np

from .case import Array, Draws

ALLOWED = 0.05  # what a right answer of finite precision may be off by, as a difference of probabilities
STRETCHED = 0.12  # the same for the logarithm of a width
PROJECTIONS = 4
LEVELS = (0.16, 0.5, 0.84)


def matrix(draws: Draws, names: list[str]) -> Array:
    """Return (number, scalars)."""
    return np.concatenate([np.asarray(draws[name], float).reshape(len(draws[name]), -1) for name in names], 1)


def distance(draws: Draws, exact: Draws, weights: Array | None = None) -> tuple[float, float]:
    """Return the largest distance of distribution functions, and of the logarithms of the central 68 % intervals' widths.

    Over scalars and over sums of them in robust units.

    Raises:
        KeyError, ValueError: sites or shapes differ.
    """
    names = list(exact)
    for name in names:
        if draws[name].shape[1:] != exact[name].shape[1:]:
            raise ValueError(f"{name}: got shape {draws[name].shape[1:]}, expected {exact[name].shape[1:]}")
    a, b = matrix(draws, names), matrix(exact, names)
    low, middle, high = np.quantile(b, LEVELS, 0)
    spread = np.where(high > low, high - low, 1.0)
    a, b = np.arcsinh((a - middle) / spread), np.arcsinh((b - middle) / spread)
    moving = np.ptp(b, 0) > 1e-5  # a fixed entry, as of a Cholesky factor, has to be right to rounding
    if not np.allclose(a[:, ~moving], b[:1, ~moving], atol=1e-4):
        return 1.0, np.inf
    if a.shape[1] > 1:
        signs = np.random.default_rng(0).normal(size=(a.shape[1], PROJECTIONS))
        a, b, moving = np.hstack([a, a @ signs]), np.hstack([b, b @ signs]), np.append(moving, [True] * PROJECTIONS)
    found = [_of_one(a[:, k], b[:, k], weights) for k in np.flatnonzero(moving)]
    return max(far for far, _ in found), max(stretch for _, stretch in found)


def _of_one(a: Array, b: Array, weights: Array | None) -> tuple[float, float]:
    weights = np.full(len(a), 1 / len(a)) if weights is None else weights / weights.sum()
    order = np.argsort(a)
    below = np.concatenate([[0.0], np.cumsum(weights[order])])
    places = np.sort(np.concatenate([a, b]))
    own = below[np.searchsorted(a[order], places, side="right")]
    theirs = np.searchsorted(np.sort(b), places, side="right") / len(b)
    low, _, high = a[order][np.searchsorted(below[1:], LEVELS).clip(max=len(a) - 1)]
    low_of_exact, _, high_of_exact = np.quantile(b, LEVELS)
    stretch = np.log(max(high - low, 1e-12) / (high_of_exact - low_of_exact))
    return float(np.abs(own - theirs).max()), float(abs(stretch))


def tolerance(effective: float, exact: int) -> tuple[float, float]:
    """Return what is allowed of the two distances: beside a fixed part four standard errors for ``effective`` draws."""
    noise = (1 / max(effective, 1.0) + 1 / exact) ** 0.5
    return ALLOWED + 2.2 * noise, STRETCHED + 4.0 * noise
