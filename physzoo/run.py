"""From data to report: fit an animal, draw its posterior, hold it against a reference, check its calibration.

An animal without encoder has one data set: a Laplace approximation whitens the unknowns, a flow is fitted to
what is left, and calibration is checked by posterior draws around that data set. An animal with an encoder is
amortised: its guide learns from simulations, and calibration is checked over the prior.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .folder import CHECKPOINT, POSTERIOR, REFERENCE, BadInput, Folder
from .guides.amortize import AmortizedGuide, Whitening, amortize
from .guides.families import FAMILIES
from .guides.sites import observed_sites, prototype, seeded
from .inference.calibrate import calibrate
from .inference.calibration import Calibration
from .inference.checkpoint import CheckpointError, load
from .inference.compare import Comparison, compare
from .inference.data import Simulator, Source
from .inference.fit import Fit, fit
from .inference.laplace import laplace
from .inference.latents import Latents, unobserved
from .inference.objectives import ELBO, ForwardKL, Mixture, Objective
from .inference.options import FitOptions
from .inference.posterior import posterior
from .inference.reference import Reference, summarise
from .inference.reference_nuts import nuts
from .labels import layout
from .models.registry import Animal, Recipe, get

if TYPE_CHECKING:
    from xarray import DataTree

Say = Callable[[str], None]


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
    """

    guide: str | None = None
    steps: int | None = None
    seed: int = 0
    device: str | None = None
    quick: bool = False
    resume: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if self.guide is not None and self.guide not in FAMILIES:
            raise BadInput(f"--guide: got '{self.guide}', expected one of {', '.join(FAMILIES)}")
        if self.steps is not None and self.steps < 1:
            raise BadInput(f"--steps: got {self.steps}, expected at least 1")
        if not 0 <= self.seed < 2**31:
            raise BadInput(f"--seed: got {self.seed}, expected a number from 0 to {2**31 - 1}")
        if self.device is not None:
            check_device(self.device)


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or that this machine does not have.

    Raises:
        BadInput: the device cannot be used.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n", 1)[0].split(". ", 1)[0]
        raise BadInput(
            f"--device: got '{device}', expected 'cpu' or a device of this machine ({reason})"
        ) from None


@dataclass(frozen=True)
class Budget:
    """How much work the checks do."""

    draws: int = 4000
    chains: int = 4
    reference_draws: int = 1000
    warmup: int = 300
    datasets: int = 512
    datasets_refitted: int = 256

    @classmethod
    def of(cls, quick: bool) -> Budget:
        """Return the usual budget, or a small one."""
        return cls(500, 2, 200, 100, 64, 64) if quick else cls()


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
    """

    animal: Animal
    recipe: Recipe
    options: RunOptions
    model: torch.nn.Module
    data: dict[str, Any]
    guide: AmortizedGuide

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
        return layout(
            self.animal, {**self.shapes, **{n: tuple(s["value"].shape) for n, s in observed.items()}}
        )


@dataclass(frozen=True)
class Result:
    """What a run found; parts of steps that were not run are ``None``."""

    task: Task
    fit: Fit
    posterior: DataTree
    reference: Reference | None
    comparison: Comparison | None
    calibration: Calibration | None
    seconds: dict[str, float]


def recipe_of(animal: Animal, options: RunOptions) -> Recipe:
    """Return the animal's recipe with the user's changes."""
    changed = replace(animal.recipe, family=options.guide or animal.recipe.family)
    steps = options.steps or changed.steps
    return replace(changed, steps=max(1, math.ceil(steps / 10)) if options.quick else steps)


def settings_of(animal: Animal, options: RunOptions) -> dict[str, Any]:
    """Return what identifies a run: two runs with equal settings find the same."""
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
                f"name: got '{name}', which needs dolfinx, expected it installed: pip install 'physzoo[fem]'"
            )
    return animal


def run(name: str, out: str | Path, options: RunOptions | None = None, say: Say = print) -> Result:
    """Fit an animal and check the posterior; leaves a report folder.

    Args:
        name: an animal of the zoo.
        out: the folder.
        options: changes to the recipe.
        say: takes the lines that tell what is happening.

    Raises:
        BadInput: a mistake in the arguments; nothing has been written.
        CheckpointError: the checkpoint to resume from is damaged or another guide's.
    """
    from .report import write_report

    options, clock = options or RunOptions(), Clock(say)
    folder, task, whitening = _start(name, out, options, clock)
    fitted, tree = _fit_and_draw(task, folder, clock)
    budget = Budget.of(options.quick)
    with clock("reference") as note:
        reference = make_reference(task, budget, folder, whitening)
        note(f"{reference.method}, R-hat {reference.r_hat:.3f}, {reference.ess:.0f} effective draws")
    with clock("compare") as note:
        comparison = compare_with(task, tree, reference)
        note(comparison.summary)
    with clock("calibrate") as note:
        calibration = check_calibration(task, budget)
        note(calibration.verdict)
    result = Result(task, fitted, tree, reference, comparison, calibration, clock.seconds)
    with clock("report") as note:
        verdict = write_report(result, folder)
        note(f"{folder.file('report.html')}")
    say(verdict)
    return result


def fit_only(name: str, out: str | Path, options: RunOptions | None = None, say: Say = print) -> Result:
    """Fit an animal and draw its posterior; leaves settings, checkpoint and posterior, and no report."""
    options, clock = options or RunOptions(), Clock(say)
    folder, task, _ = _start(name, out, options, clock)
    fitted, tree = _fit_and_draw(task, folder, clock)
    return Result(task, fitted, tree, None, None, None, clock.seconds)


def restore(path: str | Path) -> tuple[Folder, Task]:
    """Return the folder of a run and its fitted model and guide.

    Raises:
        BadInput: the folder is none, or holds no checkpoint.
        CheckpointError: the checkpoint is damaged.
    """
    folder = Folder.open(path, "DIR")
    found = folder.settings()
    if not folder.file(CHECKPOINT).is_file():
        raise BadInput(f"DIR: got '{path}', a run without checkpoint, expected one whose fit is done")
    state = load(folder.file(CHECKPOINT))
    options = RunOptions(guide=found["guide"], steps=found["steps"], seed=found["seed"])
    animal = animal_named(found["name"])
    # the steps in the settings are those of the run, quick or not
    task = replace(_task(animal, options, None, 0), options=replace(options, quick=bool(found["quick"])))
    try:
        task.model.load_state_dict(state["modules"]["model"])
        task.guide.load_state_dict(state["modules"]["guide"])
    except (KeyError, RuntimeError):
        raise CheckpointError(
            f"checkpoint: '{folder.file(CHECKPOINT)}' is not of {animal.name} with guide {found['guide']}"
        ) from None
    task.guide.whiten(Whitening(task.guide.loc.clone(), task.guide.tril.clone()))
    return folder, task


def _start(
    name: str, out: str | Path, options: RunOptions, clock: Clock
) -> tuple[Folder, Task, Whitening | None]:
    animal = animal_named(name)
    folder = Folder.claim(out, settings_of(animal, options), options.resume)
    if options.resume and folder.file(CHECKPOINT).exists():
        load(folder.file(CHECKPOINT))  # a damaged one is refused before any work is done
    elif not options.resume:
        folder.file(CHECKPOINT).unlink(missing_ok=True)
        folder.file(REFERENCE).unlink(missing_ok=True)
    whitening = None
    if animal.recipe.encoder is None:
        with clock("laplace") as note:
            whitening = laplace(animal.model(), animal.data(), seed=options.seed)
            note("mode and curvature in unconstrained space")
    with clock("guide") as note:
        task = _task(animal, options, whitening, 2048)
        count = sum(p.numel() for p in task.guide.parameters())
        note(f"{task.recipe.family}, {count} parameters for {task.guide.sites.size} unknowns")
    return folder, task, whitening


def _task(animal: Animal, options: RunOptions, whitening: Whitening | None, simulations: int) -> Task:
    recipe = recipe_of(animal, options)
    with seeded(options.seed):
        model = animal.model()
    data = animal.data()
    guide = amortize(
        model,
        recipe.encoder,
        recipe.family,
        example=data,
        whitening=whitening,
        simulations=simulations,
        seed=options.seed,
    )
    return Task(animal, recipe, options, model, data, guide)


def _fit_and_draw(task: Task, folder: Folder, clock: Clock) -> tuple[Fit, DataTree]:
    options, recipe = task.options, task.recipe
    source: Source = task.data
    if task.amortised:
        source = Simulator(recipe.batch_size, given=unobserved(task.model, task.data))
    settings = FitOptions(
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        seed=options.seed,
        checkpoint=folder.file(CHECKPOINT),
        checkpoint_every=max(1, min(500, recipe.steps // 10)),
        resume=options.resume,
        device=options.device,
        progress=options.progress,
    )
    with clock("fit") as note:
        fitted = fit(task.model, task.guide, source, objective_of(recipe), settings)
        task.model.to("cpu")
        task.guide.to("cpu")
        last = [loss for loss in fitted.losses[-50:] if math.isfinite(loss)]
        note(f"{fitted.steps} steps, loss {sum(last) / max(len(last), 1):.4g}")
    with clock("posterior") as note:
        budget = Budget.of(options.quick)
        tree = posterior(
            task.model, task.guide, task.data, draws=budget.draws, seed=options.seed, **task.layout
        )
        tree.attrs |= settings_of(task.animal, options)
        folder.write_tree(POSTERIOR, tree)
        note(f"{budget.draws} draws")
    return fitted, tree


def objective_of(recipe: Recipe) -> Objective:
    """Return what the fit minimises; one data set is always fitted by the ELBO, from its Laplace start."""
    if recipe.encoder is None or recipe.objective == "elbo":
        return ELBO(recipe.particles)
    if recipe.objective == "forward_kl":
        return ForwardKL()
    return Mixture(((0.5, ELBO(recipe.particles)), (0.5, ForwardKL())))


def make_reference(task: Task, budget: Budget, folder: Folder, whitening: Whitening | None) -> Reference:
    """Return the reference posterior: closed form where there is one, else NUTS in whitened coordinates.

    One that an interrupted run left in the folder is taken over.
    """
    stored = folder.file(REFERENCE)
    if task.options.resume and stored.is_file():
        return Reference.load(stored)
    if task.animal.closed_form is not None:
        reference = exact_reference(task, budget)
    else:
        found = whitening or laplace(task.model, task.data, seed=task.options.seed)
        # finite elements start MPI in every process, which costs more than it brings
        cores = 1 if task.animal.requires or task.options.quick else min(2, os.cpu_count() or 1)
        reference = nuts(
            task.model,
            task.data,
            chains=budget.chains,
            draws=budget.reference_draws,
            warmup=budget.warmup,
            initial=task.guide.sites.constrain(found.loc)[0],
            inverse_mass=found.tril @ found.tril.mT,
            workers=cores,
            seed=task.options.seed,
            progress=task.options.progress,
        )
    reference.save(stored)
    return reference


def exact_reference(task: Task, budget: Budget) -> Reference:
    """Return draws of a posterior that is known to be normal, with exactly its mean and covariance."""
    closed_form = task.animal.closed_form
    if closed_form is None:
        raise ValueError(f"task: got {task.animal.name}, expected an animal with a closed form")
    mean, covariance = (torch.as_tensor(part, dtype=torch.float64) for part in closed_form(task.data))
    count = budget.chains * budget.reference_draws
    generator = torch.Generator().manual_seed(task.options.seed)
    noise = torch.randn(count, len(mean), generator=generator, dtype=torch.float64)
    noise = noise - noise.mean(0)
    # the sample's own covariance is taken out, so that comparisons see the guide's error and not the sample's
    noise = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(noise.T)), noise.T, upper=False).T
    flat = (mean + noise @ torch.linalg.cholesky(covariance).T).reshape(
        budget.chains, budget.reference_draws, -1
    )
    draws, start = {}, 0
    for site, shape in task.shapes.items():
        size = math.prod(shape)
        draws[site] = flat[..., start : start + size].reshape(*flat.shape[:2], *shape).numpy()
        start += size
    return Reference("closed form", draws, summarise(draws), settings={"seed": task.options.seed})


def compare_with(task: Task, tree: DataTree, reference: Reference) -> Comparison:
    """Hold the posterior against the reference; the classifier sees positive unknowns in logarithm."""
    supports = Latents.of(task.model, task.data).supports
    positive = [
        site
        for site, draws in reference.draws.items()
        if _bounded_below(supports[site]) and (draws > 0).all()
    ]
    return compare(tree, reference, positive=positive, seed=task.options.seed)


def _bounded_below(support: Any) -> bool:
    inner = getattr(support, "base_constraint", support)
    return float(getattr(inner, "lower_bound", -1.0)) == 0.0 and not hasattr(inner, "upper_bound")


def check_calibration(task: Task, budget: Budget) -> Calibration:
    """Check the calibration: over the prior for an amortised guide, around the data set for any other."""
    seed, progress = task.options.seed, task.options.progress
    if task.amortised:
        given = unobserved(task.model, task.data)
        return calibrate(
            task.model, task.guide, datasets=budget.datasets, given=given, seed=seed, progress=progress
        )
    from .inference.posterior_sbc import posterior_sbc

    return posterior_sbc(
        task.model, task.guide, task.data, datasets=budget.datasets_refitted, seed=seed, progress=progress
    )


class Clock:
    """Announces the steps of a run and keeps their times."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[Say]:
        """Time a step; the yielded function takes what is to be said about it."""
        words: list[str] = []
        started = time.perf_counter()
        yield words.append
        self.seconds[step] = time.perf_counter() - started
        self.say(f"{step:<10} {self.seconds[step]:6.1f} s   {' '.join(words)}")


def options_dict(options: RunOptions) -> dict[str, Any]:
    """Return the options as a mapping, for the report."""
    return asdict(options)
