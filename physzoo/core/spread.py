"""Where draws lie and how far they spread, in any unit and under heavy tails."""

from __future__ import annotations

import torch
from torch import Tensor

TAILS = 3.0  # standard deviations over half the central 68 % interval, from which on tails rule the moments
ONE_SIGMA = (0.15865525393145707, 0.8413447460685429)


def spread(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Return centre and scale of each column of draws (N, d), both (d,), the scale positive.

    Mean and standard deviation, or where tails are so heavy that they rule these (a Cauchy law has neither), median and half
    the central 68 % interval, which are the same for a normal law. A column that does not vary has the scale of its value.

    Args:
        draws: finite, N at least 2.
    """
    values = draws.double()
    largest = values.abs().amax(0)
    unit = torch.where(largest > 0, largest, 1.0)  # squares would leave the range of floats
    values = values / unit
    mean, sd = values.mean(0), values.std(0)
    low, high = torch.quantile(values[: 2**20 // max(values.shape[1], 1) + 2], values.new_tensor(ONE_SIGMA), dim=0)
    middle, half = values.median(0).values, 0.5 * (high - low)
    heavy = (sd > TAILS * half) & (half > 0)
    centre, scale = torch.where(heavy, middle, mean), torch.where(heavy, half, sd)
    scale = torch.where(scale > 0, scale, torch.where(centre == 0, 1.0, centre.abs()))
    return (centre * unit).to(draws.dtype), (scale * unit).to(draws.dtype)
