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

SAME = 0.2  # sd between two ends of climbs of the same mode


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
    real("floor", floor, 0.0, 1.0, "a number between 0 and 1")
    log_density, tops, _, variance = _tops(model, data, starts, climbers, candidates, seed)
    return Whitening(tops[0], _inverse_root(_negative_hessian(log_density, tops[0]), variance, floor))


def laplace_mixture(
    model: Callable[..., Any],
    data: Data,
    *,
    starts: int = 96,
    candidates: int = 512,
    seed: int = 0,
    floor: float = 1e-6,
) -> Whitening:
    """Find the modes in unconstrained space; return the Gaussian with the moments of the Laplace approximations at all of them.

        p_k ~ p(u_k, y) |L_k|,    u* = sum_k p_k u_k,    L L' = sum_k p_k [L_k L_k' + (u_k - u*) (u_k - u*)']

    p(u_k, y) with the Jacobian of the transform, u_k and L_k as in ``laplace``: p_k is the evidence of a mode by Laplace's
    method. A start that covers all modes, from which wake-sleep (``Reweighted``) finds their shapes; the ELBO would choose
    one. Modes as near as a fifth of a standard deviation count as one. With one mode it is ``laplace``.

    Args:
        model, data, candidates, seed, floor: as for ``laplace``.
        starts: number of draws that climb, all of them to the end, so that lower modes are met as well.

    Returns:
        The whitening map u = u* + L w, float64.

    Raises:
        ValueError: no prior draw has a finite density.
    """
    real("floor", floor, 0.0, 1.0, "a number between 0 and 1")
    log_density, tops, heights, variance = _tops(model, data, starts, starts, candidates, seed)
    at = tops.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(log_density(at).sum(), at)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for top, height, slope in zip(tops, heights, slopes, strict=True):
        if any(
            torch.linalg.solve_triangular(tril, (top - u)[:, None], upper=False).norm() < SAME for u, tril, _ in found
        ):
            continue
        tril = _inverse_root(_negative_hessian(log_density, top), variance, floor)
        if not found or (tril.T @ slope).norm() < SAME:  # a climb that was cut off ends at no mode
            found.append((top, tril, height + tril.diagonal().log().sum()))
    modes, roots, evidence = (torch.stack(part) for part in zip(*found, strict=True))
    share = evidence.softmax(0)
    mean = share @ modes
    away = modes - mean
    covariance = (share[:, None, None] * (roots @ roots.mT + away[:, :, None] * away[:, None, :])).sum(0)
    return Whitening(mean, torch.linalg.cholesky(covariance))


def _tops(
    model: Callable[..., Any], data: Data, starts: int, climbers: int, candidates: int, seed: int
) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor, Tensor]:
    """Return the log density in unconstrained space, where climbs to its tops end, its values there, and the prior's variance."""
    whole("starts", starts, 1)
    whole("climbers", climbers, 1)
    whole("candidates", candidates, 2)
    seed_number(seed)
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
    tops, depths = ascend(log_density, draws, heights, climbers, starts)
    return log_density, tops, -depths, draws[torch.isfinite(heights)].var(0)


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
