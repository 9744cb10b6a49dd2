"""How good a generative model with a decoder is: one evaluation for grey boxes, black boxes and closed forms.

    reconstruction = mean over posterior draws of decode(z).full
    mae = mean |reconstruction - x|,   sum_of_squares = mean over data sets of sum (reconstruction - x)^2
    iwae = mean over data sets of log (1/K) sum_k p(x, z_k) / q(z_k | x)

A model needs ``decode(z, times=None)`` with four outputs (``Decoded``), a guide ``sample(data, draws)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...core.arguments import Data, rows_of
from ...core.global_state import seeded
from ...core.require import named, seed_number, tensors, whole
from ..density.densities import count, draw
from .site_errors import correlation, coverage, error, summary

OUTPUTS = ("full", "without_correction", "without_dynamics", "physics")
ENTRIES = 2**22  # numbers that one output of the decoder may have at once


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` found, means over data sets.

    Attributes:
        mae: mean absolute error of the reconstruction, in units of x.
        sum_of_squares: squared error summed over one data set, in squared units of x.
        iwae: lower bound of log p(x), in nats a data set; ``None`` where it was not asked for.
        errors: site -> mean absolute error of the posterior mean, in units of the site.
        coverage: site -> level -> share of truths inside the central interval of that level.
        correlation: site -> correlation of posterior mean and truth (not for a periodic site).
        decomposition: output of the decoder -> its MAE; an output that is the same as one before it is left out, so that
            a black box has "full" alone.
    """

    mae: float
    sum_of_squares: float
    iwae: float | None = None
    errors: Mapping[str, float] = field(default_factory=dict)
    coverage: Mapping[str, Mapping[float, float]] = field(default_factory=dict)
    correlation: Mapping[str, float] = field(default_factory=dict)
    decomposition: Mapping[str, float] = field(default_factory=dict)

    def flat(self) -> dict[str, float]:
        """Return every number under one name, e.g. "mae", "omega_mae", "omega_covered_95", "mae_physics"."""
        table = {"mae": self.mae, "sum_of_squares": self.sum_of_squares}
        if self.iwae is not None:
            table["iwae"] = self.iwae
        for site, gap in self.errors.items():
            table[f"{site}_mae"] = gap
            if site in self.correlation:
                table[f"{site}_correlation"] = self.correlation[site]
            table |= {f"{site}_covered_{100 * level:.0f}": share for level, share in self.coverage[site].items()}
        return table | {f"mae_{name}": error for name, error in self.decomposition.items() if name != "full"}


def evaluate(
    model: Any,
    guide: Any,
    data: Data,
    *,
    truths: Mapping[str, Tensor] | None = None,
    draws: int = 32,
    intervals: int = 400,
    bound: int = 64,
    periods: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure a trained model and guide on data sets.

    Args:
        model: a Pyro model of one data set with ``decode``.
        guide: a guide of it with ``sample``.
        data: {"x": (N, *event), "mask": ...}; masked entries count nowhere.
        truths: site -> true values, (N, *site shape); names that are no site of the guide are left out.
        draws: posterior draws of a data set in the reconstruction.
        intervals: posterior draws of a data set in means and intervals of the sites.
        bound: draws K of the IWAE bound; 0 leaves it out.
        periods: site -> period of an angle; its mean is the circular one, its errors are the short way round.
        seed: seed of the draws; torch's generators are put back.

    Raises:
        ValueError: malformed data or truths, or numbers out of range.

    Source: of the bound, Burda, Grosse, Salakhutdinov, arXiv:1509.00519.
    """
    sets, x = _check(data, draws, seed)
    whole("intervals", intervals, 2)
    whole("bound", bound, 0)
    truths = _check_truths(truths or {}, sets)
    sums = {name: x.new_zeros((), dtype=torch.float64) for name in (*OUTPUTS, "squares", "seen", "bound")}
    summaries: dict[str, list[tuple[Tensor, Tensor]]] = {}
    distinct: set[str] = set()
    with evaluating(model, guide), seeded(seed):
        for rows in _chunks(sets, draws, x[0].numel()):
            part = rows_of(data, rows)
            outputs = _outputs(model, guide.sample(part, draws))
            distinct.update(outputs)
            seen = _seen(part)
            for name, output in outputs.items():
                sums[name] += _gap(output, part["x"], seen).abs().sum(dtype=torch.float64)
            sums["squares"] += _gap(outputs["full"], part["x"], seen).square().sum(dtype=torch.float64)
            sums["seen"] += seen.sum()
        for rows in _chunks(sets, intervals, 64) if truths else ():
            sample = guide.sample(rows_of(data, rows), intervals)
            for name in truths:
                if name in sample:
                    found = summary(sample[name], truths[name][rows], (periods or {}).get(name))
                    summaries.setdefault(name, []).append(found)
        for rows in _chunks(sets, bound, x[0].numel()) if bound else ():
            part = rows_of(data, rows)
            drawn = draw(model, guide, part, bound, datasets=True, chunk=max(1, ENTRIES // x[0].numel()))
            weights = (drawn.log_p - drawn.log_q).double()
            sums["bound"] += (weights.logsumexp(0) - math.log(bound)).sum()
    seen_entries = float(sums["seen"])
    joined = {name: tuple(torch.cat(part) for part in zip(*found, strict=True)) for name, found in summaries.items()}
    return Evaluation(
        mae=float(sums["full"]) / seen_entries,
        sum_of_squares=float(sums["squares"]) / sets,
        iwae=float(sums["bound"]) / sets if bound else None,
        errors={name: error(mean, truths[name], (periods or {}).get(name)) for name, (mean, _) in joined.items()},
        coverage={name: coverage(ranks) for name, (_, ranks) in joined.items()},
        correlation={
            name: correlation(mean, truths[name]) for name, (mean, _) in joined.items() if name not in (periods or {})
        },
        decomposition={name: float(sums[name]) / seen_entries for name in OUTPUTS if name in distinct},
    )


def robust_noise(model: Any, guide: Any, data: Data, *, draws: int = 16, sets: int = 2000, seed: int = 0) -> float:
    """Return the noise sd that most of the data show: 1.4826 median |r - median r|, r = x - reconstruction.

    The sd that the ELBO learns also holds what is rare and reconstructed badly, and the spread of the codes; where these
    are few and large, as a neighbour beside a galaxy, it is too large for most of the data.

    Args:
        draws: posterior draws a data set.
        sets: data sets at most, the first ones.

    Raises:
        ValueError: data without "x", or a number below one.

    Source: Huber, Robust Statistics (1981), section 5.1 (the median absolute deviation as an estimate of scale).
    """
    whole("sets", sets, 1)
    data = rows_of(data, slice(sets)) if isinstance(data, Mapping) else data
    found, x = _check(data, draws, seed)
    residuals = []
    with evaluating(model, guide), seeded(seed):
        for rows in _chunks(found, draws, x[0].numel()):
            part = rows_of(data, rows)
            full = model.decode(guide.sample(part, draws)).full.mean(0)
            residuals.append((part["x"] - full)[_seen(part)])
    gap = torch.cat(residuals)
    return 1.4826 * float((gap - gap.median()).abs().median())


def extrapolate(
    model: Any,
    guide: Any,
    data: Data,
    times: Tensor,
    truth: Tensor,
    windows: Sequence[tuple[int, int]],
    *,
    draws: int = 32,
    seed: int = 0,
) -> dict[tuple[int, int], float]:
    """Infer from the data, predict at other times: MAE of the mean prediction in windows of steps.

    Args:
        times: (M,), where to predict.
        truth: what to compare with, (N, M, ...).
        windows: (first, last) indices into ``times``, last excluded.

    Raises:
        ValueError: a window outside the times, or a truth of another shape.
    """
    sets, _ = _check(data, draws, seed)
    if truth.shape[:2] != (sets, len(times)):
        raise ValueError(f"truth: got shape {tuple(truth.shape)}, expected ({sets}, {len(times)}, ...)")
    for first, last in windows:
        if not 0 <= first < last <= len(times):
            raise ValueError(f"windows: got {(first, last)}, expected 0 <= first < last <= {len(times)}")
    sums = dict.fromkeys(windows, 0.0)
    with evaluating(model, guide), seeded(seed):
        for rows in _chunks(sets, draws, truth[0].numel()):
            predicted = model.decode(guide.sample(rows_of(data, rows), draws), times).full.mean(0)
            gap = (predicted - truth[rows]).abs()
            for first, last in windows:
                sums[first, last] += float(gap[:, first:last].mean()) * len(gap)
    return {window: value / sets for window, value in sums.items()}


def counterfactual(
    model: Any,
    guide: Any,
    data: Data,
    site: str,
    factors: Sequence[float],
    truth: Mapping[float, Tensor],
    *,
    draws: int = 32,
    seed: int = 0,
) -> dict[float, float]:
    """Infer from the data, multiply one unknown of the physics, regenerate: MAE to what really would have been.

    Args:
        site: the unknown, as in ``model.intervene``.
        factors: by which it is multiplied.
        truth: factor -> noise-free data of the changed system, (N, *event).

    Raises:
        ValueError: a factor without a truth, a truth of another shape, or a site that the guide has not.
    """
    sets, x = _check(data, draws, seed)
    for factor in factors:
        if factor not in truth or truth[factor].shape != x.shape:
            got = tuple(truth[factor].shape) if factor in truth else "none"
            raise ValueError(f"truth[{factor}]: got {got}, expected a tensor of shape {tuple(x.shape)}")
    sums = dict.fromkeys(factors, 0.0)
    with evaluating(model, guide), seeded(seed):
        for rows in _chunks(sets, draws, x[0].numel()):
            z = guide.sample(rows_of(data, rows), draws)
            if site not in z:
                raise ValueError(f"site: got '{site}', expected one of {', '.join(z)}")
            for factor in factors:
                regenerated = model.intervene(z, **{site: factor * z[site]}).full.mean(0)
                sums[factor] += float((regenerated - truth[factor][rows]).abs().mean()) * len(regenerated)
    return {factor: value / sets for factor, value in sums.items()}


@contextmanager
def evaluating(*parts: Any) -> Iterator[None]:
    """Run a block without gradients and with every module in evaluation mode; put each module back as it was."""
    modules = {id(m): m for part in parts if isinstance(part, nn.Module) for m in part.modules()}
    before = [(module, module.training) for module in modules.values()]
    try:
        for module, _ in before:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, training in before:
            module.training = training


def _check(data: Data, draws: int, seed: int) -> tuple[int, Tensor]:
    named("data", data)
    if not isinstance(data.get("x"), Tensor):
        raise ValueError(f"data: got {sorted(data)}, expected a tensor 'x', one row for each data set")
    whole("draws", draws, 1)
    seed_number(seed)
    return count(data), data["x"]


def _check_truths(truths: Mapping[str, Tensor], sets: int) -> dict[str, Tensor]:
    tensors("truths", truths)
    for name, value in truths.items():
        if value.shape[:1] != (sets,):
            raise ValueError(f"truths['{name}']: got shape {tuple(value.shape)}, expected ({sets}, ...)")
    return dict(truths)


def _chunks(sets: int, draws: int, numbers: int) -> Iterator[slice]:
    """Slices of data sets, so that one output of the decoder stays under ``ENTRIES`` numbers."""
    size = max(1, ENTRIES // (draws * numbers))
    for start in range(0, sets, size):
        yield slice(start, min(start + size, sets))


def _outputs(model: Any, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The means over draws of the outputs that are not the same tensor as one before."""
    decoded = model.decode(z)
    distinct = {id(getattr(decoded, name)): name for name in reversed(OUTPUTS)}
    return {name: getattr(decoded, name).mean(0) for name in OUTPUTS if name in distinct.values()}


def _seen(data: Data) -> Tensor:
    mask = data.get("mask")
    return torch.ones_like(data["x"], dtype=torch.bool) if mask is None else mask.expand(data["x"].shape)


def _gap(output: Tensor, x: Tensor, seen: Tensor) -> Tensor:
    return torch.where(seen, output - x, 0.0)
