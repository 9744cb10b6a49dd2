"""Plates of particles and of data sets around a model, and the shapes that sites have inside of them.

A model is written for one data set with operations that broadcast. Particles and data sets are plates put around it,
to the left of its own plates, so nothing in a model needs to know of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from torch import Tensor

from .traces import nodes

PARTICLES, DATASETS = "_particles", "_datasets"  # names that a model does not give its own plates


class _OuterPlate(IndepMessenger):
    """A plate that is never subsampled: marks independence and broadcasts, without an index site in the trace."""

    def _process_message(self, msg: Any) -> None:
        super()._process_message(msg)
        BroadcastMessenger._pyro_sample(msg)


@contextmanager
def outer_plates(nesting: int, particles: int | None = None, datasets: int | None = None) -> Iterator[None]:
    """Open the plates of data sets (dim -1 - nesting) and of particles (dim -2 - nesting, or -1 - nesting without data sets)."""
    with ExitStack() as stack:
        if particles is not None:
            dim = -1 - nesting - (datasets is not None)
            stack.enter_context(_OuterPlate(PARTICLES, particles, dim))
        if datasets is not None:
            stack.enter_context(_OuterPlate(DATASETS, datasets, -1 - nesting))
        yield


def plated(
    fn: Callable[..., Any], nesting: int, particles: int | None = None, datasets: int | None = None
) -> Callable[..., Any]:
    """Return ``fn`` inside its outer plates, so that replay and condition act around the plates as Pyro expects."""
    if particles is None and datasets is None:
        return fn

    def inside(**data: Any) -> Any:
        with outer_plates(nesting, particles, datasets):
            return fn(**data)

    return inside


def plate_nesting(trace: poutine.Trace) -> int:
    """Return how many plate dimensions the model itself uses (0 where it has no plate)."""
    depths = [
        -frame.dim
        for site in nodes(trace).values()
        if site["type"] == "sample"
        for frame in site["cond_indep_stack"]
        if frame.vectorized and frame.dim is not None
    ]
    return max(depths, default=0)


def own_shape(site: Mapping[str, Any]) -> torch.Size:
    """Return the shape of one draw of a site: the model's own plates, then the event; outer plates left out."""
    frames = [
        f
        for f in site["cond_indep_stack"]
        if f.vectorized and f.dim is not None and f.name not in (PARTICLES, DATASETS)
    ]
    depth = max((-frame.dim for frame in frames), default=0)
    batch = _batch_shape(site)
    return batch[len(batch) - depth :] + site["fn"].event_shape


def _batch_shape(site: Mapping[str, Any]) -> torch.Size:
    # a replayed site keeps the small batch shape that the model gave it: plates widen the value alone
    value = site["value"].shape
    return torch.broadcast_shapes(site["fn"].batch_shape, value[: len(value) - len(site["fn"].event_shape)])


def plain(site: Mapping[str, Any], outer: tuple[int, ...]) -> Tensor:
    """Return a site's value as (*outer, *own shape), without the ones that room for other sites' plates left in it."""
    full = _batch_shape(site) + site["fn"].event_shape
    value = site["value"] if site["value"].shape == full else site["value"].expand(full)
    return value.reshape(torch.Size(outer) + own_shape(site))
