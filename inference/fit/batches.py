"""Batches of a source, one a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...core.arguments import CAUSES, Data, check_arguments, check_observed, repeated, rows_of
from ...core.broadcasting import check_sets
from ...core.global_state import seeded
from ...core.plates import plate_nesting
from ...core.prototype import prototype
from ...core.require import shown
from ..density.densities import conditioned, count, one
from ..density.shares import Loss, accepted_pairs
from ..objectives.standard import Batch
from .source_checks import (
    check_corrupted,
    check_dense,
    check_latents,
    check_rows,
    check_values,
    unknowns,
)
from .sources import DataSets, Simulator, Source, check_simulates, data_arguments


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
            self.example = {**given, **data_arguments(model, drawn)}
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
