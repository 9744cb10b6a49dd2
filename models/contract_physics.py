"""The rule of the contract on a model's physics object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.global_state import seeded
from ..core.prototype import prototype
from .contract_subject import NEAR, SOLVERS, STEP, VANISHES, Subject


def physics(subject: Subject) -> str:
    """Check the model's ``problem``: directional derivatives, adjoint, vanishing residual, at one prior draw."""
    if subject.problem is None:
        return ""
    _ = subject.trace
    asked, unknowns = _unknowns(subject)
    problem = subject.problem.alone() if asked == "incomplete" else subject.problem
    single = isinstance(unknowns, Tensor)
    names = [""] if single else list(unknowns)
    points = [unknowns] if single else list(unknowns.values())

    def gathered(values: Any) -> Any:
        return values[0] if single else dict(zip(names, values, strict=True))

    points = [p.detach().double().requires_grad_() for p in points]
    u = problem.solve(gathered(points))
    with seeded(1):
        cotangent = torch.randn_like(u)
        directions = [torch.randn_like(p) * _size(p) for p in points]
        elsewhere = u.detach() + NEAR * torch.randn_like(u) * _size(u)
    slopes = torch.autograd.grad(u, points, cotangent)
    with torch.no_grad():
        ahead = problem.solve(gathered([p + STEP * d for p, d in zip(points, directions, strict=True)]))
        behind = problem.solve(gathered([p - STEP * d for p, d in zip(points, directions, strict=True)]))
        tangent = (ahead - behind) / (2 * STEP)
        left = (tangent * cotangent).sum()
        right = torch.stack([(g * d).sum() for g, d in zip(slopes, directions, strict=True)]).sum()
        if not torch.isclose(left, right, rtol=1e-5, atol=1e-7 * float(tangent.norm() * cotangent.norm())):
            return f"<J dz, g> = {left.item():.10g} but <dz, J'g> = {right.item():.10g}"
        here, there = (problem.residual(state, gathered(points)).abs().max() for state in (u, elsewhere))
    if not NEAR * float(here) <= VANISHES * float(there):
        return f"the residual at the solution is {float(here):.2g}, expected 0 beside {float(there):.2g} elsewhere"
    return ""


def _size(value: Tensor) -> Tensor:
    """Return the size of every entry in its own unit; of an entry that is small or zero that of the others, else 1."""
    size = value.detach().abs()
    largest = size.max() if size.numel() and float(size.max()) > 0 else torch.ones_like(size.sum())
    return size.clamp_min(1e-3 * largest)


def _unknowns(subject: Subject) -> tuple[str, Any]:
    """Record what the model asks of its problem in one run, the completed equation of a grey box before its physics alone."""
    problem = subject.problem
    seen: list[tuple[str, Any]] = []
    originals = {name: getattr(problem, name) for name in SOLVERS if hasattr(problem, name)}

    def recording(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append((name, kwargs["z"] if "z" in kwargs else args[-1] if name == "residual" else args[0]))
            return originals[name](*args, **kwargs)

        return call

    replaced = []
    try:
        for name in originals:
            object.__setattr__(problem, name, recording(name))  # also of a frozen one
            replaced.append(name)
        prototype(subject.model, subject.data)
    finally:
        for name in replaced:
            object.__delattr__(problem, name)
    if not seen:
        raise ValueError("model: its problem is neither solved nor asked for a residual")
    return min(seen, key=lambda call: call[0] == "incomplete")
