"""Draws that the physics rejects: found in a trace, and given weight zero.

A draw z is rejected where it has no state: ``physzoo.observe`` says so by -inf in the factor ``f"{name}_rejected"``, a
determinant by -inf in ``f"{name}_logdet"``, and a ``StateGuide`` by ``infer={"rejected": ...}`` at the state. Everything
else that is not finite is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ...core.arguments import Data
from ...core.plates import plated
from ...core.traces import nodes, samples, site_log_probs, total, trace_of
from .densities import paired_traces

FACTORS = ("_rejected", "_logdet")
ADVICE = "tighten the prior, or give the solver more substeps or a finer tolerance"


class NonFiniteError(FloatingPointError):
    """A fit met a value or a density that is not finite; the message names the site and the sample."""


class RejectedError(NonFiniteError):
    """The physics rejected all draws, or more of them than can be left out; the message names the site and the share."""


def rejection(name: str, site: Mapping[str, Any]) -> tuple[str, Tensor] | None:
    """Return the site that rejected draws, and which, (*batch shape of the site); or None."""
    if type(site["fn"]).__name__ == "Unit":
        for ending in FACTORS:
            if name.endswith(ending):
                gone = torch.isneginf(site["fn"].log_factor.detach())
                return (name.removesuffix(ending), gone) if bool(gone.any()) else None
    gone = site["infer"].get("rejected")
    return None if gone is None else (name, gone)


def rejected(traces: tuple[poutine.Trace, ...], nesting: int, outer: tuple[int, ...]) -> Tensor | None:
    """Return which draws are rejected at any site of the traces, shape ``outer``; None where none is."""
    found: Tensor | None = None
    for trace in traces:
        for name, site in samples(trace):
            hit = rejection(name, site)
            if hit is not None:
                gone = outermost(hit[1], nesting).expand(outer)
                found = gone if found is None else found | gone
    return found


def outermost(gone: Tensor, nesting: int) -> Tensor:
    """A draw is rejected where any entry of the model's own plates is."""
    return gone.flatten(max(gone.ndim - nesting, 0)).any(-1) if nesting and gone.ndim else gone


def accepted_traces(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Data,
    nesting: int,
    particles: int | None,
    datasets: int | None,
) -> tuple[poutine.Trace, poutine.Trace, Tensor | None]:
    """Return ``paired_traces`` of model and guide, and which draws count, (S or 1, B or 1); None where all do.

    In the place of a rejected draw stands an accepted one, so that gradients are finite whatever the physics does with NaN:
    model and guide are run once more, on the accepted numbers. The stand-in has no weight.

    Raises:
        RejectedError: no draw is accepted.
    """
    model_trace, guide_trace = paired_traces(model, guide, data, nesting, particles, datasets)
    outer = tuple(size for size in (particles, datasets) if size is not None)
    gone = rejected((model_trace, guide_trace), nesting, outer)
    if gone is None:
        return model_trace, guide_trace, None
    if bool(gone.all()):
        raise RejectedError(none_left((model_trace, guide_trace)))
    matrix = gone.reshape(particles or 1, datasets or 1)
    rows = stand_ins(matrix)
    known = _own_numbers(guide_trace)
    for name, site in list(samples(known)):
        if not site["is_observed"]:
            value = replaced(site["value"], site["fn"].event_dim, nesting, outer, matrix, rows)
            nodes(known)[name] = {**site, "value": value}
    kept = {name: site for name, site in nodes(model_trace).items() if poutine.util.site_is_subsample(site)}
    with poutine.block(hide_types=["sample", "observe"]):  # a second look is not counted
        inside = poutine.replay(plated(guide, nesting, particles, datasets), trace=known)
        guide_trace = trace_of(inside, data)
        both = guide_trace.copy()
        nodes(both).update({name: site for name, site in kept.items() if name not in nodes(both)})
        inside = poutine.replay(plated(model, nesting, particles, datasets), trace=both)
        model_trace = trace_of(inside, data)
    again = rejected((model_trace, guide_trace), nesting, outer)
    matrix = matrix if again is None else matrix | again.reshape(matrix.shape)
    if bool(matrix.all()):
        raise RejectedError(none_left((model_trace, guide_trace)))
    return model_trace, guide_trace, ~matrix


def none_left(traces: tuple[poutine.Trace, ...]) -> str:
    """Say in one sentence that all draws of these traces are rejected."""
    hits = (rejection(name, site) for trace in traces for name, site in samples(trace))
    site = next((hit[0] for hit in hits if hit is not None), "")
    return f"site '{site}': the physics rejected every draw, expected one that it can solve; {ADVICE}"


def is_delta(density: Any) -> bool:
    """Whether a site's distribution is a point, whose value follows from other sites."""
    while hasattr(density, "base_dist"):
        density = density.base_dist
    return type(density).__name__ == "Delta"


def stand_ins(gone: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column of the draw to stand in the place of each, (S, B): itself, or an accepted one in turn.

    Those of the same data set (column) take turns; where it has none, those of the data set that has most.
    """
    left = (~gone).sum(0)
    first = gone.to(torch.int8).argsort(dim=0, stable=True)  # the accepted of each column, then the others
    best = left.argmax()
    columns = torch.where(left > 0, torch.arange(gone.shape[1], device=gone.device), best).expand(gone.shape)
    turn = (gone.long().cumsum(0) - 1).clamp_min(0) % left[columns]
    own = torch.arange(gone.shape[0], device=gone.device)[:, None].expand(gone.shape)
    mine = torch.arange(gone.shape[1], device=gone.device).expand(gone.shape)
    return torch.where(gone, first[turn, columns], own), torch.where(gone, columns, mine)


def replaced(
    value: Tensor, event_dim: int, nesting: int, outer: tuple[int, ...], gone: Tensor, rows: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the values of a site with the stand-ins of rejected draws; as they are where all draws share them."""
    lead = value.ndim - event_dim - nesting
    if lead != len(outer):
        return value
    rest = value.shape[lead:]
    matrix = value.expand(*outer, *rest).reshape(*gone.shape, *rest)
    return matrix[rows].reshape(*outer, *rest)


@dataclass(frozen=True)
class Kept:
    """Which draws of a guide q count where the physics rejects some: those of q(z | accepted) = q(z) / Q.

    Attributes:
        draws: whether a draw is accepted, (S, B), ones where there is no such dimension.
        log_share: log Q of each data set, (B,), with its gradient: the mean score of the accepted draws. Without the gradient
            an objective would be the lower, the more draws are rejected.
    """

    draws: Tensor
    log_share: Tensor

    def spread(self, values: Tensor) -> Tensor:
        """Return a number a draw as (S, B)."""
        outer = [n for n, size in enumerate(self.draws.shape) if size > 1]
        return values.expand([self.draws.shape[n] for n in outer]).reshape(self.draws.shape)

    def means(self, values: Tensor) -> Tensor:
        """Return the mean over the accepted draws of each data set, (B,); 0 where it has none."""
        values = self.spread(values)
        return torch.where(self.draws, values, torch.zeros_like(values)).sum(0) / self.draws.sum(0).clamp_min(1)

    def over_sets(self, values: Tensor) -> Tensor:
        """Return the mean of (B,) over the data sets that have an accepted draw."""
        return values[self.draws.any(0)].mean()


def average(values: Tensor, kept: Kept | None) -> Tensor:
    """Return the mean over the accepted draws of each data set, and over data sets."""
    return values.mean() if kept is None else kept.over_sets(kept.means(values))


def log_share(mask: Tensor, log_q: Tensor) -> Tensor:
    """Return log Q of each data set, (B,): the share of accepted draws, and the gradient of its logarithm.

    Args:
        mask: accepted draws, (S, B).
        log_q: their log density at values that carry no gradient, (S, B).
    """
    mask = mask.to(log_q.device)
    counts = mask.sum(0)
    mean = torch.where(mask, log_q, torch.zeros_like(log_q)).sum(0) / counts.clamp_min(1)
    return (counts.clamp_min(1) / len(mask)).to(log_q).log() + mean - mean.detach()


def at_fixed(
    guide: Callable[..., Any],
    trace: poutine.Trace,
    data: Data,
    nesting: int,
    particles: int | None,
    datasets: int | None,
) -> Tensor:
    """Return log q of what a guide drew as a function of its parameters alone: its own numbers are held."""
    known = _own_numbers(trace)
    for name, site in list(samples(known)):
        if not site["is_observed"]:
            nodes(known)[name] = {**site, "value": site["value"].detach()}
    with poutine.block(hide_types=["sample", "observe"]):
        inside = poutine.replay(plated(guide, nesting, particles, datasets), trace=known)
        return total(site_log_probs(trace_of(inside, data), nesting))


def _own_numbers(trace: poutine.Trace) -> poutine.Trace:
    """The trace of a guide without the sites that follow from others."""
    known = trace.copy()
    for name, site in samples(trace):
        if is_delta(site["fn"]):
            known.remove_node(name)
    return known
