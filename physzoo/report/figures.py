"""Figures of a report: data under the posterior, marginals, correlated pairs, and how the fit went.

Matplotlib is imported when a figure is drawn, its global settings are left alone, and no display is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.files import replacing
from .labels import Scalar, with_unit

if TYPE_CHECKING:
    from ..models.recipe import Quantity

Array = NDArray[np.float64]
POSTERIOR, REFERENCE, PRIOR, DATA = "#1f6fb4", "#d1651a", "#8a8a8a", "#111111"
INTERVALS = ((0.05, 0.95, 0.18), (0.25, 0.75, 0.38))
FEW = 12  # fewer places than this are drawn as intervals, not as a band
MOST = 16  # parameters in one figure


def draw_predictive(path: Path, meaning: Quantity, observed: Array, replicated: Array) -> None:
    """Draw replicated data over the observed data: median, 50 % and 90 % intervals.

    Args:
        path: the PNG.
        meaning: label, unit and dimensions of the observed site.
        observed: data, shape (n,) or (n, components), NaN where nothing was seen; other shapes are flattened.
        replicated: posterior predictive draws, (S, *shape of the data).
    """
    if observed.ndim != 2 or observed.shape[1] > 6:
        dims = meaning.dims if observed.ndim == 1 else ()
        observed, replicated = observed.reshape(-1, 1), replicated.reshape(len(replicated), -1, 1)
        names: list[str] = [""]
    else:
        dims = meaning.dims
        last = meaning.coords.get(dims[-1], ()) if len(dims) == 2 else ()
        names = [str(last[k]) if k < len(last) else str(k + 1) for k in range(observed.shape[1])]
    places, label, numeric = _places(dims, meaning, len(observed))
    figure, axes = _figure(len(names), 1, 7.2, 2.7)
    for k, name in enumerate(names):
        axis = axes[k, 0]
        _intervals(axis, places, replicated[:, :, k], band=numeric and len(places) >= FEW)
        axis.plot(places, observed[:, k], "o", ms=4, color=DATA, label="observed", zorder=3)
        quantity = f"{name}: {meaning.label}" if name and len(names) > 1 else meaning.label
        axis.set(ylabel=with_unit(quantity, meaning.unit))
        if not numeric:
            axis.set_xticks(places)
        elif np.issubdtype(places.dtype, np.integer):
            axis.xaxis.get_major_locator().set_params(integer=True)
    axes[-1, 0].set_xlabel(label)
    _legend_above(figure, axes[0, 0])
    _save(figure, path)


def _places(dims: Sequence[str], meaning: Quantity, count: int) -> tuple[NDArray[Any], str, bool]:
    """Return where the entries of the data stand, the axis' label, and whether the places are numbers."""
    name = dims[0] if dims else "entry"
    coords = meaning.coords.get(name, ())
    if len(coords) == count and all(isinstance(value, int | float) for value in coords):
        return np.asarray(coords), with_unit(name, meaning.units.get(name, "1")), True
    return np.arange(1, count + 1), name, count >= FEW


def clock_of(meaning: Quantity) -> str:
    """Return the label of the axis along which a sequence of this quantity runs, where its times are known."""
    name = meaning.dims[0] if meaning.dims else ""
    return with_unit(name, meaning.units.get(name, "1")) if name in meaning.coords else "time"


def _intervals(axis: Any, places: NDArray[Any], draws: Array, band: bool) -> None:
    width = 0.28 * float(np.diff(places).min()) if len(places) > 1 else 0.3
    for low, high, alpha in INTERVALS:
        bottom, top = np.quantile(draws, [low, high], axis=0)
        label = f"{high - low:.0%} of replicated data"
        if band:
            axis.fill_between(places, bottom, top, color=POSTERIOR, alpha=alpha, lw=0, label=label)
        else:
            axis.bar(places, top - bottom, 2 * width, bottom, color=POSTERIOR, alpha=alpha, lw=0, label=label)
    median = np.median(draws, axis=0)
    if band:
        axis.plot(places, median, color=POSTERIOR, lw=1.2, label="median")
    else:
        axis.hlines(median, places - width, places + width, color=POSTERIOR, lw=1.5, label="median")


def draw_marginals(
    path: Path,
    parameters: Sequence[Scalar],
    posterior: Mapping[str, Array],
    reference: Mapping[str, Array] | None,
    prior: Mapping[str, Array] | None,
    published: Mapping[str, float] | None = None,
) -> None:
    """Draw the marginal densities of the guide, the reference and the prior, one panel a parameter.

    Args:
        path: the PNG.
        parameters: what to draw; at most 16 panels, the first ones.
        posterior: scalar -> draws (S,).
        reference: scalar -> draws, or ``None``.
        prior: scalar -> draws, or ``None``.
        published: scalar -> published posterior mean.
    """
    shown = list(parameters[:MOST])
    columns = min(4, len(shown))
    figure, axes = _figure(-(-len(shown) // columns), columns, 2.05, 1.9)
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis, scalar in zip(axes.flat, shown, strict=False):
        _marginal(axis, scalar, posterior, reference or {}, prior or {}, published or {})
    _legend_above(figure, axes[0, 0])
    _save(figure, path)


def _marginal(
    axis: Any,
    scalar: Scalar,
    posterior: Mapping[str, Array],
    reference: Mapping[str, Array],
    prior: Mapping[str, Array],
    published: Mapping[str, float],
) -> None:
    key = scalar.key
    both = [draws[key] for draws in (posterior, reference) if key in draws]
    low = min(np.quantile(draws, 0.002) for draws in both)
    high = max(np.quantile(draws, 0.998) for draws in both)
    margin = 0.12 * (high - low)
    grid = np.linspace(low - margin, high + margin, 200)
    top = _density(posterior[key], grid)
    axis.fill_between(grid, top, color=POSTERIOR, alpha=0.35, lw=0, label="guide")
    axis.plot(grid, top, color=POSTERIOR, lw=1)
    if key in reference:
        axis.plot(grid, _density(reference[key], grid), color=REFERENCE, lw=1.4, label="reference")
    if key in prior:
        axis.plot(grid, _density(prior[key], grid), color=PRIOR, lw=1.1, ls="--", label="prior")
    if key in published:
        axis.axvline(published[key], color=DATA, lw=0.9, ls=":", label="published mean")
    axis.set(yticks=[], ylim=(0, None), xlim=(grid[0], grid[-1]))
    axis.set_xlabel(_broken(scalar.axis, 26))
    axis.locator_params(axis="x", nbins=4)


def draw_pairs(
    path: Path,
    parameters: Sequence[Scalar],
    posterior: Mapping[str, Array],
    reference: Mapping[str, Array] | None,
    count: int = 4,
) -> None:
    """Draw the most correlated pairs: draws of the guide over 50 % and 90 % regions of the reference."""
    shown = list(parameters[:MOST])
    judged = reference or posterior
    matrix = np.atleast_2d(np.corrcoef([judged[scalar.key] for scalar in shown]))
    pairs = [(i, j) for i in range(len(shown)) for j in range(i)]
    pairs.sort(key=lambda pair: -abs(matrix[pair]))
    figure, axes = _figure(1, min(count, len(pairs)), 2.05, 2.3)
    for axis, (i, j) in zip(axes.flat, pairs, strict=False):
        x, y = _thinned(posterior[shown[j].key]), _thinned(posterior[shown[i].key])
        axis.plot(x, y, ".", ms=2.5, alpha=0.4, mew=0, color=POSTERIOR, label="guide")
        if reference is not None:
            _regions(axis, reference[shown[j].key], reference[shown[i].key])
        axis.set_xlabel(_broken(shown[j].axis, 26))
        axis.set_ylabel(_broken(shown[i].axis, 26))
        axis.set_title(f"correlation {matrix[i, j]:+.2f}", fontsize=9)
        axis.locator_params(nbins=4)
    _legend_above(figure, axes[0, 0], markerscale=4)
    _save(figure, path)


def draw_fit(path: Path, losses: Sequence[float], log_weights: Array, k_hat: float, objective: str) -> None:
    """Draw the loss over the steps, and the log importance weights of the draws, narrow where all is well.

    Args:
        path: the PNG.
        losses: loss of every step.
        log_weights: log p(z, y) - log q(z | y) of the draws, (S,).
        k_hat: Pareto shape of the largest weights.
        objective: what the loss is, in words.
    """
    figure, axes = _figure(1, 2, 3.9, 2.9)
    values = np.asarray(losses, float)
    steps = np.arange(1, len(values) + 1)
    left, right = axes[0]
    left.plot(steps, values, color=POSTERIOR, lw=0.5, alpha=0.5, label="each step")
    window = max(1, len(values) // 40)
    smooth = np.array([np.nanmedian(values[max(0, i - window) : i + window + 1]) for i in range(len(values))])
    left.plot(steps, smooth, color=POSTERIOR, lw=1.4, label="running median")
    tail = values[np.isfinite(values)]
    if len(tail) > 20:
        low, high = np.quantile(tail[len(tail) // 20 :], [0.001, 0.999])
        left.set_ylim(low - 0.1 * (high - low + 1e-9), high + 0.25 * (high - low + 1e-9))
    left.set(xlabel="step", ylabel=f"{objective} [nat]")
    left.set_title("Training loss", fontsize=9)
    left.legend(fontsize=8, frameon=False)
    centred = log_weights[np.isfinite(log_weights)]
    centred = centred - np.median(centred)
    low, high = np.quantile(centred, [0.001, 0.999])
    right.hist(np.clip(centred, low, high), bins=50, color=POSTERIOR, alpha=0.6)
    right.set(xlabel="log p(z, y) - log q(z | y), centred [nat]", ylabel="draws")
    right.set_title(f"Importance weights, k-hat {k_hat:.2f}", fontsize=9)
    _save(figure, path)


def _regions(axis: Any, x: Array, y: Array) -> None:
    """Draw the highest-density regions that hold 50 % and 90 % of the draws."""
    from scipy.stats import gaussian_kde

    points = np.stack([_thinned(x, 2000), _thinned(y, 2000)])
    kernel = gaussian_kde(points)
    levels = np.quantile(kernel(points), [0.1, 0.5])
    spread = 0.15 * np.ptp(points, axis=1)
    low, high = points.min(1) - spread, points.max(1) + spread
    across, along = (np.linspace(low[k], high[k], 60) for k in (0, 1))
    mesh = np.stack([part.ravel() for part in np.meshgrid(across, along)])
    axis.contour(across, along, kernel(mesh).reshape(60, 60), levels=levels, colors=REFERENCE, linewidths=1.1)
    axis.plot([], [], color=REFERENCE, label="reference, 50 % and 90 %")


def _density(draws: Array, grid: Array) -> Array:
    """Return a kernel density estimate on the grid; zero where all draws are equal."""
    from scipy.stats import gaussian_kde

    values = draws[np.isfinite(draws)]
    # a heavy tail would widen the kernel of what is looked at: only draws near the grid set its width
    span = grid[-1] - grid[0]
    near = values[(values > grid[0] - span) & (values < grid[-1] + span)]
    if len(near) < 10 or near.std() == 0:
        return np.zeros_like(grid)
    return gaussian_kde(near)(grid) * len(near) / len(values)


def _thinned(draws: Array, count: int = 1000) -> Array:
    return draws[np.linspace(0, len(draws) - 1, min(count, len(draws))).astype(int)]


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows + 0.35), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.xaxis.label.set_size(9)
        axis.yaxis.label.set_size(9)
    return figure, axes


def _legend_above(figure: Any, axis: Any, **options: Any) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), fontsize=8, frameon=False, **options)


def _broken(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))


def _save(figure: Any, path: Path) -> None:
    """Write the PNG to the side and rename it."""
    with replacing(path) as beside:
        figure.savefig(beside, dpi=130, format="png")
