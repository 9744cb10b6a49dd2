"""Images of disk galaxies seen nearly edge-on: an exponential disk, and what a telescope adds to it.

    disk(x, y) = I0 exp(-r),    r^2 = (x_rot / A)^2 + (y_rot / (A (1 - e)))^2    on [-1, 1]^2

x_rot runs along the long axis, which stands ``angle`` above the horizontal, counter-clockwise; the total flux of
the disk is 2 pi A^2 (1 - e) I0. One image in channel k:

    x_k = colour_k disk(x - centre) + neighbours + 0.02 + Normal(0, 0.015)

    I0     ~ U(0.5, 1)       A     ~ U(0.1, 0.3)       e ~ U(0.4, 0.8)       angle ~ U(0, pi)
    colour ~ (0.7, 0.85, 1) exp(Normal(0, 0.1))        centre ~ Normal(0, 0.03) in x and y
    neighbours: 0 to 3, round Gaussians of width U(0.02, 0.06) and peak U(0.1, 0.8), 0.4 to 0.95 from the middle

Pixel values are not clipped, so that the noise stays Gaussian. The real images are those of ``galaxy10``.

Source of the disk: N. Takeishi, A. Kalousis, NeurIPS 2021, arXiv:2102.13156; the rest is chosen here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .partition import generators, normal, uniform
from .splits import Split, Splits

RANGES = {"I0": (0.5, 1.0), "A": (0.1, 0.3), "e": (0.4, 0.8), "angle": (0.0, math.pi)}
SIZES = (400, 100, 89)  # as many as the class holds in Galaxy10
SIZE, BACKGROUND, NOISE, MOST_NEIGHBOURS = 69, 0.02, 0.015, 3
MEAN_COLOUR = (0.7, 0.85, 1.0)
SOURCE = "simulated: exponential disks of Takeishi and Kalousis (2021), arXiv:2102.13156, with neighbours and noise"


def pixels(size: int, like: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return x and y of the pixel centres of [-1, 1]^2, each (size, size); x grows to the right, y upwards."""
    if size < 1:
        raise ValueError(f"size: got {size}, expected at least 1")
    dtype, device = (torch.float64, None) if like is None else (like.dtype, like.device)
    along = (torch.arange(size, dtype=dtype, device=device) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(along.flip(0), along, indexing="ij")
    return x, y


def disk(z: Mapping[str, Tensor], size: int = SIZE) -> Tensor:
    """Return the disk's brightness at the pixel centres, shape (..., size, size).

    Args:
        z: I0, A, e, angle, each (...); "centre" (..., 2) where the disk is not in the middle.
        size: pixels on a side.
    """
    intensity, scale, flattening, angle = (z[name][..., None, None] for name in RANGES)
    x, y = pixels(size, like=z["I0"])
    if "centre" in z:
        x, y = x - z["centre"][..., 0, None, None], y - z["centre"][..., 1, None, None]
    along = x * torch.cos(angle) + y * torch.sin(angle)
    across = y * torch.cos(angle) - x * torch.sin(angle)
    squares = (along / scale) ** 2 + (across / (scale * (1 - flattening))) ** 2
    # the root has no derivative at 0, where a pixel centre may lie exactly
    return intensity * torch.exp(-torch.sqrt(squares.clamp_min(torch.finfo(squares.dtype).tiny)))


def symmetry(x: Tensor, turns: int, flip: bool) -> Tensor:
    """Return images (..., H, W) mirrored left to right if ``flip``, then turned by ``turns`` x 90 degrees.

    Turns are counter-clockwise: an angle becomes angle + turns pi / 2, after a flip -angle + turns pi / 2, modulo pi.
    """
    return torch.rot90(x.flip(-1) if flip else x, turns, (-2, -1))


def augment(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return square images (N, channels, H, H), each in one of its eight symmetric positions, drawn at random.

    Raises:
        ValueError: the images are not square.
    """
    if x.dim() != 4 or x.shape[-1] != x.shape[-2]:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected square images (N, channels, H, H)")
    which = torch.randint(8, (len(x),), generator=generator)
    augmented = x.clone()
    for k in range(1, 8):
        rows = (which == k).nonzero().squeeze(-1)
        augmented[rows] = symmetry(x[rows], k % 4, k >= 4)
    return augmented


def generate(seed: int = 0, sizes: tuple[int, int, int] = SIZES, size: int = SIZE) -> Splits:
    """Return simulated splits, x (N, 3, size, size), pixel values about 0 to 1.

    Truths: I0, A, e, angle, each (N,), colour (N, 3), centre (N, 2), neighbours (N,), their number.
    """
    splits = []
    for number, generator in zip(sizes, generators(seed).values(), strict=True):
        truths = {name: uniform(low, high, (number,), generator) for name, (low, high) in RANGES.items()}
        mean = torch.tensor(MEAN_COLOUR, dtype=torch.float64)
        truths["colour"] = (mean * torch.exp(0.1 * normal((number, 3), generator))).float().double()
        truths["centre"] = (0.03 * normal((number, 2), generator)).float().double()
        truths["neighbours"] = torch.randint(MOST_NEIGHBOURS + 1, (number,), generator=generator).double()
        noise = NOISE * normal((number, 3, size, size), generator)
        galaxy = truths["colour"][..., None, None] * disk(truths, size).unsqueeze(-3)
        x = galaxy + _neighbours(truths["neighbours"], size, generator) + BACKGROUND + noise
        splits.append(Split(x, None, truths).to(torch.float32))
    return Splits("galaxy", *splits, source=SOURCE, licence="none: made by this program", seed=seed)


def _neighbours(count: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Other sources in the field, (N, 3, size, size)."""
    x, y = pixels(size)
    total = x.new_zeros((len(count), 3, size, size))
    for k in range(MOST_NEIGHBOURS):
        distance, bearing, width, peak = (
            uniform(low, high, (len(count), 1, 1), generator)
            for low, high in ((0.4, 0.95), (0.0, 2 * math.pi), (0.02, 0.06), (0.1, 0.8))
        )
        colour = torch.exp(0.2 * normal((len(count), 3, 1, 1), generator))
        squares = (x - distance * torch.cos(bearing)) ** 2 + (y - distance * torch.sin(bearing)) ** 2
        blob = peak * torch.exp(-squares / (2 * width**2))
        total += torch.where(k < count, 1.0, 0.0)[:, None, None, None] * colour * blob.unsqueeze(-3)
    return total
