"""The register of animals: one file, one system, one registration."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from ..core.require import function, named, shown
from .recipe import Quantity, Recipe, Training

ENTRY_POINTS = "physzoo.models"
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
    """Return the names of all animals: the zoo's own in its order, then those of other installed packages."""
    _load()
    own = [name for name in IN_THE_ZOO if name in _ANIMALS]
    return (*own, *(name for name in _ANIMALS if name not in IN_THE_ZOO))


def get(name: str) -> Animal:
    """Return the animal called ``name``.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    _load()
    if not isinstance(name, str) or name not in _ANIMALS:
        raise ValueError(f"name: got {shown(name)}, expected one of {', '.join(_ANIMALS)}")
    return _ANIMALS[name]
