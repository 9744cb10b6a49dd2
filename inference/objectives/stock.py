"""Objectives of Pyro as objectives of a fit, where they keep their promise with plates around the model; else refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.infer
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ...core.plates import outer_plates, plated
from ...core.traces import samples, site_log_probs, total, trace_of
from ..density.rejected import ADVICE, RejectedError, is_delta, log_share, outermost, rejection, replaced, stand_ins
from .standard import Batch, Objective

INSTEAD = {
    "RenyiELBO": "physzoo.Renyi()",
    "ReweightedWakeSleep": "physzoo.inference.objectives.Reweighted()",
    "EnergyDistance": "physzoo.EnergyDistance()",
    "Trace_MMD": "physzoo.MMD()",
    "TraceTailAdaptive_ELBO": "physzoo.Renyi()",
    "TraceTMC_ELBO": "Trace_ELBO() or TraceEnum_ELBO()",
    "TraceGraph_ELBO": "Trace_ELBO()",
    "JitTrace_ELBO": "Trace_ELBO()",
    "JitTraceEnum_ELBO": "TraceEnum_ELBO()",
    "JitTraceGraph_ELBO": "Trace_ELBO()",
    "JitTraceMeanField_ELBO": "TraceMeanField_ELBO()",
}


def from_pyro(objective: Any) -> Objective:
    """Return an objective as it is, or one of Pyro's as ``Stock``.

    Raises:
        ValueError: one of Pyro's that is not served.
    """
    if isinstance(objective, pyro.infer.ELBO) or type(objective).__module__.split(".")[0] == "pyro":
        return Stock(objective)
    return objective


@dataclass(frozen=True)
class Stock:
    """``Trace_ELBO``, ``TraceMeanField_ELBO`` and ``TraceEnum_ELBO`` of Pyro, and classes derived from these.

    Raises:
        ValueError: another one; or ``TraceMeanField_ELBO`` with a guide whose sites are Deltas with a density: its
            Kullback-Leibler divergence leaves that density out.
    """

    elbo: pyro.infer.ELBO

    def __post_init__(self) -> None:
        name = type(self.elbo).__name__
        served = hasattr(self.elbo, "differentiable_loss") and isinstance(self.elbo, pyro.infer.ELBO)
        if name in INSTEAD or not served:
            instead = INSTEAD.get(name, "one with a differentiable_loss, e.g. Trace_ELBO()")
            raise ValueError(f"objective: got {name} of Pyro, expected {instead}")

    @property
    def enumerates(self) -> bool:
        """Whether discrete sites that the model marks are summed over."""
        return isinstance(self.elbo, pyro.infer.TraceEnum_ELBO)

    def check(self, guide_trace: poutine.Trace) -> None:
        """Refuse a guide whose densities Pyro's objective would leave out."""
        if not isinstance(self.elbo, pyro.infer.TraceMeanField_ELBO):
            return
        for name, site in samples(guide_trace):
            density = getattr(_base(site["fn"]), "log_density", None)
            if density is not None and is_delta(site["fn"]) and bool((torch.as_tensor(density) != 0).any()):
                raise ValueError(
                    f"objective: got TraceMeanField_ELBO with the guide's site '{name}', a Delta whose log density it leaves out, "
                    "expected ELBO() or pyro.infer.Trace_ELBO()"
                )

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch) -> Tensor:
        """Return Pyro's loss a data set; a rejected draw has an accepted one in its place."""
        elbo = self._inside(batch)
        loss: Any = elbo.differentiable_loss  # type: ignore[attr-defined]
        with _Runs(batch.nesting) as runs:
            value = loss(*(_plated(fn, batch) for fn in (model, guide)), **batch.data)
        if self.enumerates or not (runs.any_gone() or batch.rejecting):
            return value / (batch.datasets or 1)
        given, numbers, gone = runs.stand_ins(batch, elbo.num_particles if elbo.vectorize_particles else 1)
        some = ~gone.all(0)
        if runs.any_gone():
            with poutine.block(hide_types=["sample", "observe"]), given:  # a second look is not counted
                value = loss(*(_plated(fn, batch, some) for fn in (model, guide)), **batch.data)
        value = value / (1 if batch.datasets is None else int(some.sum()))
        if isinstance(self.elbo, pyro.infer.TraceMeanField_ELBO):
            return value  # its divergence is not estimated from the draws
        outer = tuple(n for n in (len(gone) if len(gone) > 1 else None, batch.datasets) if n is not None)
        with (
            poutine.block(hide_types=["sample", "observe"]),
            _Given([{name: v.detach() for name, v in numbers.items()}]),
        ):
            inside = plated(guide, batch.nesting, len(gone) if len(gone) > 1 else None, batch.datasets)
            trace = trace_of(inside, batch.data)
        log_q = total(site_log_probs(trace, batch.nesting)).expand(outer).reshape(gone.shape)
        return value - log_share(~gone, log_q)[some].mean()

    def _inside(self, batch: Batch) -> pyro.infer.ELBO:
        """The objective with room for the plate of data sets, which it would take for its own."""
        elbo = copy.copy(self.elbo)
        several = elbo.vectorize_particles and elbo.num_particles > 1
        room = batch.nesting + (batch.datasets is not None) + several
        if math.isfinite(elbo.max_plate_nesting):
            room = max(room, elbo.max_plate_nesting + (batch.datasets is not None))
        elbo.max_plate_nesting = room
        return elbo


def _base(density: Any) -> Any:
    while hasattr(density, "base_dist"):
        density = density.base_dist
    return density


def _plated(fn: Callable[..., Any], batch: Batch, some: Tensor | None = None) -> Callable[..., Any]:
    """``fn`` in the plate of data sets; those not in ``some`` count nothing."""
    if batch.datasets is None:
        return fn

    def inside(**data: Any) -> Any:
        with outer_plates(batch.nesting, None, batch.datasets):
            if some is None or bool(some.all()):
                return fn(**data)
            mask: Any = some.reshape(-1, *(1,) * batch.nesting)
            with poutine.mask(mask=mask):
                return fn(**data)

    return inside


class _Runs(Messenger):
    """What a guide drew in each of its runs, and which of these draws the model or the guide then rejected."""

    def __init__(self, nesting: int) -> None:
        super().__init__()
        self.nesting = nesting
        self.values: list[dict[str, tuple[Tensor, int]]] = []
        self.gone: list[list[Tensor]] = []
        self.site = ""
        self._drawn: str | None = None

    def _pyro_sample(self, msg: Any) -> None:
        own = not (poutine.util.site_is_subsample(msg) or msg["done"] or msg["is_observed"] or is_delta(msg["fn"]))
        self._drawn = msg["name"] if own else None

    def _pyro_post_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name == self._drawn:
            if not self.values or name in self.values[-1]:
                self.values.append({})
                self.gone.append([])
            self.values[-1][name] = (msg["value"], msg["fn"].event_dim)
        hit = rejection(name, msg)
        if hit is not None and self.gone:
            self.site = hit[0]
            self.gone[-1].append(outermost(hit[1], self.nesting))

    def any_gone(self) -> bool:
        return any(self.gone)

    def stand_ins(self, batch: Batch, particles: int) -> tuple[_Given, dict[str, Tensor], Tensor]:
        """Return the same draws with accepted ones in the place of the rejected, run by run and of all; which are rejected."""
        outer = tuple(n for n in (particles if particles > 1 else None, batch.datasets) if n is not None)
        like = next(iter(self.values[0].values()))[0]
        masks = []
        for hits in self.gone:
            mask = torch.zeros(outer, dtype=torch.bool, device=like.device)
            for hit in hits:
                mask = mask | hit
            masks.append(mask)
        gone = torch.stack(masks).reshape(len(masks) * particles, -1)
        if bool(gone.all()):
            raise RejectedError(
                f"site '{self.site}': the physics rejected every draw, expected one that it can solve; {ADVICE}"
            )
        rows = stand_ins(gone)
        given: list[dict[str, Tensor]] = [{} for _ in self.values]
        numbers: dict[str, Tensor] = {}
        flat = tuple(n for n in (len(gone) if len(gone) > 1 else None, batch.datasets) if n is not None)
        for name, (_, event_dim) in self.values[0].items():
            stacked = torch.stack([run[name][0] for run in self.values])
            new = replaced(stacked, event_dim, self.nesting, (len(masks), *outer), gone, rows)
            numbers[name] = new.reshape(*flat, *new.shape[1 + len(outer) :])
            for run, value in zip(given, new, strict=True):
                run[name] = value
        return _Given(given), numbers, gone


class _Given(Messenger):
    """Gives a guide in each of its runs what it is to draw."""

    def __init__(self, runs: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.runs, self.at, self.seen = runs, 0, set()

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if msg["done"] or msg["is_observed"] or name not in self.runs[self.at]:
            return
        if name in self.seen:
            self.at, self.seen = self.at + 1, set()
        self.seen.add(name)
        msg["value"], msg["done"] = self.runs[self.at][name], True
