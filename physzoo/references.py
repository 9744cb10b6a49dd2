"""Reference posteriors of an animal: closed form, its own exact draws, or Monte Carlo; and a second sampler beside it."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .core.model_spec import Gaussian
from .folder import REFERENCE, BadInput, Folder
from .inference.density.precision import in_double
from .inference.references.result import Reference, summarise
from .inference.references.samplers import HMC, NUTS, SMC, reference
from .inference.warn import TrustWarning
from .task import Budget, Task


def make_reference(task: Task, budget: Budget, folder: Folder, whitening: Gaussian | None) -> Reference:
    """Return the reference posterior: closed form or exact draws where the animal has them, else by a sampler.

    One that an interrupted run left in the folder is taken over.
    """
    stored = folder.file(REFERENCE)
    if task.options.resume and stored.is_file():
        return read_reference(stored)
    if task.animal.closed_form is not None:
        reference = exact_reference(task, budget)
    elif task.animal.exact_draws is not None:
        reference = independent_reference(task, budget)
    else:
        reference = _sampled(task, budget, whitening)
    reference.save(stored)
    return reference


def _sampled(task: Task, budget: Budget, whitening: Gaussian | None) -> Reference:
    """Draw by the sampler of the recipe."""
    model, data = in_double(task.model, task.data)  # learnt parts are float32
    options: dict[str, Any] = {"seed": task.options.seed, "progress": task.options.progress}
    if task.animal.recipe.reference == "smc":
        return reference(model, data, SMC(particles=budget.particles), **options)
    sampler = HMC(chains=budget.chains, draws=budget.reference_draws, warmup=budget.warmup)
    return reference(model, data, sampler, start=whitening, **options)


def read_reference(path: Path) -> Reference:
    """Return a stored reference.

    Raises:
        BadInput: the file is damaged.
    """
    try:
        return Reference.load(path)
    except ValueError:
        raise BadInput(
            f"--resume: got a damaged '{path}', expected the reference of the run; remove it to make it again"
        ) from None


def confirm(task: Task, budget: Budget, whitening: Gaussian | None) -> Reference:
    """Draw a second reference with stock NUTS, four chains in two processes: a sampler that shares nothing with the first."""
    sampler = NUTS(draws=budget.nuts_draws, warmup=budget.nuts_warmup, workers=min(2, os.cpu_count() or 1))
    with warnings.catch_warnings():
        # few draws are meant: means are compared by their standard errors
        warnings.simplefilter("ignore", TrustWarning)
        options: dict[str, Any] = {"seed": task.options.seed, "progress": task.options.progress}
        return reference(task.model, task.data, sampler, start=whitening, **options)


def disagreement(first: Reference, second: Reference) -> float:
    """Return the largest difference of two references' means, in standard errors of the difference; NaN where one is NaN."""
    worst = 0.0
    for site, mean in first.summary["mean"].items():
        error = np.hypot(first.summary["mcse_mean"][site], second.summary["mcse_mean"][site])
        worst = np.maximum(worst, np.max(np.abs(mean - second.summary["mean"][site]) / error))
    return float(worst)


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
    noise = torch.linalg.solve_triangular(
        torch.linalg.cholesky(torch.cov(noise.T).reshape(len(mean), len(mean))), noise.T, upper=False
    ).T
    flat = (mean + noise @ torch.linalg.cholesky(covariance).T).reshape(budget.chains, budget.reference_draws, -1)
    draws, start = {}, 0
    for site, shape in task.shapes.items():
        size = math.prod(shape)
        draws[site] = flat[..., start : start + size].reshape(*flat.shape[:2], *shape).numpy()
        start += size
    return Reference("closed form", draws, summarise(draws), settings={"seed": task.options.seed})


def independent_reference(task: Task, budget: Budget) -> Reference:
    """Return the animal's own independent draws of the posterior, dealt out to as many chains as HMC would have."""
    if task.animal.exact_draws is None:
        raise ValueError(f"task: got {task.animal.name}, expected an animal with exact draws")
    drawn = task.animal.exact_draws(task.data, budget.chains * budget.reference_draws, task.options.seed)
    shape = (budget.chains, budget.reference_draws)
    draws = {site: value.double().reshape(*shape, *value.shape[1:]).numpy() for site, value in drawn.items()}
    return Reference("exact draws", draws, summarise(draws), settings={"seed": task.options.seed})
