"""What a report shows of a grey box alone: its four outputs, time beyond the data, and what would have been."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..core.global_state import seeded
from ..folder import Folder
from ..inference.evaluation.reconstruction import counterfactual, evaluating, extrapolate
from ..models.datasets.splits import Split
from ..result import Result
from .figures import Array, clock_of
from .figures_grey_box import draw_counterfactuals, draw_extrapolation, draw_images, draw_outputs
from .labels import quantity

DRAWS = 200
SEQUENCES = 64  # of the test split, for the errors beside a picture
BEYOND = 3  # times the length of the data
FACTORS = (0.5, 0.8, 1.25, 2.0)  # on an unknown


def draw_grey_box(result: Result, folder: Folder) -> list[str]:
    """Draw what this animal has of the three figures into the folder and return their names; none if it is no grey box."""
    task, training = result.task, result.task.animal.training
    if task.splits is None or training is None:
        return []
    test = task.splits.valid if task.splits.test is None else task.splits.test
    test = test.rows(torch.arange(min(SEQUENCES, len(test))))
    with evaluating(task.model, task.guide), seeded(task.options.seed):
        names = [_outputs(result, folder)]
        if training.continued is not None:
            names.append(_beyond(result, folder, test, training.continued))
        for site, changed in training.counterfactuals.items():
            names.append(_counterfactual(result, folder, test, site, changed))
    return names


def _outputs(result: Result, folder: Folder) -> str:
    """The data set of the run beside draws of its posterior, decoded."""
    task, tree, model = result.task, cast(Any, result.posterior), cast(Any, result.task.model)
    drawn = tree["posterior"]
    x, mask = task.data["x"], task.data.get("mask")
    z = {site: torch.as_tensor(drawn[site].values[0, :DRAWS]).to(x) for site in task.shapes}
    outputs = {name: _array(value) for name, value in vars(model.decode(z)).items()}
    observed = _array(x if mask is None else torch.where(mask, x, torch.nan))
    path = folder.file("outputs.png")
    if observed.ndim == 3:
        draw_images(path, observed[None], {name: draws[:, None] for name, draws in outputs.items()})
    else:
        draw_outputs(path, quantity(task.animal, "x"), observed, outputs)
    return path.name


def _beyond(result: Result, folder: Folder, test: Split, continued: Any) -> str:
    """The first test sequence, and the errors of all in windows as long as the data."""
    task, meaning = result.task, quantity(result.task.animal, "x")
    if test.times is None:
        raise ValueError("times: got none, expected those of sequences that can be continued")
    frames = len(test.times)
    times = (test.times[1] - test.times[0]) * torch.arange(BEYOND * frames).to(test.times)
    truth = continued(test.truths, BEYOND * frames).to(test.x)
    windows = [(k * frames, (k + 1) * frames) for k in range(BEYOND)]
    errors = extrapolate(task.model, task.guide, test.data, times, truth, windows, seed=task.options.seed)
    draws = cast(Any, task.model).decode(task.guide.sample(_first(test), DRAWS), times).full[:, 0]
    channel, last = _liveliest(test), float(test.times[-1])
    path = folder.file("beyond.png")
    chosen = _array(truth[0, :, channel]), _array(draws[:, :, channel])
    draw_extrapolation(path, meaning, _array(times), *chosen, last, errors, clock_of(meaning))
    return path.name


def _counterfactual(result: Result, folder: Folder, test: Split, site: str, changed: Any) -> str:
    """The first test sequence with one unknown multiplied, and the errors of all."""
    task, meaning, channel = result.task, quantity(result.task.animal, "x"), _liveliest(test)
    truth = {factor: changed(test.truths, factor).to(test.x) for factor in FACTORS}
    errors = counterfactual(task.model, task.guide, test.data, site, FACTORS, truth, seed=task.options.seed)
    model = cast(Any, task.model)
    z = task.guide.sample(_first(test), DRAWS)
    draws = {factor: model.intervene(z, **{site: factor * z[site]}).full[:, 0] for factor in FACTORS}
    path = folder.file(f"counterfactual_{site}.png")
    times = test.times if test.times is not None else torch.arange(test.x.shape[1])
    shown = (
        {factor: _array(values[0, :, channel]) for factor, values in truth.items()},
        {factor: _array(values[:, :, channel]) for factor, values in draws.items()},
    )
    draw_counterfactuals(path, meaning, site, _array(times), *shown, errors, clock_of(meaning))
    return path.name


def _first(test: Split) -> dict[str, Any]:
    return test.rows(torch.arange(1)).data


def _liveliest(test: Split) -> int:
    """Return the channel of the first sequence that moves most."""
    return int(test.x[0].std(0).argmax())


def _array(value: Tensor) -> Array:
    return value.detach().double().numpy()
