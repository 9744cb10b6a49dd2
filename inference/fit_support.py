"""What the driver needs around its loop: parameters, the progress bar, checks off and on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroModule
from torch import Tensor, nn
from tqdm import tqdm

from ..guides.nodes import nodes
from ..guides.sites import seeded, unchecked
from .objectives import Batch


def parameters_of(modules: Mapping[str, nn.Module]) -> list[Tensor]:
    """Return the parameters of all modules that take a gradient, each once, in a fixed order."""
    seen: dict[int, Tensor] = {}
    for part in modules.values():
        for parameter in part.parameters():
            if parameter.requires_grad:
                seen.setdefault(id(parameter), parameter)
    return list(seen.values())


def adam(parameters: list[Tensor], learning_rate: float) -> torch.optim.Optimizer:
    """Return Adam in its fused form."""
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True)


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
            trace = poutine.trace(model).get_trace(**example)
        return {name: site["value"] for name, site in nodes(trace).items() if poutine.util.site_is_subsample(site)}

    first, second = rows(0), rows(1)
    given = {name: value for name, value in first.items() if torch.equal(value, second[name])}
    if not given:
        return
    with seeded(2), torch.no_grad(), poutine.block(), unchecked():
        trace = poutine.trace(guide).get_trace(**example)
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
            trace = poutine.trace(candidate).get_trace(**example)
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


def difference(got: Mapping[str, Mapping[str, Any]], expected: Mapping[str, Mapping[str, Any]]) -> str:
    """Name the first parameter whose shape differs between two module states."""
    for part in sorted(set(got) | set(expected)):
        a, b = got.get(part, {}), expected.get(part, {})
        for name in sorted(set(a) | set(b)):
            if a.get(name) != b.get(name):
                return f"{part}.{name}: shape {a.get(name)}, expected {b.get(name)}"
    return "no difference in shapes"
