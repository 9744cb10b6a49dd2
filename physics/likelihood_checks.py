"""What a likelihood refuses."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from fractions import Fraction
from numbers import Real
from typing import Any

import pyro
import torch
from torch import Tensor

from ..core.require import floats, shown, stored, whole
from .model_error import ModelError

FAMILIES = ("normal", "lognormal", "student_t")


def _check(
    name: str,
    mean: Tensor,
    noise: float | Tensor,
    obs: Tensor | None,
    mask: Tensor | None,
    family: str,
    df: float | Tensor | None,
    event_dim: int,
) -> None:
    if not isinstance(name, str) or not name:
        raise TypeError(f"name: got {shown(name)}, expected the name of a site")
    site = f"site '{name}':"
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(f"{site} family: got {shown(family)}, expected one of {', '.join(FAMILIES)}")
    if (df is None) == (family == "student_t"):
        raise ValueError(f"{site} df: got {shown(df)} with family {family!r}, expected a number with student_t only")
    floats(f"{site} mean", mean)
    if not mean.numel():
        raise ValueError(f"{site} mean: got shape {tuple(mean.shape)}, expected at least one entry")
    if mean.dim() < whole(f"{site} event_dim", event_dim, 0):
        raise ValueError(f"{site} mean: got shape {tuple(mean.shape)}, expected at least {event_dim} event dimensions")
    hint = f"; a sampled scalar enters as noise[..., {', '.join(['None'] * event_dim)}]" if event_dim else ""
    _check_positive(site, "noise", noise, mean, event_dim, hint)
    if df is not None:
        _check_positive(site, "df", df, mean, event_dim)
    if obs is not None:
        floats(f"{site} obs", obs)
        _check_device(site, "obs", obs, mean)
        event = mean.shape[mean.dim() - event_dim :]
        if obs.dim() < event_dim or obs.shape[obs.dim() - event_dim :] != event:
            raise ValueError(f"{site} obs: got shape {tuple(obs.shape)}, expected (..., {', '.join(map(str, event))})")
        _check_broadcast(site, "obs", obs.shape, mean.shape, event_dim)
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or not stored(mask):
            raise TypeError(f"{site} mask: got {shown(mask)}, expected a boolean tensor, True where observed")
        _check_device(site, "mask", mask, mean)
        _check_broadcast(site, "mask", mask.shape, mean.shape if obs is None else obs.shape, event_dim)
    if pyro.settings.get("validate_distributions_pyro"):
        _check_data(site, {"noise": noise, "df": df}, obs, mask, family)


def _check_error(name: str, mean: Tensor, error: ModelError, family: str, event_dim: int) -> None:
    if not isinstance(error, ModelError):
        raise TypeError(f"site '{name}': error: got {shown(error)}, expected a ModelError, e.g. from error_covariance")
    if family != "normal" or event_dim != 1:
        raise ValueError(f"site '{name}': error: got family {family!r}, event_dim {event_dim}, expected 'normal' and 1")
    if mean.shape[-1:] != error.mean.shape:
        raise ValueError(
            f"site '{name}': error: got {len(error.mean)} sensors, expected {mean.shape[-1]} as in the mean"
        )


def _check_positive(
    site: str, argument: str, value: float | Tensor, mean: Tensor, event_dim: int, hint: str = ""
) -> None:
    if isinstance(value, Tensor):
        floats(f"{site} {argument}", value)
        _check_device(site, argument, value, mean)
        if not value.numel():
            raise ValueError(f"{site} {argument}: got shape {tuple(value.shape)}, expected positive numbers")
        _check_broadcast(site, argument, value.shape, mean.shape, event_dim, hint)
    elif isinstance(value, bool | Fraction) or not isinstance(value, Real):
        raise TypeError(f"{site} {argument}: got {shown(value)}, expected a positive number or a tensor of them")
    elif not 0 < value <= sys.float_info.max:
        raise ValueError(f"{site} {argument}: got {shown(value)}, expected a positive number")


def _check_device(site: str, argument: str, value: Tensor, mean: Tensor) -> None:
    if value.device != mean.device:
        raise TypeError(f"{site} {argument}: got a tensor on {value.device}, expected {mean.device}, where the mean is")


def _check_data(site: str, scales: Mapping[str, Any], obs: Tensor | None, mask: Tensor | None, family: str) -> None:
    for argument, value in scales.items():
        if isinstance(value, Tensor) and not bool(((value > 0) & (value < math.inf)).all()):
            low, high = float(value.min()), float(value.max())
            worst = f"{low:.6g} as its smallest" if low <= 0 else f"{high:.6g} as its largest"
            raise ValueError(f"{site} {argument}: got {worst} entry, expected positive numbers")
    if obs is None:
        return
    seen = obs if mask is None else torch.where(mask, obs, 1.0)
    if not bool(torch.isfinite(seen).all()):
        raise ValueError(f"{site} obs: got a non-finite entry, expected finite numbers; mask what is missing")
    if family == "lognormal" and not bool((seen > 0).all()):
        raise ValueError(f"{site} obs: got {float(seen.min()):.6g}, expected positive numbers for family lognormal")


def _check_broadcast(
    site: str, argument: str, got: torch.Size, expected: torch.Size, event_dim: int, hint: str = ""
) -> None:
    if got == expected:
        return
    # Outer batches may stand on either side, event dimensions may not grow.
    for place, (mine, other) in enumerate(zip(reversed(got), reversed(expected), strict=False)):
        if mine not in (1, other) and (other != 1 or place < event_dim):
            raise ValueError(
                f"{site} {argument}: got shape {tuple(got)}, expected to broadcast to {tuple(expected)}{hint}"
            )
