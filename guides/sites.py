"""What a trace tells about a Pyro model: its sites, its plates, and draws of many data sets at once.

A model is written for one data set with operations that broadcast. Particles and data sets are plates put around it,
to the left of its own plates, so nothing in a model needs to know of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from torch import Tensor
from torch.distributions import Distribution

from .alone import alone
from .arguments import CAUSES, check_arguments, check_observed, failure
from .nodes import nodes
from .require import function, whole
from .traces import derived_sites, samples, trace_of, undeclared

Data = Mapping[str, Any]
PARTICLES, DATASETS = "_particles", "_datasets"  # names that a model does not give its own plates


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Run a block from ``seed`` and put torch's generators back afterwards; ``None`` leaves the generator alone."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def unchecked() -> Iterator[None]:
    """Switch Pyro's and torch's argument checks off for a block, and put them back as they were."""
    own = Distribution._validate_args
    with pyro.validation_enabled(False):
        try:
            yield
        finally:
            Distribution._validate_args = own


@contextmanager
def unregistered() -> Iterator[None]:
    """Leave Pyro's parameter store as it is found; also a decorator.

    Pyro enters a module's parameters there when the module is run, and a later ``SVI`` of another module with the same names
    would train those instead of its own.
    """
    store: Any = pyro.get_param_store()
    before = set(store.keys())
    try:
        yield
    finally:
        if store.keys() != before:
            # not by ``del store[name]``, which fails for a parameter that modules share: it stands there under two names
            for name in set(store.keys()) - before:
                store._params.pop(name)
                store._constraints.pop(name, None)
            store._param_to_name = {parameter: name for name, parameter in store._params.items()}


@alone()
@unregistered()
def prototype(
    model: Callable[..., Any],
    data: Data | None = None,
    seed: int | None = 0,
    *,
    argument: str = "model",
    subsampled: bool = False,
) -> poutine.Trace:
    """Trace one run of ``model(**data)`` under its prior and return the trace, plates left out.

    Args:
        model: a Pyro model, or a guide.
        data: the arguments of one data set.
        seed: of the run.
        argument: what messages call ``model``.
        subsampled: whether plates may hold a part of their rows.

    Raises:
        ValueError, TypeError: the model cannot be run on the data, does not observe data like these, leaves a batch dimension
            undeclared, or subsamples a plate.
    """
    data = {} if data is None else data
    with seeded(seed), torch.no_grad(), poutine.block(), unchecked():
        trace = traced(model, data, argument)
        if not subsampled:
            _refuse_subsampled(trace, argument)
        trace = poutine.util.prune_subsample_sites(trace)
        _check_names(trace, argument)
        check_declared(trace, argument)
        check_observed(trace, data)
    return trace


def traced(fn: Callable[..., Any], data: Data, argument: str = "model") -> poutine.Trace:
    """Trace a first run of ``fn(**data)``, a "model" or "guide", by which mistakes show.

    Raises:
        ValueError, TypeError: it fails; in one sentence.
    """
    function(argument, fn)
    check_arguments(data)
    try:
        return trace_of(fn, data)
    except CAUSES as error:
        raise failure(fn, data, error, argument) from error


def _refuse_subsampled(trace: poutine.Trace, argument: str) -> None:
    for name, site in nodes(trace).items():
        if site["type"] == "sample" and poutine.util.site_is_subsample(site):
            size, rows = site["fn"].size, len(site["value"])
            if rows < size:
                raise ValueError(
                    f"{argument}: got plate '{name}' with {rows} of its {size} rows, expected all of them: only fit takes "
                    "subsampled plates"
                )


def _check_names(trace: poutine.Trace, argument: str) -> None:
    """Refuse names that this package gives to sites and plates of its own, and the sites that ``obs_mask=`` makes."""
    derived = derived_sites(trace)
    for name, site in samples(trace):
        plates = [frame.name for frame in site["cond_indep_stack"]]
        taken = next((other for other in (name, *plates) if other in (PARTICLES, DATASETS)), None)
        if taken is not None:
            raise ValueError(f"{argument}: got the name '{taken}', which is reserved, expected another one")
        whole_name = name.removesuffix("_unobserved")
        if whole_name != name and whole_name in derived and f"{whole_name}_observed" in nodes(trace):
            raise ValueError(
                f"{argument}: got obs_mask= at site '{whole_name}', which makes unknowns of the missing entries, expected "
                f"pyro.sample('{whole_name}', distribution.mask(mask), obs=...) or physzoo.observe(..., mask=)"
            )


def check_declared(trace: poutine.Trace, argument: str) -> None:
    """Refuse batch dimensions that no plate declares: sums over data sets and particles would run over them.

    Raises:
        ValueError: there is one.
    """
    nesting = plate_nesting(trace)
    for name, site in samples(trace):
        batch = undeclared(site["fn"].batch_shape, site, nesting)
        if batch is not None:
            missing = len(batch) - len({frame.dim for frame in site["cond_indep_stack"] if frame.vectorized})
            raise ValueError(
                f"{argument}: site '{name}' has batch shape {batch}, of which no plate declares a dimension, expected "
                f".to_event({missing}) on its distribution or a pyro.plate around it"
            )


def latent_sites(trace: poutine.Trace) -> dict[str, dict[str, Any]]:
    """Return the latent sites of a model trace, name to site, in the order of the model.

    Raises:
        ValueError: there is no latent site, or one is discrete, fixed or masked.
    """
    sites = {
        name: site for name, site in samples(trace) if not site["is_observed"] and not site["infer"].get("is_auxiliary")
    }
    if not sites:
        raise ValueError("model: got a model without latent sites, expected at least one unobserved pyro.sample")
    for name, site in sites.items():
        if type(site["fn"]).__name__ == "Delta":
            raise ValueError(
                f"model: latent site '{name}' is a Delta, which has no density, expected pyro.deterministic('{name}', ...)"
            )
        if site["mask"] is not None and not bool(torch.as_tensor(site["mask"]).all()):
            raise ValueError(
                f"model: latent site '{name}' is masked, which leaves it without a prior, expected masks around data alone"
            )
        if site["fn"].support.is_discrete:
            raise ValueError(
                f"model: latent site '{name}' is discrete, expected data for it, or continuous unknowns: sum it out, e.g. with "
                "MixtureSameFamily (fit alone also takes enumerated sites, with pyro.infer.TraceEnum_ELBO)"
            )
    return sites


def rows_of(data: Mapping[str, Any], index: Any) -> dict[str, Any]:
    """Return some data sets of a batch; what is no tensor is the same for all."""
    return {name: value[index] if isinstance(value, Tensor) else value for name, value in data.items()}


def repeated(data: Mapping[str, Any], sets: int) -> dict[str, Any]:
    """Return one data set ``sets`` times: every tensor gets that leading dimension, without a copy."""
    return {name: v.expand(sets, *v.shape) if isinstance(v, Tensor) else v for name, v in data.items()}


def observed_sites(trace: poutine.Trace) -> dict[str, dict[str, Any]]:
    """Return the observed sites that can be drawn (factors and Deltas are left out), name to site."""
    return {
        name: site
        for name, site in samples(trace)
        if site["is_observed"] and site["value"].numel() > 0 and type(site["fn"]).__name__ not in {"Unit", "Delta"}
    }


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
