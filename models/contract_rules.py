"""The rules of the contract: each takes a model with its data and says what breaks it, or "" where it holds."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from ..core.arguments import repeated
from ..core.global_state import seeded, unchecked
from ..core.plates import outer_plates, plate_nesting
from ..core.prototype import prototype
from ..core.simulate import simulate
from ..core.sites import latent_sites, observed_sites
from ..core.traces import log_prob_of, nodes, samples
from .contract_subject import DRAWS, Subject


def runs(subject: Subject) -> str:
    """The model can be traced on the data, and has latent sites."""
    latent_sites(subject.trace)
    return ""


def finite(subject: Subject) -> str:
    """The log density of every site is finite at prior draws; the physics rejects at most half of them."""
    rejected = 0
    for seed in range(DRAWS):
        trace = prototype(subject.model, subject.data, seed)
        lost = [name for name, site in samples(trace) if not bool(torch.isfinite(log_prob_of(site)).all())]
        other = [name for name in lost if not name.endswith("_rejected")]
        if other:
            return f"site '{other[0]}' has a log density that is not finite"
        rejected += bool(lost)
    return f"the physics rejects {rejected} of {DRAWS} prior draws" if rejected > DRAWS / 2 else ""


def same_sites(subject: Subject) -> str:
    """The guide has the model's latent sites, draws inside their supports, and has no others."""
    sites = latent_sites(subject.trace)
    drawn = nodes(prototype(subject.guide, subject.data))
    for name, site in sites.items():
        if name not in drawn:
            return f"the guide has no site '{name}'"
        if not site["fn"].support.check(drawn[name]["value"]).all():
            return f"the guide draws site '{name}' outside its support"
    extra = [
        name
        for name, site in drawn.items()
        if site["type"] == "sample"
        and name not in sites
        and not site["infer"].get("is_auxiliary")
        and not site["infer"].get("_deterministic")
    ]
    return f"the guide has sites that the model lacks: {', '.join(extra)}" if extra else ""


def batch_shapes(subject: Subject) -> str:
    """Particles and data sets are plates around the model, and every observed site keeps them apart."""
    nesting = plate_nesting(subject.trace)
    shapes = {name: site["value"].shape for name, site in observed_sites(subject.trace).items()}
    batch = repeated(subject.data, 3)
    with seeded(0), torch.no_grad(), outer_plates(nesting, 5, 3):
        drawn = poutine.trace(subject.model).get_trace(**batch)
        drawn.compute_log_prob()
    for name, shape in shapes.items():
        log_prob = nodes(drawn)[name]["log_prob"]
        if tuple(log_prob.shape[: log_prob.ndim - nesting]) != (5, 3):
            got, own = tuple(log_prob.shape), tuple(shape)
            return f"site '{name}' has log density of shape {got} for 5 particles and 3 data sets of shape {own}"
    return ""


def precisions(subject: Subject) -> str:
    """A module in float32 is float32 throughout, and one in float64 float64; of a function only its data tell."""
    _ = subject.trace
    if not isinstance(subject.model, nn.Module):
        return ""
    for dtype in (torch.float32, torch.float64):
        trace = prototype(copy.deepcopy(subject.model).to(dtype), _converted(subject.data, dtype))
        for name, site in nodes(trace).items():
            value = site["value"] if site["type"] == "sample" else None
            if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != dtype and value.numel():
                return f"site '{name}' is {value.dtype} in a model of {dtype}"
    return ""


def _converted(data: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {n: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for n, v in data.items()}


def gradients(subject: Subject) -> str:
    """The loss of a draw has a gradient in every parameter of model and guide."""
    guide, data = subject.guide, subject.data
    with seeded(0):
        guide_trace = poutine.trace(guide).get_trace(**data)
        model_trace = poutine.trace(poutine.replay(subject.model, trace=guide_trace)).get_trace(**data)
    loss = torch.as_tensor(guide_trace.log_prob_sum() - model_trace.log_prob_sum())
    parts = [part for part in (subject.model, guide) if isinstance(part, nn.Module)]
    named = {name: p for part in parts for name, p in part.named_parameters() if p.requires_grad}
    for trace in (model_trace, guide_trace):  # those of functions, by pyro.param
        for name, site in nodes(trace).items():
            if site["type"] == "param" and not any(site["value"] is p for p in named.values()):
                free = site["value"].unconstrained() if hasattr(site["value"], "unconstrained") else site["value"]
                named |= {} if any(free is p for p in named.values()) or not free.requires_grad else {name: free}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True) if named else []
    missing = [name for name, gradient in zip(named, found, strict=True) if gradient is None]
    return f"no gradient reaches {', '.join(missing)}" if missing else ""


def reproducible(subject: Subject) -> str:
    """Draws depend on the seed and on nothing else."""
    first, second, third = (simulate(subject.model, 4, subject.given, seed) for seed in (1, 1, 2))
    for name, value in first.items():
        if not torch.equal(value.nan_to_num(), second[name].nan_to_num()):
            return f"site '{name}' differs between two runs of one seed"
    if all(torch.equal(value.nan_to_num(), third[name].nan_to_num()) for name, value in first.items()):
        return "two seeds give the same draws"
    return ""


def round_trip(subject: Subject) -> str:
    """State that is taken out and loaded again changes nothing."""
    for part in (subject.model, subject.guide):
        if not isinstance(part, nn.Module):
            continue
        state = {n: v.clone() if isinstance(v, Tensor) else copy.deepcopy(v) for n, v in part.state_dict().items()}
        before = prototype(part, subject.data, seed=3)
        part.load_state_dict(state)
        after = prototype(part, subject.data, seed=3)
        for name, site in nodes(before).items():
            if site["type"] == "sample" and not torch.equal(site["value"], nodes(after)[name]["value"]):
                return f"site '{name}' of {type(part).__name__} changes when its state is loaded again"
    return ""


def takes_mask(subject: Subject) -> str:
    """The model has an argument ``mask``, so that data can be missing."""
    return "" if _has_mask(subject.model) else "the model takes no argument 'mask': data cannot be missing"


def mask_hides(subject: Subject) -> str:
    """What is masked counts for nothing; holds where no mask is taken."""
    observed = subject.observed
    if not _has_mask(subject.model) or not observed:
        return ""
    hidden = {n: torch.full_like(v, torch.nan) for n, v in observed.items() if v.is_floating_point()}
    mask = torch.zeros_like(next(iter(observed.values())), dtype=torch.bool)
    try:
        trace = prototype(subject.model, {**subject.data, **hidden, "mask": mask})
    except ValueError as error:
        if "behind a mask of the distribution" not in str(error):
            raise
        trace = prototype(subject.model, {**subject.data, "mask": mask})  # Pyro's own masks hide numbers, not NaN
    with unchecked():  # what is hidden is in no support
        trace.compute_log_prob(lambda name, _: name in observed)
    for name in observed:
        if not (nodes(trace)[name]["log_prob"] == 0).all():
            return f"site '{name}' counts data that are masked"
    return ""


def _has_mask(model: Callable[..., Any]) -> bool:
    run = model.forward if isinstance(model, nn.Module) else model
    try:
        return "mask" in inspect.signature(run).parameters
    except (TypeError, ValueError):
        return False
