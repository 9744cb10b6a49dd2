"""How an animal is fitted, and what its sites mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..core.require import named, one_of, real, shown, whole

OWN = "own"  # family and encoder of an animal that brings its own guide


@dataclass(frozen=True)
class Quantity:
    """What a site means, as it reaches ArviZ and the figures.

    Attributes:
        label, unit: its name in words, and its unit; "1" for a number.
        dims: names of its dimensions.
        coords: dimension -> what its entries stand for, e.g. times or names.
        units: dimension -> unit of its coordinates, where they have one.
    """

    label: str
    unit: str = "1"
    dims: tuple[str, ...] = ()
    coords: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("label", "unit"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name}: got {shown(getattr(self, name))}, expected words")
        if not isinstance(self.dims, tuple | list) or not all(isinstance(dim, str) for dim in self.dims):
            raise TypeError(f"dims: got {shown(self.dims)}, expected a tuple of names")
        for name, kind, expected in (("coords", Sequence, "the entries along it"), ("units", str, "words")):
            named(name, getattr(self, name))
            for dim, value in getattr(self, name).items():
                if not isinstance(value, kind) or (kind is Sequence and isinstance(value, str | bytes)):
                    raise TypeError(f"{name}['{dim}']: got {shown(value)}, expected {expected}")


@dataclass(frozen=True)
class Recipe:
    """How an animal is fitted unless the user says otherwise.

    Attributes:
        family: guide family, a name known to ``physzoo.guides``.
        encoder: encoder of an amortised guide; ``None`` fits the animal's one data set.
        objective: "forward_kl" or "mixture" (amortised), "reweighted" (one data set: by reweighted wake-sleep, which covers what
            the ELBO leaves out where the importance weights of so many ``particles`` say something) or "elbo" (either).
        start: what the guide of one data set starts from: the Laplace approximation at the largest "mode", or the Gaussian that
            has the moments of those at all "modes".
        steps: optimiser steps.
        batch_size: simulated data sets a step (amortised).
        simulations: how many data sets are simulated, once and before the fit, for the forward KL; 0 draws fresh ones at
            every step. Pays where the guide refines (``refine``).
        particles: draws a data set and step.
        learning_rate: Adam's initial step size.
        options: what else the family takes, e.g. {"tail": 8.0}; for the recipe's own family only.
        reference: sampler of the reference posterior: "hmc", around the largest mode, or "smc", for several modes.

    Raises:
        ValueError: an objective, a start or a reference of another name, an objective that does not go with the encoder, or a
            number out of range.
    """

    family: str = "spline"
    encoder: str | None = None
    objective: Literal["elbo", "forward_kl", "mixture", "reweighted"] = "elbo"
    start: Literal["mode", "modes"] = "mode"
    steps: int = 1000
    batch_size: int = 256
    simulations: int = 0
    particles: int = 64
    learning_rate: float = 1e-3
    options: Mapping[str, Any] = field(default_factory=dict)
    reference: Literal["hmc", "smc"] = "hmc"

    def __post_init__(self) -> None:
        for name, words in (
            ("objective", ("elbo", "forward_kl", "mixture", "reweighted")),
            ("start", ("mode", "modes")),
            ("reference", ("hmc", "smc")),
        ):
            one_of(name, getattr(self, name), words)
        for name, least in (("steps", 1), ("batch_size", 1), ("simulations", 0), ("particles", 1)):
            whole(name, getattr(self, name), least)
        real("learning_rate", self.learning_rate, 0.0)
        for name in ("family", "encoder"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value) and not (value is None and name == "encoder"):
                raise TypeError(f"{name}: got {shown(value)}, expected a name")
        named("options", self.options)
        many = self.encoder is not None
        if self.objective in (("reweighted",) if many else ("forward_kl", "mixture")):
            with_it = f"the encoder {self.encoder!r}" if many else "no encoder"
            of = "one data set" if many else "many data sets"
            raise ValueError(f"objective: got {self.objective!r} with {with_it}, expected another: it is of {of}")


@dataclass(frozen=True)
class Training:
    """How an animal with learnt parts is trained, model and guide together, on many data sets.

    Attributes:
        splits: seed -> the data, a ``models.datasets.Splits``.
        kind: the guide in a few words.
        make: builds the guide, called like ``cleansing_guide``, which it is where nothing is given.
        guide: what it is given beside the model and the data.
        objective: what ``GreyBoxELBO`` is given, above all the weights; ``None`` for the plain ELBO.
        start, finish: a stage of the guide alone before the fit and one after it, each {"steps":, "learning_rate":,
            "batch_size":}: the forward KL on simulations. The first is of the physics, so that the learnt parts meet data
            from which the physics is inferred already; the last is of the trained model, whose posterior the guide becomes.
        counterfactuals: site -> ((truths, factor) -> noise-free data had that unknown been multiplied), where that is known.
        continued: (truths, frames) -> noise-free data (N, frames, channels) from the first frame on, where that is known.
        periodic: site -> period, for unknowns whose error is taken on a circle.
    """

    splits: Callable[[int], Any]
    kind: str = "cleansing"
    make: Callable[..., Any] | None = None
    guide: Mapping[str, Any] = field(default_factory=dict)
    objective: Mapping[str, Any] | None = None
    start: Mapping[str, Any] | None = None
    finish: Mapping[str, Any] | None = None
    counterfactuals: Mapping[str, Callable[[Mapping[str, Any], float], Any]] = field(default_factory=dict)
    continued: Callable[[Mapping[str, Any], int], Any] | None = None
    periodic: Mapping[str, float] = field(default_factory=dict)


def trained_by(settings: Mapping[str, Any]) -> Recipe:
    """Return the recipe of an animal with learnt parts: its guide is its own, the rest as in its TRAINING."""
    numbers = {name: settings[name] for name in ("steps", "batch_size", "learning_rate")}
    return Recipe(family=OWN, encoder=OWN, particles=settings.get("particles", 1), **numbers)
