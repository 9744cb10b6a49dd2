"""Simulation-based calibration: ranks of the truth among posterior draws, their bands, p-values and effect
sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from ...core.require import named, real, shown, whole
from ..arrays import Array as Array
from ..arrays import numbers


def pit(truth: ArrayLike, draws: ArrayLike, rng: np.random.Generator) -> Array:
    """Return the jittered relative rank of each truth among its draws.

        PIT = (#{s: t(z_s) < t(z*)} + U) / (L + 1),   U ~ Uniform(0, 1)

    It is exactly uniform if the draws come from p(z | y). Ties are broken at random, so a test quantity may
    be constant. Without the jitter the discrete ranks make uniformity tests reject a perfect sampler.

    Args:
        truth: test quantity at the truth, (N, ...).
        draws: test quantity at the draws, (L, N, ...).
        rng: generator of U.

    Raises:
        ValueError: the shapes do not fit, or there is no draw.

    Source: Talts et al., arXiv:1804.06788; Modrak et al., arXiv:2211.02383 (ties, data-dependent quantities).
    """
    at_truth, at_draws = numbers("truth", truth), numbers("draws", draws)
    generator(rng)
    if at_draws.ndim < 1 or at_draws.shape[1:] != at_truth.shape or len(at_draws) < 1:
        raise ValueError(f"draws: got shape {at_draws.shape}, expected (L, {', '.join(map(str, at_truth.shape))})")
    below = (at_draws < at_truth).sum(0)
    ties = (at_draws == at_truth).sum(0)
    rank = below + rng.integers(0, ties + 1)
    return (rank + rng.uniform(size=rank.shape)) / (len(at_draws) + 1)


def uniformity(pits: ArrayLike) -> float:
    """Return the p-value of uniformity of PIT values (N,), by ArviZ's order-statistics test ("pot_c").

    Every order statistic is compared with its Beta law, and the p-values are combined by a truncated Cauchy
    sum: sensitive to the tails, where a wrong width shows. Under uniformity P(p < t) is at most 1.4 t at
    t = 0.05 and 1.1 t at the levels that Holm compares with (20,000 simulations for N = 64, 200, 512).

    Source: Tesso, Vehtari, arXiv:2603.02928.
    """
    from arviz_stats.base.array import array_stats

    return float(array_stats.uniformity_test(_ranks(pits), method="pot_c")[0])


def holm(pvalues: Mapping[str, float]) -> dict[str, float]:
    """Return Holm's step-down adjustment of p-values: rejecting where it is below alpha keeps the family's
    level.

    p_(k) adjusted = max_{j <= k} min(1, (m - j + 1) p_(j))
    """
    named("pvalues", pvalues)
    for name, value in pvalues.items():
        if not isinstance(value, Real) or not 0 <= float(value) <= 1:
            raise ValueError(f"pvalues['{name}']: got {shown(value)}, expected a number from 0 to 1")
    order = sorted(pvalues, key=lambda name: pvalues[name])
    adjusted, running = {}, 0.0
    for index, name in enumerate(order):
        running = max(running, min(1.0, (len(order) - index) * pvalues[name]))
        adjusted[name] = running
    return {name: adjusted[name] for name in pvalues}


@dataclass(frozen=True)
class Band:
    """Simultaneous band of the empirical CDF of N uniform values: points, lower and upper bound, each (N +
    1,)."""

    points: Array
    lower: Array
    upper: Array


def ecdf_band(count: int, probability: float = 0.95, simulations: int = 1000) -> Band:
    """Return the band that the ECDF of ``count`` uniform values stays inside with the given probability.

    Source: Saeilynoja, Buerkner, Vehtari, arXiv:2103.10522 (simulation method).
    """
    whole("count", count, 1, 10**6)
    whole("simulations", simulations, 1, 10**6)
    real("probability", probability, 0.0, 1.0, "a number between 0 and 1")
    return _band(count, probability, simulations)


@lru_cache(maxsize=32)
def _band(count: int, probability: float, simulations: int) -> Band:
    from arviz_stats.ecdf_utils import ecdf_pit

    uniform = (np.arange(count) + 0.5) / count
    points, _, lower, upper = ecdf_pit(uniform, probability, simulations, rng=np.random.default_rng(0))
    return Band(points, lower, upper)


def ecdf(pits: ArrayLike, points: Array) -> Array:
    """Return the empirical CDF of PIT values (N,) at the given points (M,)."""
    ordered, where = np.sort(_ranks(pits)), numbers("points", points, finite=True)
    if where.ndim != 1 or not len(where):
        raise ValueError(f"points: got {shown(where)}, expected (M,) numbers, at least one")
    return np.searchsorted(ordered, where, side="right") / len(ordered)


@dataclass(frozen=True)
class Effect:
    """How wrong a marginal is, from the normal scores v = Phi^-1(PIT) of its ranks.

    Attributes:
        shift: mean of the draws minus the truth's, in sd of the right posterior: -mean(v) / sd(v). Zero if
            right.
        width: sd of the draws over the right sd: 1 / sd(v). One if right; exact for normal posteriors.
        distance: largest difference between the ECDF of the PIT and the uniform CDF.
    """

    shift: float
    width: float
    distance: float


def effect(pits: ArrayLike) -> Effect:
    """Return the effect sizes of PIT values (N,)."""
    values = _ranks(pits)
    scores = ndtri(values)
    spread = max(float(scores.std()), 1e-12)
    ordered, steps = np.sort(values), np.arange(len(values) + 1) / len(values)
    distance = max(np.abs(ordered - steps[1:]).max(), np.abs(ordered - steps[:-1]).max())
    return Effect(float(-scores.mean() / spread), 1.0 / spread, float(distance))


def interval_coverage(pits: ArrayLike, levels: Sequence[float]) -> dict[float, float]:
    """Return how often central intervals of each level hold the truth: the share of |PIT - 1/2| < level /
    2."""
    for level in numbers("levels", levels).reshape(-1).tolist():
        real("levels", level, 0.0, 1.0, "numbers between 0 and 1")
    distance = np.abs(_ranks(pits) - 0.5)
    return {level: float((distance < level / 2).mean()) for level in levels}


def _ranks(pits: ArrayLike) -> Array:
    found = numbers("pits", pits)
    if found.ndim != 1 or not len(found) or not ((found >= 0) & (found <= 1)).all():
        raise ValueError(f"pits: got {shown(found)}, expected (N,) numbers from 0 to 1, at least one")
    return found


def generator(rng: object) -> None:
    """Refuse what is no generator of NumPy's."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng: got {shown(rng)}, expected a generator of NumPy's")
