"""Simulated data of a system as an animal needs them: splits to train on, and one data set to show."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from .splits import Splits


@dataclass(frozen=True)
class Simulated:
    """The data that the generator of a system makes.

    Attributes:
        system: the name of a module here that has ``generate(seed, sizes, ...)``.
        options: of ``generate``, other than seed and sizes.
        sizes: data sets for training, validation and test; ``None`` takes the generator's own.
    """

    system: str
    options: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[int, int, int] | None = None

    def splits(self, seed: int) -> Splits:
        """Return all splits."""
        return self._generate(seed, {} if self.sizes is None else {"sizes": self.sizes})

    def one(self) -> dict[str, Any]:
        """Return a data set that is in no split of seed 0, {"x": (*event)}."""
        return {"x": self._generate(1, {"sizes": (1, 1, 1)}).train.x[0]}

    def _generate(self, seed: int, sizes: dict[str, Any]) -> Splits:
        # imported when asked for: its dependencies are slow, and most animals are never run
        return import_module(f".{self.system}", __package__).generate(seed=seed, **sizes, **self.options)
