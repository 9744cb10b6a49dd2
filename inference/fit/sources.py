"""Where a fit takes its batches from: one data set, many, or a simulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.arguments import Data, check_arguments, repeated, rows_of
from ...core.prototype import prototype
from ...core.require import function, seed_number, shown, tensors, whole
from ...core.sites import latent_sites
from ...core.traces import nodes
from ...guides.refine.gauss_newton import Refined
from ..density.densities import count
from ..density.shares import Share, accepted_pairs, told_once
from ..objectives.standard import MOST
from .source_checks import (
    check_dense,
    check_numbers,
)

REFINED_AT_ONCE = 4096


@dataclass(frozen=True)
class DataSets:
    """Many data sets, every tensor with the data-set dimension first; minibatches are drawn without replacement.

    Args:
        data: the model's arguments.
        batch_size: data sets a step; ``None`` takes all of them.
        latents: the unknowns where they are known (for the forward KL), leading dimension the data sets.
        refined: what the guide's ``refined(data)`` returned, where the forward KL shall not ask for it at every step.
    """

    data: Data
    batch_size: int | None = None
    latents: Mapping[str, Tensor] | None = None
    refined: Refined | None = None

    def __post_init__(self) -> None:
        sets = count(self.data)
        check_arguments(self.data)
        check_dense("data", self.data)
        if self.batch_size is not None:
            whole("batch_size", self.batch_size, 1, sets)
        if self.refined is not None and not isinstance(self.refined, Refined):
            raise TypeError(f"refined: got {shown(self.refined)}, expected what the guide's refined(data) returns")
        latents = {} if self.latents is None else self.latents
        tensors("latents", latents)
        for name, value in latents.items():
            check_numbers(f"latents['{name}']", value)
            if value.shape[:1] != (sets,):
                raise ValueError(
                    f"latents['{name}']: got shape {tuple(value.shape)}, expected ({sets}, ...), one for each data set"
                )


@dataclass(frozen=True)
class Simulator:
    """Fresh pairs (z, y) from the model's prior predictive at every step.

    Args:
        batch_size: data sets a step.
        given: arguments that are not drawn (masks, covariates), the same for all data sets.
        corrupt: applied to the drawn data before they are seen, e.g. to draw masks.
        seen: values of some unknowns, site -> (N, *site shape). Half of the data sets of a step take theirs from a row of
            these instead of the prior, and draw the rest of the model around them: where the prior is learnt and simple,
            as a code's, what is inferred from data shows what the prior does not hold.
    """

    batch_size: int = 256
    given: Data | None = None
    corrupt: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    seen: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        whole("batch_size", self.batch_size, 1, MOST)
        given = {} if self.given is None else self.given
        check_arguments(given, "given")
        check_dense("given", given)
        if self.corrupt is not None:
            function("corrupt", self.corrupt)
        if self.seen is not None:
            tensors("seen", self.seen)
            if not self.seen:
                raise ValueError("seen: got none, expected values of at least one unknown")
            count(self.seen)
            for name, value in self.seen.items():
                check_numbers(f"seen['{name}']", value)


Source = Mapping[str, Any] | DataSets | Simulator


def simulated_once(
    model: Callable[..., Any],
    guide: Any,
    simulations: int,
    batch_size: int | None = None,
    given: Data | None = None,
    seed: int = 0,
) -> DataSets:
    """Return pairs (z, y) from the model's prior predictive with the guide's refinement of each, for the forward KL.

    A refinement costs several runs of the model, and nothing that is learnt changes it: with a fixed set of pairs it is
    paid for once and not at every step. The price is that a guide can learn the pairs by heart, if they are few.

    Args:
        model: a Pyro model; pairs that the physics rejects, or that are not finite, are drawn again.
        guide: a guide of it; one without ``refined`` gets pairs alone.
        simulations: how many pairs.
        batch_size: of the steps; ``None`` takes all.
        given: arguments that are not drawn (masks, covariates), the same for all data sets.
        seed: of the draws.

    Raises:
        ValueError: a number below one, or below ``batch_size``, or a model that does not simulate its own joint density.
        RejectedError: more than a half of the pairs are rejected.
    """
    whole("simulations", simulations, 1, MOST)
    if batch_size is not None:
        whole("batch_size", batch_size, 1, simulations)
    if seed is not None:
        seed_number(seed)
    if guide is not None:
        function("guide", guide)
    given = {} if given is None else given
    check_arguments(given, "given")
    check_dense("given", given)
    with told_once():
        check_simulates(model, given)
        drawn, loss = accepted_pairs(model, simulations, given, seed=seed)
    share = Share()
    share.count(loss)
    share.check(done=True)
    example = {**given, **data_arguments(model, drawn)}
    names = tuple(latent_sites(prototype(model, example)))
    sets = simulations
    data = {**repeated(given, sets), **{name: value for name, value in drawn.items() if name in example}}
    latents = {name: drawn[name] for name in names}
    refine = getattr(guide, "refined", None)
    if refine is None:
        return DataSets(data, batch_size, latents)
    parts = [refine(rows_of(data, rows)) for rows in torch.arange(sets).split(REFINED_AT_ONCE)]
    if parts[0] is None:
        return DataSets(data, batch_size, latents)
    return DataSets(
        data, batch_size, latents, Refined(*(torch.cat(x) for x in zip(*map(_tensors, parts), strict=True)))
    )


def check_simulates(model: Callable[..., Any], given: Data | None) -> None:
    """Refuse a model whose density has terms that its simulation ignores, as that of a residual likelihood.

    Raises:
        ValueError: a site is observed even without data; but for the factor of ``observe`` at data that it could not simulate.
    """
    found = nodes(prototype(model, given))
    for name, site in found.items():
        if site["type"] != "sample" or not site["is_observed"]:
            continue
        simulated = found.get(name.removesuffix("_rejected"))
        if (
            type(site["fn"]).__name__ == "Unit"
            and simulated is not None
            and not torch.isfinite(simulated["value"]).all()
        ):
            continue  # a rejected simulation, which is dropped below
        if name in (given or {}):
            raise ValueError(
                f"given['{name}']: got data of an observed site, expected arguments that are not drawn, e.g. a mask"
            )
        raise ValueError(
            f"model: site '{name}' is observed even without data, so the model does not simulate its own joint density; "
            "simulate with the forward model (calibrate: pass simulator=)"
        )


def _tensors(refined: Refined) -> tuple[Tensor, ...]:
    return refined.loc, refined.factor, refined.features


def data_arguments(model: Callable[..., Any], drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The drawn sites that the model takes as arguments are its data."""
    import inspect

    parameters = inspect.signature(getattr(model, "forward", model)).parameters
    data = {name: value[0] for name, value in drawn.items() if name in parameters}
    if not data:
        raise ValueError(f"model: got sites {sorted(drawn)}, expected an argument with the name of each observed site")
    return data
