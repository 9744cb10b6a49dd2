"""Training images of the galaxies: each in eight positions, with a share held out."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from .datasets.galaxy import symmetry
from .datasets.simulated import Simulated
from .datasets.splits import Split, Splits

PERIOD = math.pi
DATA = Simulated("galaxy", {"size": 32}, (2000, 200, 500))


def eightfold(x: Tensor) -> Tensor:
    """Return images (N, channels, H, H) in all their eight symmetric positions, (8 N, channels, H, H): augmentation.

    Raises:
        ValueError: the images are not square.
    """
    if x.dim() != 4 or x.shape[-1] != x.shape[-2]:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected square images (N, channels, H, H)")
    return torch.cat([symmetry(x, turns, flip) for turns in range(4) for flip in (False, True)])


def turned_split(split: Split) -> Split:
    """Return the images of a split in all their eight symmetric positions, with the truths of each position."""
    angles, centres = [], []
    for turns in range(4):
        for flip in (False, True):
            at, (x, y) = split.truths["angle"], split.truths["centre"].unbind(-1)
            at, x = (-at, -x) if flip else (at, x)
            for _ in range(turns):
                x, y = -y, x
            angles.append((at + 0.5 * math.pi * turns).remainder(PERIOD))
            centres.append(torch.stack([x, y], -1))
    same = {name: value.repeat(8, *(1,) * (value.dim() - 1)) for name, value in split.truths.items()}
    return Split(eightfold(split.x), None, {**same, "angle": torch.cat(angles), "centre": torch.cat(centres)})


def training_splits(seed: int) -> Splits:
    """Return 2,000 training images in eight positions each, 200 and 500 images of the generator, 32 x 32 pixels."""
    found = DATA.splits(seed)
    return replace(found, train=turned_split(found.train))
