"""Reference posterior by Hamiltonian Monte Carlo, all chains in one batch.

For posteriors that a linear map makes nearly round: a twentieth of the time of NUTS, which moves one chain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..guides.require import real, seed_number, shown, whole
from ..guides.sites import Data, seeded, unchecked
from .latents import Latents
from .reference import Reference, summarise

QUARTER_TURN = math.pi / 2  # of a standard normal's orbit: there position and start are independent
# A chain that starts on a steep slope rejects every step that suits the others; small ones bring it down.
RESCUE, RESCUE_STEPS = 0.15, 4


def hmc(
    model: Callable[..., Any],
    data: Data,
    *,
    loc: Tensor,
    tril: Tensor,
    chains: int = 40,
    draws: int = 250,
    warmup: int = 100,
    target_accept: float = 0.8,
    max_steps: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> Reference:
    """Draw from the posterior of one data set, all chains moving together.

        x = loc + L w,   H(w, v) = -log p(x, y) - log|det dz/dx| + |v|^2 / 2

    Leapfrog trajectories of about a quarter turn with jittered step size. The warm-up adapts the step size
    that all chains share to the mean acceptance, and half-way replaces L by the chains' covariance; then both
    are frozen.

    Args:
        model: a Pyro model of one data set.
        data: its arguments.
        loc: centre in unconstrained space, (d,), e.g. from ``laplace``.
        tril: Cholesky factor L of a covariance there, (d, d).
        chains: number of chains, started from N(loc, 1.5^2 L L'), wider than the posterior, for R-hat.
        draws: kept draws per chain.
        warmup: adaptation steps.
        target_accept: acceptance that the step size is adapted to.
        max_steps: at most this many leapfrog steps a draw.
        seed: seed; torch's generator is put back afterwards.
        progress: whether to show a bar.

    Raises:
        ValueError: a number out of range, shapes that do not fit, or no start with finite density.

    Source: Neal, arXiv:1206.1901; Hoffman, Sountsov (2022) for the batch of chains.
    """
    for name, number, least in (("chains", chains, 2), ("draws", draws, 4), ("warmup", warmup, 20)):
        whole(name, number, least)
    whole("max_steps", max_steps, 1)
    real("target_accept", target_accept, 0.0, 1.0, "a rate between 0 and 1")
    seed_number(seed)
    for name, value in (("loc", loc), ("tril", tril)):
        if not isinstance(value, Tensor) or not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name}: got {shown(value)}, expected a tensor of finite numbers")
    latents = Latents.of(model, data)
    if loc.shape != (latents.size,) or tril.shape != (latents.size, latents.size):
        got, size = (tuple(loc.shape), tuple(tril.shape)), latents.size
        raise ValueError(f"loc, tril: got shapes {got}, expected ({size},) and ({size}, {size})")
    with seeded(seed):
        walk = _Walk(
            lambda x: latents.log_density(model, x, data),
            tril,
            _starts(model, data, latents, loc, tril, chains),
        )
        kept, rates, halfway = [], [], warmup // 2
        history: list[Tensor] = []
        step = 0.5
        with tqdm(total=warmup + draws, desc="hmc", unit="draw", disable=not progress) as bar:
            for index in range(warmup + draws):
                if index < halfway:
                    walk.move(step * RESCUE ** (1 + index % 2), RESCUE_STEPS)
                rate = walk.move(step, max_steps)
                if index < warmup:
                    since = index - (halfway if index >= halfway else 0)
                    step *= math.exp((rate.mean().item() - target_accept) / math.sqrt(1 + since))
                    history.append(walk.x)
                    if index + 1 == halfway:
                        walk.refit(torch.cat(history[halfway // 2 :]))
                else:
                    kept.append(walk.x)
                    rates.append(rate)
                bar.update()
    values, _ = latents.unpack(torch.stack(kept, 1))
    result = {name: value.double().numpy() for name, value in values.items()}
    settings = {
        "seed": seed,
        "warmup": warmup,
        "step_size": step,
        "acceptance": torch.stack(rates).mean().item(),
    }
    return Reference("hmc", result, summarise(result), {"acceptance": torch.stack(rates, 1).numpy()}, settings)


class _Walk:
    """The chains: x (C, d), log density and its gradient in the whitened w."""

    def __init__(self, density: Callable[[Tensor], Tensor], tril: Tensor, x: Tensor) -> None:
        self.density, self.tril, self.x = density, tril, x
        self.log_density, self.gradient = self._evaluate(x)

    def _evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        with torch.enable_grad(), unchecked():  # a far step may underflow to the edge of a support
            value = self.density(x)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        # without a solution the density is zero: the trajectory is rejected, wherever its gradient points
        value = torch.nan_to_num(value.detach(), nan=-math.inf)
        return value, torch.nan_to_num(gradient, 0.0, 0.0, 0.0) @ self.tril

    def move(self, step: float, max_steps: int) -> Tensor:
        """Move every chain by one trajectory and return the acceptance probabilities (C,)."""
        count = min(max_steps, max(1, round(QUARTER_TURN / step)))
        step = step * (0.8 + 0.4 * torch.rand(()).item())
        x, log_density, gradient = self.x, self.log_density, self.gradient
        velocity = torch.randn_like(x)
        energy = log_density - 0.5 * velocity.square().sum(-1)
        for _ in range(count):
            velocity = velocity + 0.5 * step * gradient
            x = x + step * velocity @ self.tril.mT
            log_density, gradient = self._evaluate(x)
            velocity = velocity + 0.5 * step * gradient
        change = log_density - 0.5 * velocity.square().sum(-1) - energy
        rate = torch.nan_to_num(change, nan=-math.inf).clamp(max=0.0).exp()
        accepted = torch.rand_like(rate) < rate
        self.x = torch.where(accepted[:, None], x, self.x)
        self.log_density = torch.where(accepted, log_density, self.log_density)
        self.gradient = torch.where(accepted[:, None], gradient, self.gradient)
        return rate

    def refit(self, draws: Tensor) -> None:
        """Take the moments of draws (N, d) as the new whitening."""
        covariance = draws.T.cov().reshape(draws.shape[1], draws.shape[1])
        jitter = 1e-8 * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=draws.dtype)
        self.tril = torch.linalg.cholesky(covariance + jitter)
        self.log_density, self.gradient = self._evaluate(self.x)


def _starts(model: Callable[..., Any], data: Data, latents: Latents, loc: Tensor, tril: Tensor, chains: int) -> Tensor:
    tries = loc + 1.5 * torch.randn(8 * chains, len(loc), dtype=loc.dtype) @ tril.mT
    with torch.no_grad():
        usable = tries[torch.isfinite(latents.log_density(model, tries, data))]
    if len(usable) < chains:
        raise ValueError(f"loc, tril: got {len(usable)} starts with finite density, expected {chains}")
    return usable[:chains]
