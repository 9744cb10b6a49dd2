"""Seeds, and ways to part one set of data into training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from .splits import PARTS, Split

Parts = tuple[Split, Split, Split]


def generators(seed: int) -> dict[str, torch.Generator]:
    """Return one generator for each split, so that the size of one leaves the others as they are.

    Raises:
        ValueError: the seed is not a whole number from 0 to 2^31 - 1.
    """
    seed = _whole(seed)
    return {part: torch.Generator().manual_seed(len(PARTS) * seed + k) for k, part in enumerate(PARTS)}


def uniform(low: float, high: float, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return float64 draws from U(low, high) that float32 holds exactly: what is stored is what was simulated."""
    draws = low + (high - low) * torch.rand(tuple(shape), generator=generator, dtype=torch.float64)
    return draws.float().clamp(low, high).double()


def normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return float64 draws from N(0, 1)."""
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)


def partition(split: Split, train: int, valid: int, seed: int) -> Parts:
    """Part by data set, at random: ``train``, ``valid``, and the rest for the test.

    Raises:
        ValueError: nothing is left for one of the three.
    """
    if train < 1 or valid < 1 or train + valid >= len(split):
        raise ValueError(f"train, valid: got {train}, {valid}, expected positive numbers with a sum under {len(split)}")
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(_whole(seed)))
    return split.rows(order[:train]), split.rows(order[train : train + valid]), split.rows(order[train + valid :])


def hold_out(
    split: Split,
    covariate: str,
    seed: int,
    bands: Sequence[tuple[float, float]] = ((0.0, 0.15), (0.85, 1.0)),
    valid: float = 0.2,
) -> Parts:
    """Part by a covariate: the test holds whole quantile bands of it, none of which is seen in training.

    Args:
        split: everything.
        covariate: its name, e.g. "speed", or "subject" for people who are in no other split.
        seed: of the draw that parts training and validation.
        bands: from which quantile to which, ends included.
        valid: share of the other data sets that go to the validation.

    Raises:
        ValueError: there is no such covariate, a band is none, or nothing is left for one of the three.
    """
    if covariate not in split.covariates:
        known = ", ".join(split.covariates) or "none"
        raise ValueError(f"covariate: got '{covariate}', expected one of those there are: {known}")
    if not bands or not all(0 <= low < high <= 1 for low, high in bands):
        raise ValueError(f"bands: got {tuple(bands)}, expected pairs 0 <= low < high <= 1")
    if not 0 < valid < 1:
        raise ValueError(f"valid: got {valid}, expected a share between 0 and 1")
    values = split.covariates[covariate].double()
    outside = torch.zeros(len(split), dtype=torch.bool)
    for low, high in bands:
        outside |= (values >= values.quantile(low)) & (values <= values.quantile(high))
    test, rest = outside.nonzero().squeeze(-1), (~outside).nonzero().squeeze(-1)
    rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(_whole(seed)))]
    chosen = round(valid * len(rest))
    if not len(test) or not 0 < chosen < len(rest):
        raise ValueError(
            f"bands: got {tuple(bands)} of {covariate}, which leave {len(rest) - chosen} for training, {chosen} for "
            f"validation and {len(test)} for the test, expected some for each"
        )
    return split.rows(rest[chosen:]), split.rows(rest[:chosen]), split.rows(test)


def _whole(seed: int) -> int:
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= seed < 2**31:
        raise ValueError(f"seed: got {seed!r}, expected a whole number from 0 to {2**31 - 1}")
    return int(seed)
