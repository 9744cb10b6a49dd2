"""When a number stops being finite: find the site and the sample that it came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ..guides.sites import plated
from .objectives import Batch


class NonFiniteError(FloatingPointError):
    """A fit met a value or a density that is not finite; the message names the site and the sample."""


def diagnose(model: Callable[..., Any], guide: Callable[..., Any], batch: Batch, particles: int = 1) -> str:
    """Say in one clause where the first non-finite number of a step stands.

    The data are looked at first, then the guide's draws in the order of its sites, then the model's densities.
    """
    for name, value in batch.data.items():
        where = _first(value, missing=_missing(batch.data, value))
        if where is not None:
            return f"argument '{name}' holds {_number(value, where)} at {_index(where, batch.datasets, data=True)}"
    size = None if particles == 1 else particles
    with torch.no_grad():
        guide_trace = poutine.trace(plated(guide, batch.nesting, size, batch.datasets)).get_trace(**batch.data)
        for name, site in _samples(guide_trace):
            where = _first(site["value"])
            if where is not None:
                return f"guide site '{name}' drew {_number(site['value'], where)} at {_index(where, batch.datasets)}"
        replayed = poutine.replay(plated(model, batch.nesting, size, batch.datasets), trace=guide_trace)
        model_trace = poutine.trace(replayed).get_trace(**batch.data)
    for kind, trace in (("guide", guide_trace), ("model", model_trace)):
        for name, site in _samples(trace):
            log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
            where = _first(log_prob)
            if where is not None:
                at = _index(where, batch.datasets)
                drawn = _latent_values(model_trace, where)
                return f"{kind} site '{name}' has log density {_number(log_prob, where)} at {at}{drawn}"
    return "every density is finite and only a gradient is not: look for a square root or a logarithm at zero in the model"


def _samples(trace: poutine.Trace) -> list[tuple[str, Any]]:
    return [(n, s) for n, s in trace.nodes.items() if s["type"] == "sample" and not poutine.util.site_is_subsample(s)]


def _missing(data: Any, value: Any) -> Any:
    mask = data.get("mask")
    if isinstance(mask, Tensor) and isinstance(value, Tensor) and mask is not value:
        try:
            return ~mask.to(torch.bool).expand(value.shape)
        except RuntimeError:
            return None
    return None


def _first(value: Any, missing: Any = None) -> tuple[int, ...] | None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    bad = ~torch.isfinite(value)
    if missing is not None:
        bad = bad & ~missing
    return tuple(torch.nonzero(bad)[0].tolist()) if bad.any() else None


def _number(value: Tensor, where: tuple[int, ...]) -> str:
    return str(value[where].item())


def _index(where: tuple[int, ...], datasets: int | None, data: bool = False) -> str:
    if not where:
        return "its only sample"
    return ("entry " if data else "sample ") + (f"{where[0]}" if len(where) == 1 else f"{where}")


def _latent_values(trace: poutine.Trace, where: tuple[int, ...]) -> str:
    """Name the unknowns of the offending sample, as far as the leading index reaches them."""
    named = []
    for name, site in _samples(trace):
        batch = site["fn"].batch_shape
        if site["is_observed"] or len(batch) != len(where) or any(i >= n for i, n in zip(where, batch, strict=True)):
            continue
        numbers = site["value"][where].flatten()[:4].tolist()
        more = ", ..." if site["value"][where].numel() > 4 else ""
        named.append(f"{name} = {', '.join(f'{x:.4g}' for x in numbers)}{more}")
    return f" ({'; '.join(named)})" if named else ""
