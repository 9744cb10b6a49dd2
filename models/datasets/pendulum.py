"""Forced damped pendulum, of which a model may know the frictionless, unforced part alone.

    theta'' + gamma theta' + omega^2 sin theta = A omega^2 cos(2 pi f t),    theta(0) = theta0,  theta'(0) = 0
    x_t = theta(t) + Normal(0, 0.01),    t = 0, 0.05, ..., 2.45

    theta0 ~ U(-1.57, 1.57) rad     omega ~ U(0.785, 3.14) 1/s     gamma ~ U(0, 0.8) 1/s
    f      ~ U(3.14, 6.28) Hz       A     ~ U(0, 40)

Source: N. Takeishi, A. Kalousis, Physics-integrated variational autoencoders, NeurIPS 2021, arXiv:2102.13156.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ...physics import ODEProblem
from .partition import generators, normal, uniform
from .splits import Split, Splits

RANGES = {
    "omega": (0.785, 3.14),
    "gamma": (0.0, 0.8),
    "f": (3.14, 6.28),
    "A": (0.0, 40.0),
    "theta0": (-1.57, 1.57),
}
FRAMES, STEP, NOISE = 50, 0.05, 0.01
FACTORS = (0.2, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0)
SOURCE = "simulated: forced damped pendulum as in Takeishi and Kalousis (2021), arXiv:2102.13156"


def forced_damped(t: Tensor, state: Tensor, z: Mapping[str, Tensor]) -> Tensor:
    """Return d(theta, theta')/dt for a state of shape (..., 2)."""
    theta, velocity = state.unbind(-1)
    stiffness = z["omega"] ** 2
    forcing = z["A"] * stiffness * torch.cos(2 * math.pi * z["f"] * t)
    return torch.stack([velocity, forcing - z["gamma"] * velocity - stiffness * torch.sin(theta)], -1)


def trajectories(truths: Mapping[str, Tensor], times: Tensor | None = None, tolerance: float = 1e-10) -> Tensor:
    """Return (theta, theta') without noise, shape (N, T, 2), float64, rad and rad/s.

    Args:
        truths: omega, gamma, f, A, theta0, each (N,).
        times: (T,) in s from 0 on; None takes the 50 frames.
        tolerance: of the solver. It chooses its step by the mean over all sequences, so a single one is off by more.
    """
    z = {name: truths[name].double() for name in ("omega", "gamma", "f", "A")}
    theta0 = truths["theta0"].double()
    z["initial_state"] = torch.stack([theta0, torch.zeros_like(theta0)], -1)
    times = frame_times(FRAMES) if times is None else times.double()
    # steps of a whole frame escape the error estimate of dopri8 (7e-6 at a tolerance of 1e-10): no step over a third
    thirds = torch.arange(3, dtype=torch.float64) / 3
    knots = torch.cat([(times[:-1, None] + times.diff()[:, None] * thirds).reshape(-1), times[-1:]])
    problem = ODEProblem(forced_damped, knots, t0=0.0, method="dopri8", rtol=tolerance, atol=tolerance)
    return problem.solve(z)[:, ::3]


def frame_times(frames: int) -> Tensor:
    """Return 0, 0.05, ..., shape (frames,), float64, s."""
    return STEP * torch.arange(frames, dtype=torch.float64)


def counterfactual(truths: Mapping[str, Tensor], factor: float) -> Tensor:
    """Return theta without noise, (N, T, 1), of the same pendulums with omega times ``factor``.

    All else stays: theta0, gamma, f and A. The forcing A omega^2 cos(2 pi f t) changes with omega, as the
    equation says. ``FACTORS`` are those of the published figure.

    Raises:
        ValueError: the factor is not positive.
    """
    if not 0 < factor < math.inf:
        raise ValueError(f"factor: got {factor}, expected a positive number")
    return trajectories({**truths, "omega": factor * truths["omega"].double()})[..., :1]


def generate(seed: int = 0, sizes: tuple[int, int, int] = (1000, 500, 1000)) -> Splits:
    """Return simulated splits, x (N, 50, 1) in rad, truths omega, gamma, f, A, theta0, each (N,)."""
    splits = []
    for size, generator in zip(sizes, generators(seed).values(), strict=True):
        truths = {name: uniform(low, high, (size,), generator) for name, (low, high) in RANGES.items()}
        theta = trajectories(truths)[..., :1]
        x = theta + NOISE * normal(theta.shape, generator)
        splits.append(Split(x, frame_times(FRAMES), truths).to(torch.float32))
    return Splits("pendulum", *splits, source=SOURCE, licence="none: made by this program", seed=seed)
