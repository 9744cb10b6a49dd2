"""Warm starts: the posterior mode in unconstrained space and the Laplace approximation around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from ..guides.require import named, real, seed_number, whole
from ..guides.sites import Data, seeded, simulate
from ..guides.unconstrained import Whitening
from .latents import Latents


def laplace(
    model: Callable[..., Any],
    data: Data,
    *,
    starts: int = 4,
    climbers: int = 64,
    candidates: int = 256,
    seed: int = 0,
    floor: float = 1e-6,
) -> Whitening:
    """Find the mode in unconstrained space and the Cholesky factor of the inverse Hessian there.

        u* = argmax log p(T(u), y) + log|det T'(u)|,   L L' = (-Hessian at u*)^-1

    The best of ``candidates`` prior draws climb together by Adam, so that several modes compete; the highest start L-BFGS runs,
    and the best end point counts. The Hessian is taken by central
    differences of gradients, all of them in one batched evaluation, so that operators which can be differentiated once
    suffice. Directions in which the density does not fall get the prior's variance.

    Args:
        model: a Pyro model.
        data: the arguments of one data set.
        starts: number of L-BFGS runs.
        climbers: number of draws that climb first.
        candidates: prior draws to choose their starts from.
        seed: seed of these draws.
        floor: smallest accepted curvature relative to the largest.

    Returns:
        The whitening map u = u* + L w, float64.

    Raises:
        ValueError: no prior draw has a finite density.
    """
    whole("starts", starts, 1)
    whole("climbers", climbers, 1)
    whole("candidates", candidates, 2)
    seed_number(seed)
    real("floor", floor, 0.0, 1.0, "a number between 0 and 1")
    named("data", data)
    sites = Latents(model, data)

    def log_density(flat: Tensor) -> Tensor:
        return sites.log_density(model, flat, data)

    with seeded(seed):
        given = {k: v for k, v in data.items() if k not in sites.observed and k != "mask"}
        draws, _ = sites.flatten(simulate(model, candidates, given, nesting=sites.nesting))
    draws = draws.double()
    with torch.no_grad():
        heights = log_density(draws)
    usable = torch.isfinite(heights)
    if not usable.any():
        raise ValueError(
            f"data: got data under which none of {candidates} prior draws has a finite density, expected a model that can produce them"
        )
    scale = draws[usable].std(0).clamp_min(1e-8) if usable.sum() > 1 else torch.ones_like(draws[0])
    climbed, heights = _climb(log_density, draws, heights, scale, climbers)
    order = heights.argsort(descending=True)[:starts]

    def objective(u: np.ndarray) -> tuple[float, np.ndarray]:
        flat = torch.tensor(u, dtype=torch.float64).unsqueeze(0).requires_grad_()
        value = log_density(flat).sum()
        if not torch.isfinite(value):
            return 1e10, np.zeros_like(u)
        (gradient,) = torch.autograd.grad(value, flat)
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
        return -value.item(), -gradient[0].double().numpy()

    ends = [
        minimize(objective, climbed[i].numpy(), jac=True, method="L-BFGS-B", options={"maxiter": 500})
        for i in order.tolist()
    ]
    best = min(ends, key=lambda end: float(end.fun))
    mode = torch.tensor(best.x, dtype=torch.float64)
    return Whitening(mode, _inverse_root(_negative_hessian(log_density, mode), draws[usable].var(0), floor))


def _climb(
    log_density: Callable[[Tensor], Tensor],
    draws: Tensor,
    heights: Tensor,
    scale: Tensor,
    climbers: int,
    steps: int = 150,
) -> tuple[Tensor, Tensor]:
    """Move the best draws uphill together, in units of the prior's spread; return the best point of each and its height."""
    ranked = torch.where(torch.isfinite(heights), heights, torch.full_like(heights, -torch.inf))
    rows = ranked.argsort(descending=True)[:climbers]
    best, top = draws[rows].clone(), ranked[rows].clone()
    moving = torch.zeros_like(best).requires_grad_()
    optimizer = torch.optim.Adam([moving], lr=0.05)
    start = best.clone()
    for _ in range(steps):
        points = start + scale * moving
        value = log_density(points)
        finite = torch.isfinite(value)
        higher = finite & (value.detach() > top)
        best[higher], top[higher] = points.detach()[higher], value.detach()[higher]
        (gradient,) = torch.autograd.grad(torch.where(finite, value, torch.zeros_like(value)).sum(), moving)
        moving.grad = -gradient.nan_to_num(0.0, 0.0, 0.0)
        optimizer.step()
    return best, top


def _negative_hessian(log_density: Callable[[Tensor], Tensor], mode: Tensor, step: float = 1e-4) -> Tensor:
    size = len(mode)
    shifts = step * torch.eye(size, dtype=torch.float64)
    points = torch.cat([mode + shifts, mode - shifts]).requires_grad_()
    (gradients,) = torch.autograd.grad(log_density(points).sum(), points)
    hessian = (gradients[:size] - gradients[size:]) / (2 * step)
    return -0.5 * (hessian + hessian.T)


def _inverse_root(precision: Tensor, prior_variance: Tensor, floor: float) -> Tensor:
    curvature, directions = torch.linalg.eigh(precision)
    flat = curvature <= floor * curvature.max().clamp_min(1e-12)
    prior = (directions.square() * prior_variance.unsqueeze(-1)).sum(0)
    variance = torch.where(flat, prior, 1 / torch.where(flat, torch.ones_like(curvature), curvature))
    return torch.linalg.cholesky((directions * variance) @ directions.T)
