"""The tops of a density: many points climb together by Adam, the best of them on by L-BFGS."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from ..density.scale import spread

FLOOR = 1e10  # nats below the start, or ten times as many as its own density has: stands for no density


def ascend(
    log_density: Callable[[Tensor], Tensor], draws: Tensor, heights: Tensor, climbers: int = 64, starts: int = 4
) -> tuple[Tensor, Tensor]:
    """Return where climbs end, the highest first, (starts, d), and minus the log density there, (starts,).

    All climbs are in units of the prior's spread, so that no unit of an unknown matters.

    Args:
        log_density: (S, d) -> (S,), differentiable; not finite where there is no density.
        draws: points to choose the starts from, (N, d), float64.
        heights: the log density there, (N,).
        climbers: as many of the best of them climb together.
        starts: as many of these go on by L-BFGS.

    Raises:
        ValueError: no point has a finite density.
    """
    usable = torch.isfinite(heights)
    if not usable.any():
        raise ValueError(
            f"data: got data under which none of {len(draws)} prior draws has a finite density, expected priors that reach them "
            "(the prior of a sampled state has to hold solutions; one whose solves fail has to be tighter)"
        )
    scale = spread(draws)
    climbed, heights = _climb(log_density, draws, heights, scale, climbers)
    order = heights.argsort(descending=True)[:starts]
    level = float(heights[order[0]])  # heights are told from here: the density's own unit does not stop a run early
    nothing = max(FLOOR, 10 * abs(level))

    def run(start: Tensor) -> tuple[Tensor, float]:
        def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
            flat = torch.tensor(w, dtype=torch.float64).unsqueeze(0).requires_grad_()
            value = log_density(start + scale * flat).sum().double()
            if not torch.isfinite(value):
                return nothing, np.zeros_like(w)
            (gradient,) = torch.autograd.grad(value, flat)
            return level - value.item(), -gradient[0].nan_to_num(0.0, 0.0, 0.0).double().numpy()

        end = minimize(objective, np.zeros(len(start)), jac=True, method="L-BFGS-B", options={"maxiter": 500})
        return start + scale * torch.as_tensor(end.x, dtype=torch.float64), float(end.fun) - level

    ends = sorted((run(climbed[i]) for i in order.tolist()), key=lambda end: end[1])
    return torch.stack([point for point, _ in ends]), torch.tensor([depth for _, depth in ends], dtype=torch.float64)


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
