"""More strides than were measured: mixtures of two strides, shifted and stretched in time, scaled and moved in angle.

    x = l a + (1 - l) b,  l ~ U(-1/2, 3/2);    x(t) + tau(t) x'(t);    joint j: x + g_j (x - mean of x) + o_j

tau is a random Fourier series of the stride with two harmonics. Source of mixtures: Zhang et al., mixup, arXiv:1710.09412.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.require import seed_number, whole

WARP = (0.5, 0.35, 0.35, 0.2, 0.2)  # sd of the terms of tau, % of a stride: shift, first and second harmonic
GAIN, OFFSET = 0.05, 0.03  # sd of g, 1, and of o, rad


def augmented(x: Tensor, count: int, seed: int = 0) -> Tensor:
    """Return ``count`` new strides (count, T, joints) made of strides x (N, T, joints), rad."""
    whole("count", count, 1)
    seed_number(seed)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=x.dtype)

    first, second = (torch.randint(len(x), (count,), generator=generator) for _ in range(2))
    share = 2 * torch.rand(count, 1, 1, generator=generator, dtype=x.dtype) - 0.5
    mixed = share * x[first] + (1 - share) * x[second]
    phase = 2 * math.pi * torch.linspace(0, 1, x.shape[1], dtype=x.dtype)
    waves = torch.stack([torch.ones_like(phase), *(f(k * phase) for k in (1, 2) for f in (torch.sin, torch.cos))])
    delay = (normal(count, len(WARP)) * torch.tensor(WARP, dtype=x.dtype)) @ waves
    moved = mixed + delay.unsqueeze(-1) * torch.gradient(mixed, dim=1)[0]
    joints = x.shape[2]
    return (
        moved
        + GAIN * normal(count, 1, joints) * (moved - moved.mean(1, keepdim=True))
        + OFFSET * normal(count, 1, joints)
    )
