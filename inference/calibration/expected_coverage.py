"""TARP: a calibration test of the joint posterior by distances to random points."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..arrays import numbers
from .sbc import Array, generator, pit


def tarp(truths: ArrayLike, draws: ArrayLike, rng: np.random.Generator) -> Array:
    """Return the relative rank of the truth's distance to a random point among the draws' distances.

        f_i = P_s( |z_s - r_i| < |z*_i - r_i| ),   r_i ~ Uniform(box of the truths)

    Coordinates are scaled to the unit box of the truths. If the draws follow p(z | y), f is uniform, so that
    its empirical CDF is the expected coverage of the balls around r through the truth.

    Args:
        truths: (N, d).
        draws: (L, N, d).
        rng: generator of the reference points and of the jitter.

    Returns:
        f (N,), jittered as any PIT.

    Raises:
        ValueError: the shapes do not fit.

    Source: Lemos, Coogan, Hezaveh, Perreault-Levasseur, arXiv:2302.03026 (normalised).
    """
    at_truth, at_draws = numbers("truths", truths), numbers("draws", draws)
    generator(rng)
    if at_truth.ndim != 2 or 0 in at_truth.shape or at_draws.ndim != 3 or at_draws.shape[1:] != at_truth.shape:
        raise ValueError(
            f"truths, draws: got shapes {at_truth.shape} and {at_draws.shape}, expected (N, d) and (L, N, d)"
        )
    low, high = at_truth.min(0), at_truth.max(0)
    scale = np.where(high > low, high - low, 1.0)
    reference = rng.uniform(size=at_truth.shape)
    truth_distance = np.linalg.norm((at_truth - low) / scale - reference, axis=-1)
    draw_distance = np.empty(at_draws.shape[:2])
    for index, draw in enumerate(at_draws):
        draw_distance[index] = np.linalg.norm((draw - low) / scale - reference, axis=-1)
    return pit(truth_distance, draw_distance, rng)
