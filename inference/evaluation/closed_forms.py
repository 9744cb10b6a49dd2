"""Baselines that need no training loop: the mean of the training data, and principal components of a code size.

Whatever is learnt has to beat these. Source of the second: Jolliffe, Principal Component Analysis (2002).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.require import shown, whole
from .reconstruction import Evaluation


def training_mean(train: Tensor, test: Tensor) -> Evaluation:
    """Return how well the mean of the training data (N, *event) reconstructs the test data (M, *event), code size 0.

    Raises:
        ValueError: they are of different events.
    """
    train, test = _flat(train, test)
    return _judged(train.mean(0).expand_as(test), test)


def principal_components(train: Tensor, test: Tensor, code: int) -> Evaluation:
    """Return how well the best linear code of a given size reconstructs the test data.

        x' = m + V V' (x - m),    m, V the mean and the first right singular vectors of the centred training data

    Args:
        train: (N, *event).
        test: (M, *event).
        code: number of components.

    Raises:
        ValueError: different events, or more components than N - 1 or than an event has entries.
    """
    train, test = _flat(train, test)
    whole("code", code, 1, min(len(train) - 1, train.shape[1]))
    mean = train.mean(0)
    basis = torch.linalg.svd(train - mean, full_matrices=False)[2][:code]
    return _judged(mean + (test - mean) @ basis.T @ basis, test)


def _flat(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    for name, value in (("train", train), ("test", test)):
        if (
            not isinstance(value, Tensor)
            or value.is_complex()
            or value.is_meta
            or value.layout != torch.strided
            or value.ndim < 2
            or not bool(torch.isfinite(value).all())
        ):
            raise TypeError(f"{name}: got {shown(value)}, expected a tensor of finite real numbers (N, *event)")
    if train.shape[1:] != test.shape[1:] or not len(train) or not len(test):
        got = (tuple(train.shape), tuple(test.shape))
        raise ValueError(f"train, test: got shapes {got[0]} and {got[1]}, expected the same (N, *event) but for N")
    return train.flatten(1).double(), test.flatten(1).double()


def _judged(reconstruction: Tensor, x: Tensor) -> Evaluation:
    gap = reconstruction - x
    mae = float(gap.abs().mean())
    return Evaluation(mae, float(gap.square().sum(1).mean()), decomposition={"full": mae})
