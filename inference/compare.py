"""Two sets of posterior draws held against each other: quantiles, moments, Wasserstein distance, classifier test."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.require import flag, seed_number, shown, whole
from .arrays import Array, numbers
from .density.latents import scalar_names
from .distances import moments, shares, unit, wasserstein
from .labelled import paired

FARTHEST = 1e6  # reference sd: no feature of the classifier lies further out
CLOSE = 0.02  # of a share of draws below a quantile


@dataclass(frozen=True)
class Comparison:
    """Draws against a reference, per scalar parameter and jointly.

    Attributes:
        mean_error_sd: scalar -> (mean of the draws - mean of the reference) / reference sd.
        sd_ratio: scalar -> sd of the draws / reference sd.
        w1_sd: scalar -> Wasserstein-1 distance / reference sd.
        c2st: accuracy of a classifier that tells the two apart, 0.5 for equal distributions; None if not
            asked for.
        c2st_error: its standard error if the distributions are equal.
        resolution: standard error of a mean error between equal distributions, in sd, for independent draws.
        draws: number of draws, their effective number where they carry weights.
        reference_draws: number of reference draws.
        quantiles: scalar -> 0.05, 0.5, 0.95 -> share of the draws below the reference's quantile of that level, ties by
            half; the level itself between equal distributions. It knows no unit, is the same on logarithms, and holds
            where tails are so heavy that mean, sd and W1 say nothing.
        log_mean_error_sd: the mean error of logarithms, for scalars of sites that are positive on both sides.
        log_sd_ratio: their sd ratio.
    """

    mean_error_sd: dict[str, float]
    sd_ratio: dict[str, float]
    w1_sd: dict[str, float]
    c2st: float | None
    c2st_error: float | None
    resolution: float
    draws: float
    reference_draws: int
    quantiles: dict[str, dict[float, float]] = field(default_factory=dict)
    log_mean_error_sd: dict[str, float] = field(default_factory=dict)
    log_sd_ratio: dict[str, float] = field(default_factory=dict)

    @property
    def worst_mean_error(self) -> float:
        """Largest absolute mean error, in reference sd."""
        return max(abs(error) for error in self.mean_error_sd.values())

    @property
    def worst_quantile_error(self) -> float:
        """Largest difference between a level and the share of draws below the reference's quantile of that level."""
        return max(map(self._quantile_error, self.quantiles), default=math.nan)

    @property
    def heavy(self) -> list[str]:
        """Scalars whose moments differ while their quantiles agree: their tails are too heavy for moments of draws."""
        return [
            name
            for name, ratio in self.sd_ratio.items()
            if self._quantile_error(name) <= max(CLOSE, 2 * self.resolution)
            and not (0.8 <= ratio <= 1.25 and abs(self.mean_error_sd[name]) <= 0.2)
        ]

    @property
    def summary(self) -> str:
        """The comparison in one line."""
        low, high = min(self.sd_ratio.values()), max(self.sd_ratio.values())
        joint = "" if self.c2st is None else f"C2ST {self.c2st:.3f}, "
        heavy = self.heavy
        more = f" and {len(heavy) - 1} more" if len(heavy) > 1 else ""
        tails = f"; the tails of {heavy[0]}{more} are too heavy for moments: go by quantiles" if heavy else ""
        return (
            f"{joint}quantile levels within {self.worst_quantile_error:.3f}, sd ratios {low:.2f} to {high:.2f}, "
            f"means within {self.worst_mean_error:.2f} sd, W1 within {max(self.w1_sd.values()):.2f} sd{tails}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain numbers, ready for JSON."""
        levels = {name: {str(level): share for level, share in found.items()} for name, found in self.quantiles.items()}
        return {**vars(self), "quantiles": levels, "summary": self.summary}

    def _quantile_error(self, name: str) -> float:
        return max((abs(share - level) for level, share in self.quantiles.get(name, {}).items()), default=math.nan)


def compare(
    draws: Any,
    reference: Any,
    *,
    weights: ArrayLike | None = None,
    positive: Sequence[str] = (),
    classify: bool = True,
    limit: int = 4000,
    seed: int = 0,
) -> Comparison:
    """Hold posterior draws against reference draws.

    Labelled draws are matched by the names of their dimensions and by their coordinates, others by position.

    Args:
        draws: an ArviZ DataTree (its posterior) or Dataset, anything with a ``draws`` mapping of (chain, draw, ...)
            arrays such as ``Reference``, or a mapping site -> (S, *site shape). Sites that only one side has
            are left out.
        reference: the same; its sd is the unit.
        weights: importance weights of ``draws``, (S,), not necessarily normalised.
        positive: sites that the classifier sees in logarithm (rates, scales); moments stay on the given
            scale.
        classify: whether to run the classifier, which takes seconds where the rest takes none.
        limit: the classifier sees at most this many draws of each side.
        seed: seed of its folds and initial weights.

    Raises:
        TypeError: something else than real numbers.
        ValueError: no common site, shapes or labels that differ, fewer than 10 draws, or weights that do not fit.
    """
    flag("classify", classify)
    whole("limit", limit, 10)
    seed_number(seed)
    left, right = paired(draws, reference)
    names = list(right)
    unknown = [name for name in _site_names(positive) if name not in names]
    if unknown:
        raise ValueError(f"positive: got '{unknown[0]}', expected some of the sites {shown(names)}")
    labels = scalar_names({name: right[name].shape[1:] for name in names})
    a, b = _matrix(left, names, (), "draws"), _matrix(right, names, (), "reference")
    w = _weights(weights, len(a))
    effective = 1 / float(np.sum(w**2))
    error, ratio = moments(a, b, w)
    rates = [name for name in names if (left[name] > 0).all() and (right[name] > 0).all()]
    log_labels = scalar_names({name: right[name].shape[1:] for name in rates})
    column = [labels.index(label) for label in log_labels]
    log_error, log_ratio = moments(np.log(a[:, column]), np.log(b[:, column]), w)
    score = None
    if classify:
        seen = _matrix(left, names, positive, "draws"), _matrix(right, names, positive, "reference")
        score = c2st(*seen, weights, limit=limit, seed=seed)
    return Comparison(
        mean_error_sd=_named(labels, error),
        sd_ratio=_named(labels, ratio),
        w1_sd=_named(labels, [wasserstein(a[:, k], b[:, k], w) for k in range(len(labels))]),
        c2st=score,
        c2st_error=None if score is None else 0.5 / math.sqrt(2 * min(limit, effective, len(b))),
        resolution=math.sqrt(1 / effective + 1 / len(b)),
        draws=effective,
        reference_draws=len(b),
        quantiles={label: shares(a[:, k], b[:, k], w) for k, label in enumerate(labels)},
        log_mean_error_sd=_named(log_labels, log_error),
        log_sd_ratio=_named(log_labels, log_ratio),
    )


def c2st(
    draws: ArrayLike,
    reference: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    limit: int = 4000,
    seed: int = 0,
) -> float:
    """Return the accuracy of a classifier between two samples: 0.5 if it cannot tell them apart, 1 if it
    always can.

    A network with two hidden layers of max(10 d, 64) units, at most 640, five stratified folds, draws scaled by the
    reference's mean and sd, equally many of both sides. Training stops early on a tenth of each fold:
    without that, as in the benchmark of simulation-based inference, a thousand draws are overfitted and sd x
    0.8 in eight dimensions scores .59 where .65 is there to be found. So this score is at least as strict.
    Standard error between equal samples: 0.5 / sqrt(2 n).

    Args:
        draws: (S, d).
        reference: (R, d).
        weights: importance weights of ``draws``, (S,); the classifier is trained and scored with them.
        limit: at most this many draws of each side; 4,000 take some 3 s for d = 8 on one core.
        seed: seed of subsets, folds and initial weights.

    Raises:
        ValueError: shapes that do not fit, or fewer than 10 draws of one side.

    Source: Lopez-Paz, Oquab, arXiv:1610.06545; Lueckmann et al., arXiv:2101.04653.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neural_network import MLPClassifier

    whole("limit", limit, 10)
    seed_number(seed)
    a, b = numbers("draws", draws, finite=True), numbers("reference", reference, finite=True)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 10 or not a.shape[1]:
        raise ValueError(
            f"draws, reference: got shapes {a.shape} and {b.shape}, expected (S, d) and (R, d), S, R >= 10"
        )
    size = min(len(a), len(b), limit)
    rng = np.random.default_rng(seed)
    part = np.full(size, 1 / size)
    if weights is None or size == len(a):
        chosen = rng.choice(len(a), size, replace=False)
        part = part if weights is None else _weights(weights, len(a))[chosen]
    else:
        chosen, part = _thinned(_weights(weights, len(a)), size, rng)
        size = len(chosen)
        if size < 10:
            raise ValueError(f"weights: got {size} draws with a weight, expected at least 10")
    b_part = b[rng.choice(len(b), size, replace=False)]
    ruler = unit(b)
    scale = (b / ruler).std(0)
    features = (np.concatenate([a[chosen], b_part]) / ruler - (b / ruler).mean(0)) / np.where(scale > 0, scale, 1.0)
    features = np.clip(features, -FARTHEST, FARTHEST)
    labels = np.repeat([0, 1], size)
    importance = np.ones(2 * size)
    importance[:size] = part / part.sum() * size
    hidden = min(max(10 * a.shape[1], 64), 640)
    right = 0.0
    for train, test in StratifiedKFold(5, shuffle=True, random_state=seed % 2**32).split(features, labels):
        network = MLPClassifier((hidden, hidden), max_iter=200, early_stopping=True, random_state=seed % 2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            options = {} if weights is None else {"sample_weight": importance[train]}
            network.fit(features[train], labels[train], **options)
        right += float(((network.predict(features[test]) == labels[test]) * importance[test]).sum())
    return right / float(importance.sum())


def _site_names(positive: Any) -> Sequence[str]:
    if isinstance(positive, str) or not isinstance(positive, Sequence):
        raise TypeError(f"positive: got {shown(positive)}, expected a sequence of sites")
    return positive


def _matrix(values: Mapping[str, Array], names: Sequence[str], positive: Sequence[str], argument: str) -> Array:
    columns = []
    for name in names:
        value = values[name].reshape(len(values[name]), -1)
        if name in positive:
            if not (value > 0).all():
                raise ValueError(f"positive: got '{name}' with values that are not, expected a positive site")
            value = np.log(value)
        columns.append(value)
    matrix = np.concatenate(columns, 1)
    if len(matrix) < 10 or not np.isfinite(matrix).all():
        raise ValueError(f"{argument}: got {len(matrix)} draws, finite or not, expected at least 10 finite ones")
    if not matrix.shape[1]:
        raise ValueError(f"{argument}: got sites {shown(list(names))} without an entry, expected some scalars")
    return matrix


def _weights(weights: ArrayLike | None, count: int) -> Array:
    if weights is None:
        return np.full(count, 1 / count)
    found = numbers("weights", weights)
    if found.shape != (count,) or not np.isfinite(found).all() or (found < 0).any() or found.sum() <= 0:
        raise ValueError(f"weights: got shape {found.shape}, expected ({count},) finite, not negative, not all zero")
    return found / found.sum()


def _thinned(weights: Array, size: int, rng: np.random.Generator) -> tuple[NDArray[np.intp], Array]:
    """Return at most ``size`` different draws, each kept with probability min(1, c w), and w over that probability."""
    kept = np.minimum(weights * size, 1.0)
    while True:
        free = (kept < 1) & (weights > 0)
        room = size - np.sum(kept >= 1)
        if not free.any() or np.isclose(kept.sum(), size) or room <= 0:
            break
        kept[free] = np.minimum(weights[free] * room / weights[free].sum(), 1.0)
    order = rng.permutation(len(weights))
    ends = np.cumsum(kept[order])
    places = np.arange(rng.random(), ends[-1], 1.0)
    chosen = order[np.minimum(np.searchsorted(ends, places, side="right"), len(order) - 1)]
    return chosen, weights[chosen] / kept[chosen]


def _named(labels: Sequence[str], values: Sequence[float] | Array) -> dict[str, float]:
    return {label: float(value) for label, value in zip(labels, values, strict=True)}
