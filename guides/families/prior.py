"""A prior that is learnt: the aggregate of the codes of many data sets is seldom a standard normal."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ...core.require import whole
from .densities import SplineFlow


class LearntPrior(nn.Module):
    """p(z) over R^d as a spline flow; exactly N(0, I) before training.

    Use it for an unknown of every data set whose law is to be found, as a module of the model: its parameters are trained with
    the model's by the ELBO.

    Args:
        features: d.
        transforms, bins, hidden: as for ``SplineFlow``.

    Raises:
        ValueError: a number out of range.

    Source: learnt priors of variational auto-encoders: Chen et al., arXiv:1611.02731.

    Example:
        >>> LearntPrior(2)().log_prob(torch.zeros(2)).detach()
        tensor(-1.8379)
    """

    like: Tensor

    def __init__(self, features: int, **options: Any) -> None:
        super().__init__()
        whole("features", features, 1)
        self.flow = SplineFlow(features, 0, **options)
        with torch.no_grad():
            for step in self.flow.steps:
                # a coupling's splines are what the last layer of its network says; one feature has free splines
                last = list(step.parameters())[-2:] if features > 1 else step.parameters()
                for parameter in last:
                    parameter.zero_()
        self.register_buffer("like", torch.zeros(0), persistent=False)

    def forward(self) -> TorchDistribution:
        """Return the distribution, batch shape (), event shape (d,)."""
        return self.flow(self.like)
