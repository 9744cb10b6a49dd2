"""Posteriors in the layout of ArviZ 1.x: one DataTree that every ArviZ plot and statistic takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from ..guides.nodes import nodes
from ..guides.require import function, named, seed_number, shown, whole
from ..guides.sites import (
    Data,
    derived_values,
    observed_sites,
    outer_plates,
    prototype,
    seeded,
    simulate,
    traced,
    unregistered,
)
from ..guides.traces import samples, site_log_probs, total
from .densities import check_guide, paired_traces, replicated
from .entries import as_given, entrywise, picked, pointwise, seen_entries
from .latents import Latents, unobserved

if TYPE_CHECKING:
    from xarray import DataTree


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
    whole("draws", draws, 1)
    shape = (draws,) if datasets is None else (draws, datasets)
    own_sampler = getattr(guide, "sample", None)
    if callable(own_sampler):
        with seeded(seed):
            return cast("dict[str, Tensor]", own_sampler(data, draws))
    with seeded(seed), torch.no_grad(), poutine.block(), outer_plates(nesting, draws, datasets):
        trace = traced(guide, data)
    result = {}
    for name, site in samples(trace):
        if not site["is_observed"] and not site["infer"].get("is_auxiliary"):
            result[name] = _own(site, *shape)
    return result


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
        ValueError: ``draws`` or ``chunk`` is not positive, or a name in ``dims`` or ``units`` is no site.

    Source: layout of ArviZ's InferenceData schema, as written by its NumPyro SVI converter.
    """
    whole("draws", draws, 1)
    whole("chunk", chunk, 1)
    seed_number(seed)
    function("guide", guide)
    trace = prototype(model, data)
    latents, observed = Latents.of(model, data), observed_sites(trace)
    seen_shapes = {name: site["value"].shape for name, site in observed.items()}
    shapes = {**latents.shapes, **latents.derived, **seen_shapes}
    _check_layout(shapes, coords, dims, units)
    check_guide(prototype(guide, data, argument="guide"), latents.shapes)
    with seeded(seed), torch.no_grad():
        parts = [
            _evaluate(model, guide, data, latents, observed, min(chunk, draws - start))
            for start in range(0, draws, chunk)
        ]
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
    seen = _only_seen(groups, observed)
    return tree(groups, coords=coords, dims=dims, units=units, attrs={"seed": seed, "draws": draws}, seen=seen)


def _only_seen(groups: dict[str, dict[str, np.ndarray]], observed: Mapping[str, Any]) -> dict[str, list[int]]:
    """Reduce sites with hidden entries to those seen; the whole goes to "predictions" and "constant_data".

    ArviZ takes every entry of a log-likelihood for a datum. Returns dimension -> the numbers of the entries along it.
    """
    coords: dict[str, list[int]] = {}
    for name, site in observed.items():
        rows = seen_entries(site)
        if rows is None:
            continue
        entries = groups["log_likelihood"][name].shape[2:]
        groups.setdefault("predictions", {})[name] = groups["posterior_predictive"][name]
        groups.setdefault("constant_data", {})[name] = groups["observed_data"][name]
        for group, leading in (("log_likelihood", 2), ("posterior_predictive", 2), ("observed_data", 0)):
            values = groups[group].pop(name)
            if len(rows):
                groups[group][name] = picked(values, entries, rows, leading)
        coords[f"{name}_seen"] = rows.tolist()
    return coords


def tree(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    *,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    units: Mapping[str, str] | None = None,
    attrs: Mapping[str, Any] | None = None,
    seen: Mapping[str, Sequence[int]] | None = None,
) -> DataTree:
    """Return groups of (chain, draw, ...) arrays as an ArviZ DataTree with units; empty groups are left out.

    Args:
        groups: group -> name -> array; groups with "data" in their name have no chain and draw.
        coords: dimension -> coordinate values.
        dims: name -> names of its dimensions beyond chain and draw.
        units: name -> unit.
        attrs: attributes of the whole tree.
        seen: "<name>_seen" -> numbers of the entries that log_likelihood, posterior_predictive and observed_data hold of a name.

    Raises:
        ValueError: a name that ArviZ cannot hold.
    """
    import arviz_base as az
    from xarray import DataTree

    filled = {group: dict(variables) for group, variables in groups.items() if variables}
    _check_names(filled)
    places = {name: list(value) for name, value in {**(coords or {}), **(seen or {})}.items()}
    layout = {name: list(value) for name, value in (dims or {}).items()}
    parts = {}
    for group, variables in filled.items():
        own = layout | (_seen_dims(group, variables, layout, seen or {}) if group in PER_ENTRY else {})
        part = az.from_dict({group: variables}, coords=places, dims=own, pred_coords=places, pred_dims=own)
        parts[group] = part[group].to_dataset()
    result = DataTree.from_dict(parts)
    result.attrs = dict(attrs or {})
    for group in filled:
        for name, unit in (units or {}).items():
            if name in result[group].data_vars and group not in ("log_likelihood", "sample_stats"):
                result[group][name].attrs["units"] = unit
    return result


def _seen_dims(
    group: str, variables: Mapping[str, np.ndarray], layout: Mapping[str, list[str]], seen: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Return the dimensions of variables that hold the seen entries of a site alone, and behind them those of one entry."""
    found = {}
    for name, values in variables.items():
        if f"{name}_seen" in seen:
            behind = values.ndim - 1 - (0 if "data" in group else 2)
            known = layout.get(name, [f"{name}_dim_{k}" for k in range(behind)])
            found[name] = [f"{name}_seen", *known[len(known) - behind :]]
    return found


def _check_names(groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse names that a DataTree cannot hold: a slash leads to another group, chain and draw are dimensions.

    Raises:
        ValueError: there is one.
    """
    for name in (name for variables in groups.values() for name in variables):
        if "/" in name or name in ("chain", "draw", ".", "..") or not name:
            raise ValueError(
                f"model: got a site named '{name}', which an ArviZ tree cannot hold, expected a name without '/', other than "
                "'chain' and 'draw'"
            )


PER_ENTRY = ("log_likelihood", "posterior_predictive", "observed_data")


def _check_layout(
    shapes: Mapping[str, Sequence[int]],
    coords: Mapping[str, Sequence[Any]] | None,
    dims: Mapping[str, Sequence[str]] | None,
    units: Mapping[str, str] | None,
) -> None:
    """Refuse names that are no sites, and dimensions that are not as many and as long as a site's."""
    for argument, given in (("coords", coords), ("dims", dims), ("units", units)):
        named(argument, {} if given is None else given)
        for name in {} if argument == "coords" or given is None else given:
            if name not in shapes:
                raise ValueError(f"{argument}: got '{name}', expected a site of the model: {', '.join(shapes)}")
    for name, wanted in (dims or {}).items():
        if not isinstance(wanted, Sequence) or len(wanted) != len(shapes[name]):
            raise ValueError(f"dims['{name}']: got {shown(wanted)}, expected {len(shapes[name])} names")
        for dim, size in zip(wanted, shapes[name], strict=True):
            if coords is not None and dim in coords and len(coords[dim]) != size:
                raise ValueError(f"coords['{dim}']: got {len(coords[dim])} values, expected {size} as in '{name}'")


def _evaluate(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Data,
    latents: Latents,
    observed: Data,
    size: int,
) -> dict[str, dict[str, Tensor]]:
    model_trace, guide_trace = paired_traces(model, guide, data, latents.nesting, size, None)
    terms = site_log_probs(model_trace, latents.nesting)
    log_p = total(terms).expand(size)
    log_q = total(site_log_probs(guide_trace, latents.nesting)).expand(size)
    found = nodes(model_trace)
    sites = {name: found[name] for name in (*latents.shapes, *observed)}
    values = {name: _own(sites[name], size) for name in latents.shapes}
    entries = {name: pointwise(observed[name]).log_prob.shape for name in observed}
    return {
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


def _own(site: Mapping[str, Any], *leading: int) -> Tensor:
    """Return a site's value, expanded to the leading plates that it does not depend on."""
    # a replayed site keeps the model's own small batch shape, so the value alone knows the outer plates
    value, events = site["value"].detach(), len(site["fn"].event_shape)
    return value.expand(torch.Size(leading) + value.shape[min(len(leading), value.ndim - events) :])


def _chain(parts: Sequence[Tensor]) -> np.ndarray:
    return _numpy(torch.cat(list(parts)))[None]


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy().copy()  # the tree outlives the tensors
