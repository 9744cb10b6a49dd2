"""The settings of a fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ...core.files import check_writable
from ...core.require import flag, function, named, real, seed_number, shown, whole
from .sources import DataSets, Simulator, Source

Schedule = Literal["constant", "cosine"] | Callable[[float], float]


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or that this machine does not have.

    Raises:
        ValueError: it cannot be used; the reason in brackets.
        TypeError: it is no name of a device.
    """
    if not isinstance(device, str | torch.device):
        raise TypeError(f"device: got {shown(device)}, expected 'cpu' or a device of this machine")
    try:
        torch.zeros(1, device=device).item()  # nothing can be read on "meta"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n", 1)[0].split(". ", 1)[0][:160]
        raise ValueError(
            f"device: got '{str(device)[:40]}', expected 'cpu' or a device of this machine ({reason})"
        ) from None


def is_folder(path: str | Path) -> bool:
    """Whether a path is that of a folder; a name that no file can have is none."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


@dataclass(frozen=True)
class FitOptions:
    """How to optimise.

    Attributes:
        steps: optimiser steps.
        learning_rate: step size at the start of the schedule.
        schedule: "constant", "cosine" (to 1 % of the start), or a function of the fraction done -> factor.
        warmup: fraction of the steps over which the step size grows linearly from zero.
        clip_norm: largest norm of the gradient; ``None`` leaves it alone.
        optimizer: parameters, learning rate -> a torch optimiser; ``None`` for Adam. The schedule multiplies the learning rate
            of each of its groups.
        seed: seed of all random numbers of the fit; torch's generator is put back afterwards.
        checkpoint: file of the checkpoint, or ``None``.
        checkpoint_every: steps between checkpoints.
        resume: go on from ``checkpoint`` where that file exists. Optimiser, objective and seed have to be those that it was
            written with; a fit that stopped early goes on where ``patience`` or ``steps`` is larger than it was.
        held_out: data for early stopping; the best state on it is what the fit returns. All rows of ``DataSets`` are taken at
            once, whatever their ``batch_size``. Steps after the last multiple of ``evaluate_every`` are never judged.
        evaluate_every: steps between evaluations on ``held_out``.
        patience: evaluations without improvement before the fit stops; ``None`` never stops early.
        max_skipped: consecutive steps with a non-finite loss that are skipped before the fit gives up. Steps whose draws the
            physics all rejected are skipped without being counted.
        device: "cpu", "cuda", ...; ``None`` leaves model, guide and data where they are.
        progress: show a progress bar.
        facts: numbers and words that the checkpoint holds beside the state, e.g. what the fit belongs to.
    """

    steps: int = 1000
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    warmup: float = 0.0
    clip_norm: float | None = 10.0
    optimizer: Callable[[list[Tensor], float], torch.optim.Optimizer] | None = None
    seed: int = 0
    checkpoint: str | Path | None = None
    checkpoint_every: int = 500
    resume: bool = False
    held_out: Source | None = None
    evaluate_every: int = 100
    patience: int | None = None
    max_skipped: int = 0
    device: str | None = None
    progress: bool = True
    facts: Mapping[str, bool | int | float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("steps", "checkpoint_every", "evaluate_every"):
            whole(name, getattr(self, name), 1)
        whole("max_skipped", self.max_skipped, 0)
        seed_number(self.seed)
        real("learning_rate", self.learning_rate, 0.0)
        if not (
            callable(self.schedule) or (isinstance(self.schedule, str) and self.schedule in ("constant", "cosine"))
        ):
            raise ValueError(f"schedule: got {shown(self.schedule)}, expected 'constant', 'cosine' or a function")
        real("warmup", self.warmup, -math.ulp(0.0), 1.0, "a fraction in [0, 1)")
        if self.clip_norm is not None and not (isinstance(self.clip_norm, float) and math.isinf(self.clip_norm)):
            real("clip_norm", self.clip_norm, 0.0, expected="a positive number or None")
        if self.patience is not None:
            whole("patience", self.patience, 1)
        if self.patience is not None and self.held_out is None:
            raise ValueError(f"patience: got {self.patience}, expected held_out data together with it")
        if self.optimizer is not None:
            function("optimizer", self.optimizer, classes=True)
        named("facts", self.facts)
        if self.device is not None:
            check_device(self.device)
        for name in ("resume", "progress"):
            flag(name, getattr(self, name))
        if self.held_out is not None and not isinstance(self.held_out, Mapping | DataSets | Simulator):
            raise TypeError(f"held_out: got {shown(self.held_out)}, expected data as fit takes them")
        if isinstance(self.held_out, Mapping):
            named("held_out", self.held_out)
            if not self.held_out:
                raise ValueError("held_out: got no data, expected the arguments of one data set")
        if self.checkpoint is not None and not isinstance(self.checkpoint, str | Path):
            raise TypeError(f"checkpoint: got {shown(self.checkpoint)}, expected the path of a file")
        if self.checkpoint is not None and (not str(self.checkpoint) or is_folder(self.checkpoint)):
            raise ValueError(f"checkpoint: got the folder '{self.checkpoint}', expected the path of a file")
        if self.resume and self.checkpoint is None:
            raise ValueError("resume: got True without a checkpoint, expected checkpoint to name the file")

    def check_checkpoint(self) -> None:
        """Refuse a checkpoint that cannot be written, before any work is done.

        Raises:
            ValueError: its folder cannot be made or written to, or its name is too long.
        """
        if self.checkpoint is not None:
            try:
                check_writable(self.checkpoint)
            except ValueError as error:
                raise ValueError(f"checkpoint: {error}") from None

    def factor(self, step: int) -> float:
        """Return the factor on the learning rate at ``step``."""
        done = step / self.steps
        ramp = min(1.0, (step + 1) / (self.warmup * self.steps)) if self.warmup else 1.0
        if callable(self.schedule):
            factor = self.schedule(done)
            if not isinstance(factor, Real) or not 0 <= factor < math.inf:
                raise ValueError(
                    f"schedule: got a function with {shown(factor)} at {done:.3g}, expected a number of at least 0"
                )
            return ramp * float(factor)
        return ramp * (1.0 if self.schedule == "constant" else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written; the fit goes on and the previous checkpoint is kept."""


class DivergedWarning(UserWarning):
    """A fit ended far above where it began."""


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
