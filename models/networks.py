"""Networks of the learnt parts of grey-box animals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


def mlp(sizes: Sequence[int], start: float = 0.1) -> nn.Sequential:
    """Return linear layers of the given sizes with ELU between them; the last one starts small, by ``start``."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ELU()]
    last = layers[-2]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(start)
    return nn.Sequential(*layers[:-1])
