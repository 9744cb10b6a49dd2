"""An animal made ready to be fitted: recipe with the user's changes, model, data and guide."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .command.paths import is_file
from .core.global_state import seeded
from .core.model_spec import Whitening
from .core.prototype import prototype
from .core.require import flag, one_of, whole
from .core.sites import observed_sites
from .folder import CHECKPOINT, FINISHED, POSTERIOR, BadInput, Folder, posterior_settings
from .guides.amortize import amortize
from .guides.amortized_guide import AmortizedGuide
from .guides.cleansing import CleansingGuide, cleansing_guide
from .guides.families.densities import FAMILIES
from .inference.density.latents import Latents
from .inference.fit.checkpoint import CheckpointError, load
from .inference.fit.options import check_device
from .models.datasets.splits import Splits
from .models.recipe import OWN, Recipe
from .models.registry import Animal, get
from .report.labels import layout

DATA_SEED = 0  # of generated training data: the same for every run, so that runs differ in their fit alone


@dataclass(frozen=True)
class RunOptions:
    """What a user may change about a run.

    Attributes:
        guide: guide family; ``None`` for the recipe's.
        steps: optimiser steps; ``None`` for the recipe's.
        seed: seed of everything.
        device: where the fit runs, "cpu", "cuda", ...
        quick: a tenth of the steps and few draws, to see whether everything works; not to be judged by.
        resume: go on with what an interrupted run left in the folder.
        progress: show bars.
        overwrite: start anew in a folder that holds a run, which goes.
        confirm: hold the reference against a second one, by stock NUTS.
    """

    guide: str | None = None
    steps: int | None = None
    seed: int = 0
    device: str | None = None
    quick: bool = False
    resume: bool = False
    progress: bool = True
    overwrite: bool = False
    confirm: bool = False

    def __post_init__(self) -> None:
        with _refused():
            if self.guide is not None and not (isinstance(self.guide, str) and self.guide == OWN):
                one_of("guide", self.guide, list(FAMILIES))
            if self.steps is not None:
                whole("steps", self.steps, 1)
            whole("seed", self.seed, 0, 2**31 - 1)
            for name in ("quick", "resume", "progress", "overwrite", "confirm"):
                flag(name, getattr(self, name))
        if self.resume and self.overwrite:
            raise BadInput("--overwrite: got it together with --resume, expected one of the two")
        if self.device is not None:
            with _refused():
                check_device(self.device)
            if torch.device(self.device).type == "meta":
                raise BadInput(
                    f"--device: got '{self.device}', which holds no numbers, expected 'cpu' or one that does"
                )


@contextmanager
def _refused() -> Iterator[None]:
    """Tell what is refused by the name that it has on the command line."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise BadInput(f"--{error}") from None


@dataclass(frozen=True)
class Budget:
    """How much work the checks do."""

    draws: int = 4000
    chains: int = 40
    reference_draws: int = 250
    particles: int = 500
    warmup: int = 100
    datasets: int = 512
    refits: int = 128
    refit_wake: int = 100
    nuts_draws: int = 60
    nuts_warmup: int = 40

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            whole(name, value, 1)

    @classmethod
    def of(cls, quick: bool) -> Budget:
        """Return the usual budget, or a small one."""
        flag("quick", quick)
        return cls(500, 20, 50, 50, 40, 64, 24, 10, 10, 10) if quick else cls()


@dataclass(frozen=True)
class Task:
    """An animal made ready to be fitted.

    Attributes:
        animal: what is fitted.
        recipe: the recipe with the user's changes.
        options: the user's options.
        model: the Pyro model.
        data: the observed data set.
        guide: the guide, changed in place by the fit.
        splits: the data sets that a model with learnt parts is trained and tested on; ``None`` for any other.
    """

    animal: Animal
    recipe: Recipe
    options: RunOptions
    model: torch.nn.Module
    data: dict[str, Any]
    guide: AmortizedGuide | CleansingGuide
    splits: Splits | None = None

    @property
    def amortised(self) -> bool:
        """Whether the guide takes any data set, or holds for one."""
        return self.recipe.encoder is not None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Latent site -> shape, in the model's order."""
        return {name: tuple(shape) for name, shape in Latents.of(self.model, self.data).shapes.items()}

    @property
    def layout(self) -> dict[str, Any]:
        """Dims, coordinates and units of every site, as they reach ArviZ."""
        observed = observed_sites(prototype(self.model, self.data))
        return layout(self.animal, {**self.shapes, **{n: tuple(s["value"].shape) for n, s in observed.items()}})


def recipe_of(animal: Animal, options: RunOptions) -> Recipe:
    """Return the animal's recipe with the user's changes."""
    changed = replace(animal.recipe, family=options.guide or animal.recipe.family)
    return replace(changed, steps=fewer(options.steps or changed.steps, options.quick))


def fewer(steps: int, quick: bool) -> int:
    """Return the steps of a run, a tenth for a quick one."""
    return max(1, math.ceil(steps / 10)) if quick else steps


def settings_of(animal: Animal, options: RunOptions) -> dict[str, Any]:
    """Return what identifies a run: two runs with equal settings find the same.

    Raises:
        BadInput: a guide for an animal that has its own, or its own for one that has none.
    """
    if animal.training is not None and options.guide not in (None, OWN):
        raise BadInput(f"--guide: got '{options.guide}', expected none: {animal.name} has a guide of its own")
    if animal.training is None and options.guide == OWN:
        raise BadInput(
            f"--guide: got '{OWN}', expected one of {', '.join(FAMILIES)}: {animal.name} has none of its own"
        )
    recipe = recipe_of(animal, options)
    return {
        "name": animal.name,
        "guide": recipe.family,
        "steps": recipe.steps,
        "seed": options.seed,
        "quick": options.quick,
    }


def animal_named(name: str) -> Animal:
    """Return the animal, its optional packages being installed.

    Raises:
        BadInput: there is no such animal, or the extra that it needs is missing.
    """
    try:
        animal = get(name)
    except ValueError as error:
        raise BadInput(str(error)) from None
    if animal.requires == "fem":
        from importlib.util import find_spec

        if find_spec("dolfinx") is None:
            raise BadInput(
                f"name: got '{name}', which needs dolfinx, expected it installed: physzoo[fem], in the repository "
                "by pip install -e '.[fem]'"
            )
    return animal


def build_task(animal: Animal, options: RunOptions, whitening: Whitening | None, simulations: int) -> Task:
    """Build model and guide; ``simulations`` 0 leaves the guide's standardisation to a checkpoint."""
    recipe = recipe_of(animal, options)
    with seeded(options.seed):
        model = animal.model()
    data = animal.data()
    if animal.training is not None:
        splits = animal.training.splits(DATA_SEED) if simulations else None
        make = animal.training.make or cleansing_guide
        seen = None if splits is None else splits.train.x
        guide = make(model, data, data=seen, seed=options.seed, **animal.training.guide)
        return Task(animal, recipe, options, model, data, guide, splits)
    guide = amortize(
        model,
        recipe.encoder,
        recipe.family,
        example=data,
        whitening=whitening,
        simulations=simulations,
        seed=options.seed,
        **(recipe.options if recipe.family == animal.recipe.family else {}),
    )
    return Task(animal, recipe, options, model, data, guide)


def restore(path: str | Path, progress: bool = True) -> tuple[Folder, Task]:
    """Return the folder of a run and its fitted model and guide.

    Raises:
        BadInput: the folder is none, or holds no checkpoint.
        CheckpointError: the checkpoint is damaged.
    """
    folder = Folder.open(path, "DIR")
    found = folder.settings()
    if not is_file(folder.file(CHECKPOINT)):
        raise BadInput(f"DIR: got '{path}', a run without checkpoint, expected one whose fit is done")
    kinds = {"guide": str, "steps": int, "seed": int, "quick": bool}
    wrong = [key for key, kind in kinds.items() if not isinstance(found.get(key), kind)]
    if wrong:
        raise BadInput(
            f"DIR: got '{path}', whose settings.json has no usable '{wrong[0]}', expected it as physzoo wrote it"
        )
    options = RunOptions(guide=found["guide"], steps=found["steps"], seed=found["seed"], progress=progress)
    animal = animal_named(found["name"])
    last, steps = CHECKPOINT, found["steps"]
    if animal.last_steps:
        last, steps = FINISHED, fewer(animal.last_steps, found["quick"])
    state = load(folder.file(last)) if is_file(folder.file(last)) else {}
    if state.get("stopped") != "early" and state.get("step", 0) < steps:
        raise BadInput(
            f"DIR: got '{path}', a run whose fit is not done, expected a fit that --resume has brought to its end"
        )
    folder.refuse_mixed(last, state.get("facts", {}))
    folder.refuse_mixed(POSTERIOR, posterior_settings(folder.file(POSTERIOR)))
    # the steps in the settings are those of the run, quick or not
    task = replace(build_task(animal, options, None, 0), options=replace(options, quick=bool(found["quick"])))
    try:
        task.model.load_state_dict(state["modules"]["model"])
        task.guide.load_state_dict(state["modules"]["guide"])
    except (KeyError, TypeError, AttributeError, RuntimeError):
        raise CheckpointError(
            f"checkpoint: '{folder.file(last)}' is not of {animal.name} with guide {found['guide']}"
        ) from None
    return folder, task
