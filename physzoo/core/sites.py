"""Which sites of a trace are unknowns, which are data, and which cannot be served."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine

from .plates import plate_nesting
from .traces import samples, undeclared


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


def observed_sites(trace: poutine.Trace) -> dict[str, dict[str, Any]]:
    """Return the observed sites that can be drawn (factors and Deltas are left out), name to site."""
    return {
        name: site
        for name, site in samples(trace)
        if site["is_observed"] and site["value"].numel() > 0 and type(site["fn"]).__name__ not in {"Unit", "Delta"}
    }


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
