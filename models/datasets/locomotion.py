"""Hip, knee and ankle angle over one stride of human walking: synthetic strides.

    angle_j(s) = offset_j + amplitude_j curve_j(s - phase_j) + detail_j(s),    s in [0, 1] of the stride

``curve_j`` is the mean curve of joint j without its mean, a Fourier series through ten points of the stride;
``detail_j`` a random Fourier series of 8 harmonics with standard deviations 0.02 k^(-3/2) rad. Every angle is
smooth and periodic. Flexion (ankle: dorsiflexion) is positive. The people differ in their speed:

    speed ~ LogNormal(log 1.2, 0.25) m/s     cadence = 112 (speed / 1.2)^(1/2) LogNormal(0, 0.04) steps/min
    stride_length = 120 speed / cadence m    step_width ~ LogNormal(log 0.1, 0.25) m    foot: 0 right, 1 left

    amplitude_j = (speed / 1.2)^(0.4, 0.1, 0.2)_j LogNormal(0, 0.1)    correlation 1/2 between the joints
    offset_j ~ mean_j + Normal(0, (0.1, 0.06, 0.06)_j) rad              correlation 1/2
    phase_j ~ Normal(-0.03 log(speed / 1.2), 0.012)                     correlation 1/2

The points of the mean curves are rounded by hand, in the course that textbooks draw for level walking (e.g.
J. Perry, J. Burnfield, Gait Analysis, 2010); the spreads are chosen here. Measured strides: ``gait_files``.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .partition import generators, normal, uniform
from .splits import Split, Splits

JOINTS = ("hip", "knee", "ankle")
POINTS, HARMONICS = 101, 8
COVARIATES = ("foot", "speed", "stride_length", "step_width", "cadence")
# degrees at 0, 10, ..., 90 % of the stride; a stride begins when the heel touches the ground
MEAN_CURVES = (
    (30.0, 25.0, 15.0, 4.0, -6.0, -10.0, -4.0, 15.0, 29.0, 33.0),
    (5.0, 16.0, 15.0, 8.0, 4.0, 11.0, 36.0, 60.0, 47.0, 14.0),
    (0.0, -4.0, 3.0, 7.0, 10.0, 7.0, -15.0, -9.0, -1.0, 1.0),
)
SOURCE = "simulated: Fourier series through textbook curves of level walking, with random amplitudes and phases"
_SPEED, _DEPENDENCE, _OFFSET = 1.2, (0.4, 0.1, 0.2), (0.1, 0.06, 0.06)


def stride_times() -> Tensor:
    """Return the 101 points of a stride, 0 to 1, float64."""
    return torch.linspace(0, 1, POINTS, dtype=torch.float64)


def series(coefficients: Tensor, s: Tensor) -> Tensor:
    """Return Re sum_k c_k exp(2 pi i k s), shape of ``s`` before broadcasting.

    Args:
        coefficients: complex, (..., K), of the harmonics 1 to K.
        s: (..., T), part of the stride.
    """
    k = torch.arange(1, coefficients.shape[-1] + 1, dtype=s.dtype, device=s.device)
    angle = 2 * math.pi * k * s[..., None]
    wave = torch.polar(torch.ones_like(angle), angle)
    return (coefficients[..., None, :] * wave).real.sum(-1)


def mean_coefficients() -> tuple[Tensor, Tensor]:
    """Return the mean, (3,), and the harmonics 1 to 5, complex (3, 5), of the mean curves, rad."""
    c = torch.fft.rfft(torch.tensor(MEAN_CURVES, dtype=torch.float64).deg2rad(), norm="forward")
    # a real series counts every harmonic twice but the mean and the last
    twice = torch.tensor([2.0, 2.0, 2.0, 2.0, 1.0], dtype=torch.float64)
    return c[:, 0].real, twice * c[:, 1:]


def generate(seed: int = 0, sizes: tuple[int, int, int] = (400, 100, 344)) -> Splits:
    """Return simulated strides, x (N, 101, 3) in rad, truths amplitude, offset, phase (N, 3), covariates as measured ones have."""
    splits = [_strides(n, generator) for n, generator in zip(sizes, generators(seed).values(), strict=True)]
    return Splits("locomotion", *splits, source=SOURCE, licence="none: made by this program", seed=seed)


def _strides(n: int, generator: torch.Generator) -> Split:
    relative = torch.exp(0.25 * normal((n,), generator))
    cadence = 112 * relative.sqrt() * torch.exp(0.04 * normal((n,), generator))
    covariates = {
        "foot": (uniform(0, 1, (n,), generator) < 0.5).double(),
        "speed": _SPEED * relative,
        "stride_length": 120 * _SPEED * relative / cadence,
        "step_width": 0.1 * torch.exp(0.25 * normal((n,), generator)),
        "cadence": cadence,
    }
    mean, harmonics = mean_coefficients()
    slow = relative.log()[:, None]
    truths = {
        "amplitude": torch.exp(mean.new_tensor(_DEPENDENCE) * slow + 0.1 * _correlated(n, generator)),
        "offset": mean + mean.new_tensor(_OFFSET) * _correlated(n, generator),
        "phase": -0.03 * slow + 0.012 * _correlated(n, generator),
    }
    decay = 0.02 * torch.arange(1, HARMONICS + 1, dtype=torch.float64) ** -1.5
    detail = decay * torch.complex(normal((n, 3, HARMONICS), generator), normal((n, 3, HARMONICS), generator))
    s = stride_times()
    curve = series(harmonics, s - truths["phase"][..., None])
    angles = truths["offset"][..., None] + truths["amplitude"][..., None] * curve + series(detail, s)
    return Split(angles.mT, s, truths, covariates).to(torch.float32)


def _correlated(n: int, generator: torch.Generator) -> Tensor:
    """Standard normal draws (n, 3), correlation 1/2 between the joints."""
    return math.sqrt(0.5) * (normal((n, 1), generator) + normal((n, 3), generator))


def resampled(angles: np.ndarray) -> np.ndarray:
    """Return angles (..., T) at 101 equidistant points, by cubic splines; 101 points stay as they are.

    Raises:
        ValueError: fewer than four points.
    """
    points = angles.shape[-1]
    if points == POINTS:
        return angles
    if points < 4:
        raise ValueError(f"got {points} points a stride, expected at least 4")
    from scipy.interpolate import CubicSpline

    return CubicSpline(np.linspace(0, 1, points), angles, axis=-1)(np.linspace(0, 1, POINTS))
