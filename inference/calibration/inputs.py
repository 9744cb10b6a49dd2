"""What a calibration takes, as arrays of shapes that fit, or refused in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ...core.require import named, shown
from ..arrays import Array, as_given, numbers
from ..density.latents import scalar_names


def further_of(quantities: Any, names: list[str]) -> Mapping[str, Any]:
    """Return further test quantities by name, which no other may have."""
    if quantities is None:
        return {}
    named("quantities", quantities)
    taken = [name for name in quantities if name in (*names, "log_likelihood", "log_joint", "log_q", "tarp")]
    if taken:
        raise ValueError(f"quantities: got '{taken[0]}', expected names of their own")
    return quantities


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{name}: got {shown(value)}, expected a pair (at the truth, at the draws)")
    return value[0], value[1]


def density(name: str, value: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Return log densities at the truth (N,), or None, and at the draws (L, N), in their own precision; NaN as -inf."""
    parts = _pair(name, value)
    found = tuple(None if part is None else as_given(name, part) for part in parts)
    if found[1] is None or found[1].shape != shape or (found[0] is not None and found[0].shape != shape[1:]):
        got = tuple(None if part is None else part.shape for part in found)
        raise ValueError(f"{name}: got shapes {got}, expected ({shape[1]},) and {tuple(shape)}")
    return tuple(None if part is None else np.where(np.isnan(part), -np.inf, part).astype(part.dtype) for part in found)  # type: ignore[return-value]


def quantity(name: str, value: Any, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return a test quantity at the truth (N,) and at the draws (L, N)."""
    argument = f"quantities['{name}']"
    truth, drawn = (numbers(argument, part) for part in _pair(argument, value))
    if drawn.shape != shape or truth.shape != shape[1:]:
        raise ValueError(
            f"{argument}: got shapes {truth.shape} and {drawn.shape}, expected ({shape[1]},) and {tuple(shape)}"
        )
    return truth, drawn


def free(value: Any, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return truths (N, d) and draws (L, N, d) in unconstrained space."""
    truth, drawn = (numbers("unconstrained", part) for part in _pair("unconstrained", value))
    if truth.ndim != 2 or drawn.shape != (shape[0], *truth.shape) or len(truth) != shape[1] or not truth.shape[1]:
        raise ValueError(
            f"unconstrained: got shapes {truth.shape} and {drawn.shape}, expected ({shape[1]}, d) and {(*shape, 'd')}"
        )
    return truth, drawn


def flattened(truths: Mapping[str, ArrayLike], draws: Mapping[str, ArrayLike]) -> tuple[Array, Array, list[str]]:
    """Return truths (N, d), draws (L, N, d) and the names of their scalars."""
    named("truths", truths)
    named("draws", draws)
    if set(truths) != set(draws) or not truths:
        raise ValueError(f"draws: got latents {sorted(draws)}, expected those of truths, {sorted(truths)}")
    at_truth = {name: numbers(f"truths['{name}']", value) for name, value in truths.items()}
    at_draws = {name: numbers(f"draws['{name}']", draws[name]) for name in truths}
    sizes = {name: value.shape[:2] for name, value in at_draws.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"draws: got draws and data sets {shown(sizes)}, expected as many of each latent")
    for name, value in at_draws.items():
        if value.ndim < 2 or not value.shape[0] or value.shape[1:] != at_truth[name].shape or not value[0, 0:1].size:
            raise ValueError(f"draws['{name}']: got shape {value.shape}, expected (L, *{at_truth[name].shape})")
        if value.shape[1] < 2:
            raise ValueError(f"truths['{name}']: got {value.shape[1]} data sets, expected at least 2")
    names = scalar_names({name: value.shape[1:] for name, value in at_truth.items()})
    flat_truths = np.concatenate([value.reshape(len(value), -1) for value in at_truth.values()], -1)
    flat_draws = np.concatenate([value.reshape(*value.shape[:2], -1) for value in at_draws.values()], -1)
    return flat_truths, flat_draws, names
