"""When a number stops being finite: find the site and the sample that it came from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ...core.plates import plated
from ...core.traces import log_prob_of, samples, trace_of
from ..density.rejected import NonFiniteError as NonFiniteError
from ..density.rejected import rejected
from ..objectives.standard import Batch

NOTHING_FOUND = (
    "every density is finite and only a gradient is not: look for a square root or a logarithm at zero in the model"
)
FAR_OUT = "where the guide went too far out, lower learning_rate, or pass over such steps by max_skipped="


def diagnose(model: Callable[..., Any], guide: Callable[..., Any], batch: Batch, particles: int = 1) -> str:
    """Say in one clause where the first non-finite number of a step stands.

    The data are looked at first, then the guide's draws in the order of its sites, then the model's densities.
    """
    for name, value in batch.data.items():
        where = _first(value, missing=_missing(batch.data, value))
        if where is not None:
            return f"argument '{name}' holds {_number(value, where)} at {_entry(where, batch.datasets)}"
    size = None if particles == 1 else particles
    with torch.no_grad():
        guide_trace = trace_of(plated(guide, batch.nesting, size, batch.datasets), batch.data)
        for name, site in samples(guide_trace):
            where = _first(site["value"])
            if where is not None:
                at = _place(where[: site["value"].ndim - len(site["fn"].event_shape)], batch)
                return f"guide site '{name}' drew {_number(site['value'], where)} at {at}; {FAR_OUT}"
        replayed = poutine.replay(plated(model, batch.nesting, size, batch.datasets), trace=guide_trace)
        model_trace = trace_of(replayed, batch.data)
    outer = tuple(n for n in (size, batch.datasets) if n is not None)
    gone = rejected((model_trace, guide_trace), batch.nesting, outer)
    for kind, trace in (("guide", guide_trace), ("model", model_trace)):
        for name, site in samples(trace):
            log_prob = log_prob_of(site)
            where = _first(log_prob, missing=_draws_like(gone, log_prob))
            if where is not None:
                drawn, number = _latent_values(model_trace, where), _number(log_prob, where)
                advice = f"; {FAR_OUT}" if kind == "model" and number == "-inf" else ""
                return f"{kind} site '{name}' has log density {number} at {_place(where, batch)}{drawn}{advice}"
    return NOTHING_FOUND


def sound(losses: Sequence[float]) -> bool:
    """Whether a fit is not far above where it began: further than ten times what it gained and its first losses scatter.

    Levels are medians, of 5 to 20 losses, so that single draws do not decide. Fewer than 15 losses do not show their scatter;
    there a thousandfold rise decides.
    """
    values = torch.tensor([loss for loss in losses if math.isfinite(loss)], dtype=torch.float64)
    if len(values) < 15:
        return not len(values) or bool(values[-1] <= values[0] + 1e3 * (1 + values[0].abs()))
    size = min(20, len(values) // 3)
    blocks = values[: len(values) // size * size].reshape(-1, size)
    levels = blocks.median(1).values
    scatter = (blocks[0] - levels[0]).abs().median()
    first, last = levels[0], values[-size:].median()
    return bool(last <= first + 10 * (first - levels.min()) + 10 * scatter)


def _draws_like(gone: Tensor | None, log_prob: Tensor) -> Tensor | None:
    """Which entries of a log density belong to rejected draws: these are left out, not wrong."""
    if gone is None or log_prob.ndim < gone.ndim:
        return None
    own = log_prob.ndim - gone.ndim
    return gone.reshape(gone.shape + (1,) * own).expand(log_prob.shape)


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


def _entry(where: tuple[int, ...], datasets: int | None) -> str:
    """Say where an entry of the data stands."""
    own = where if datasets is None else where[1:]
    entry = f"entry {own[0] if len(own) == 1 else own}" if own else "its only entry"
    return entry if datasets is None else f"{entry} of data set {where[0]}"


def _place(where: tuple[int, ...], batch: Batch) -> str:
    """Say which particle and data set an index over batch dimensions means; the model's own plates are the last of them."""
    outer, plates = where[: max(len(where) - batch.nesting, 0)], where[max(len(where) - batch.nesting, 0) :]
    words = []
    if batch.datasets is not None and outer:
        words, outer = [f"data set {outer[-1]}"], outer[:-1]
    if outer:
        words.insert(0, f"{'particle' if words else 'sample'} {outer[-1]}")
    inside = f", plate entry {plates[0] if len(plates) == 1 else plates}" if plates else ""
    return (" of ".join(words) or "its only sample") + inside


def _latent_values(trace: poutine.Trace, where: tuple[int, ...]) -> str:
    """Name the unknowns of the offending sample, as far as its index reaches them."""
    named = []
    for name, site in samples(trace):
        if site["is_observed"]:
            continue
        value, events = site["value"], len(site["fn"].event_shape)
        batch = value.shape[: value.ndim - events]
        if len(batch) > len(where):
            continue
        index = tuple(0 if size == 1 else i for i, size in zip(where[len(where) - len(batch) :], batch, strict=True))
        numbers = value[index].flatten()
        more = ", ..." if numbers.numel() > 4 else ""
        named.append(f"{name} = {', '.join(f'{x:.4g}' for x in numbers[:4].tolist())}{more}")
    return f" ({'; '.join(named)})" if named else ""
