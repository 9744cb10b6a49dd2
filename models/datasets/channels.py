"""Maps of an aquifer with two meandering channels: the share of each cell that is channel, as images from 0 to 1.

The ground is one or the other, channel or not. The channels cross the unit square from x = 0 to x = 1; the middle of
channel c = 1, 2, and the share of a cell around (x, y) with sides h = 1/16, taken along the vertical through its centre, are

    m_c(x) = centre_c + sine_c sin(2 pi x) + cosine_c cos(2 pi x)
    x_cell = min(1, sum_c |[y - h/2, y + h/2] and [m_c(x) - half_width, m_c(x) + half_width]| / h)

    centre_1 ~ U(0.15, 0.42)     centre_2 ~ U(0.58, 0.85)     half_width ~ U(0.07, 0.11), that of both
    sine_c, cosine_c ~ Normal(0, 0.05), each channel its own

Seven numbers, all of them continuous, of which a map is a continuous function: so eight normal codes can stand for a map
without a tear, and a cell at a bank does not switch at once. The two channels may touch, and one may leave the square
for a while.

Source: after the channels of Lopez-Alvis, Laloy, Nguyen, Hermans, arXiv:2008.12056; the geometry is chosen here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .partition import generators, normal, uniform
from .splits import Split, Splits

CELLS = 16
SIZES = (10_000, 1000, 1000)
RANGES = {"centre_1": (0.15, 0.42), "centre_2": (0.58, 0.85), "half_width": (0.07, 0.11)}
SWINGS, SWING = ("sine_1", "cosine_1", "sine_2", "cosine_2"), 0.05
SOURCE = "simulated: meandering channels after Lopez-Alvis et al. (2020), arXiv:2008.12056"


def channel_map(z: Mapping[str, Tensor], cells: int = CELLS) -> Tensor:
    """Return the share of channel, shape (..., cells, cells), float64, in [0, 1]; [..., j, i] is the cell at x_i, y_j.

    Args:
        z: the numbers of ``RANGES`` and ``SWINGS``, each (...).
        cells: cells on a side.

    Raises:
        ValueError: fewer than one cell.
    """
    if cells < 1:
        raise ValueError(f"cells: got {cells}, expected at least 1")
    at = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    sine, cosine = torch.sin(2 * math.pi * at), torch.cos(2 * math.pi * at)

    low, high, half = (at - 0.5 / cells)[:, None], (at + 0.5 / cells)[:, None], z["half_width"][..., None, None]

    def share(channel: str) -> Tensor:
        centre, a, b = (z[f"{name}_{channel}"][..., None] for name in ("centre", "sine", "cosine"))
        middle = (centre + a * sine + b * cosine)[..., None, :]
        return cells * (torch.minimum(high, middle + half) - torch.maximum(low, middle - half)).clamp_min(0.0)

    return (share("1") + share("2")).clamp_max(1.0)


def draw_geometry(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the numbers of ``count`` random maps, each (count,), float64."""
    z = {name: uniform(low, high, (count,), generator) for name, (low, high) in RANGES.items()}
    return z | {name: (SWING * normal((count,), generator)).float().double() for name in SWINGS}


def generate(seed: int = 0, sizes: tuple[int, int, int] = SIZES) -> Splits:
    """Return simulated splits, x (N, 1, 16, 16) in [0, 1], with the geometry of each map as truths."""
    splits = []
    for size, generator in zip(sizes, generators(seed).values(), strict=True):
        truths = draw_geometry(size, generator)
        splits.append(Split(channel_map(truths)[:, None], None, truths).to(torch.float32))
    return Splits("channels", *splits, source=SOURCE, licence="none: made by this program", seed=seed)
