"""The settings of a fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from .data import Source

Schedule = Literal["constant", "cosine"] | Callable[[float], float]


@dataclass(frozen=True)
class FitOptions:
    """How to optimise.

    Attributes:
        steps: optimiser steps.
        learning_rate: step size at the start of the schedule.
        schedule: "constant", "cosine" (to 1 % of the start), or a function of the fraction done -> factor.
        warmup: fraction of the steps over which the step size grows linearly from zero.
        clip_norm: largest norm of the gradient; ``None`` leaves it alone.
        optimizer: parameters, learning rate -> a torch optimiser; ``None`` for Adam.
        seed: seed of all random numbers of the fit; torch's generator is put back afterwards.
        checkpoint: file of the checkpoint, or ``None``.
        checkpoint_every: steps between checkpoints.
        resume: go on from ``checkpoint`` where that file exists.
        held_out: data for early stopping; the best state on it is what the fit returns.
        evaluate_every: steps between evaluations on ``held_out``.
        patience: evaluations without improvement before the fit stops; ``None`` never stops early.
        max_skipped: consecutive steps with a non-finite loss that are skipped before the fit gives up.
        device: "cpu", "cuda", ...; ``None`` leaves model, guide and data where they are.
        progress: show a progress bar.
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

    def __post_init__(self) -> None:
        for name in ("steps", "checkpoint_every", "evaluate_every"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}: got {value!r}, expected a whole number of at least 1")
        if not (isinstance(self.learning_rate, (int, float)) and 0 < self.learning_rate < math.inf):
            raise ValueError(f"learning_rate: got {self.learning_rate!r}, expected a positive number")
        if not (callable(self.schedule) or self.schedule in ("constant", "cosine")):
            raise ValueError(f"schedule: got {self.schedule!r}, expected 'constant', 'cosine' or a function")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup: got {self.warmup!r}, expected a fraction in [0, 1)")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm: got {self.clip_norm!r}, expected a positive number or None")
        if self.patience is not None and (self.patience < 1 or self.held_out is None):
            raise ValueError(f"patience: got {self.patience!r}, expected a positive number together with held_out data")
        if self.max_skipped < 0:
            raise ValueError(f"max_skipped: got {self.max_skipped!r}, expected 0 or more")
        if self.resume and self.checkpoint is None:
            raise ValueError("resume: got True without a checkpoint, expected checkpoint to name the file")

    def factor(self, step: int) -> float:
        """Return the factor on the learning rate at ``step``."""
        done = step / self.steps
        ramp = min(1.0, (step + 1) / (self.warmup * self.steps)) if self.warmup else 1.0
        if callable(self.schedule):
            return ramp * self.schedule(done)
        return ramp * (1.0 if self.schedule == "constant" else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
