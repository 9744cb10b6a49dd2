"""The figure of an image under its posterior: what was seen, what is expected, how sure that is, and what is left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import Array, _figure, _save
from .labels import with_unit

if TYPE_CHECKING:
    from ..models.recipe import Quantity

TITLES = ("observed", "median of replicated data", "half width of their 90 % interval", "(observed - median) / sd")


def draw_image(path: Path, meaning: Quantity, observed: Array, replicated: Array) -> None:
    """Draw an image, the median of its replications, their half width and the standardised residual, a row a channel.

    Args:
        path: the PNG.
        meaning: label and unit of the observed site, and the names of its channels.
        observed: (channels, rows, columns).
        replicated: posterior predictive draws, (S, channels, rows, columns).
    """
    low, middle, high = np.quantile(replicated, [0.05, 0.5, 0.95], axis=0)
    left = (observed - middle) / np.maximum(replicated.std(0), 1e-12)
    names = meaning.coords.get(meaning.dims[0], ()) if meaning.dims else ()
    figure, axes = _figure(len(observed), 4, 2.3, 2.0)
    for k in range(len(observed)):
        shown = (observed[k], middle[k], 0.5 * (high - low)[k], left[k])
        top = float(np.nanquantile(observed[k], 0.999))
        limits: tuple[dict[str, Any], ...] = (
            {"vmin": 0, "vmax": top},
            {"vmin": 0, "vmax": top},
            {"vmin": 0},
            {"vmin": -4, "vmax": 4},
        )
        for j, (image, limit) in enumerate(zip(shown, limits, strict=True)):
            axis = axes[k, j]
            drawn = axis.imshow(image, origin="lower", cmap="RdBu_r" if j == 3 else "viridis", **limit)
            axis.set(xticks=[], yticks=[])
            figure.colorbar(drawn, ax=axis, shrink=0.85).ax.tick_params(labelsize=7)
            if k == 0:
                axis.set_title(TITLES[j], fontsize=8)
        axes[k, 0].set_ylabel(f"channel {names[k] if k < len(names) else k + 1}", fontsize=8)
    figure.suptitle(with_unit(meaning.label, meaning.unit), fontsize=9)
    _save(figure, path)
