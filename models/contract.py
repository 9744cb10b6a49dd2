"""The contract that every model of the zoo keeps, as checks that anybody can run on a model of their own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from ..guides import amortize
from ..guides.nodes import nodes
from ..guides.sites import (
    latent_sites,
    observed_sites,
    outer_plates,
    plate_nesting,
    prototype,
    repeated,
    seeded,
    simulate,
)

SOLVERS = ("solve", "residual", "branches", "incomplete")  # what a model may ask its problem for


class ContractError(ValueError):
    """A model or guide breaks a rule of the contract; the message lists every broken rule."""


@dataclass(frozen=True)
class Check:
    """One rule: its name, whether it holds, and what was found."""

    rule: str
    passed: bool
    found: str = ""


def check_model(
    model: nn.Module,
    data: Mapping[str, Any],
    guide: Callable[..., Any] | None = None,
    *,
    raises: bool = True,
) -> tuple[Check, ...]:
    """Check the rules of CONTRIBUTING.md that a machine can check, on one model and guide.

    Args:
        model: a Pyro model of one data set, in float64.
        data: the arguments of one data set; floating-point tensors in float64.
        guide: a guide of it; a full-rank Gaussian one is built where none is given.
        raises: whether a broken rule raises; else it only shows in the result.

    Returns:
        One ``Check`` for each rule.

    Raises:
        ContractError: a rule is broken.
        TypeError: the model is no module.

    Example:
        >>> check_model(LynxHare(), hudson_bay())  # doctest: +SKIP
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, expected a torch module (pyro.nn.PyroModule)")
    guide = guide if guide is not None else amortize(model, None, "full", example=data)
    rules: dict[str, Callable[[], str]] = {
        "the density is finite under the prior": lambda: _finite(model, data),
        "guide sites and supports are the model's": lambda: _same_sites(model, guide, data),
        "any batch shape": lambda: _batch_shapes(model, data),
        "float32 and float64": lambda: _precisions(model, data),
        "a gradient for every parameter": lambda: _gradients(model, guide, data),
        "the same seed gives the same draws": lambda: _reproducible(model),
        "the state survives a round trip": lambda: _round_trip(model, guide, data),
        "a mask hides data": lambda: _mask(model, data),
        "operators are differentiable and residuals vanish": lambda: _physics(model, data),
    }
    results = []
    for rule, check in rules.items():
        try:
            found = check()
        except (ValueError, RuntimeError, TypeError, ArithmeticError, KeyError, IndexError) as error:
            found = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        results.append(Check(rule, not found, found))
    broken = [f"{check.rule}: {check.found}" for check in results if not check.passed]
    if broken and raises:
        raise ContractError(f"model: {type(model).__name__} breaks {len(broken)} rule(s): " + "; ".join(broken))
    return tuple(results)


def _finite(model: nn.Module, data: Mapping[str, Any]) -> str:
    trace = prototype(model, data)
    trace.compute_log_prob()
    for name, site in nodes(trace).items():
        if site["type"] == "sample" and not torch.isfinite(site["log_prob"]).all():
            return f"site '{name}' has a log density that is not finite"
    return ""


def _same_sites(model: nn.Module, guide: Callable[..., Any], data: Mapping[str, Any]) -> str:
    sites = latent_sites(prototype(model, data))
    drawn = nodes(prototype(guide, data))
    for name, site in sites.items():
        if name not in drawn:
            return f"the guide has no site '{name}'"
        if not site["fn"].support.check(drawn[name]["value"]).all():
            return f"the guide draws site '{name}' outside its support"
    extra = [
        name
        for name, site in drawn.items()
        if site["type"] == "sample" and name not in sites and not site["infer"].get("is_auxiliary")
    ]
    return f"the guide has sites that the model lacks: {', '.join(extra)}" if extra else ""


def _batch_shapes(model: nn.Module, data: Mapping[str, Any]) -> str:
    trace = prototype(model, data)
    nesting = plate_nesting(trace)
    shapes = {name: site["value"].shape for name, site in observed_sites(trace).items()}
    batch = repeated(data, 3)
    with seeded(0), torch.no_grad(), outer_plates(nesting, 5, 3):
        drawn = poutine.trace(model).get_trace(**batch)
        drawn.compute_log_prob()
    for name, shape in shapes.items():
        log_prob = nodes(drawn)[name]["log_prob"]
        if tuple(log_prob.shape[: log_prob.ndim - nesting]) != (5, 3):
            return f"site '{name}' has log density of shape {tuple(log_prob.shape)} for 5 particles and 3 data sets of shape {tuple(shape)}"
    return ""


def _converted(data: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {n: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for n, v in data.items()}


def _precisions(model: nn.Module, data: Mapping[str, Any]) -> str:
    for dtype in (torch.float32, torch.float64):
        trace = prototype(copy.deepcopy(model).to(dtype), _converted(data, dtype))
        for name, site in nodes(trace).items():
            if (
                site["type"] == "sample"
                and site["value"].is_floating_point()
                and site["value"].dtype != dtype
                and site["value"].numel()
            ):
                return f"site '{name}' is {site['value'].dtype} in a model of {dtype}"
    return ""


def _gradients(model: nn.Module, guide: Callable[..., Any], data: Mapping[str, Any]) -> str:
    with seeded(0):
        guide_trace = poutine.trace(guide).get_trace(**data)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(**data)
    loss = torch.as_tensor(guide_trace.log_prob_sum() - model_trace.log_prob_sum())
    parts = [part for part in (model, guide) if isinstance(part, nn.Module)]
    named = [(n, p) for part in parts for n, p in part.named_parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True) if named else []
    missing = [name for (name, _), gradient in zip(named, gradients, strict=True) if gradient is None]
    return f"no gradient reaches {', '.join(missing)}" if missing else ""


def _reproducible(model: nn.Module) -> str:
    first, second, third = (simulate(model, 4, seed=seed) for seed in (1, 1, 2))
    for name, value in first.items():
        if not torch.equal(value.nan_to_num(), second[name].nan_to_num()):
            return f"site '{name}' differs between two runs of one seed"
    if all(torch.equal(value.nan_to_num(), third[name].nan_to_num()) for name, value in first.items()):
        return "two seeds give the same draws"
    return ""


def _round_trip(model: nn.Module, guide: Callable[..., Any], data: Mapping[str, Any]) -> str:
    for part in (model, guide):
        if not isinstance(part, nn.Module):
            continue
        state = {name: value.clone() for name, value in part.state_dict().items()}
        before = prototype(part, data, seed=3)
        part.load_state_dict(state)
        after = prototype(part, data, seed=3)
        for name, site in nodes(before).items():
            if site["type"] == "sample" and not torch.equal(site["value"], nodes(after)[name]["value"]):
                return f"site '{name}' of {type(part).__name__} changes when its state is loaded again"
    return ""


def _mask(model: nn.Module, data: Mapping[str, Any]) -> str:
    trace = prototype(model, data)
    hidden = {}
    for name, site in observed_sites(trace).items():
        if name in data:
            hidden[name] = torch.full_like(site["value"], torch.nan)
    masked = {**data, **hidden, "mask": torch.zeros_like(next(iter(hidden.values())), dtype=torch.bool)}
    try:
        trace = prototype(model, masked)
    except TypeError:
        return "the model takes no argument 'mask'"
    for name in hidden:
        log_prob = nodes(trace)[name]["fn"].log_prob(nodes(trace)[name]["value"])
        if not (log_prob == 0).all():
            return f"site '{name}' counts data that are masked"
    return ""


def _physics(model: nn.Module, data: Mapping[str, Any]) -> str:
    """Check the model's ``problem``: directional derivatives, adjoint, vanishing residual, at one prior draw."""
    problem = getattr(model, "problem", None)
    if problem is None:
        return ""
    asked, unknowns = _unknowns(model, data)
    if asked == "incomplete":
        problem = problem.alone()
    single = isinstance(unknowns, Tensor)
    names = [""] if single else list(unknowns)
    points = [unknowns] if single else list(unknowns.values())

    def solve(*values: Tensor) -> Tensor:
        return problem.solve(values[0] if single else dict(zip(names, values, strict=True)))

    points = [p.detach().double().requires_grad_() for p in points]
    u = solve(*points)
    with seeded(1):
        cotangent, directions = (
            torch.randn_like(u),
            [torch.randn_like(p) * p.detach().abs().clamp_min(1e-3) for p in points],
        )
    gradients = torch.autograd.grad(u, points, cotangent)
    step = 1e-5
    with torch.no_grad():
        ahead = solve(*[p + step * d for p, d in zip(points, directions, strict=True)])
        behind = solve(*[p - step * d for p, d in zip(points, directions, strict=True)])
        tangent = (ahead - behind) / (2 * step)
        left = (tangent * cotangent).sum()
        right = torch.stack([(g * d).sum() for g, d in zip(gradients, directions, strict=True)]).sum()
        if not torch.isclose(left, right, rtol=1e-5, atol=1e-7 * float(tangent.norm() * cotangent.norm())):
            return f"<J dz, g> = {left.item():.10g} but <dz, J'g> = {right.item():.10g}"
        residual = problem.residual(u, points[0] if single else dict(zip(names, points, strict=True)))
        size = float(u.abs().max().clamp_min(1.0))
    if float(residual.abs().max()) > 1e-8 * size:
        return f"the residual at the solution is {float(residual.abs().max()):.2g}, expected 0"
    return ""


def _unknowns(model: nn.Module, data: Mapping[str, Any]) -> tuple[str, Any]:
    """Record what the model asks of its problem in one run, the completed equation of a grey box before its physics alone."""
    problem: Any = model.problem
    seen: list[tuple[str, Any]] = []
    originals = {name: getattr(problem, name) for name in SOLVERS if hasattr(problem, name)}

    def recording(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append((name, kwargs["z"] if "z" in kwargs else args[-1] if name == "residual" else args[0]))
            return originals[name](*args, **kwargs)

        return call

    try:
        for name in originals:
            setattr(problem, name, recording(name))
        prototype(model, data)
    finally:
        for name in originals:
            delattr(problem, name)
    if not seen:
        raise ValueError("model: its problem is neither solved nor asked for a residual")
    return min(seen, key=lambda call: call[0] == "incomplete")
