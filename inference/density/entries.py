"""The entries of an observed site: the log density of each, and which of them are seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ...core.arguments import MASK, Data


@dataclass(frozen=True)
class Pointwise:
    """Log density of an observed site per entry of the data, and which entries count."""

    log_prob: Tensor
    seen: Tensor


def pointwise(site: Mapping[str, Any]) -> Pointwise:
    """Return log p(y_i | z) of each entry of an observed site of a trace.

    The event dimensions that ``to_event`` declared are opened again; a distribution whose entries are truly
    dependent (a multivariate normal) stays one entry. Masked entries have log density 0 and are marked as
    not seen.
    """
    distribution, opened = site["fn"], 0
    while type(distribution).__name__ == "Independent":
        opened += distribution.reinterpreted_batch_ndims
        distribution = distribution.base_dist
    log_prob = distribution.log_prob(site["value"])
    seen = torch.ones_like(log_prob, dtype=torch.bool)
    mask = getattr(distribution, "_mask", None)
    if mask is not None:
        seen = seen & torch.as_tensor(mask, device=seen.device)
    if site["mask"] is not None:
        outer = torch.as_tensor(site["mask"], device=seen.device)
        outer = outer.reshape(outer.shape + (1,) * opened) if outer.ndim else outer
        log_prob, seen = scale_and_mask(log_prob, mask=outer), seen & outer
    return Pointwise(log_prob, seen)


def entrywise(site: Mapping[str, Any], rejected: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """Return log p(y_i | z_s), (S, *entries); -inf for all entries of a draw without a solution."""
    log_prob = pointwise(site).log_prob.reshape(shape)
    return log_prob if rejected is None else log_prob + rejected.reshape(-1, *(1,) * (len(shape) - 1))


def as_given(name: str, site: Mapping[str, Any], data: Data) -> Tensor:
    """Return the data of a site as they were given, NaN where the mask hides them; ``observe`` keeps other numbers there."""
    value, mask = data.get(name), data.get(MASK)
    if not isinstance(value, Tensor) or value.shape != site["value"].shape:
        return site["value"]
    if not isinstance(mask, Tensor) or not value.is_floating_point():
        return value
    return torch.where(mask, value, torch.nan)


def seen_by_any(site: Mapping[str, Any], shape: tuple[int, ...]) -> Tensor:
    """Return which entries count for any of the draws, of shape (S, *entries); a draw without a solution hides all of its own."""
    return pointwise(site).seen.reshape(shape).any(0)


def picked(values: np.ndarray, entries: tuple[int, ...], rows: np.ndarray, leading: int) -> np.ndarray:
    """Return the entries with given numbers, (*leading, rows, *rest), of values (*leading, *entries, *rest)."""
    shape = values.shape
    flat = values.reshape(*shape[:leading], int(np.prod(entries, dtype=int)), *shape[leading + len(entries) :])
    return flat.take(rows, axis=leading)
