"""How far posterior draws of one site are from its true values, an angle's the short way round."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..calibration.result import LEVELS


def wrapped(angle: Tensor, period: float | None) -> Tensor:
    """Return the representative of an angle in [-period / 2, period / 2)."""
    return angle if period is None else (angle + 0.5 * period).remainder(period) - 0.5 * period


def summary(sample: Tensor, truth: Tensor, period: float | None) -> tuple[Tensor, Tensor]:
    """Return the posterior mean, (N, *site), and the share of draws under the truth, ties by half.

    Raises:
        ValueError: the truth has another shape than the site.
    """
    if sample.shape[1:] != truth.shape:
        raise ValueError(
            f"truths: got shape {tuple(truth.shape)}, expected {tuple(sample.shape[1:])} as the guide's site"
        )
    mean = sample.mean(0)
    if period is not None:
        turn = 2.0 * math.pi / period
        mean = torch.atan2((turn * sample).sin().mean(0), (turn * sample).cos().mean(0)) / turn
    centred, target = wrapped(sample - mean, period), wrapped(truth - mean, period)
    rank = ((centred < target).double() + 0.5 * (centred == target).double()).mean(0)
    return mean, rank


def error(mean: Tensor, truth: Tensor, period: float | None) -> float:
    """Return the mean absolute error."""
    return float(wrapped(mean - truth, period).abs().mean())


def coverage(rank: Tensor) -> dict[float, float]:
    """Return level -> share of truths inside the central interval, from the shares of ``summary``."""
    return {level: float(((rank - 0.5).abs() <= 0.5 * level).double().mean()) for level in LEVELS}


def correlation(mean: Tensor, truth: Tensor) -> float:
    """Return Pearson's correlation over data sets, the mean over the components of a vector."""
    a, b = (part.double().reshape(len(part), -1) for part in (mean, truth))
    a, b = a - a.mean(0), b - b.mean(0)
    scale = (a.square().sum(0) * b.square().sum(0)).sqrt()
    return float(((a * b).sum(0) / scale).mean())
