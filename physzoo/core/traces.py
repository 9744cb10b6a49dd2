"""Traces of Pyro programs as this package reads them: what was derived is set apart from what was sampled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

DERIVED = "derived"


def nodes(trace: poutine.Trace) -> dict[str, Any]:
    """Return the sites of a trace, name to site, as plain dictionaries."""
    return cast("dict[str, Any]", trace.nodes)


def trace_of(fn: Callable[..., Any], data: Mapping[str, Any]) -> poutine.Trace:
    """Trace one run of ``fn(**data)``; the sites of ``pyro.deterministic`` get the type "derived" instead of "sample".

    Pyro records a derived quantity as an observed site of density one. Such a site is neither a datum nor an unknown, and its
    distribution has a wrong shape inside plates that stand around the model: only its value counts.
    """
    with _Frozen():
        trace = poutine.trace(fn).get_trace(**data)
    for site in nodes(trace).values():
        if site["type"] == "sample" and site["infer"].get("_deterministic"):
            site["type"] = DERIVED
    return trace


class _Frozen(Messenger):
    """Keeps frozen parameters of modules out of Pyro's store, which would thaw them."""

    def _pyro_param(self, msg: Any) -> None:
        own = msg["args"][1] if len(msg["args"]) > 1 else None
        if isinstance(own, nn.Parameter) and not own.requires_grad:
            msg["value"], msg["done"] = own, True


def samples(trace: poutine.Trace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and site of everything that is sampled or observed, the indices of plates left out."""
    for name, site in nodes(trace).items():
        if site["type"] == "sample" and not poutine.util.site_is_subsample(site):
            yield name, site


def derived_sites(trace: poutine.Trace) -> dict[str, dict[str, Any]]:
    """Return the sites of ``pyro.deterministic``, name to site."""
    return {name: site for name, site in nodes(trace).items() if site["type"] == DERIVED}


def log_prob_of(site: Mapping[str, Any]) -> Tensor:
    """Return the log density of a site's value, its scale and mask applied; shape of its batch."""
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    scale = 1.0 if site["scale"] is None else site["scale"]
    return scale_and_mask(log_prob, scale, site["mask"])


def site_log_probs(trace: poutine.Trace, nesting: int) -> dict[str, Tensor]:
    """Return the log density of every sample site, summed over the model's own plates: shape of the outer plates."""
    terms: dict[str, Tensor] = {}
    for name, site in samples(trace):
        log_prob = log_prob_of(site)
        if nesting and log_prob.ndim:
            log_prob = log_prob.flatten(max(log_prob.ndim - nesting, 0)).sum(-1)
        terms[name] = log_prob
    return terms


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of the sites' log densities."""
    values = iter(terms.values())
    result = next(values)
    for value in values:
        result = result + value
    return result


def undeclared(batch: torch.Size, site: Mapping[str, Any], nesting: int) -> tuple[int, ...] | None:
    """Return the batch shape of a site of which a dimension belongs to no plate, or None where every dimension does.

    A dimension of one within ``nesting`` is room for plates of other sites.
    """
    plates = {frame.dim for frame in site["cond_indep_stack"] if frame.vectorized}
    for dim, size in enumerate(reversed(batch), start=1):
        if -dim not in plates and (size > 1 or dim > nesting):
            return tuple(batch)
    return None
