"""Importance weights of a guide's draws and how far to trust them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.require import LONGEST, seed_number, shown, whole
from .arrays import as_given, numbers
from .warn import warn, warn_of_weights

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

FEWEST = 25  # draws with a density, from which a tail can be fitted
FEWEST_OF_USE = 100  # effective draws below which a posterior is not told by what is resampled
USABLE = 0.7  # k-hat from which on weights cannot be trusted
_EQUAL = 1e-6  # log weights closer than this are equal but for rounding
_ROUNDINGS = 8  # so many roundings of a log density may stand between equal weights
_NOTHING = -600.0  # a log weight of nothing; where exponentials underflow the fit says 0.1 of any weights
_ROW = "_physzoo_row"
RESAMPLED = "effective_draws"  # attribute of what is resampled
_OF_THE_POSTERIOR = ("posterior", "posterior_predictive", "predictions", "log_likelihood", "sample_stats")


def smoothed(log_p: ArrayLike, log_q: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Pareto-smoothed normalised log weights and k-hat of draws from a guide.

        w_s ~ p(z_s, y) / q(z_s | y);   k-hat: shape of the Pareto law fitted to the largest weights

    k-hat < 0.5 good, < 0.7 usable, above: the weights are dominated by a few draws. Where the largest weights are equal (the
    guide is the posterior) but for the rounding of the densities in the precision that they come in, k-hat is 0 by convention.
    k-hat tells of the weights alone: moments of a posterior with heavy tails may be far off at any k-hat. Draws whose log p is
    -inf or NaN have weight 0 and leave the tail alone; a column with fewer than 25 others, or with an infinite density, has infinite k-hat.

    Args:
        log_p: joint log density at the draws, (S, ...); in float32 if it was computed so.
        log_q: guide log density at the draws, (S, ...).

    Returns:
        log weights (S, ...), summing to one over the first dimension, and k-hat (...).

    Raises:
        TypeError: they hold something else than real numbers.
        ValueError: the shapes differ, or there are fewer than 25 draws.

    Source: Vehtari et al., arXiv:1507.02646; Yao et al., arXiv:1802.02538.
    """
    given = as_given("log_p", log_p), as_given("log_q", log_q)
    target, proposal = numbers("log_p", log_p), numbers("log_q", log_q)
    if target.shape != proposal.shape or target.ndim < 1 or len(target) < FEWEST:
        raise ValueError(
            f"log_p, log_q: got shapes {target.shape} and {proposal.shape}, expected equal (S, ...), S >= {FEWEST}"
        )
    with np.errstate(invalid="ignore"):
        ratio = np.nan_to_num(target - proposal, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    noise = (_rounding(given[0]) + _rounding(given[1])).reshape(-1)
    columns = ratio.reshape(len(ratio), -1)
    log_weights, shape = np.full_like(columns, -np.log(len(ratio))), np.full(columns.shape[1], np.inf)
    for index, column in enumerate(columns.T):
        if np.isfinite(column.max()):
            log_weights[:, index], shape[index] = _of_one(column - column.max(), max(_EQUAL, float(noise[index])))
    return log_weights.reshape(ratio.shape), shape.reshape(ratio.shape[1:])


def _rounding(log_density: NDArray[Any]) -> NDArray[np.float64]:
    """Return by how much equal log densities (S, ...) may differ in each column, (...), in the precision that they have."""
    kind = log_density.dtype if log_density.dtype.kind == "f" else np.dtype(float)
    finite = np.where(np.isfinite(log_density), np.abs(log_density), 0.0)
    return _ROUNDINGS * float(np.finfo(kind).eps) * np.asarray(finite.max(0), float)


def _of_one(column: NDArray[np.float64], equal: float) -> tuple[NDArray[np.float64], float]:
    """Normalised log weights and k-hat of log ratios (S,), the largest of them 0; a rejected draw (-inf) weighs nothing."""
    from arviz_stats.base.array import array_stats

    kept = np.isfinite(column)
    ratio, shape = np.maximum(column[kept], _NOTHING), 0.0
    ordered, tail = np.sort(ratio), _tail(len(ratio))
    if len(ratio) < FEWEST:
        shape = np.inf
    elif ordered[0] < -equal and ordered[-tail] < -equal:  # else the largest are equal: there is no tail to fit
        with np.errstate(over="ignore"):  # psislw expects log-likelihoods and turns the sign of what it gets
            ratio, shape = array_stats.psislw(-ratio)
    log_weights = np.full(len(column), -np.inf)
    log_weights[kept] = ratio - np.logaddexp.reduce(ratio)
    # the fit fails where one draw carries all the weight
    return log_weights, np.inf if np.isnan(shape) else float(shape)


def _tail(count: int) -> int:
    """How many of the largest weights psislw fits."""
    return max(1, int(3 * count**0.5) if count > 225 else count // 5)


def k_hat(log_p: ArrayLike, log_q: ArrayLike) -> NDArray[np.float64]:
    """Return the Pareto k-hat of each column of draws, shape (...) for densities of shape (S, ...); see
    ``smoothed``."""
    return smoothed(log_p, log_q)[1]


def weights_of(tree: DataTree) -> tuple[NDArray[np.float64], float]:
    """Return the importance weights of a posterior's draws, (S,), smoothed and normalised, and their k-hat; see ``smoothed``.

    Args:
        tree: what ``posterior`` returned.

    Raises:
        TypeError, ValueError: ``tree`` has no log_p and log_q of its draws, or fewer than 25; it is resampled already.

    Warns:
        TrustWarning: k-hat is not below 0.7: the weights cannot be trusted.
    """
    log_weights, shape = smoothed(*_densities(tree))
    warn_of_weights(float(shape), "tree")
    return np.exp(log_weights), float(shape)


def _densities(tree: DataTree) -> tuple[NDArray[Any], NDArray[Any]]:
    """log p(z, y) and log q(z | y) of a posterior's draws, each (S,)."""
    from xarray import DataTree

    if not isinstance(tree, DataTree):
        raise TypeError(f"tree: got {shown(tree)}, expected what posterior returns")
    stats = tree.children.get("sample_stats", {})
    if any(set(getattr(stats.get(name), "dims", ())) != {"chain", "draw"} for name in ("log_p", "log_q")):
        got = f"{type(tree).__name__} without log_p and log_q of every chain and draw in sample_stats"
        raise TypeError(f"tree: got {got}, expected what posterior returns")
    if RESAMPLED in tree.attrs:
        raise ValueError("tree: got draws that are resampled already, expected those of a guide")
    log_p, log_q = (
        as_given(name, stats[name].transpose("chain", "draw").values.ravel()) for name in ("log_p", "log_q")
    )
    if len(log_p) < FEWEST:
        raise ValueError(f"tree: got {len(log_p)} draws, expected at least {FEWEST}")
    return log_p, log_q


def importance_resample(tree: DataTree, draws: int | None = None, *, seed: int = 0) -> DataTree:
    """Return a posterior corrected by importance weights: its draws, drawn again by their weights.

        w_s ~ p(z_s, y) / q(z_s | y), Pareto-smoothed;   row i of the result: the draw s with
        sum_{t < s} w_t <= (i + U_i) / N < sum_{t <= s} w_t,   U_i ~ U(0, 1)   (stratified resampling), in random order

    A guide that is near the posterior becomes the posterior for the price of its draws: ask ``posterior`` for ten to a hundred
    times as many as are wanted here. It mends what is a little off or too wide, as guides trained by the forward KL are. Where
    the guide does not go there is nothing to draw again: a mode that it misses stays missed, and k-hat does not see it. A
    Gaussian guide with 0.6 of the posterior's sd is left with sds up to 6 to 11 % (of 40,000 draws) or 4 to 21 % (of 2,000) too
    small, and k-hat is as often below 0.7 as above (three unknowns, 8 and 40 seeds).

    Draws repeat, and more so the more are asked for, which adds to the Monte Carlo error: for a mean or an interval, take the
    weights themselves (``compare(weights=)``, ``weights_of`` in ``physzoo.inference.importance``).

    Args:
        tree: what ``posterior`` returned, or the posterior.nc of a report, opened by ArviZ.
        draws: how many to draw, N; None takes as many as the weights are worth, 1 / sum w_s^2.
        seed: of the draws.

    Returns:
        A copy whose groups posterior, posterior_predictive, log_likelihood and sample_stats hold the draws (chain of length 1);
        its attributes "k_hat" and "effective_draws" say what the weights were worth. The other groups are as they were.

    Raises:
        TypeError, ValueError: ``tree`` has no log_p and log_q of its draws, other draws than those, or fewer than 25; it is
            resampled already; no draw has a density.

    Warns:
        TrustWarning: k-hat is not below 0.7: the weights cannot be trusted.

    Source: Vehtari et al., arXiv:1507.02646; stratified resampling: Kitagawa, J. Comput. Graph. Stat. 5 (1996) 1.
    """
    seed_number(seed)
    if draws is not None:
        whole("draws", draws, 1, LONGEST)
    log_p, log_q = _densities(tree)
    with np.errstate(invalid="ignore"):
        ratio = log_p.astype(float) - log_q
    if np.isposinf(ratio).any():
        raise ValueError("tree: got a draw with an infinite weight, expected log_p and log_q that are finite")
    if not np.isfinite(ratio).any():
        raise ValueError("tree: got no draw with a finite density, expected some")
    log_weights, shape = smoothed(log_p, log_q)
    weights, shape = np.exp(log_weights), float(shape)
    effective = 1 / float(np.square(weights).sum())
    warn_of_weights(shape, "tree")
    if shape < USABLE and effective < FEWEST_OF_USE and (draws is None or draws > effective):
        warn(
            f"tree: got draws worth {effective:.0f}, expected at least {FEWEST_OF_USE}: draw more by posterior(draws=...)"
        )
    count = max(1, int(effective + _EQUAL)) if draws is None else draws
    rows = _stratified(weights, count, np.random.default_rng(seed))
    sizes = dict(tree["sample_stats"].sizes)
    groups = {name: group.to_dataset(inherit=False) for name, group in tree.children.items()}
    for name in _OF_THE_POSTERIOR:
        if name in groups:
            if any(groups[name].sizes.get(dim) != sizes[dim] for dim in ("chain", "draw")):
                raise ValueError(f"tree: got {dict(groups[name].sizes)} in {name}, expected {sizes} as in sample_stats")
            groups[name] = _taken(groups[name], rows)
    result = type(tree).from_dict(groups)
    result.attrs = {**tree.attrs, "k_hat": shape, RESAMPLED: effective, "draws": count}
    return result


def _stratified(weights: NDArray[np.float64], count: int, generator: np.random.Generator) -> NDArray[np.intp]:
    """Row numbers, (count,), each row as often as its weight asks for but for rounding at random."""
    cumulated = weights.cumsum()
    levels = (np.arange(count) + generator.random(count)) / count * cumulated[-1]
    last = int(np.flatnonzero(weights)[-1])  # for a level that rounding puts at the very end
    return generator.permutation(np.minimum(np.searchsorted(cumulated, levels, side="right"), last))


def _taken(group: Dataset, rows: NDArray[np.intp]) -> Dataset:
    """Rows of all chains, one after the other, as one chain."""
    plain = group.drop_vars(["chain", "draw"], errors="ignore")
    taken = plain.stack({_ROW: ("chain", "draw")}, create_index=False).isel({_ROW: rows}).rename_dims({_ROW: "draw"})
    return (
        taken.expand_dims("chain").transpose("chain", "draw", ...).assign_coords(chain=[0], draw=np.arange(len(rows)))
    )
