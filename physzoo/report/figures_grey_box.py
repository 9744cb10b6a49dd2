"""Figures of grey-box models: data against the four outputs, extrapolation in time, counterfactuals.

Draws are posterior draws of decoder outputs; medians and 50 % and 90 % intervals are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import DATA, POSTERIOR, REFERENCE, Array, _figure, _intervals, _legend_above, _places, _save
from .labels import with_unit

if TYPE_CHECKING:
    from ..models.recipe import Quantity

TITLES = {
    "full": "physics + dynamics + correction",
    "without_correction": "physics + dynamics",
    "without_dynamics": "physics + correction",
    "physics": "physics alone",
}


CHANNELS = 4  # of a sequence, at most


def draw_outputs(path: Path, meaning: Quantity, observed: Array, outputs: Mapping[str, Array]) -> None:
    """Draw one sequence against each output of the decoder, a row for each channel, for four of them if there are more.

    Args:
        path: the PNG.
        meaning: label, unit, dimensions and coordinates of x.
        observed: (T, channels); NaN where nothing was seen.
        outputs: name of the output, as in ``Decoded`` -> draws (S, T, channels).

    Raises:
        ValueError: draws that do not fit the data.
    """
    _check(observed, outputs)
    names = _channels(meaning, observed.shape[1])
    shown = np.unique(np.linspace(0, len(names) - 1, min(len(names), CHANNELS)).round().astype(int))
    places, clock, _ = _places(meaning.dims, meaning, len(observed))
    figure, axes = _figure(len(shown), len(outputs), 3.1, 2.3)
    for column, (name, draws) in enumerate(outputs.items()):
        error = np.nanmean(np.abs(draws.mean(0) - observed))
        axes[0, column].set_title(f"{TITLES.get(name, name)}\nMAE {with_units(error, meaning.unit)}", fontsize=9)
        axes[-1, column].set_xlabel(clock)
        for axis, row in zip(axes[:, column], shown, strict=True):
            axis.sharey(axes[list(shown).index(row), 0])
            _band(axis, places, draws[:, :, row])
            axis.plot(places, observed[:, row], ".", ms=3, color=DATA, label="observed", zorder=3)
            if column == 0:
                axis.set_ylabel(with_unit(names[row], meaning.unit), fontsize=8)
    _legend_above(figure, axes[0, 0])
    _save(figure, path)


def draw_images(path: Path, observed: Array, outputs: Mapping[str, Array]) -> None:
    """Draw images beside the mean of each output: a row for each image.

    Args:
        path: the PNG.
        observed: (N, channels, H, W) in [0, 1], one or three channels.
        outputs: name -> draws (S, N, channels, H, W).

    Raises:
        ValueError: draws that do not fit the data.
    """
    _check(observed, outputs)
    figure, axes = _figure(len(observed), 1 + len(outputs), 1.7, 1.75)
    columns = {"observed": observed, **{name: draws.mean(0) for name, draws in outputs.items()}}
    for column, (name, images) in enumerate(columns.items()):
        axes[0, column].set_title(TITLES.get(name, name).replace(" + ", " +\n"), fontsize=8)
        for row, image in enumerate(images):
            shown = np.clip(np.moveaxis(image, 0, -1), 0, 1)
            axes[row, column].imshow(shown if shown.shape[-1] == 3 else shown[..., 0], cmap="gray", vmin=0, vmax=1)
            axes[row, column].set(xticks=[], yticks=[])
    _save(figure, path)


def draw_extrapolation(
    path: Path,
    meaning: Quantity,
    times: Array,
    truth: Array,
    draws: Array,
    seen: float,
    errors: Mapping[tuple[int, int], float],
    clock: str,
) -> None:
    """Draw a prediction beyond the data over the truth, and the error in windows of time.

    Args:
        path: the PNG.
        meaning: label and unit of x.
        times: (M,).
        truth, draws: one channel of one sequence, (M,) and (S, M).
        seen: the last time of the data.
        errors: window (first, last) of steps -> MAE, as from ``extrapolate``.
        clock: label of the time axis, with its unit.
    """
    figure, axes = _figure(1, 2, 4.4, 2.8)
    left, right = axes[0]
    _band(left, times, draws)
    left.plot(times, truth, color=DATA, lw=1, ls="--", label="truth, without noise")
    left.axvline(seen, color=REFERENCE, lw=1, label="end of the data")
    left.set(xlabel=clock, ylabel=with_unit(meaning.label, meaning.unit))
    for (first, last), error in errors.items():
        right.hlines(error, times[first], times[last - 1], color=POSTERIOR, lw=3)
    right.axvline(seen, color=REFERENCE, lw=1)
    right.set(yscale="log", xlabel=clock, ylabel=with_unit("MAE over test sequences", meaning.unit))
    _legend_above(figure, left)
    _save(figure, path)


def draw_counterfactuals(
    path: Path,
    meaning: Quantity,
    site: str,
    times: Array,
    truth: Mapping[float, Array],
    draws: Mapping[float, Array],
    errors: Mapping[float, float],
    clock: str,
) -> None:
    """Draw what would have been with one unknown multiplied, for one sequence, and the error of many over the factor.

    Args:
        path: the PNG.
        meaning: label and unit of x.
        site: what is multiplied.
        times: (T,).
        truth, draws: factor -> (T,), (S, T): one channel of one sequence; at most four factors.
        errors: factor -> MAE over test sequences.
        clock: label of the time axis, with its unit.

    Raises:
        ValueError: draws without their truth, or more than four.
    """
    if set(draws) - set(truth) or not 1 <= len(draws) <= 4:
        raise ValueError(f"draws: got factors {sorted(draws)}, expected one to four of {sorted(truth)}")
    figure, axes = _figure(1, 1 + len(draws), 2.9, 2.7)
    for axis, (factor, values) in zip(axes[0], draws.items(), strict=False):
        _band(axis, times, values)
        axis.plot(times, truth[factor], color=DATA, lw=1.2, ls="--", label="truth, without noise")
        axis.set_title(f"{site} times {factor:g}", fontsize=9)
        axis.set_xlabel(clock)
    axes[0, 0].set_ylabel(with_unit(meaning.label, meaning.unit))
    last = axes[0, -1]
    factors = sorted(errors)
    last.plot(factors, [errors[factor] for factor in factors], "o-", color=POSTERIOR, ms=4, lw=1.2)
    last.set(yscale="log", xlabel=f"factor on {site}", ylabel=with_unit("MAE over test sequences", meaning.unit))
    _legend_above(figure, axes[0, 0])
    _save(figure, path)


def with_units(value: Any, unit: str) -> str:
    """Return a number with its unit, three significant digits."""
    return f"{value:.3g}" if unit == "1" else f"{value:.3g} {unit}"


def _band(axis: Any, times: Array, draws: Array) -> None:
    _intervals(axis, times, draws, band=True)
    for part in axis.collections:
        part.set_label(str(part.get_label()).replace("replicated data", "posterior draws"))


def _check(observed: Array, outputs: Mapping[str, Array]) -> None:
    for name, draws in outputs.items():
        if draws.shape[1:] != observed.shape:
            raise ValueError(
                f"outputs['{name}']: got shape {draws.shape}, expected (S, {', '.join(map(str, observed.shape))})"
            )


def _channels(meaning: Quantity, count: int) -> list[str]:
    names = meaning.coords.get(meaning.dims[-1], ()) if len(meaning.dims) == 2 else ()
    if len(names) == count and count > 1:
        return [f"{name}: {meaning.label}" for name in names]
    return [meaning.label] if count == 1 else [f"{meaning.label} {k + 1}" for k in range(count)]
