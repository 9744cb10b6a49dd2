"""The scale of every unknown, by which steps, floors and tolerances are measured: the prior's spread in unconstrained space."""

from __future__ import annotations

import torch
from torch import Tensor


def spread(draws: Tensor) -> Tensor:
    """Return half the width of the central 68 % of prior draws (n, d) in each coordinate, (d,) in float64: 1 sd of a normal law.

    Quantiles, because a prior with heavy tails has no sd. A coordinate whose quantiles are equal has its sd.

    Raises:
        ValueError: the finite draws of a coordinate are all equal.
    """
    found = draws.detach().double()
    found = found[torch.isfinite(found).all(-1)]
    if not len(found):
        raise ValueError(f"model: got no finite draw among {len(draws)} of its prior, expected some")
    low, high = found.quantile(torch.tensor([0.1587, 0.8413], dtype=torch.float64), dim=0)
    half = (high - low) / 2
    size = (found - found.mean(0)).abs().amax(0)  # divided out, so that squares stay in range
    sd = size * ((found - found.mean(0)) / size.where(size > 0, 1.0)).std(0, correction=0)
    scale = torch.where(half > 0, half, sd)
    if not bool((scale > 0).all()):
        index = int((scale > 0).logical_not().nonzero()[0])
        raise ValueError(
            f"model: got a prior under which all draws of unconstrained coordinate {index} are equal, expected a spread"
        )
    return scale
