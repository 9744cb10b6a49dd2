"""Draws that the physics rejects: found in a trace, given weight zero, drawn again where they are simulated, and counted.

A draw z is rejected where it has no state: ``physzoo.observe`` says so by -inf in the factor ``f"{name}_rejected"``, a
determinant by -inf in ``f"{name}_logdet"``, and a ``StateGuide`` by ``infer={"rejected": ...}`` at the state. Everything
else that is not finite is an error.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ..guides.nodes import nodes
from ..guides.sites import Data, plate_nesting, plated, prototype, seeded, simulate
from ..guides.traces import samples, site_log_probs, total, trace_of
from .densities import paired_traces

FACTORS = ("_rejected", "_logdet")
MUCH = 0.5  # a share above which the fit ends
WORTH_TELLING = 0.05
WINDOW = 200  # steps over which the share is judged
ADVICE = "tighten the prior, or give the solver more substeps or a finer tolerance"


class NonFiniteError(FloatingPointError):
    """A fit met a value or a density that is not finite; the message names the site and the sample."""


class RejectedError(NonFiniteError):
    """The physics rejected all draws, or more of them than can be left out; the message names the site and the share."""


class RejectedWarning(UserWarning):
    """The physics rejected a share of the draws, which were left out."""


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


@dataclass(frozen=True)
class Loss:
    """How many of some draws a site rejected."""

    site: str = ""
    gone: int = 0
    draws: int = 1

    @property
    def share(self) -> float:
        return self.gone / self.draws


class Watch(Messenger):
    """Counts draws and rejected draws, site by site, of the models and guides that run inside it.

    Args:
        nesting: depth of the model's own plates.
    """

    def __init__(self, nesting: int) -> None:
        super().__init__()
        self.nesting = nesting
        self.draws: dict[str, int] = {}
        self.gone: dict[str, int] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if poutine.util.site_is_subsample(msg):
            return
        name, shape = msg["name"], msg["fn"].batch_shape
        if type(msg["fn"]).__name__ != "Unit":
            self.draws[name] = self.draws.get(name, 0) + shape[: max(len(shape) - self.nesting, 0)].numel()
        hit = rejection(name, msg)
        if hit is not None:
            gone = outermost(hit[1], self.nesting)
            self.gone[hit[0]] = self.gone.get(hit[0], 0) + int(gone.sum())
            self.draws.setdefault(hit[0], gone.numel())

    def worst(self) -> Loss:
        """Return how many draws the site rejected that rejected the largest share."""
        shares = {name: gone / max(self.draws[name], gone) for name, gone in self.gone.items() if gone}
        if not shares:
            return Loss(draws=max(self.draws.values(), default=1))
        site = max(shares, key=lambda name: shares[name])
        return Loss(site, self.gone[site], max(self.draws[site], self.gone[site]))


@dataclass
class Share:
    """The share of rejected draws over the last steps of a fit: told once where it matters, the end of the fit above a half.

    A share is judged by two of its standard errors, so that a fit of one draw a step is not ended by a run of bad luck.
    """

    def __post_init__(self) -> None:
        self.steps: deque[tuple[Loss, bool]] = deque(maxlen=WINDOW)
        self.told = False

    def count(self, loss: Loss, used: bool = True) -> None:
        """Add a step: how many of its draws a site rejected, and whether any was left to learn from."""
        self.steps.append((loss, used))

    def check(self, done: bool = False) -> None:
        """Judge the steps so far, if they are enough or the fit is ``done``.

        Raises:
            RejectedError: more than a half of the draws were rejected, or no step was of use.
        """
        gone = sum(loss.gone for loss, _ in self.steps)
        none_of_use = not any(used for _, used in self.steps)
        if not gone or not (done or none_of_use or len(self.steps) == WINDOW):
            return
        draws = sum(loss.draws for loss, _ in self.steps)
        share, site = gone / draws, max((loss for loss, _ in self.steps), key=lambda loss: loss.gone).site
        enough = done or len(self.steps) >= WINDOW // 10
        if share > MUCH + draws**-0.5 or (none_of_use and enough):
            steps = f"the last {len(self.steps)} steps" if len(self.steps) > 1 else "the only step"
            raise RejectedError(
                f"site '{site}': got {share:.0%} of the draws of {steps} rejected, expected at most half; {ADVICE}"
            )
        if share > WORTH_TELLING and not self.told:
            self.told = True
            warnings.warn(
                f"site '{site}': {share:.0%} of the draws were rejected and left out", RejectedWarning, stacklevel=4
            )


@contextmanager
def told_once() -> Iterator[None]:
    """Keep the warnings of single rejections to ourselves; the share is told instead."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="site '.*': samples without a solution")
        warnings.filterwarnings(
            "ignore", message="Encountered (NaN|[+]?inf)"
        )  # Pyro's, of what is told by a site's name
        yield


class _Marks(Watch):
    """Which of the data sets of one batched run are rejected."""

    mask: Tensor | None = None

    def _pyro_post_sample(self, msg: Any) -> None:
        if poutine.util.site_is_subsample(msg):
            return
        super()._pyro_post_sample(msg)
        hit = rejection(msg["name"], msg)
        if hit is not None:
            gone = outermost(hit[1], self.nesting)
            self.mask = gone if self.mask is None else self.mask | gone


def accepted_pairs(
    model: Callable[..., Any],
    count: int,
    given: Data | None = None,
    seed: int | None = None,
    nesting: int | None = None,
) -> tuple[dict[str, Tensor], Loss]:
    """Return ``simulate``'s pairs without those that are rejected or not finite, others drawn in their place; and the share.

    Raises:
        RejectedError: hardly any is accepted.
    """
    nesting = plate_nesting(prototype(model, given)) if nesting is None else nesting
    parts, have, total, lost, site = [], 0, 0, 0, ""
    with seeded(seed):
        while have < count:
            if total >= 16 * count + 256:
                got = f"{lost} of {total} simulations rejected or not finite"
                raise RejectedError(f"site '{site}': got {got}, expected at most half; {ADVICE}")
            pairs, gone, which = _marked(model, count, given, nesting)
            total += count
            if gone is None:
                good = pairs
            else:
                site, lost = which, lost + int(gone.sum())
                good = {name: value[~gone.to(value.device)] for name, value in pairs.items()}
            parts.append(good)
            have += len(next(iter(good.values())))
    if len(parts) == 1:
        return parts[0], Loss(site, lost, total)
    joined = {name: torch.cat([part[name] for part in parts])[:count] for name in parts[0]}
    return joined, Loss(site, lost, total)


def _marked(
    model: Callable[..., Any], count: int, given: Data | None, nesting: int
) -> tuple[dict[str, Tensor], Tensor | None, str]:
    """Draw pairs; say which are rejected or not finite, and at which site."""
    marks = _Marks(nesting)

    def watched(**arguments: Any) -> Any:
        with marks:
            return model(**arguments)

    watched.__name__ = getattr(model, "__name__", type(model).__name__)
    pairs = simulate(watched, count, given, nesting=nesting)
    site, gone = marks.worst().site, marks.mask
    gone = None if gone is None else gone.expand(count)
    for name, value in pairs.items():
        wrong = ~torch.isfinite(value).reshape(count, -1).all(-1)
        if bool(wrong.any()):
            site = site or name
            gone = wrong if gone is None else gone.to(wrong.device) | wrong
    return pairs, gone, site
