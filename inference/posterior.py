"""Posteriors in the layout of ArviZ 1.x: one DataTree that every ArviZ plot and statistic takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from ..core.arguments import Data
from ..core.global_state import alone, seeded, unregistered
from ..core.plates import outer_plates
from ..core.prototype import prototype, traced
from ..core.require import flag, function, named, seed_number, whole
from ..core.simulate import derived_values, simulate
from ..core.sites import latent_sites, observed_sites
from ..core.traces import nodes, samples, site_log_probs, total
from .density.densities import check_guide, paired_traces, replicated
from .density.entries import as_given, entrywise, picked, pointwise, seen_by_any
from .density.latents import Latents, unobserved
from .importance import FEWEST, smoothed
from .layout import check_layout, tree
from .warn import warn_of_weights

if TYPE_CHECKING:
    from xarray import DataTree


@alone()
@unregistered()
def sample(
    guide: Callable[..., Any],
    data: Data,
    draws: int,
    *,
    datasets: int | None = None,
    nesting: int = 0,
    seed: int | None = None,
) -> dict[str, Tensor]:
    """Draw z_s ~ q(z | y) without touching the model: what an amortised posterior costs on new data.

    Args:
        guide: any Pyro guide, called as ``guide(**data)``; its own ``sample(data, draws)`` is used where it
            has one.
        data: arguments of the guide; with ``datasets`` every tensor has the data-set dimension first.
        draws: number of draws S.
        datasets: number of data sets B, or None for one data set.
        nesting: plate depth of the model, 0 where it has no plate.
        seed: seed; None goes on with torch's generator.

    Returns:
        Latent site -> constrained draws, (S, [B,] *site shape); auxiliary sites are left out.

    Raises:
        ValueError: ``draws`` is not positive.
    """
    function("guide", guide)
    named("data", data)
    whole("draws", draws, 1)
    whole("nesting", nesting, 0, 64)
    if datasets is not None:
        whole("datasets", datasets, 1)
    if seed is not None:
        seed_number(seed)
    shape = (draws,) if datasets is None else (draws, datasets)
    own_sampler = getattr(guide, "sample", None)
    if callable(own_sampler):
        with seeded(seed):
            return cast("dict[str, Tensor]", own_sampler(data, draws))
    with seeded(seed), torch.no_grad(), poutine.block(), outer_plates(nesting, draws, datasets):
        trace = traced(guide, data, "guide")
    result = {}
    for name, site in samples(trace):
        if not site["is_observed"] and not site["infer"].get("is_auxiliary"):
            result[name] = _own(site, *shape)
    return result


@alone()
@unregistered()
def posterior(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Data,
    *,
    draws: int = 1000,
    seed: int = 0,
    prior: bool = True,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    units: Mapping[str, str] | None = None,
    chunk: int = 8192,
) -> DataTree:
    """Draw from a guide and return the posterior of one data set as an ArviZ 1.x DataTree.

    Groups: posterior, posterior_predictive, log_likelihood (per entry of the data, so that LOO works),
        sample_stats
    (log_p = log p(z, y) and log_q = log q(z | y) per draw: importance weights and k-hat follow),
    observed_data, prior and prior_predictive. Chain has length 1: the draws are independent and R-hat means
    nothing. Quantities of ``pyro.deterministic`` stand among the unknowns in posterior and prior.

    Of a site with masked entries, log_likelihood, posterior_predictive and observed_data hold those that are seen, along one
    dimension "<site>_seen" whose coordinate is the number of the entry; predictions holds y_rep of all entries and
    constant_data the data with NaN where they are hidden.

    Args:
        model: a Pyro model of one data set.
        guide: a guide of it.
        data: arguments of both, one data set.
        draws: number of draws S.
        seed: seed of the draws; torch's own generator is put back afterwards.
        prior: whether to add the prior groups; they call the model without its observed arguments.
        coords: dimension -> coordinate values, e.g. ``{"time": years}``.
        dims: site -> names of its dimensions, e.g. ``{"y": ["time", "species"]}``.
        units: site -> unit, stored as the attribute "units", e.g. ``{"alpha": "1/year"}``.
        chunk: at most this many draws are evaluated at once.

    Raises:
        ValueError: ``draws`` or ``chunk`` is not positive, or a name in ``dims`` or ``units`` is no site; model, guide and data
            do not fit each other.

    Warns:
        TrustWarning: the importance weights of the draws have a k-hat of 0.7 or more: the guide is not the posterior.

    Source: layout of ArviZ's InferenceData schema, as written by its NumPyro SVI converter.
    """
    whole("draws", draws, 1)
    flag("prior", prior)
    whole("chunk", chunk, 1)
    seed_number(seed)
    function("guide", guide)
    trace = prototype(model, data)
    latents, observed = Latents.of(model, data), observed_sites(trace)
    seen_shapes = {name: site["value"].shape for name, site in observed.items()}
    shapes = {**latents.shapes, **latents.derived, **seen_shapes}
    check_layout(shapes, coords, dims, units)
    check_guide(prototype(guide, data, argument="guide"), latent_sites(trace))
    with seeded(seed), torch.no_grad():
        evaluated = [
            _evaluate(model, guide, data, latents, observed, min(chunk, draws - start))
            for start in range(0, draws, chunk)
        ]
        parts, seen_of = zip(*evaluated, strict=True)
        arguments = unobserved(model, data)
        before = simulate(model, draws, arguments, None, latents.nesting, latents.derived) if prior else {}
    groups = {
        group: {name: _chain([part[group][name] for part in parts]) for name in parts[0][group]} for group in parts[0]
    }
    groups["observed_data"] = {name: _numpy(as_given(name, site, data)) for name, site in observed.items()}
    if prior:
        unknowns = {**latents.plain(before, 1), **{name: before[name] for name in latents.derived}}
        groups["prior"] = {name: _chain([value]) for name, value in unknowns.items()}
        groups["prior_predictive"] = {
            name: _chain([before[name].reshape(draws, *site["value"].shape)])
            for name, site in observed.items()
            if name in before
        }
    if draws >= FEWEST:
        log_weights, shape = smoothed(*(groups["sample_stats"][name][0] for name in ("log_p", "log_q")))
        warn_of_weights(float(shape), "guide", share=1 / float(np.exp(2 * log_weights).sum()) / draws)
    seen = _only_seen(groups, {name: np.any([_numpy(part[name]) for part in seen_of], 0) for name in observed})
    return tree(groups, coords=coords, dims=dims, units=units, attrs={"seed": seed, "draws": draws}, seen=seen)


def _only_seen(groups: dict[str, dict[str, np.ndarray]], seen: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
    """Reduce sites with hidden entries to those seen; the whole goes to "predictions" and "constant_data".

    ArviZ takes every entry of a log-likelihood for a datum. Returns dimension -> the numbers of the entries along it.
    """
    coords: dict[str, list[int]] = {}
    for name, entries in seen.items():
        rows = np.flatnonzero(entries)
        if len(rows) in (0, entries.size):
            continue
        groups.setdefault("predictions", {})[name] = groups["posterior_predictive"][name]
        groups.setdefault("constant_data", {})[name] = groups["observed_data"][name]
        for group, leading in (("log_likelihood", 2), ("posterior_predictive", 2), ("observed_data", 0)):
            groups[group][name] = picked(groups[group][name], entries.shape, rows, leading)
        coords[f"{name}_seen"] = rows.tolist()
    return coords


def _evaluate(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Data,
    latents: Latents,
    observed: Data,
    size: int,
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Return the groups of some draws, and which entries of each observed site are seen."""
    model_trace, guide_trace = paired_traces(model, guide, data, latents.nesting, size, None)
    terms = site_log_probs(model_trace, latents.nesting)
    log_p = total(terms).expand(size)
    log_q = total(site_log_probs(guide_trace, latents.nesting)).expand(size)
    found = nodes(model_trace)
    sites = {name: found[name] for name in (*latents.shapes, *observed)}
    values = {name: _own(sites[name], size) for name in latents.shapes}
    entries = {name: pointwise(observed[name]).log_prob.shape for name in observed}
    groups = {
        "posterior": {**latents.plain(values, 1), **derived_values(model_trace, latents.derived, (size,))},
        "posterior_predictive": {
            name: replicated(model_trace, name, terms).reshape(size, *observed[name]["value"].shape)
            for name in observed
        },
        "log_likelihood": {
            name: entrywise(sites[name], terms.get(f"{name}_rejected"), (size, *entries[name])) for name in observed
        },
        "sample_stats": {"log_p": log_p, "log_q": log_q},
    }
    return groups, {name: seen_by_any(sites[name], (size, *entries[name])) for name in observed}


def _own(site: Mapping[str, Any], *leading: int) -> Tensor:
    """Return a site's value, expanded to the leading plates that it does not depend on."""
    # a replayed site keeps the model's own small batch shape, so the value alone knows the outer plates
    value, events = site["value"].detach(), len(site["fn"].event_shape)
    return value.expand(torch.Size(leading) + value.shape[min(len(leading), value.ndim - events) :])


def _chain(parts: Sequence[Tensor]) -> np.ndarray:
    return _numpy(torch.cat(list(parts)))[None]


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy().copy()  # the tree outlives the tensors
