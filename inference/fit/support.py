"""What the driver needs around its loop: the optimiser, the progress bar, what may not be swapped."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from numbers import Real
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroModule
from torch import Tensor, nn
from tqdm import tqdm

from ...core.global_state import seeded, unchecked
from ...core.model_spec import fixed_supports
from ...core.prototype import prototype, traced
from ...core.require import shown
from ...core.sites import check_declared
from ...core.traces import nodes, trace_of
from ..density.densities import check_guide
from ..density.gradient_check import check_gradients
from ..objectives.standard import ELBO, Batch, Objective
from ..objectives.stock import Stock
from ..warn import warn
from .batches import Batches


def build_optimizer(
    build: Callable[[list[Tensor], float], torch.optim.Optimizer] | None, parameters: list[Tensor], learning_rate: float
) -> torch.optim.Optimizer:
    """Return the optimiser of a fit: Adam in its fused form, or what ``build`` makes.

    Raises:
        TypeError: it makes no optimiser of torch.
        ValueError: it fails, or needs the loss more than once a step.
    """
    if build is None:
        return torch.optim.Adam(parameters, lr=learning_rate, fused=all(p.is_floating_point() for p in parameters))
    try:
        optimizer = build(parameters, learning_rate)
    except Exception as error:
        raise ValueError(
            f"optimizer: got {shown(build)}, which fails ({first_line(error)}), expected a function (parameters, learning rate) "
            "-> a torch optimiser"
        ) from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer: got a function that returns {shown(optimizer)}, expected one that returns a torch optimiser"
        )
    needed = inspect.signature(type(optimizer).step).parameters.get("closure")
    if needed is not None and needed.default is inspect.Parameter.empty:
        raise ValueError(
            f"optimizer: got {type(optimizer).__name__}, which asks for the loss several times a step, expected one that does "
            "not, e.g. Adam: the loss of a fit is random"
        )
    return optimizer


def rates(optimizer: torch.optim.Optimizer) -> list[float | None]:
    """Return the learning rate of each group of parameters; None where it has none."""
    return [float(group["lr"]) if "lr" in group else None for group in optimizer.param_groups]


def set_rates(optimizer: torch.optim.Optimizer, initial: list[float | None], factor: float) -> None:
    """Set the learning rate of each group to a multiple of the one it began with."""
    for group, rate in zip(optimizer.param_groups, initial, strict=True):
        if rate is not None and isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate * factor)
        elif rate is not None:
            group["lr"] = rate * factor


def optimizer_step(optimizer: torch.optim.Optimizer) -> None:
    """Do one step.

    Raises:
        ValueError: the optimiser cannot do one on these parameters.
    """
    try:
        optimizer.step()
    except Exception as error:
        raise ValueError(
            f"optimizer: got {type(optimizer).__name__}, which fails on these parameters ({first_line(error)}), expected another"
        ) from error


def first_line(error: Exception) -> str:
    """Return the start of an error's first line."""
    return f"{type(error).__name__}: {error}".split("\n", 1)[0][:120]


def clip(parameters: list[Tensor], largest_norm: float) -> float:
    """Scale the gradients down to ``largest_norm`` and return their norm; it is not finite only if an entry is not.

    Finite entries whose squares overflow are divided by the largest one first.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    value = norm.item()
    if math.isinf(value):
        largest = max(gradient.abs().max().item() for gradient in gradients)
        if not math.isfinite(largest):
            return value
        for gradient in gradients:
            gradient.div_(largest)
        norm = nn.utils.get_total_norm(gradients)
        value = norm.item()
    if math.isfinite(value):
        nn.utils.clip_grads_with_norm_(parameters, largest_norm, norm)
    return value


def moved(batch: Batch, device: str | None) -> Batch:
    """Return the batch on ``device``."""
    if device is None:
        return batch
    data = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.data.items()}
    refined = None if batch.refined is None else batch.refined.to(device)
    latents = {name: value.to(device) for name, value in batch.latents.items()}
    return replace(batch, data=data, latents=latents, refined=refined)


def refuse_taken_names(guide: AutoGuide, names: Iterable[str]) -> None:
    """Refuse sites that an autoguide cannot keep its parameters under: Pyro gives its modules an attribute for each site.

    Raises:
        ValueError: a site has the name of something that every module has.
    """
    taken = [name for name in names if hasattr(PyroModule, name)]
    if taken:
        raise ValueError(
            f"guide: got {type(guide).__name__} for a site named '{taken[0]}', which all modules of Pyro have already, expected "
            "another name of the site, or amortize(model, None, ...), which takes any"
        )


def refuse_replaced_subsamples(
    model: Callable[..., Any], guide: Callable[..., Any], example: Mapping[str, Any]
) -> None:
    """Refuse a guide that makes the model see other rows than those its own ``plate(subsample=...)`` was given.

    Autoguides that open the model's plates do so unless they get ``create_plates``, silently (Pyro issue 3468).

    Raises:
        ValueError: rows would be replaced.
    """

    def rows(seed: int) -> dict[str, Tensor]:
        with seeded(seed), torch.no_grad(), poutine.block(), unchecked():
            trace = trace_of(model, example)
        return {name: site["value"] for name, site in nodes(trace).items() if poutine.util.site_is_subsample(site)}

    first, second = rows(0), rows(1)
    given = {name: value for name, value in first.items() if torch.equal(value, second[name])}
    if not given:
        return
    with seeded(2), torch.no_grad(), poutine.block(), unchecked():
        trace = traced(guide, example, "guide")
    for name, value in given.items():
        site = nodes(trace).get(name)
        if site is not None and not torch.equal(site["value"], value):
            raise ValueError(
                f"guide: got one that would replace the rows of the model's plate '{name}' by others (an autoguide needs "
                f"create_plates=), expected the {len(value)} rows given; or hand the rows over as DataSets(..., batch_size={len(value)})"
            )


def direct(fn: Callable[..., Any], example: Mapping[str, Any]) -> Callable[..., Any]:
    """Return a PyroModule's ``forward`` where that draws the same sites as calling the module does, else ``fn``.

    A call announces every parameter to Pyro's store, which costs a third of a step on a small network; the driver holds the
    parameters itself. Modules with PyroSample attributes or hooks are called as they are.
    """
    if type(fn).__call__ is not PyroModule.__call__ or fn._forward_hooks or fn._forward_pre_hooks:  # type: ignore[attr-defined]
        return fn
    if isinstance(fn, AutoGuide):  # it subsamples its own parameters through the announcements
        return fn
    runs = []
    for candidate in (fn, fn.forward):  # type: ignore[attr-defined]
        with seeded(0), torch.no_grad(), poutine.block(), unchecked():
            trace = trace_of(candidate, example)
        runs.append({name: site["value"] for name, site in nodes(trace).items() if site["type"] == "sample"})
    same = runs[0].keys() == runs[1].keys() and all(_equal(runs[0][name], runs[1][name]) for name in runs[0])
    return fn.forward if same else fn  # type: ignore[attr-defined]


def _equal(a: Any, b: Any) -> bool:
    return not isinstance(a, Tensor) or (a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all()))


@contextmanager
def progress_bar(steps: int, start: int, show: bool) -> Iterator[Callable[[int, float], None]]:
    """Yield a function (step, loss) that moves a bar which shows the mean loss of the last steps and the rate."""
    if not show:
        yield lambda step, loss: None
        return
    with tqdm(total=steps, initial=start, desc="fit", unit="step", dynamic_ncols=True, mininterval=0.5) as bar:
        recent: list[float] = []

        def advance(step: int, loss: float) -> None:
            recent.append(loss)
            if len(recent) == 20 or step == steps:
                bar.set_postfix_str(f"loss {sum(recent) / len(recent):.4g}", refresh=False)
                bar.update(len(recent))
                recent.clear()

        yield advance


def first_run(
    model: Callable[..., Any], guide: Callable[..., Any], objective: Objective, batches: Batches, enumerated: bool
) -> None:
    """Run both once without plates and with checks on: lazy guides set themselves up, and mistakes show.

    Raises:
        ValueError, TypeError: model and guide do not fit each other or the data.
    """
    example = batches.example
    refuse_replaced_subsamples(model, guide, example)
    if isinstance(guide, AutoGuide) and not enumerated:
        runs = (prototype(model, example, seed, subsampled=True) for seed in (0, 1))
        names = fixed_supports(*runs)  # an autoguide keeps those of its first run
        refuse_taken_names(guide, names)
    if isinstance(objective, ELBO | Stock) and not enumerated:
        check_gradients(model, example)
    with torch.no_grad(), pyro.validation_enabled(True):
        trace = traced(guide, example, "guide")
    check_declared(trace, "guide")
    check_guide(trace, batches.latents, points=True)
    if isinstance(objective, Stock):
        objective.check(trace)
    with torch.no_grad(), seeded(0), unchecked():
        traced(model, example)


def loss_of(
    objective: Objective, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch, first: bool
) -> Tensor:
    """Return the loss of a batch; on the ``first`` step, tell of an objective that does not fit model and guide.

    Raises:
        TypeError: the objective returns no number.
        ValueError: it fails on the first step.
    """
    try:
        loss = objective(model, guide, batch)
        if not isinstance(loss, Tensor | Real):
            raise TypeError(f"objective: got {shown(loss)} as the loss, expected a number")
        return loss
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError) as error:
        told = "expected" in str(error) or type(error).__module__ not in ("builtins", "torch", "torch._C")
        if told or not first:
            raise
        name = type(objective).__name__
        raise ValueError(
            f"objective: got {name}, which fails on this model and guide ({first_line(error)}), expected one that fits them"
        ) from error


def number_of(loss: Any) -> float:
    """Return the value of a loss that can be minimised.

    Raises:
        TypeError: it is no real scalar tensor.
        ValueError: no parameter changes it.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        raise TypeError(f"objective: got {shown(loss)} as the loss, expected a real scalar tensor")
    if not loss.requires_grad:
        raise ValueError(
            "objective: got a loss that no parameter changes, expected one that depends on the guide's or model's"
        )
    return loss.item()


def of_model(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the parameters of the model, where it is a module, by name."""
    return dict(modules["model"].named_parameters()) if "model" in modules else {}


def warn_of_untrained(objective: Objective, trained: Mapping[str, Tensor], parameters: list[Tensor]) -> None:
    """Name the parameters that the last step gave no gradient: an objective of the guide alone leaves the model's as they are."""
    idle = [name for name, value in trained.items() if value.requires_grad and value.grad is None]
    if idle and any(value.grad is not None for value in parameters):
        warn(
            f"objective: got {type(objective).__name__}, from which no gradient reaches {', '.join(map(repr, idle))[:120]} of the "
            "model, expected one that trains them: ELBO does; freeze by requires_grad_(False) what is meant to keep its value"
        )
