"""Posteriors in the layout of ArviZ 1.x: one DataTree that every ArviZ plot and statistic takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ..guides.arguments import MASK
from ..guides.nodes import nodes
from ..guides.require import function, named, seed_number, shown, whole
from ..guides.sites import Data, observed_sites, outer_plates, prototype, seeded, simulate, traced, unregistered
from .densities import check_guide, paired_traces, replicated, site_log_probs, total
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
    for name, site in nodes(poutine.util.prune_subsample_sites(trace)).items():
        if site["type"] != "sample" or site["is_observed"] or site["infer"].get("is_auxiliary"):
            continue
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
    nothing.

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
    shapes = {**latents.shapes, **{name: site["value"].shape for name, site in observed.items()}}
    _check_layout(shapes, coords, dims, units)
    check_guide(prototype(guide, data), latents.shapes)
    with seeded(seed), torch.no_grad():
        parts = [
            _evaluate(model, guide, data, latents, observed, min(chunk, draws - start))
            for start in range(0, draws, chunk)
        ]
        before = simulate(model, draws, unobserved(model, data), None, latents.nesting) if prior else {}
    groups = {
        group: {name: _chain([part[group][name] for part in parts]) for name in parts[0][group]} for group in parts[0]
    }
    groups["observed_data"] = {name: _numpy(_given(name, site, data)) for name, site in observed.items()}
    if prior:
        groups["prior"] = {name: _chain([value]) for name, value in latents.plain(before, 1).items()}
        groups["prior_predictive"] = {
            name: _chain([before[name].reshape(draws, *site["value"].shape)])
            for name, site in observed.items()
            if name in before
        }
    return tree(groups, coords=coords, dims=dims, units=units, attrs={"seed": seed, "draws": draws})


def _given(name: str, site: dict[str, Any], data: Data) -> Tensor:
    """Return the data of a site as they were given, NaN where the mask hides them; ``observe`` keeps other numbers there."""
    value, mask = data.get(name), data.get(MASK)
    if not isinstance(value, Tensor) or value.shape != site["value"].shape:
        return site["value"]
    if not isinstance(mask, Tensor) or not value.is_floating_point():
        return value
    return torch.where(mask, value, torch.nan)


def tree(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    *,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    units: Mapping[str, str] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> DataTree:
    """Return groups of (chain, draw, ...) arrays as an ArviZ DataTree with units; empty groups are left out.

    Args:
        groups: group -> name -> array; groups with "data" in their name have no chain and draw.
        coords: dimension -> coordinate values.
        dims: name -> names of its dimensions beyond chain and draw.
        units: name -> unit.
        attrs: attributes of the whole tree.
    """
    import arviz_base as az

    filled = {group: dict(variables) for group, variables in groups.items() if variables}
    result = az.from_dict(
        filled,
        coords=None if coords is None else {name: list(value) for name, value in coords.items()},
        dims=None if dims is None else {name: list(value) for name, value in dims.items()},
        attrs={"/": dict(attrs or {})},
    )
    for group in filled:
        for name, unit in (units or {}).items():
            if name in result[group].data_vars and group not in ("log_likelihood", "sample_stats"):
                result[group][name].attrs["units"] = unit
    return result


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


@dataclass(frozen=True)
class Pointwise:
    """Log density of an observed site per entry of the data, and which entries count."""

    log_prob: Tensor
    seen: Tensor


def pointwise(site: Mapping[str, Any]) -> Pointwise:
    """Return log p(y_i | z) of each entry of an observed site of a trace.

    The event dimensions that ``to_event`` declared are opened again; a distribution whose entries are truly
    dependent (a multivariate normal) stays one entry. Masked entries have log density 0 and are marked as
    not seen.
    """
    distribution, opened = site["fn"], 0
    while type(distribution).__name__ == "Independent":
        opened += distribution.reinterpreted_batch_ndims
        distribution = distribution.base_dist
    log_prob = distribution.log_prob(site["value"])
    seen = torch.ones_like(log_prob, dtype=torch.bool)
    mask = getattr(distribution, "_mask", None)
    if mask is not None:
        seen = seen & torch.as_tensor(mask, device=seen.device)
    if site["mask"] is not None:
        outer = torch.as_tensor(site["mask"], device=seen.device)
        outer = outer.reshape(outer.shape + (1,) * opened) if outer.ndim else outer
        log_prob, seen = scale_and_mask(log_prob, mask=outer), seen & outer
    return Pointwise(log_prob, seen)


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
        "posterior": latents.plain(values, 1),
        "posterior_predictive": {
            name: replicated(model_trace, name, terms).reshape(size, *observed[name]["value"].shape)
            for name in observed
        },
        "log_likelihood": {
            name: _entrywise(sites[name], terms.get(f"{name}_rejected"), (size, *entries[name])) for name in observed
        },
        "sample_stats": {"log_p": log_p, "log_q": log_q},
    }


def _entrywise(site: Mapping[str, Any], rejected: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """Return log p(y_i | z_s), (S, *entries); -inf for all entries of a draw without a solution."""
    log_prob = pointwise(site).log_prob.reshape(shape)
    return log_prob if rejected is None else log_prob + rejected.reshape(-1, *(1,) * (len(shape) - 1))


def _own(site: Mapping[str, Any], *leading: int) -> Tensor:
    """Return a site's value, expanded to the leading plates that it does not depend on."""
    # a replayed site keeps the model's own small batch shape, so the value alone knows the outer plates
    value, events = site["value"].detach(), len(site["fn"].event_shape)
    return value.expand(torch.Size(leading) + value.shape[min(len(leading), value.ndim - events) :])


def _chain(parts: Sequence[Tensor]) -> np.ndarray:
    return _numpy(torch.cat(list(parts)))[None]


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy().copy()  # the tree outlives the tensors
