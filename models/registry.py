"""The register of animals: one file, one system, one registration."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal

from torch import nn

from ..core.require import flag, function, named, one_of, real, shown, whole

ENTRY_POINTS = "physzoo.models"
OWN = "own"  # family and encoder of an animal that brings its own guide
IN_THE_ZOO = (
    "lynx_hare",
    "linear_gaussian",
    "poisson1d",
    "nonlinear_poisson1d",
    "darcy2d",
    "aristoff_bangerth",
    "channel_darcy",
    "lotka_volterra_benchmark",
    "inverse_kinematics",
    "pendulum",
    "advection_diffusion",
    "galaxy",
    "locomotion",
    "locomotion_attentive_flow",
)


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
        nuts: whether ``physzoo run`` has stock NUTS confirm the reference (worth it where a gradient is cheap).

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
    nuts: bool = False

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
        flag("nuts", self.nuts)
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


@dataclass(frozen=True)
class Animal:
    """One system of the zoo.

    Attributes:
        name: its name in the registry and on the command line.
        title: one line for ``physzoo list``.
        physics: the kind of physics, a few words.
        likelihoods: which of "forward" and "residual" its model offers.
        model: builds the Pyro model, a callable ``nn.Module`` of one data set; keyword options only.
        data: loads the observed data set, the model's keyword arguments as tensors.
        quantities: site name -> what it means; every latent and observed site stands here.
        recipe: how it is fitted by default.
        priors: the prior of each latent site in words, for ``physzoo show``.
        source: where the system and its numbers come from.
        published: latent site -> published posterior means (nested lists in the site's shape), where there are any.
        closed_form: data -> (mean, covariance) of the posterior over the flattened latent sites, where it is known.
        exact_draws: (data, count, seed) -> independent draws of the posterior, latent site -> (count, *site shape), where
            they can be had.
        requires: the optional extra that the model needs ("fem"), or "".
        training: how learnt parts are trained; ``None`` for a model without any.
    """

    name: str
    title: str
    physics: str
    likelihoods: tuple[str, ...]
    model: Callable[..., nn.Module]
    data: Callable[[], dict[str, Any]]
    quantities: Mapping[str, Quantity]
    recipe: Recipe
    priors: Mapping[str, str]
    source: str
    published: Mapping[str, Any] | None = None
    closed_form: Callable[..., Any] | None = None
    exact_draws: Callable[..., Mapping[str, Any]] | None = None
    requires: str = ""
    training: Training | None = None

    @property
    def guide(self) -> str:
        """The guide in a few words."""
        if self.training is not None:
            return self.training.kind
        return self.recipe.family if self.recipe.encoder is None else f"{self.recipe.family}, {self.recipe.encoder}"

    @property
    def objective(self) -> str:
        """What a fit of the recipe minimises, in a few words."""
        if self.recipe.encoder is None:
            return "reweighted" if self.recipe.objective == "reweighted" else "elbo"
        if self.training is None or self.training.objective is None:
            return self.recipe.objective
        last = "" if self.training.finish is None else ", then forward_kl"
        return f"elbo and regularisers{last}"

    @property
    def last_steps(self) -> int:
        """The steps of a last stage of the fit, which leaves a checkpoint of its own; 0 where there is none."""
        if self.training is not None and self.training.finish is not None:
            return int(self.training.finish["steps"])
        return 0

    @property
    def story(self) -> str:
        """The docstring of the file that the animal lives in."""
        return (import_module(self.model.__module__).__doc__ or "").strip()


def trained_by(settings: Mapping[str, Any]) -> Recipe:
    """Return the recipe of an animal with learnt parts: its guide is its own, the rest as in its TRAINING."""
    numbers = {name: settings[name] for name in ("steps", "batch_size", "learning_rate")}
    return Recipe(family=OWN, encoder=OWN, particles=settings.get("particles", 1), **numbers)


class PluginWarning(UserWarning):
    """An entry point of another package could not be loaded; it is left out."""


_ANIMALS: dict[str, Animal] = {}


def register(animal: Animal) -> Animal:
    """Add an animal to the zoo and return it.

    Raises:
        TypeError: it is no ``Animal``, or one of its entries is of another kind.
        ValueError: another animal has the name, or the name is not an identifier.
    """
    if not isinstance(animal, Animal):
        raise TypeError(f"animal: got {type(animal).__name__}, expected an Animal")
    _check_kinds(animal)
    if not isinstance(animal.name, str) or not animal.name.isidentifier():
        raise ValueError(f"name: got {shown(animal.name)}, expected letters, digits and underscores")
    home = f"{__package__}.{animal.name}"  # of an animal of the zoo, imported or not
    taken = animal.name in IN_THE_ZOO and getattr(animal.model, "__module__", home) != home
    if taken or (animal.name in _ANIMALS and _ANIMALS[animal.name] != animal):
        raise ValueError(f"name: got '{animal.name}', which is taken already, expected a new name")
    _ANIMALS[animal.name] = animal
    return animal


def _check_kinds(animal: Animal) -> None:
    """Refuse an animal that ``list``, ``show`` or ``run`` would stumble over."""
    for entry in ("title", "physics", "source", "requires"):
        if not isinstance(getattr(animal, entry), str):
            raise TypeError(f"{entry}: got {shown(getattr(animal, entry))}, expected words")
    for entry in ("model", "data"):
        function(entry, getattr(animal, entry), classes=True)
    for entry in ("quantities", "priors"):
        named(entry, getattr(animal, entry))
    if not all(isinstance(words, str) for words in animal.priors.values()):
        raise TypeError(f"priors: got {shown(dict(animal.priors))}, expected each prior in words")
    if not isinstance(animal.likelihoods, tuple | list) or not all(isinstance(x, str) for x in animal.likelihoods):
        raise TypeError(f"likelihoods: got {shown(animal.likelihoods)}, expected a tuple of words")
    other = [name for name, meaning in animal.quantities.items() if not isinstance(meaning, Quantity)]
    if other:
        raise TypeError(f"quantities['{other[0]}']: got {shown(animal.quantities[other[0]])}, expected a Quantity")
    if not isinstance(animal.recipe, Recipe):
        raise TypeError(f"recipe: got {shown(animal.recipe)}, expected a Recipe")
    if animal.published is not None:
        named("published", animal.published)
    for entry in ("closed_form", "exact_draws"):
        if getattr(animal, entry) is not None:
            function(entry, getattr(animal, entry))
    if not isinstance(animal.training, Training | None):
        raise TypeError(f"training: got {shown(animal.training)}, expected a Training or None")


@cache
def _load() -> None:
    for name in IN_THE_ZOO:
        import_module(f".{name}", __package__)
    for point in entry_points(group=ENTRY_POINTS):
        before = dict(_ANIMALS)
        try:
            point.load()
        except (Exception, SystemExit) as error:  # whatever another package does, the zoo stays open
            _ANIMALS.clear()
            _ANIMALS.update(before)  # half of a plug-in is none
            reason = (str(error).strip() or "no reason given").split("\n", 1)[0][:160]
            warnings.warn(
                f"plug-in '{point.name}' ({point.value}): got {type(error).__name__} ({reason}), expected a module "
                "that registers animals; it is left out",
                PluginWarning,
                stacklevel=2,
            )


def names() -> tuple[str, ...]:
    """Return the names of all animals, those of other installed packages included."""
    _load()
    return tuple(_ANIMALS)


def get(name: str) -> Animal:
    """Return the animal called ``name``.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    _load()
    if not isinstance(name, str) or name not in _ANIMALS:
        raise ValueError(f"name: got {shown(name)}, expected one of {', '.join(_ANIMALS)}")
    return _ANIMALS[name]
