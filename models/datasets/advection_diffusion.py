"""Advection and diffusion of heat on a line, of which a model may know the diffusion alone.

    T_t = a T_xx - b T_x,    T(0, x) = c sin(pi x / L),    x = 0, 0.1, ..., L = 1.9,    zero outside
    x_t = T(t) + Normal(0, 0.001),    t = 0, 0.02, ..., 0.98

    a ~ U(0.01, 0.1)     b ~ U(0.01, 0.1)     c ~ U(0.5, 1.5)

Discretisation: second-order central differences on the 20 points, and the value 0 at one further point on each
side. So the end points are unknowns as well, and heat leaves through both ends. The data are *defined* by
this system of 20 linear equations, as the published ones are: a model on the same grid can be exact, and its
errors are errors of inference. The cell Peclet number b dx / (2 a) is at most 1/2, so temperatures stay
positive. The system is linear, dT/dt = M T, and is solved exactly: T(t + dt) = exp(M dt) T(t).

Source: N. Takeishi, A. Kalousis, Physics-integrated variational autoencoders, NeurIPS 2021, arXiv:2102.13156.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .partition import generators, normal, uniform
from .splits import Split, Splits

RANGES = {"a": (0.01, 0.1), "b": (0.01, 0.1), "c": (0.5, 1.5)}
POINTS, SPACING, FRAMES, STEP, NOISE = 20, 0.1, 50, 0.02, 0.001
SOURCE = "simulated: advection-diffusion as in Takeishi and Kalousis (2021), arXiv:2102.13156"


def generator_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Return M of dT/dt = M T, shape (..., 20, 20): a second minus b first central differences, zero outside."""
    ones = a.new_ones(POINTS - 1)
    above, below = torch.diag(ones, 1), torch.diag(ones, -1)
    second = (above + below - 2 * torch.eye(POINTS, dtype=a.dtype, device=a.device)) / SPACING**2
    first = (above - below) / (2 * SPACING)
    return a[..., None, None] * second - b[..., None, None] * first


def initial_temperature(c: Tensor) -> Tensor:
    """Return c sin(pi x / L) on the grid, shape (..., 20)."""
    x = torch.arange(POINTS, dtype=c.dtype, device=c.device) / (POINTS - 1)
    return c[..., None] * torch.sin(math.pi * x)


def trajectories(truths: Mapping[str, Tensor], frames: int = FRAMES) -> Tensor:
    """Return the temperatures without noise at the first ``frames`` frames, (N, frames, 20), float64.

    Also the truth to hold extrapolations against: the frames go on as far as asked for.

    Args:
        truths: a, b, c, each (N,).
        frames: how many, 0.02 apart.

    Raises:
        ValueError: there is no frame.
    """
    if frames < 1:
        raise ValueError(f"frames: got {frames}, expected at least 1")
    a, b, c = (truths[name].double() for name in ("a", "b", "c"))
    propagator = torch.linalg.matrix_exp(STEP * generator_matrix(a, b))
    states = [initial_temperature(c)]
    for _ in range(frames - 1):
        states.append((propagator @ states[-1][..., None])[..., 0])
    return torch.stack(states, -2)


def frame_times(frames: int) -> Tensor:
    """Return 0, 0.02, ..., shape (frames,), float64."""
    return STEP * torch.arange(frames, dtype=torch.float64)


def generate(seed: int = 0, sizes: tuple[int, int, int] = (1000, 500, 1000)) -> Splits:
    """Return simulated splits, x (N, 50, 20), truths a, b, c, each (N,)."""
    splits = []
    for size, generator in zip(sizes, generators(seed).values(), strict=True):
        truths = {name: uniform(low, high, (size,), generator) for name, (low, high) in RANGES.items()}
        clean = trajectories(truths)
        x = clean + NOISE * normal(clean.shape, generator)
        splits.append(Split(x, frame_times(FRAMES), truths).to(torch.float32))
    return Splits("advection_diffusion", *splits, source=SOURCE, licence="none: made by this program", seed=seed)
