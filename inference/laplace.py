"""Warm starts: the posterior mode in unconstrained space and the Laplace approximation around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..guides.require import named, real, seed_number, whole
from ..guides.sites import Data, seeded, simulate
from ..guides.unconstrained import Whitening
from .ascent import ascend
from .latents import Latents
from .precision import in_double


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
        seed: seed of these draws, another than that of data that ``simulate`` made.
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
    model, data = in_double(model, data)
    sites = Latents(model, data)

    def log_density(flat: Tensor) -> Tensor:
        return sites.log_density(model, flat, data)

    with seeded(seed):
        given = {k: v for k, v in data.items() if k not in sites.observed and k != "mask"}
        draws, _ = sites.flatten(simulate(model, candidates, given, nesting=sites.nesting))
    draws = draws.double()
    with torch.no_grad():
        heights = log_density(draws)
    mode = ascend(log_density, draws, heights, climbers, starts)[0][0]
    usable = torch.isfinite(heights)
    return Whitening(mode, _inverse_root(_negative_hessian(log_density, mode), draws[usable].var(0), floor))


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
