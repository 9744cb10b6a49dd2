"""The driver: one training loop for every model, guide and objective."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyro
import pyro.infer
import torch
from torch import Tensor, nn

from ..guides.require import function, shown
from ..guides.sites import seeded, traced, unchecked
from .checkpoint import CheckpointError, load, save
from .data import Batches, DataSets, Source
from .densities import check_guide
from .fit_support import (
    adam,
    clip,
    difference,
    direct,
    moved,
    parameters_of,
    progress_bar,
    refuse_replaced_subsamples,
)
from .guard import NonFiniteError, diagnose
from .objectives import ELBO, Batch, Objective, Stock
from .options import FitOptions


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written; the fit goes on and the previous checkpoint is kept."""


@dataclass(frozen=True)
class Fit:
    """What a fit leaves behind; model and guide are changed in place.

    Attributes:
        losses: loss of every step (nan where a step was skipped).
        held_out: (step, loss) pairs of the evaluations.
        steps: steps done, those of a resumed checkpoint included.
        seconds: wall time of this call.
        stopped: why it ended: "done" or "early".
    """

    losses: list[float]
    held_out: list[tuple[int, float]] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    stopped: Literal["done", "early"] = "done"


def fit(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Source,
    objective: Objective | pyro.infer.ELBO | None = None,
    options: FitOptions | None = None,
    **changes: Any,
) -> Fit:
    """Train model and guide together by stochastic gradients.

    Parameters stay in the modules and Pyro's global store is not touched. Interrupted at any moment, a fit with a
    checkpoint resumes to bit-equal parameters.

    Args:
        model: a Pyro model of one data set.
        guide: a guide of it: from ``amortize``, one of Pyro's autoguides, or your own.
        data: the arguments of one data set; ``DataSets`` for many; a ``Simulator`` for fresh pairs at each step.
        objective: ``ELBO()`` by default; one of ``physzoo.inference.objectives``, ``.divergences``, ``.grey_box`` or
            ``.distil``, or one of Pyro's with a ``differentiable_loss``.
        options: settings; ``changes`` replaces single ones, e.g. ``fit(..., steps=500)``.

    Returns:
        The record of the fit.

    Raises:
        NonFiniteError: the loss or a gradient is not finite; the message names site and sample, and the last good
            state is in the modules and in the checkpoint.
        ValueError: an unusable model, guide, option or checkpoint.
        TypeError: an argument of another kind, or an unknown option.
    """
    options = _options(options, changes)
    objective = Stock(objective) if isinstance(objective, pyro.infer.ELBO) else (objective or ELBO())
    for name, value in (("model", model), ("guide", guide), ("objective", objective)):
        function(name, value)
    with pyro.get_param_store().scope(), seeded(options.seed):
        return _Loop(model, guide, data, objective, options).run()


def _options(options: FitOptions | None, changes: dict[str, Any]) -> FitOptions:
    unknown = sorted(set(changes) - set(FitOptions.__dataclass_fields__))
    if unknown:
        raise TypeError(
            f"fit: got unknown options {', '.join(unknown)}, expected some of {', '.join(FitOptions.__dataclass_fields__)}"
        )
    if not isinstance(options or FitOptions(), FitOptions):
        raise TypeError(f"options: got {shown(options)}, expected FitOptions")
    return replace(options or FitOptions(), **changes)


def _generators() -> dict[str, Any]:
    """Return the states of torch's generators, as a checkpoint holds them."""
    state: dict[str, Any] = {"generator": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        state["cuda_generators"] = torch.cuda.get_rng_state_all()
    return state


def _put_back(state: dict[str, Any]) -> None:
    """Set torch's generators to the states in a checkpoint."""
    torch.set_rng_state(state["generator"])
    if "cuda_generators" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda_generators"])


class _Loop:
    """The state of one fit: parameters, optimiser, step, losses."""

    def __init__(self, model: Any, guide: Any, data: Source, objective: Objective, options: FitOptions) -> None:
        self.model, self.guide, self.objective, self.options = model, guide, objective, options
        self.modules = {
            name: part for name, part in (("model", model), ("guide", guide)) if isinstance(part, nn.Module)
        }
        if options.device is not None:
            for part in self.modules.values():
                part.to(options.device)
        self.batches = Batches(model, data, options.seed, options.device)
        self.held_out = None
        if options.held_out is not None:
            held_out = options.held_out
            whole = replace(held_out, batch_size=None) if isinstance(held_out, DataSets) else held_out
            self.held_out = Batches(model, whole, options.seed + 1, options.device).at(0)
        self._first_run(self.batches.example)
        self.parameters = parameters_of(self.modules)
        if not self.parameters:
            raise ValueError("guide: got no parameter in model or guide, expected a torch module with at least one")
        build = options.optimizer or adam
        self.optimizer = build(self.parameters, options.learning_rate)
        self.step, self.losses, self.evaluations = 0, [], []
        self.best: tuple[float, dict[str, Any]] | None = None
        self.stopped: Literal["done", "early"] = "done"
        self.skipped, self.particles = 0, getattr(objective, "particles", 1)
        example = self.batches.example
        self.run_model, self.run_guide = direct(model, example), direct(guide, example)

    def _first_run(self, example: Any) -> None:
        """Run the guide once without plates and with checks on: lazy guides set themselves up, and mistakes show."""
        refuse_replaced_subsamples(self.model, self.guide, example)
        with torch.no_grad(), pyro.validation_enabled(True):
            check_guide(traced(self.guide, example), self.batches.latent_names)

    def run(self) -> Fit:
        started, options = time.perf_counter(), self.options
        if options.resume and Path(str(options.checkpoint)).exists():
            self._restore(load(str(options.checkpoint)))
        with progress_bar(options.steps, self.step, options.progress) as bar, unchecked():
            while self.step < options.steps and self.stopped == "done":
                self._one_step()
                bar(self.step, self.losses[-1])
                if self.held_out is not None and self.step % options.evaluate_every == 0 and self._evaluate():
                    self.stopped = "early"
                if options.checkpoint is not None and self.step % options.checkpoint_every == 0:
                    self._checkpoint()
        if options.checkpoint is not None:
            self._checkpoint()
        if self.best is not None:
            self._load_modules(self.best[1])
        return Fit(self.losses, self.evaluations, self.step, time.perf_counter() - started, self.stopped)

    def _loss(self, batch: Batch) -> Tensor:
        return self.objective(self.run_model, self.run_guide, batch)

    def _one_step(self) -> None:
        options = self.options
        rate = options.learning_rate * options.factor(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = moved(self.batches.at(self.step), options.device)
        before = _generators()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(batch)
        value = loss.item()
        finite = math.isfinite(value)
        if finite:
            loss.backward()
            finite = math.isfinite(clip(self.parameters, options.clip_norm or math.inf))
        if finite:
            self.optimizer.step()
            self.skipped = 0
        else:
            self.skipped += 1
            if self.skipped > options.max_skipped:
                self._give_up(batch, before)
        self.losses.append(value if finite else math.nan)
        self.step += 1

    def _give_up(self, batch: Batch, before: dict[str, Any]) -> None:
        _put_back(before)
        reason = diagnose(self.model, self.guide, batch, self.particles)
        kept = ""
        if self.options.checkpoint is not None and self._checkpoint():
            kept = f"; the last good state is in '{self.options.checkpoint}'"
        raise NonFiniteError(f"step {self.step}: {reason}{kept}")

    def _evaluate(self) -> bool:
        """Record the held-out loss; say whether to stop."""
        batch = moved(self.held_out, self.options.device)  # type: ignore[arg-type]
        training = [part for part in self.modules.values() if part.training]
        for part in training:
            part.eval()
        with seeded((self.options.seed + 2) % 2**63), torch.no_grad():
            value = self._loss(batch).item()
        for part in training:
            part.train()
        self.evaluations.append((self.step, value))
        if math.isfinite(value) and (self.best is None or value < self.best[0]):
            self.best = (value, self._module_state(copy=True))
        if self.options.patience is None or self.best is None:
            return False
        at_best = min(range(len(self.evaluations)), key=lambda i: (self.evaluations[i][1], i))
        return len(self.evaluations) - 1 - at_best >= self.options.patience

    def _module_state(self, copy: bool = False) -> dict[str, Any]:
        state = {name: part.state_dict() for name, part in self.modules.items()}
        return {n: {k: v.clone() for k, v in s.items()} for n, s in state.items()} if copy else state

    def _load_modules(self, state: dict[str, Any]) -> None:
        for name, part in self.modules.items():
            part.load_state_dict(state[name])

    def _checkpoint(self) -> bool:
        state = {
            "modules": self._module_state(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "skipped": self.skipped,
            "stopped": self.stopped,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "evaluations": torch.tensor(self.evaluations, dtype=torch.float64).reshape(-1, 2),
            "best": None if self.best is None else {"loss": self.best[0], "modules": self.best[1]},
            "facts": dict(self.options.facts),
            **_generators(),
        }
        try:
            save(str(self.options.checkpoint), state)
        except OSError as error:
            reason = error.strerror or str(error)
            text = f"checkpoint: '{self.options.checkpoint}' could not be written ({reason}); the previous one is kept and the fit goes on"
            warnings.warn(text, CheckpointWarning, stacklevel=2)
            return False
        return True

    def _restore(self, state: dict[str, Any]) -> None:
        expected = {n: {k: tuple(v.shape) for k, v in s.items()} for n, s in self._module_state().items()}
        try:
            got = {n: {k: tuple(v.shape) for k, v in s.items()} for n, s in state["modules"].items()}
            if got != expected:
                differ = difference(got, expected)
                raise CheckpointError(
                    f"checkpoint: '{self.options.checkpoint}' is of another model or guide ({differ})"
                )
            self._load_modules(state["modules"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.skipped = int(state["step"]), int(state["skipped"])
            self.stopped = "early" if state["stopped"] == "early" else "done"
            self.losses = state["losses"].tolist()
            self.evaluations = [(int(s), v) for s, v in state["evaluations"].tolist()]
            best = state["best"]
            self.best = None if best is None else (best["loss"], best["modules"])
            _put_back(state)
        except CheckpointError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint: '{self.options.checkpoint}' is incomplete, expected one written by fit ({str(error)[:120]!r})"
            ) from None
