"""From data to report: fit an animal, draw its posterior, hold it against a reference, check its calibration.

An animal without encoder has one data set: a Laplace approximation whitens the unknowns, a flow is fitted to
what is left, and calibration is checked by posterior draws around that data set. An animal with an encoder is
amortised: its guide learns from simulations, and calibration is checked over the prior.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from .clock import Clock, Say
from .core.model_spec import Whitening
from .folder import CHECKPOINT, FINISHED, POSTERIOR, REFERENCE, Folder
from .inference.calibration.around_data import posterior_sbc
from .inference.calibration.over_prior import calibrate
from .inference.calibration.result import Calibration
from .inference.compare import Comparison, compare
from .inference.density.latents import Latents, unobserved
from .inference.evaluation.reconstruction import Evaluation, evaluate
from .inference.fit.checkpoint import load
from .inference.fit.driver import Fit, fit
from .inference.fit.options import FitOptions
from .inference.fit.sources import DataSets, Simulator, Source, simulated_once
from .inference.fit.stages import guide_last, physics_first
from .inference.importance import USABLE, weights_of
from .inference.modes.gaussian import laplace, laplace_mixture
from .inference.objectives.grey_box import GreyBoxELBO
from .inference.objectives.standard import ELBO, ForwardKL, Mixture, Objective, Reweighted
from .inference.posterior import posterior
from .inference.references.result import Reference
from .models.registry import Animal
from .references import confirm, disagreement, make_reference, read_reference
from .result import Result
from .task import Budget, RunOptions, Task, animal_named, build_task, fewer, settings_of

if TYPE_CHECKING:
    from xarray import DataTree


STARTS = {"mode": laplace, "modes": laplace_mixture}


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

    from .report.write import write_report

    options, clock = options or RunOptions(), Clock(say)
    with _claimed(name, out, options) as (animal, folder):
        task, whitening = _start(animal, folder, options, clock)
        fitted, tree = _fit_and_draw(task, folder, clock)
        budget = Budget.of(options.quick)
        with clock("reference") as note:
            reference = make_reference(task, budget, folder, whitening)
            exact = reference.method == "closed form"
            note(
                reference.method
                if exact
                else f"{reference.method}, R-hat {reference.r_hat:.3f}, {reference.ess:.0f} effective draws"
            )
        confirmation = None
        if options.confirm:
            with clock("nuts") as note:
                confirmation = confirm(task, budget, whitening)
                note(f"means within {disagreement(reference, confirmation):.1f} standard errors of the reference's")
        with clock("compare") as note:
            comparison = compare_with(task, tree, reference)
            note(comparison.summary)
            weights, shape = weights_of(tree)
            corrected = compare_with(task, tree, reference, weights) if shape < USABLE else None
        with clock("calibrate") as note:
            calibration = check_calibration(task, budget)
            note(calibration.verdict)
        evaluation = None
        if task.splits is not None:
            with clock("evaluate") as note:
                evaluation = evaluate_on_test(task)
                note(f"test data: MAE {evaluation.mae:.4g}, sum of squares {evaluation.sum_of_squares:.4g}")
        found = (tree, reference, confirmation, comparison, calibration)
        result = Result(task, fitted, *found, clock.seconds, evaluation, corrected)
        with clock("report") as note:
            verdict = write_report(result, folder)
            note(f"{folder.file('report.html')}")
    say(verdict)
    return result


def fit_only(name: str, out: str | Path, options: RunOptions | None = None, say: Say = print) -> Result:
    """Fit an animal and draw its posterior; leaves settings, checkpoint and posterior, and no report."""
    options, clock = options or RunOptions(), Clock(say)
    with _claimed(name, out, options) as (animal, folder):
        task, _ = _start(animal, folder, options, clock)
        fitted, tree = _fit_and_draw(task, folder, clock)
    return Result(task, fitted, tree, None, None, None, None, clock.seconds)


@contextmanager
def _claimed(name: str, out: str | Path, options: RunOptions) -> Iterator[tuple[Animal, Folder]]:
    """Hold the folder for this run alone."""
    animal = animal_named(name)
    with Folder.claimed(out, settings_of(animal, options), options.resume, options.overwrite) as folder:
        yield animal, folder


def _start(animal: Animal, folder: Folder, options: RunOptions, clock: Clock) -> tuple[Task, Whitening | None]:
    if folder.file(CHECKPOINT).exists():
        for file in (CHECKPOINT, FINISHED):  # damaged files are refused before any work is done
            if folder.file(file).exists():
                folder.refuse_mixed(file, load(folder.file(file)).get("facts", {}))
        if folder.file(REFERENCE).is_file():
            read_reference(folder.file(REFERENCE))
    else:  # what is left of an older fit belongs to it
        for file in (FINISHED, REFERENCE):
            folder.file(file).unlink(missing_ok=True)
    whitening = None
    if animal.recipe.encoder is None:
        with clock("laplace") as note:
            whitening = STARTS[animal.recipe.start](animal.model(), animal.data(), seed=options.seed)
            note(f"{animal.recipe.start} and curvature in unconstrained space")
    with clock("guide") as note:
        task = build_task(animal, options, whitening, 2048)
        count = sum(p.numel() for p in task.guide.parameters())
        unknowns = sum(math.prod(shape) for shape in task.shapes.values())
        note(f"{task.recipe.family}, {count} parameters for {unknowns} unknowns")
    return task, whitening


def _fit_and_draw(task: Task, folder: Folder, clock: Clock) -> tuple[Fit, DataTree]:
    options, recipe = task.options, task.recipe
    source: Source = task.data
    seen = None if task.splits is None else task.splits.train.data
    if seen is not None:
        source = DataSets(seen, recipe.batch_size)
    elif task.amortised:
        source = _simulations(task, clock)
    settings = FitOptions(
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        seed=options.seed,
        checkpoint=folder.file(CHECKPOINT),
        checkpoint_every=max(1, min(500, recipe.steps // 10)),
        resume=options.resume,
        device=options.device,
        progress=options.progress,
        facts=settings_of(task.animal, options),
    )
    if task.splits is not None:
        settings = replace(settings, warmup=0.02, max_skipped=10)
    training = task.animal.training
    begun = options.resume and folder.file(CHECKPOINT).exists()
    if training is not None and training.start is not None and not begun:
        with clock("start") as note:
            start = fewer_steps(training.start, options.quick)
            note(_steps_and_loss(physics_first(task.model, task.guide, start, settings)))
    with clock("fit") as note:
        fitted = fit(task.model, task.guide, source, objective_of(task), settings)
        _kept(folder.file(CHECKPOINT), fitted)
        note(_steps_and_loss(fitted))
    if training is not None and training.finish is not None:
        task.model.to("cpu")
        task.guide.to("cpu")
        with clock("finish") as note:
            finish, given = fewer_steps(training.finish, options.quick), unobserved(task.model, task.data)
            last = replace(settings, checkpoint=folder.file(FINISHED), checkpoint_every=max(1, finish["steps"] // 5))
            finished = guide_last(task.model, task.guide, finish, last, given, seen)
            _kept(folder.file(FINISHED), finished)
            note(_steps_and_loss(finished))
    task.model.to("cpu")
    task.guide.to("cpu")
    with clock("posterior") as note:
        budget = Budget.of(options.quick)
        tree = posterior(task.model, task.guide, task.data, draws=budget.draws, seed=options.seed, **task.layout)
        # netCDF has no booleans
        tree.attrs |= {
            key: int(v) if isinstance(v, bool) else v for key, v in settings_of(task.animal, options).items()
        }
        folder.write_tree(POSTERIOR, tree)
        note(f"{budget.draws} draws")
    return fitted, tree


def _kept(path: Path, fitted: Fit) -> None:
    """Refuse to go on from a fit whose last state could not be stored: what would be made of it belongs to no checkpoint.

    Raises:
        OSError: the last checkpoint is of an earlier step.
    """
    if not path.is_file() or load(path)["step"] != fitted.steps:
        raise OSError(errno.ENOSPC, "No room for the last checkpoint", str(path))


def _simulations(task: Task, clock: Clock) -> Source:
    """Fresh simulations for every step, or those of the recipe, refined once."""
    recipe, given = task.recipe, unobserved(task.model, task.data)
    if not recipe.simulations or recipe.objective != "forward_kl":
        return Simulator(recipe.batch_size, given=given)
    count = max(fewer(recipe.simulations, task.options.quick), recipe.batch_size)
    with clock("simulations") as note:
        pairs = simulated_once(task.model, task.guide, count, recipe.batch_size, given, task.options.seed)
        note(f"{count} data sets, {'refined once' if pairs.refined is not None else 'drawn once'}")
    return pairs


def _steps_and_loss(found: Fit) -> str:
    last = [loss for loss in found.losses[-50:] if math.isfinite(loss)]
    return f"{found.steps} steps, loss {sum(last) / max(len(last), 1):.4g}"


def fewer_steps(stage: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    """Return the options of a stage of a training, with the steps of a quick run if it is one."""
    return {**stage, "steps": fewer(stage["steps"], quick)}


def objective_of(task: Task) -> Objective:
    """Return what the main fit minimises."""
    recipe = task.recipe
    training = task.animal.training
    if training is not None:
        return ELBO(recipe.particles) if training.objective is None else GreyBoxELBO(**training.objective)
    if recipe.objective == "elbo":
        return ELBO(recipe.particles)
    if recipe.objective == "reweighted":
        return Reweighted(recipe.particles)
    if recipe.objective == "forward_kl":
        return ForwardKL()
    return Mixture(((0.5, ELBO(recipe.particles)), (0.5, ForwardKL())))


def compare_with(
    task: Task, tree: DataTree, reference: Reference, weights: NDArray[np.float64] | None = None
) -> Comparison:
    """Hold the posterior against the reference; the classifier sees positive unknowns in logarithm."""
    supports = Latents.of(task.model, task.data).supports
    positive = [site for site, draws in reference.draws.items() if _bounded_below(supports[site]) and (draws > 0).all()]
    return compare(tree, reference, weights=weights, positive=positive, seed=task.options.seed)


def _bounded_below(support: Any) -> bool:
    inner = getattr(support, "base_constraint", support)
    lower = torch.as_tensor(getattr(inner, "lower_bound", -1.0))
    return bool((lower == 0).all()) and not hasattr(inner, "upper_bound")


def check_calibration(task: Task, budget: Budget) -> Calibration:
    """Check the calibration: over the prior for an amortised guide, around the data set for any other."""
    seed, progress = task.options.seed, task.options.progress
    if task.amortised:
        given = unobserved(task.model, task.data)
        return calibrate(task.model, task.guide, datasets=budget.datasets, given=given, seed=seed, progress=progress)
    return posterior_sbc(
        task.model,
        task.guide,
        task.data,
        datasets=budget.refits,
        family=task.recipe.family,
        wake=budget.refit_wake if task.recipe.objective == "reweighted" else 0,
        seed=seed,
        progress=progress,
    )


def evaluate_on_test(task: Task) -> Evaluation:
    """Measure a trained model on data that it has not seen: the test split, or the validation split without one."""
    splits, training = task.splits, task.animal.training
    if splits is None or training is None:
        raise ValueError(f"task: got {task.animal.name}, expected an animal with learnt parts")
    test = splits.valid if splits.test is None else splits.test
    if task.options.quick:
        test = test.rows(torch.arange(min(64, len(test))))
    sites = set(task.shapes)
    truths = {name: value for name, value in test.truths.items() if name in sites}
    periods = {name: value for name, value in training.periodic.items() if name in truths}
    return evaluate(task.model, task.guide, test.data, truths=truths, periods=periods, seed=task.options.seed)
