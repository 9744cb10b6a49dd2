"""The tops of a density: many points climb together by Adam, the best of them on by L-BFGS."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

FLOOR = 1e10  # stands for minus log of no density


def ascend(
    log_density: Callable[[Tensor], Tensor], draws: Tensor, heights: Tensor, climbers: int = 64, starts: int = 4
) -> tuple[Tensor, Tensor]:
    """Return where climbs end, the highest first, (starts, d), and minus the log density there, (starts,).

    Args:
        log_density: (S, d) -> (S,), differentiable; not finite where there is no density.
        draws: points to choose the starts from, (N, d), float64.
        heights: the log density there, (N,).
        climbers: as many of the best of them climb together, in units of the spread of all.
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
    scale = draws[usable].std(0).clamp_min(1e-8) if usable.sum() > 1 else torch.ones_like(draws[0])
    climbed, heights = _climb(log_density, draws, heights, scale, climbers)
    order = heights.argsort(descending=True)[:starts]

    def objective(u: np.ndarray) -> tuple[float, np.ndarray]:
        flat = torch.tensor(u, dtype=torch.float64).unsqueeze(0).requires_grad_()
        value = log_density(flat).sum()
        if not torch.isfinite(value):
            return FLOOR, np.zeros_like(u)
        (gradient,) = torch.autograd.grad(value, flat)
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
        return -value.item(), -gradient[0].double().numpy()

    ends = [
        minimize(objective, climbed[i].numpy(), jac=True, method="L-BFGS-B", options={"maxiter": 500})
        for i in order.tolist()
    ]
    ends.sort(key=lambda end: float(end.fun))
    points = torch.tensor(np.stack([end.x for end in ends]), dtype=torch.float64)
    return points, torch.tensor([float(end.fun) for end in ends], dtype=torch.float64)


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
