"""Warm starts: the posterior mode in unconstrained space and the Laplace approximation around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.arguments import Data
from ...core.global_state import alone, seeded, unchecked
from ...core.model_spec import Whitening
from ...core.require import real, seed_number, whole
from ...core.simulate import simulate
from ..arrays import no_density
from ..density.gradient_check import check_gradients
from ..density.latents import Latents
from ..density.precision import in_double, workable
from ..density.scale import spread
from ..warn import warn
from .ascent import ascend

WIDER = 5.0  # times the prior's spread, from which on a direction counts as flat
NO_MODE = 1.0  # change of the log density over one sd, from which on a point is no mode
APART, LIKE = 6.0, 3.0  # sd between modes, and nats between their heights, from which on both are worth telling
SAME = 0.2  # sd between two ends of climbs of the same mode
STEP, STEP_SINGLE = 1e-3, 3e-2  # of differences of gradients, in sd given the other unknowns; of densities in float32
ROUNDING = 1e4 * torch.finfo(torch.float64).eps  # least step relative to the unknown itself, whose digits end
MOST = 10**6  # of what is asked for


@alone()
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
    and the best end point counts. The Hessian is taken by central differences of gradients, all of them in one batched
    evaluation, so that operators which can be differentiated once suffice; their steps are measured by the prior's spread, then
    by the sd that they find, so that the answer is the same in any unit. Directions in which the density does not fall, or so slowly that
    they would be five times as wide as the prior, get the prior's variance.

    Args:
        model: a Pyro model.
        data: the arguments of one data set.
        starts: number of L-BFGS runs.
        climbers: number of draws that climb first.
        candidates: prior draws to choose their starts from.
        seed: seed of these draws, another than that of data that ``simulate`` made.
        floor: smallest accepted curvature relative to the largest, each unknown in units of its sd given the others.

    Returns:
        The whitening map u = u* + L w, float64.

    Raises:
        ValueError: no prior draw has a finite density, or the density has no mode.

    Warns:
        TrustWarning: the climbs ended near a mode and not at it, the density does not fall in some direction, or there is a
            second mode.
    """
    real("floor", floor, 0.0, 1.0, "a number between 0 and 1")
    around = _tops(model, data, starts, climbers, candidates, seed)
    top = around.tops[0]
    tril, flat = around.root(top, floor)
    at = top.clone().requires_grad_()
    (slope,) = torch.autograd.grad(around.log_density(at.unsqueeze(0)).sum(), at)
    _check_mode(float((tril.T @ slope).norm()))
    if bool(flat.any()):
        _warn_of_flat(
            [block.name for block in around.sites.blocks if flat[block.start : block.start + block.size].any()]
        )
    elif _other_mode(around, tril):
        warn(
            "laplace: got a second mode of like height, expected one: this Gaussian, and chains that start from it, know of one alone; "
            "use laplace_mixture, or smc",
        )
    return Whitening(top, tril)


def _other_mode(around: _Around, tril: Tensor) -> bool:
    """Whether another climb ended far from the highest, not much lower."""
    away = torch.linalg.solve_triangular(tril, (around.tops - around.tops[0]).T, upper=False).norm(dim=0)
    return bool(((away > APART) & (around.heights > around.heights[0] - LIKE)).any())


def _warn_of_flat(names: list[str]) -> None:
    warn(
        f"laplace: got a density that hardly falls along {', '.join(map(repr, names))[:120]}, expected one that falls on all sides of "
        "its mode: the prior's sd stands in there, not to be trusted as a posterior; use smc, pcn or a guide without whitening",
    )


def _check_mode(slope: float) -> None:
    """Refuse a highest point that is no mode: where a scale of groups goes to zero, say, the density has none.

    Args:
        slope: the change of the log density over one standard deviation of the approximation.
    """
    if not slope < NO_MODE:
        raise ValueError(
            f"model: got a density that still rises by {slope:.2g} a standard deviation where the climbs end, expected a mode in "
            "unconstrained space: sample tau * e with e ~ N(0, 1) in place of N(0, tau), or use nuts, smc, a guide without whitening"
        )
    if slope > SAME:
        warn(
            f"laplace: got a slope of {slope:.2g} a standard deviation at the highest point, expected none; more starts=",
        )


@alone()
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
    around = _tops(model, data, starts, starts, candidates, seed)
    at = around.tops.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(around.log_density(at).sum(), at)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for top, height, slope in zip(around.tops, around.heights, slopes, strict=True):
        if any(
            torch.linalg.solve_triangular(tril, (top - u)[:, None], upper=False).norm() < SAME for u, tril, _ in found
        ):
            continue
        tril, _flat = around.root(top, floor)
        if not found or (tril.T @ slope).norm() < SAME:  # a climb that was cut off ends at no mode
            found.append((top, tril, height + tril.diagonal().log().sum()))
    modes, roots, evidence = (torch.stack(part) for part in zip(*found, strict=True))
    share = evidence.softmax(0)
    mean = share @ modes
    away = modes - mean
    covariance = (share[:, None, None] * (roots @ roots.mT + away[:, :, None] * away[:, None, :])).sum(0)
    return Whitening(mean, torch.linalg.cholesky(covariance))


@dataclass(frozen=True)
class _Around:
    """The log density in unconstrained space, where climbs end, its values there; the prior's spread; the step in sd."""

    sites: Latents
    log_density: Callable[[Tensor], Tensor]
    tops: Tensor
    heights: Tensor
    scale: Tensor
    step: float

    def root(self, mode: Tensor, floor: float) -> tuple[Tensor, Tensor]:
        """Return L, L L' the inverse of the negative Hessian at a mode, (d, d), and which coordinates lie along flat directions, (d,)."""
        unit, rounding = self.scale, ROUNDING * mode.abs()
        for _ in range(8):  # until a step is a small part of the sd that it finds
            precision = self._negative_hessian(mode, torch.maximum(self.step * unit, rounding)) * unit * unit[:, None]
            factor = precision.diagonal().clamp_min(1.0).rsqrt()
            unit = unit * factor
            precision = precision * factor * factor[:, None]
            if bool((factor > 0.3).all()):
                break
        root, flat = _inverse_root(precision, (self.scale / unit).square(), floor)
        return unit[:, None] * root, flat

    def _negative_hessian(self, mode: Tensor, step: Tensor) -> Tensor:
        size, shifts = len(mode), torch.diag(step)
        points = torch.cat([mode + shifts, mode - shifts])
        step = (points[:size] - points[size:]).diagonal()  # as rounding left it
        points.requires_grad_()
        (gradients,) = torch.autograd.grad(self.log_density(points).sum(), points)
        hessian = (gradients[:size] - gradients[size:]) / step[:, None]
        return -0.5 * (hessian + hessian.T)


def _tops(model: Callable[..., Any], data: Data, starts: int, climbers: int, candidates: int, seed: int) -> _Around:
    """Climb from prior draws to the tops of the log density."""
    whole("starts", starts, 1, MOST)
    whole("climbers", climbers, 1, MOST)
    whole("candidates", candidates, 2, MOST)
    seed_number(seed)
    model, data = in_double(model, data)
    sites = Latents(model, data)
    check_gradients(model, data)
    with seeded(seed):
        given = {k: v for k, v in data.items() if k not in sites.observed and k != "mask"}
        draws, _ = sites.flatten(simulate(model, candidates, given, nesting=sites.nesting))
    with unchecked():
        kind = workable(lambda x: sites.log_density(model, x, data), draws[:2], torch.float64)

    def log_density(flat: Tensor) -> Tensor:
        with unchecked():
            return sites.log_density(model, flat.to(kind), data).double()

    draws = draws.double()
    with torch.no_grad():
        heights = log_density(draws)
    if not bool(torch.isfinite(heights).any()):
        raise no_density(
            data,
            f"data: got data under which none of {len(draws)} prior draws has a finite density, expected a model that can produce them",
        )
    tops, depths = ascend(log_density, draws, heights, climbers, starts)
    return _Around(sites, log_density, tops, -depths, spread(draws), STEP if kind == torch.float64 else STEP_SINGLE)


def _inverse_root(precision: Tensor, prior_variance: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Cholesky factor of the inverse of a matrix whose diagonal is near 1, or below where the density hardly falls.

    Beside it, the coordinates that make up most of a direction in which the density hardly falls.
    """
    curvature, directions = torch.linalg.eigh(precision)
    prior = 1 / (directions.square() / prior_variance.unsqueeze(-1)).sum(
        0
    )  # on the line itself: no other unknown moves
    # no data make an unknown far wider than its prior: that is a ridge, along which the mode is anywhere
    flat = (curvature <= floor * curvature.max().clamp_min(floor)) | (curvature * prior < WIDER**-2)
    variance = torch.where(flat, prior, 1 / torch.where(flat, torch.ones_like(curvature), curvature))
    # R'R = V diag(variance) V' without forming it: its condition number may be beyond what Cholesky's method bears
    root = torch.linalg.qr((directions * variance.sqrt()).T).R.T
    along = (directions.square() * flat).sum(1)
    return root * root.diagonal().sign(), along > 0.5 * along.max().clamp_min(0.1)
