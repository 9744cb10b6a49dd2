"""A first run of a model, by which its structure and its mistakes show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine

from .arguments import CAUSES, Data, check_arguments, check_observed, failure
from .global_state import alone, seeded, unchecked, unregistered
from .plates import DATASETS, PARTICLES
from .require import function
from .sites import check_declared
from .traces import derived_sites, nodes, samples, trace_of


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
