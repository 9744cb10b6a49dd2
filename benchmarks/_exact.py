"""Exact and independent draws of posteriors that are wide: by rejection from the prior."""

from __future__ import annotations

import torch
from torch import Tensor

from physzoo.models.poisson1d import Poisson1D

AT_ONCE = 50_000


@torch.no_grad()
def rejected(model: Poisson1D, data: dict[str, Tensor], draws: int, seed: int) -> Tensor:
    """Return z ~ p(z | y), (draws, modes): z ~ p(z), kept with probability exp(-|y - G(z)|^2 / 2 s_y^2)."""
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    while sum(map(len, found)) < draws:
        z = torch.randn(AT_ONCE, len(model.origin), generator=generator, dtype=torch.float64)
        miss = (model.problem.observe(model.problem.solve(z)) - data["y"]) / model.noise
        height = -0.5 * (miss.square() * data.get("mask", 1)).sum(-1)
        found.append(z[torch.rand(AT_ONCE, generator=generator, dtype=torch.float64).log() < height])
    return torch.cat(found)[:draws]
