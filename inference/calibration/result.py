"""From posterior draws of simulated data sets to the verdict on what drew them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.require import real, seed_number, whole
from ..importance import FEWEST, k_hat
from ..warn import warn
from .contraction import contraction_of, wider_than_the_prior
from .expected_coverage import tarp
from .inputs import density, flattened, free, further_of, quantity
from .sbc import Array, ecdf_band, effect, holm, interval_coverage, pit, uniformity
from .verdict import ENOUGH, LEVELS
from .verdict import Calibration as Calibration

Pair = tuple[ArrayLike | None, ArrayLike]


def calibrate_draws(
    truths: Mapping[str, ArrayLike],
    draws: Mapping[str, ArrayLike],
    *,
    log_likelihood: Pair | None = None,
    log_joint: Pair | None = None,
    log_q: Pair | None = None,
    quantities: Mapping[str, Pair] | None = None,
    unconstrained: Pair | None = None,
    alpha: float = 0.01,
    seed: int = 0,
    dropped: int = 0,
) -> Calibration:
    """Check posterior draws of N simulated data sets against the truths they were simulated from.

    For any sampler: amortised guides, repeated fits, NUTS. Draws must be close to independent (thin a
    chain). Each pair is (at the truth (N,), at the draws (L, N)).

    Args:
        truths: latent -> (N, *site shape).
        draws: latent -> (L, N, *site shape).
        log_likelihood: log p(y | z). Give it: of all quantities only this one tells the posterior from the
            prior.
        log_joint: log p(z, y).
        log_q: log q(z | y). The first entry may be None where log q at the truth is not known.
        quantities: further data-dependent test quantities.
        unconstrained: the same truths (N, d) and draws (L, N, d) in unconstrained space, column k belonging
            to scalar k; contraction and TARP are taken there, where a heavy-tailed prior does not rule them.
        alpha: family-wise level of the decision.
        seed: seed of jitter and reference points.
        dropped: number of data sets left out beforehand, for the record.

    Data sets with a truth or a draw that is not finite are left out and counted. A log density that is NaN is that of an
    impossible draw, as -inf is.

    Raises:
        TypeError: something else than real numbers.
        ValueError: shapes do not fit, names differ, N < 2, a number out of range, or most data sets are not finite.

    Warns:
        TrustWarning: fewer than 100 data sets, or some of them are not finite.
    """
    real("alpha", alpha, 0.0, 1.0, "a level between 0 and 1")
    seed_number(seed)
    whole("dropped", dropped, 0)
    flat_truths, flat_draws, names = flattened(truths, draws)
    given = {"log_likelihood": log_likelihood, "log_joint": log_joint, "log_q": log_q}
    pairs = {name: density(name, pair, flat_draws.shape[:2]) for name, pair in given.items() if pair is not None}
    further = {name: quantity(name, pair, flat_draws.shape[:2]) for name, pair in further_of(quantities, names).items()}
    space = (flat_truths, flat_draws) if unconstrained is None else free(unconstrained, flat_draws.shape[:2])
    kept = _usable(flat_truths, flat_draws) & ~np.isnan(space[0]).any(-1) & ~np.isnan(space[1]).any((0, 2))
    for truth, drawn in further.values():
        kept &= _usable(truth[:, None], drawn[..., None])
    lost = int((~kept).sum())
    if 2 * lost >= len(kept) or kept.sum() < 2:
        raise ValueError(f"draws: got {lost} of {len(kept)} data sets with numbers that are not finite, expected few")
    _warn(int(kept.sum()), lost)
    flat_truths, flat_draws = flat_truths[kept], flat_draws[:, kept]
    free_truths, free_draws = (_inside(part) for part in (space[0][kept], space[1][:, kept]))
    pairs = {name: (None if t is None else t[kept], d[:, kept]) for name, (t, d) in pairs.items()}
    ranked = {name: (truth[kept], drawn[:, kept]) for name, (truth, drawn) in further.items()}
    log_likelihood, log_joint, log_q = (pairs.get(name) for name in given)
    rng = np.random.default_rng(seed)
    columns = pit(flat_truths, flat_draws, rng)
    pits = {name: columns[:, index] for index, name in enumerate(names)}
    effects = {name: effect(values) for name, values in pits.items()}
    intervals = {name: interval_coverage(values, LEVELS) for name, values in pits.items()}
    for name, pair in {**pairs, **ranked}.items():
        if pair[0] is not None:
            pits[name] = pit(pair[0], pair[1], rng)
    pits["tarp"] = tarp(free_truths, free_draws, rng)
    pvalues = {name: uniformity(values) for name, values in pits.items()}
    regions = pits.get("log_q")
    spread = None if log_likelihood is None else _spread(np.asarray(log_likelihood[1], float))
    return Calibration(
        pits=pits,
        pvalues=pvalues,
        adjusted=holm(pvalues),
        effects=effects,
        band=ecdf_band(len(flat_truths)),
        coverage={} if regions is None else {level: float((regions > 1 - level).mean()) for level in LEVELS},
        interval_coverage=intervals,
        k_hat=_weights(log_joint, log_q),
        contraction=contraction_of(free_truths, free_draws, names),
        nlpd=None if log_q is None or log_q[0] is None else float(-np.mean(np.asarray(log_q[0], float))),
        information=_information(log_likelihood, log_joint, log_q),
        flatness=spread,
        alpha=alpha,
        draws=len(flat_draws),
        dropped=dropped + lost,
        wider=wider_than_the_prior(free_truths, free_draws, names, alpha),
    )


def _usable(truths: Array, draws: Array) -> NDArray[np.bool_]:
    """Whether the truth (N, d) of a data set is finite, no draw (L, N, d) is NaN, and some are finite in each coordinate."""
    return np.isfinite(truths).all(-1) & ~np.isnan(draws).any((0, 2)) & np.isfinite(draws).any(0).all(-1)


def _inside(values: Array) -> Array:
    """Put the largest finite numbers of a coordinate in the place of infinite ones: a logarithm of zero, say."""
    if np.isfinite(values).all():
        return values
    flat = values.reshape(-1, values.shape[-1])
    low, high = (f(np.where(np.isfinite(flat), flat, np.nan), axis=0) for f in (np.nanmin, np.nanmax))
    return np.clip(values, low, high)


def _warn(kept: int, lost: int) -> None:
    """Warn once of what keeps a pass from meaning anything, and of data sets that are missing."""
    texts = []
    if lost:
        texts.append(f"draws: dropped {lost} of {kept + lost} data sets with numbers that are not finite")
    if kept < ENOUGH:
        texts.append(
            f"datasets: got {kept}, expected at least {ENOUGH}: fewer reject only what is far off; raise datasets="
        )
    if texts:
        warn("; ".join(texts))


def _spread(log_likelihood: Array) -> float:
    """Return the median sd of log p(y | z) over draws; those without a solution, -inf, are left out."""
    found = np.where(np.isfinite(log_likelihood), log_likelihood, np.nan)
    return float(np.median([np.nanstd(column) for column in found.T if np.isfinite(column).any()] or [np.nan]))


def _weights(log_joint: Pair | None, log_q: Pair | None) -> Array:
    if log_joint is None or log_q is None or len(np.asarray(log_q[1])) < FEWEST:
        return np.empty(0)
    return k_hat(log_joint[1], log_q[1])


def _information(log_likelihood: Pair | None, log_joint: Pair | None, log_q: Pair | None) -> float | None:
    if log_likelihood is None or log_joint is None or log_q is None or log_q[0] is None:
        return None
    log_prior = np.asarray(log_joint[0], float) - np.asarray(log_likelihood[0], float)
    return float(np.mean(np.asarray(log_q[0], float) - log_prior))
