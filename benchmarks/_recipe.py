"""Guides as recipes train them: amortised over simulated pairs by the forward KL, or for one data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from physzoo.core.model_spec import Whitening
from physzoo.guides import AmortizedGuide, amortize
from physzoo.inference.fit import DataSets, Simulator, fit, simulated_once
from physzoo.inference.objectives import ELBO, ForwardKL, Reweighted
from physzoo.models.recipe import Recipe


def amortised(
    model: Any, recipe: Recipe, example: Mapping[str, Tensor], seed: int, less: int = 1, held_out: int = 0
) -> AmortizedGuide:
    """Return a guide for all data sets like the example, trained by the forward KL.

    Pairs are fresh at every step, or ``recipe.simulations`` made once; with ``held_out`` pairs more, the guide is the one
    that did best on them. ``less`` divides steps and pairs.
    """
    guide = amortize(model, recipe.encoder, recipe.family, example=example, seed=seed, **recipe.options)
    source: Simulator | DataSets = Simulator(recipe.batch_size)
    if recipe.simulations:
        source = simulated_once(model, guide, recipe.simulations // less, recipe.batch_size, seed=seed)
    judged: dict[str, Any] = {}
    if held_out:
        pairs = simulated_once(model, guide, held_out // less, seed=seed + 5)
        judged = {"held_out": pairs, "evaluate_every": 100 // less}
    fit(model, guide, source, ForwardKL(), **_options(recipe, seed, less), **judged)
    return guide


def alone(
    model: Any, recipe: Recipe, data: Mapping[str, Tensor], start: Whitening, seed: int, less: int = 1
) -> AmortizedGuide:
    """Return a guide for one data set around a Gaussian, fitted by the recipe's objective; ``less`` divides the steps."""
    guide = amortize(model, None, recipe.family, example=data, whitening=start, seed=seed, **recipe.options)
    objective = Reweighted if recipe.objective == "reweighted" else ELBO
    fit(model, guide, dict(data), objective(recipe.particles), **_options(recipe, seed, less))
    return guide


def _options(recipe: Recipe, seed: int, less: int) -> dict[str, Any]:
    return {
        "steps": recipe.steps // less,
        "learning_rate": recipe.learning_rate,
        "seed": seed,
        "max_skipped": 20,
        "progress": False,
    }
