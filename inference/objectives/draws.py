"""A guide from the draws of a sampler: the forward KL to one posterior, estimated by a chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...core.require import tensors, whole
from ..fit.source_checks import check_numbers
from .standard import MOST, Batch, guide_log_prob


class DrawsKL:
    """Forward KL to the posterior of one data set: -E_{p(z | y)}[log q(z)], the expectation over the draws of a sampler.

    Where the ELBO is mode seeking and importance weights have lost their way, in tens of unknowns, a chain of a few
    thousand correlated draws (``hmc``) still finds the mass, and a flow that is fitted to them smooths, scores and samples
    it. What it costs are the chain's gradients; each step here costs none.

    Args:
        draws: site -> (draws, *site shape), of the data set that is fitted.
        batch: draws a step, chosen anew for each.

    Raises:
        ValueError: no draws, numbers of draws that differ, or draws that are not finite.
        TypeError: no mapping from sites to tensors.

    Source: Naesseth, Lindsten, Blei, arXiv:2003.10374 (Markovian score climbing, here with the chain run first).
    """

    particles = 1

    def __init__(self, draws: Mapping[str, Tensor], batch: int = 512) -> None:
        whole("batch", batch, 1, MOST)
        tensors("draws", draws)
        for name, value in draws.items():
            check_numbers(f"draws['{name}']", value)
        sizes = {name: len(value) if value.ndim else 0 for name, value in draws.items()}
        if not sizes or min(sizes.values()) < 1 or len(set(sizes.values())) > 1:
            raise ValueError(f"draws: got {sizes or 'none'}, expected as many draws of every site")
        self.draws, self.batch, self.count = dict(draws), batch, min(sizes.values())

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the negative mean log density of a batch of draws."""
        if batch.datasets is not None:
            raise ValueError(f"data: got {batch.datasets} data sets, expected one")
        chosen = torch.randint(self.count, (self.batch,))
        device = next((value.device for value in batch.data.values() if isinstance(value, Tensor)), None)
        latents = {name: value[chosen].to(device) for name, value in self.draws.items()}
        return -guide_log_prob(guide, Batch(batch.data, None, latents, batch.nesting)).mean()
