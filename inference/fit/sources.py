"""Where a fit takes its batches from: one data set, many, or a simulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.arguments import CAUSES, Data, check_arguments, check_observed, repeated, rows_of
from ...core.broadcasting import check_sets
from ...core.global_state import seeded
from ...core.plates import plate_nesting
from ...core.prototype import prototype
from ...core.require import function, seed_number, shown, tensors, whole
from ...core.sites import latent_sites
from ...core.traces import nodes
from ...guides.refine.gauss_newton import Refined
from ..density.densities import conditioned, count, one
from ..density.shares import Loss, Share, accepted_pairs, told_once
from ..objectives.standard import MOST, Batch
from .source_checks import (
    check_corrupted,
    check_dense,
    check_latents,
    check_numbers,
    check_rows,
    check_values,
    unknowns,
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
    example = {**given, **_data_arguments(model, drawn)}
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


class Batches:
    """Turn a source into the batch of a given step, so that a resumed fit sees the same.

    Minibatches are a function of seed and step alone. A ``Simulator`` draws from torch's generator, whose state checkpoints keep.
    With ``device`` the example of one data set is there, where the model must be already. ``loss`` says how many of the pairs
    simulated last the physics rejected; others were drawn in their place. With ``enumerated``, discrete latent sites that the
    model marks for enumeration are not for the guide.

    Raises:
        TypeError: the source is none of the three kinds.
        ValueError: the model cannot be traced on it, or does not simulate its own joint density.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        source: Source,
        seed: int,
        device: str | None = None,
        enumerated: bool = False,
    ) -> None:
        self.model, self.source, self.seed, self.device = model, source, seed, device
        self.loss = Loss()
        if isinstance(source, Simulator):
            given = _on(device, source.given or {})
            check_simulates(model, given)
            self.nesting = plate_nesting(prototype(model, given))
            drawn, _ = accepted_pairs(model, 2, given, seed=0, nesting=self.nesting)
            self.example = {**given, **_data_arguments(model, drawn)}
            self.latents = unknowns(prototype(model, self.example), enumerated)
            strange = sorted(set(source.seen or {}) - set(self.latents))
            if strange:
                raise ValueError(f"seen: got {', '.join(strange)}, expected some of {', '.join(self.latents)}")
            for name, value in (source.seen or {}).items():
                check_values(f"seen['{name}']", value, drawn[name].shape[1:], self.latents[name])
            if not enumerated:
                check_sets(model, self.example, prototype(model, self.example))
            if source.corrupt is not None:
                with seeded(0):
                    check_corrupted(self._corrupted(source, 2), self.example)
            return
        if not isinstance(source, (DataSets, Mapping)):
            raise TypeError(
                f"data: got {type(source).__name__}, expected a mapping of the model's arguments, DataSets or Simulator"
            )
        if not isinstance(source, DataSets):
            check_arguments(source)
            check_dense("data", source)
        self.example = _on(device, one(source.data) if isinstance(source, DataSets) else source)
        trace = prototype(model, self.example, subsampled=True)
        self.nesting, self.latents = plate_nesting(trace), unknowns(trace, enumerated)
        if isinstance(source, DataSets):
            self.sets = count(source.data)
            if not enumerated:
                check_sets(model, self.example, trace)
            check_rows(model, source.data)
            check_observed(trace, source.data, self.sets)
            check_latents(source.latents or {}, trace)
            self._epoch, self._order = -1, torch.arange(self.sets)

    def at(self, step: int) -> Batch:
        """Return the batch of ``step``."""
        if isinstance(self.source, Simulator):
            return self._simulated(self.source, self.source.batch_size)
        if isinstance(self.source, DataSets):
            return self._minibatch(self.source, step)
        return Batch(self.source, None, {}, self.nesting)

    def _simulated(self, source: Simulator, size: int) -> Batch:
        given = _on(self.device, source.given or {})
        drawn, self.loss = accepted_pairs(self.model, size, given, nesting=self.nesting)
        if source.seen:
            half = size // 2
            rows = torch.randint(count(source.seen), (half,))
            like = next(iter(drawn.values()))
            seen = {name: value[rows.to(value.device)].to(like.device) for name, value in source.seen.items()}
            known = conditioned(self.model, seen, self.nesting)
            around = accepted_pairs(known, half, given, nesting=self.nesting)[0] if half else {}
            drawn = {name: torch.cat([around[name], value[half:]]) if half else value for name, value in drawn.items()}
        latents = {name: drawn[name] for name in self.latents}
        data = {name: value for name, value in drawn.items() if name in self.example}
        data |= repeated(given, size)
        if source.corrupt is not None:
            data = source.corrupt(data)
        return Batch(data, size, latents, self.nesting)

    def _corrupted(self, source: Simulator, size: int) -> Any:
        try:
            return self._simulated(source, size).data
        except CAUSES as error:
            what = f"{type(error).__name__}: {error}".split("\n", 1)[0][:120]
            raise ValueError(
                f"corrupt: got {shown(source.corrupt)}, which fails on simulated data ({what}), expected data"
            ) from error

    def _minibatch(self, source: DataSets, step: int) -> Batch:
        latents = dict(source.latents or {})
        size = source.batch_size
        if size is None or size == self.sets:
            return Batch(source.data, self.sets, latents, self.nesting, source.refined)
        epoch, place = divmod(step, self.sets // size)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            self._epoch, self._order = epoch, torch.randperm(self.sets, generator=generator)
        rows = self._order[place * size : (place + 1) * size]
        data = rows_of(source.data, rows)
        refined = None if source.refined is None else source.refined.rows(rows)
        return Batch(data, size, {name: value[rows] for name, value in latents.items()}, self.nesting, refined)


def _on(device: str | None, data: Data) -> dict[str, Any]:
    """The data with its tensors on a device; as they are where it is None."""
    return {name: value.to(device) if isinstance(value, Tensor) and device else value for name, value in data.items()}


def _data_arguments(model: Callable[..., Any], drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The drawn sites that the model takes as arguments are its data."""
    import inspect

    parameters = inspect.signature(getattr(model, "forward", model)).parameters
    data = {name: value[0] for name, value in drawn.items() if name in parameters}
    if not data:
        raise ValueError(f"model: got sites {sorted(drawn)}, expected an argument with the name of each observed site")
    return data
