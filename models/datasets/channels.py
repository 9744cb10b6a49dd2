"""Maps of an aquifer with meandering channels: where the ground is a channel, as images of zeros and ones.

A map has one channel or two, either with probability 1/2, which cross the unit square from x = 0 to x = 1. The middle
of channel c and the cells (x, y) that belong to it, by their centres, are

    m_c(x) = centre_c + amplitude sin(2 pi x / wavelength + phase_c),      |y - m_c(x)| < half_width

    amplitude  ~ U(0.04, 0.12)       wavelength ~ U(0.8, 1.6)       half_width ~ U(0.08, 0.12)
    phase_c    ~ U(0, 2 pi), each channel its own; the three numbers above are those of both
    centre_1   ~ U(0.2, 0.8) alone;  with two channels centre_1 ~ U(0.15, 0.4) and centre_2 ~ U(0.6, 0.85)

So seven numbers describe a map of two channels, four one of a single channel. Two channels may touch.

Source: after the channels of Lopez-Alvis, Laloy, Nguyen, Hermans, arXiv:2008.12056; the geometry is chosen here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .partition import generators, uniform
from .splits import Split, Splits

CELLS = 16
SIZES = (10_000, 1000, 1000)
RANGES = {
    "amplitude": (0.04, 0.12),
    "wavelength": (0.8, 1.6),
    "half_width": (0.08, 0.12),
    "phase_1": (0.0, 2 * math.pi),
    "phase_2": (0.0, 2 * math.pi),
}
ALONE, LOWER, UPPER = (0.2, 0.8), (0.15, 0.4), (0.6, 0.85)
SOURCE = "simulated: meandering channels after Lopez-Alvis et al. (2020), arXiv:2008.12056"


def channel_map(z: Mapping[str, Tensor], cells: int = CELLS) -> Tensor:
    """Return 1 in the channels and 0 elsewhere, shape (..., cells, cells), float64; [..., j, i] is the cell at x_i, y_j.

    Args:
        z: the numbers of ``RANGES``, centre_1, centre_2 and channels (1 or 2), each (...).
        cells: cells on a side.

    Raises:
        ValueError: fewer than one cell.
    """
    if cells < 1:
        raise ValueError(f"cells: got {cells}, expected at least 1")
    at = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    wave = 2 * math.pi * at / z["wavelength"][..., None]

    def inside(channel: str) -> Tensor:
        swing = z["amplitude"][..., None] * torch.sin(wave + z[f"phase_{channel}"][..., None])
        middle = z[f"centre_{channel}"][..., None] + swing  # (..., x)
        return (at[:, None] - middle[..., None, :]).abs() < z["half_width"][..., None, None]

    second = inside("2") & (z["channels"] > 1.5)[..., None, None]
    return (inside("1") | second).double()


def draw_geometry(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the numbers of ``count`` random maps, each (count,), float64; centre_2 and phase_2 mean nothing alone."""
    z = {name: uniform(low, high, (count,), generator) for name, (low, high) in RANGES.items()}
    two = torch.rand(count, generator=generator) < 0.5
    alone, lower, upper = (uniform(*ends, (count,), generator) for ends in (ALONE, LOWER, UPPER))
    return z | {"centre_1": torch.where(two, lower, alone), "centre_2": upper, "channels": 1.0 + two.double()}


def generate(seed: int = 0, sizes: tuple[int, int, int] = SIZES) -> Splits:
    """Return simulated splits, x (N, 1, 16, 16) of zeros and ones, with the geometry of each map as truths."""
    splits = []
    for size, generator in zip(sizes, generators(seed).values(), strict=True):
        truths = draw_geometry(size, generator)
        splits.append(Split(channel_map(truths)[:, None], None, truths).to(torch.float32))
    return Splits("channels", *splits, source=SOURCE, licence="none: made by this program", seed=seed)
