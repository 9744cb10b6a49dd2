"""Draws of many data sets with their unknowns, in one batched run of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from .arguments import Data
from .global_state import alone, seeded, unchecked, unregistered
from .plates import outer_plates, plain, plate_nesting
from .prototype import prototype, traced
from .require import whole
from .traces import derived_sites, samples


@alone()
@unregistered()
def simulate(
    model: Callable[..., Any],
    count: int,
    given: Data | None = None,
    seed: int | None = None,
    nesting: int | None = None,
    derived: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Tensor]:
    """Draw ``count`` data sets with their unknowns from the model's prior predictive, in one batched run.

        z_i ~ p(z),  y_i ~ p(y | z_i),   i = 1..count

    Args:
        model: a Pyro model; called without data, so that every site is drawn.
        count: number of pairs.
        given: arguments that are not drawn (masks, covariates), the same for all pairs.
        seed: seed of the draw; ``None`` goes on with torch's generator.
        nesting: the model's own plate depth where it is known already.
        derived: sites of ``pyro.deterministic`` that are wanted too, with their shapes.

    Returns:
        Every latent and observed site, name to tensor of shape (count, *own shape of the site).

    Raises:
        ValueError: ``count`` is not positive.
    """
    whole("count", count, 1)
    if nesting is None:
        nesting = plate_nesting(prototype(model, given))
    with seeded(seed), torch.no_grad(), poutine.block(), unchecked(), outer_plates(nesting, datasets=count):
        trace = traced(model, {} if given is None else given)
    drawn = {
        name: plain(site, (count,)).detach() for name, site in samples(trace) if type(site["fn"]).__name__ != "Unit"
    }
    return drawn | derived_values(trace, derived or {}, (count,))


def derived_values(
    trace: poutine.Trace, shapes: Mapping[str, tuple[int, ...]], outer: tuple[int, ...]
) -> dict[str, Tensor]:
    """Return the values of ``pyro.deterministic`` sites, (*outer, *shape), of a trace inside outer plates."""
    found = {}
    for name, shape in shapes.items():
        value = derived_sites(trace)[name]["value"].detach()
        full = torch.Size(outer) + torch.Size(shape)
        found[name] = value.reshape(full) if value.numel() == full.numel() else value.expand(full).clone()
    return found
