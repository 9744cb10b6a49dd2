"""The loop of a fit: steps, evaluations, checkpoints, and the last good state where it breaks off."""

from __future__ import annotations

import math
import time
import warnings
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...core.global_state import seeded, unchecked
from ..density.rejected import RejectedError
from ..density.shares import Share, Watch
from ..objectives.standard import Batch, Objective
from ..objectives.stock import Stock
from .batches import Batches
from .checkpoint import CheckpointError, load, save
from .guard import NOTHING_FOUND, NonFiniteError, diagnose, sound
from .options import CheckpointWarning, DivergedWarning, Fit, FitOptions
from .parameters import Parameters
from .resume import check, generators, goes_on, more_patience, put_back, settings
from .sources import DataSets, Source
from .support import (
    build_optimizer,
    clip,
    direct,
    first_run,
    loss_of,
    moved,
    number_of,
    of_model,
    optimizer_step,
    progress_bar,
    rates,
    set_rates,
    warn_of_untrained,
)


class Loop:
    """The state of one fit: parameters, optimiser, step, losses."""

    def __init__(
        self, model: Any, guide: Any, data: Source, objective: Objective, options: FitOptions, parameters: Parameters
    ) -> None:
        self.model, self.guide, self.objective, self.options = model, guide, objective, options
        self.store, self.modules = parameters, parameters.modules
        options.check_checkpoint()
        if options.device is not None:
            for part in self.modules.values():
                part.to(options.device)
        self.enumerated = isinstance(objective, Stock) and objective.enumerates
        self.batches = Batches(model, data, options.seed, options.device, self.enumerated)
        self.held_out = None
        if options.held_out is not None:
            held_out = options.held_out
            whole = replace(held_out, batch_size=None) if isinstance(held_out, DataSets) else held_out
            self.held_out = Batches(model, whole, options.seed + 1, options.device, self.enumerated).at(0)
        first_run(model, guide, objective, self.batches, self.enumerated)
        parameters.freeze()
        self.parameters = parameters.all()
        if not self.parameters:
            raise ValueError(
                "guide: got no parameter in model or guide, expected a torch module, or a function with pyro.param, that has one"
            )
        self.optimizer = build_optimizer(options.optimizer, self.parameters, options.learning_rate)
        self.rates = rates(self.optimizer)
        self.settings = settings(self.optimizer, objective, options, model, self.batches.source)
        self.asked = -1  # names of parameters at the last look
        self.late: list[str] = []  # parameters that appeared after the first step, in this order
        self.step, self.losses, self.evaluations = 0, [], []
        self.best: tuple[float, dict[str, Any]] | None = None
        self.stopped: Literal["done", "early"] = "done"
        self.skipped, self.judged_from, self.particles = 0, 0, getattr(objective, "particles", 1)
        self.share, self.rejecting, self.resumed_at = Share(), False, -1
        example = self.batches.example
        self.run_model, self.run_guide = direct(model, example), direct(guide, example)

    def run(self) -> Fit:
        started, options = time.perf_counter(), self.options
        if options.resume and Path(str(options.checkpoint)).exists():
            self._restore(load(str(options.checkpoint)))
            self.resumed_at = self.step
        self.good = self._state(copy=True)
        with progress_bar(options.steps, self.step, options.progress) as bar, unchecked():
            while self.step < options.steps and self.stopped == "done":
                try:
                    self._one_step()
                except RejectedError as error:
                    raise RejectedError(f"step {self.step}: {error}{self._keep_good()}") from None
                bar(self.step, self.losses[-1])
                if self.held_out is not None and self.step % options.evaluate_every == 0 and self._evaluate():
                    self.stopped = "early"
                if self.step % options.checkpoint_every == 0 and self._is_good():
                    self.good = self._state(copy=True)
                    if options.checkpoint is not None:
                        self._checkpoint(self.good)
            self._finish()
        return Fit(self.losses, self.evaluations, self.step, time.perf_counter() - started, self.stopped)

    def _finish(self) -> None:
        """Judge the end of the fit, write it down and take the best state."""
        options = self.options
        if not all(bool(torch.isfinite(value).all()) for value in self.parameters):
            raise NonFiniteError(f"step {self.step}: the parameters are not finite after this step{self._keep_good()}")
        try:
            self.share.check(done=True)
        except RejectedError as error:
            raise RejectedError(f"step {self.step}: {error}{self._keep_good()}") from None
        if options.checkpoint is not None and self.step != self.resumed_at:
            self._checkpoint(self._state())
        if self.step != self.resumed_at:
            trained = {**of_model(self.modules), **self.store.of_functions()}
            warn_of_untrained(self.objective, trained, self.parameters)
        if self.best is not None:
            self.store.load(self.best[1])
        elif not sound(self.losses):
            text = f"fit: the loss rose to {self.losses[-1]:.4g}, far above where it began; lower learning_rate"
            warnings.warn(text, DivergedWarning, stacklevel=5)

    def _loss(self, batch: Batch) -> Tensor:
        return loss_of(self.objective, self.run_model, self.run_guide, batch, first=not self.losses)

    def _one_step(self) -> None:
        options = self.options
        set_rates(self.optimizer, self.rates, options.factor(self.step))
        batch = replace(moved(self.batches.at(self.step), options.device), rejecting=self.rejecting)
        before = generators()
        self.optimizer.zero_grad(set_to_none=True)
        value, finite, excused = math.nan, False, False
        with Watch(self.batches.nesting) as watch:
            try:
                loss = self._loss(batch)
            except RejectedError:
                excused, loss = True, None
        if loss is not None:
            self._adopt()
            value = number_of(loss)
            finite = math.isfinite(value)
        if loss is not None and finite:
            loss.backward()
            finite = math.isfinite(clip(self.parameters, options.clip_norm or math.inf))
        if finite:
            optimizer_step(self.optimizer)
            self.skipped = 0
        elif not excused:
            self._failed(batch, before, watch)
        self.losses.append(value if finite else math.nan)
        self.step += 1
        simulated, drawn = self.batches.loss, watch.worst()
        self.rejecting = self.rejecting or bool(watch.gone)
        self.share.count(max(simulated, drawn, key=lambda lost: lost.share), used=finite)
        self.share.check()

    def _adopt(self) -> None:
        """Train parameters that functions have asked for since the first run."""
        if len(self.store.used) == self.asked:
            return
        self.asked = len(self.store.used)
        known = {id(value) for value in self.parameters}
        for name, value in self.store.of_functions().items():
            if id(value) not in known:
                self._take(name, value)

    def _take(self, name: str, value: Tensor) -> None:
        self.late.append(name)
        self.parameters.append(value)
        self.optimizer.add_param_group({"params": [value]})
        self.rates = [*self.rates, *rates(self.optimizer)[len(self.rates) :]]

    def _failed(self, batch: Batch, before: dict[str, Any], watch: Watch) -> None:
        """Count a step whose loss or gradient is not finite, and give up where these are too many."""
        last = self.skipped >= self.options.max_skipped
        if last or watch.gone:
            after = None if last and not watch.gone else generators()
            put_back(before)
            reason = diagnose(self.model, self.guide, batch, self.particles)
            of_rejected = bool(watch.gone) and reason == NOTHING_FOUND  # in an objective that does not know of them
            if last and not of_rejected:
                raise NonFiniteError(f"step {self.step}: {reason}{self._keep_good()}")
            put_back(after or before)
            if of_rejected:
                return
        self.skipped += 1

    def _is_good(self) -> bool:
        return sound(self.losses) and all(bool(torch.isfinite(value).all()) for value in self.parameters)

    def _works(self) -> bool:
        """Whether the loss is a number for other draws than those that failed."""
        for _ in range(3):
            try:
                with torch.no_grad():
                    value = float(self._loss(moved(self.batches.at(self.step), self.options.device)))
            except (ArithmeticError, ValueError, RuntimeError):
                continue
            if math.isfinite(value) and sound([*self.losses, value]):
                return True
        return False

    def _keep_good(self) -> str:
        """Leave the last good state in the modules and in the checkpoint; say where it is."""
        good = self._is_good() and self._works()
        if not good:
            self.store.load(self.good["modules"])
        if self.options.checkpoint is not None:
            state = self._state() if good else self.good
            if self._checkpoint(state):
                return f"; the last good state (step {state['step']}) is in '{self.options.checkpoint}'"
        return ""

    def _evaluate(self) -> bool:
        """Record the held-out loss; say whether to stop."""
        batch = moved(self.held_out, self.options.device)  # type: ignore[arg-type]
        training = [part for part in self.modules.values() if part.training]
        for part in training:
            part.eval()
        try:
            with seeded((self.options.seed + 2) % 2**63), torch.no_grad():
                value = self._loss(batch).item()
            if not math.isfinite(value) and self.best is None:
                raise NonFiniteError(f"held_out: {diagnose(self.model, self.guide, batch, self.particles)}")
        except RejectedError:
            value = math.nan
        for part in training:
            part.train()
        self.evaluations.append((self.step, value))
        if math.isfinite(value) and (self.best is None or value < self.best[0]):
            self.best = (value, self.store.state(copy=True))
        if self.options.patience is None or self.best is None:
            return False
        at_best = min(range(len(self.evaluations)), key=lambda i: (self.evaluations[i][1], i))
        return len(self.evaluations) - 1 - max(at_best, self.judged_from) >= self.options.patience

    def _state(self, copy: bool = False) -> dict[str, Any]:
        return {
            "modules": self.store.state(copy),
            "optimizer": deepcopy(self.optimizer.state_dict()) if copy else self.optimizer.state_dict(),
            "settings": self.settings,
            "late": list(self.late),
            "step": self.step,
            "skipped": self.skipped,
            "stopped": self.stopped,
            "facts": dict(self.options.facts),
            "judged_from": self.judged_from,
            "rejecting": self.rejecting,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "evaluations": torch.tensor(self.evaluations, dtype=torch.float64).reshape(-1, 2),
            "best": None if self.best is None else {"loss": self.best[0], "modules": self.best[1]},
            **generators(),
        }

    def _checkpoint(self, state: dict[str, Any]) -> bool:
        try:
            save(str(self.options.checkpoint), state)
        except OSError as error:
            reason = error.strerror or str(error)
            text = f"checkpoint: '{self.options.checkpoint}' could not be written ({reason}); the previous one is kept and the fit goes on"
            warnings.warn(text, CheckpointWarning, stacklevel=2)
            return False
        return True

    def _restore(self, state: dict[str, Any]) -> None:
        path, now = self.options.checkpoint, self.settings
        try:
            check(path, state, self._state())
            best, late = state["best"], list(state.get("late", []))
            best = None if best is None else (float(best["loss"]), best["modules"])
            evaluations = [(int(s), v) for s, v in state["evaluations"].tolist()]
            judged_from, early = int(state.get("judged_from", 0)), state["stopped"] == "early"
            if early and goes_on(state, now):
                early = False
                judged_from = judged_from if more_patience(state, now) else len(evaluations) - 1
            put_back(state)
            self.store.load(state["modules"])
            for name in late:
                self._take(name, self.store.of_functions()[name])
            self.optimizer.load_state_dict(state["optimizer"])
        except CheckpointError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint: '{path}' is incomplete, expected one written by fit ({str(error)[:120]!r})"
            ) from None
        self.step, self.skipped, self.losses = int(state["step"]), int(state["skipped"]), state["losses"].tolist()
        self.evaluations, self.best, self.judged_from = evaluations, best, judged_from
        self.rejecting = bool(state.get("rejecting", False))
        self.stopped = "early" if early else "done"
