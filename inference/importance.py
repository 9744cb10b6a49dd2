"""Importance weights of a guide's draws and how far to trust them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_EQUAL = 1e-6  # log weights closer than this are equal but for rounding


def smoothed(log_p: ArrayLike, log_q: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Pareto-smoothed normalised log weights and k-hat of draws from a guide.

        w_s ~ p(z_s, y) / q(z_s | y);   k-hat: shape of the Pareto law fitted to the largest weights

    k-hat < 0.5 good, < 0.7 usable, above: the weights are dominated by a few draws. Equal weights (the guide
    is the posterior) have k-hat 0 by convention; a column without any finite log p has infinite k-hat.

    Args:
        log_p: joint log density at the draws, (S, ...).
        log_q: guide log density at the draws, (S, ...).

    Returns:
        log weights (S, ...), summing to one over the first dimension, and k-hat (...).

    Raises:
        ValueError: the shapes differ, or there are fewer than 25 draws.

    Source: Vehtari et al., arXiv:1507.02646; Yao et al., arXiv:1802.02538.
    """
    from arviz_stats.base.array import array_stats

    target, proposal = np.asarray(log_p, float), np.asarray(log_q, float)
    if target.shape != proposal.shape or target.ndim < 1 or len(target) < 25:
        raise ValueError(
            f"log_p, log_q: got shapes {target.shape} and {proposal.shape}, expected equal (S, ...), S >= 25"
        )
    ratio = np.nan_to_num(target - proposal, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    largest = ratio.max(0)
    usable = np.isfinite(largest)
    # a rejected draw has weight zero; a large finite gap keeps the Pareto fit finite
    ratio = np.maximum(np.where(usable, ratio - np.where(usable, largest, 0.0), 0.0), -1e3)
    columns = ratio.reshape(len(ratio), -1)
    log_weights, shape = np.empty_like(columns), np.zeros(columns.shape[1])
    for index, column in enumerate(columns.T):
        if column.max() - column.min() < _EQUAL:
            log_weights[:, index] = -np.log(len(column))
        else:
            # psislw expects log-likelihoods and turns the sign of what it gets
            with np.errstate(over="ignore"):
                smooth, shape[index] = array_stats.psislw(-column)
            log_weights[:, index] = smooth - np.logaddexp.reduce(smooth)
    shape[np.isnan(shape)] = np.inf  # the Pareto fit fails where one draw carries all the weight
    return log_weights.reshape(ratio.shape), np.where(usable, shape.reshape(ratio.shape[1:]), np.inf)


def k_hat(log_p: ArrayLike, log_q: ArrayLike) -> NDArray[np.float64]:
    """Return the Pareto k-hat of each column of draws, shape (...) for densities of shape (S, ...); see
    ``smoothed``."""
    return smoothed(log_p, log_q)[1]
