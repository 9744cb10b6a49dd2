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

from ...core.arguments import Data
from ...core.global_state import alone, seeded, unchecked
from ...core.require import LONGEST, check_size, flag, real, seed_number, whole
from ..arrays import dense, no_density
from ..density.densities import count, one, proper
from ..density.gradient_check import check_gradients
from ..density.latents import Latents
from ..density.precision import in_one, widest, workable
from .result import Reference, summarise, warn_of

QUARTER_TURN = math.pi / 2  # of a standard normal's orbit: there position and start are independent
# A chain that starts on a steep slope rejects every step that suits the others; small ones bring it down.
RESCUE, RESCUE_STEPS = 0.15, 4


@alone()
def hmc(
    model: Callable[..., Any],
    data: Data,
    *,
    loc: Tensor,
    tril: Tensor,
    datasets: bool = False,
    chains: int = 40,
    draws: int = 250,
    warmup: int = 100,
    target_accept: float = 0.8,
    max_steps: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> Reference:
    """Draw from the posteriors of one or many data sets, all chains moving together.

        x = loc + L w,   H(w, v) = -log p(x, y) - log|det dz/dx| + |v|^2 / 2

    Leapfrog trajectories of about a quarter turn with jittered step size. The warm-up adapts the step size
    that all chains of a data set share to their mean acceptance, and half-way replaces L by the chains' covariance;
    then both are frozen. All data sets take as many steps as the one with the smallest steps needs, or ``max_steps``.

    Args:
        model: a Pyro model of one data set.
        data: its arguments; with ``datasets`` every tensor has the data-set dimension first.
        loc: centre in unconstrained space, (d,) or (B, d), e.g. from ``laplace``.
        tril: Cholesky factor L of a covariance there, (d, d) or (B, d, d).
        datasets: whether ``data`` is a batch of B data sets.
        chains: number of chains of each data set, started from N(loc, 1.5^2 L L'), wider than the posterior, for R-hat.
        draws: kept draws per chain.
        warmup: adaptation steps.
        target_accept: acceptance that the step size is adapted to.
        max_steps: at most this many leapfrog steps a draw.
        seed: seed; torch's generator is put back afterwards.
        progress: whether to show a bar.

    Raises:
        ValueError: a number out of range, shapes that do not fit, or no start with finite density.

    Warns:
        TrustWarning: R-hat above 1.01, or fewer than 400 effective draws.

    Source: Neal, arXiv:1206.1901; Hoffman, Sountsov (2022) for the batch of chains.
    """
    for name, number, least in (("chains", chains, 2), ("draws", draws, 4), ("warmup", warmup, 20)):
        whole(name, number, least, LONGEST)
    whole("max_steps", max_steps, 1, LONGEST)
    for name, value in (("datasets", datasets), ("progress", progress)):
        flag(name, value)
    real("target_accept", target_accept, 0.0, 1.0, "a rate between 0 and 1")
    seed_number(seed)
    for name, value in (("loc", loc), ("tril", tril)):
        dense(name, value)
    sets = (count(data),) if datasets else ()
    model, data = in_one(model, data)
    latents = Latents.of(model, one(data) if datasets else data)
    check_gradients(model, one(data) if datasets else data)
    check_size(chains=chains, draws=draws, datasets=math.prod(sets), unknowns=latents.size)
    for name, value, shape in (("loc", loc, (latents.size,)), ("tril", tril, (latents.size, latents.size))):
        if tuple(value.shape) not in (shape, (*sets, *shape)):
            raise ValueError(
                f"{name}: got shape {tuple(value.shape)}, expected {' or '.join({str(shape): 0, str((*sets, *shape)): 0})}"
            )

    def density(x: Tensor) -> Tensor:
        return latents.log_density(model, x, data, datasets=datasets).to(x.dtype)

    native = latents.prior(model, one(data) if datasets else data, 2, 0)[0].expand(*sets, -1).unsqueeze(0)
    with unchecked():
        kind = workable(density, native, widest(native, loc, tril, *data.values()) or native.dtype)
    loc, tril = loc.detach().to(kind).expand(*sets, -1), tril.detach().to(kind).expand(*sets, -1, -1)
    if not bool((tril.diagonal(dim1=-2, dim2=-1) > 0).all()):
        raise ValueError("tril: got a diagonal entry that is not positive, expected a Cholesky factor")

    with seeded(seed):
        walk = _Walk(density, tril, _starts(density, loc, tril, chains, data))
        kept, rates, halfway = [], [], warmup // 2
        history: list[Tensor] = []
        step = tril.new_full(sets, 0.5)
        with tqdm(total=warmup + draws, desc="hmc", unit="draw", disable=not progress) as bar:
            for index in range(warmup + draws):
                if index < halfway:
                    walk.move(step * RESCUE ** (1 + index % 2), RESCUE_STEPS)
                leaps, step = _trajectory(step, max_steps)
                rate = walk.move(step, leaps)
                if index < warmup:
                    since = index - (halfway if index >= halfway else 0)
                    step = step * ((rate.mean(0) - target_accept) / math.sqrt(1 + since)).exp()
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
        "step_size": step.tolist(),
        "acceptance": torch.stack(rates).mean().item(),
    }
    stats = {"acceptance": torch.stack(rates, 1).numpy()}
    found = Reference("hmc", result, summarise(result), stats, settings, *sets)
    warn_of(found)
    return found


def _trajectory(step: Tensor, max_steps: int) -> tuple[int, Tensor]:
    """Return how many leapfrog steps make a quarter turn for the data set with the smallest, and steps for all."""
    smallest = step.min().item()
    leaps = min(max_steps, max(1, round(QUARTER_TURN / smallest)))
    return leaps, step.clamp(max=max(QUARTER_TURN / leaps, smallest))


class _Walk:
    """The chains: x (C, [B,] d), log density and its gradient in the whitened w."""

    def __init__(self, density: Callable[[Tensor], Tensor], tril: Tensor, x: Tensor) -> None:
        self.density, self.tril, self.x = density, tril, x
        self.log_density, self.gradient = self._evaluate(x)

    def _evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        with torch.enable_grad(), unchecked():  # a far step may underflow to the edge of a support
            value = self.density(x)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        # without a solution the density is zero: the trajectory is rejected, wherever its gradient points
        return proper(value.detach()), self._mapped(torch.nan_to_num(gradient, 0.0, 0.0, 0.0), True)

    def _mapped(self, v: Tensor, transposed: bool = False) -> Tensor:
        """Return L v, or L'v, (C, [B,] d)."""
        return ((self.tril.mT if transposed else self.tril) @ v.unsqueeze(-1)).squeeze(-1)

    def move(self, step: Tensor, count: int) -> Tensor:
        """Move every chain by ``count`` steps ([B]) and return the acceptance probabilities (C, [B])."""
        step = (step * (0.8 + 0.4 * torch.rand(()).item())).unsqueeze(-1)
        x, log_density, gradient = self.x, self.log_density, self.gradient
        velocity = torch.randn_like(x)
        energy = log_density - 0.5 * velocity.square().sum(-1)
        for _ in range(count):
            velocity = velocity + 0.5 * step * gradient
            x = x + step * self._mapped(velocity)
            log_density, gradient = self._evaluate(x)
            velocity = velocity + 0.5 * step * gradient
        change = log_density - 0.5 * velocity.square().sum(-1) - energy
        rate = torch.nan_to_num(change, nan=-math.inf).clamp(max=0.0).exp()
        accepted = torch.rand_like(rate) < rate
        self.x = torch.where(accepted.unsqueeze(-1), x, self.x)
        self.log_density = torch.where(accepted, log_density, self.log_density)
        self.gradient = torch.where(accepted.unsqueeze(-1), gradient, self.gradient)
        return rate

    def refit(self, draws: Tensor) -> None:
        """Take the moments of draws (N, [B,] d) as the new whitening."""
        centred = draws - draws.mean(0)
        covariance = torch.einsum("n...i,n...j->...ij", centred, centred) / (len(draws) - 1)
        small = max(1e-8, 10 * draws.shape[-1] * torch.finfo(draws.dtype).eps)  # above rounding, for few draws
        # each unknown by its own variance; where no chain moved, by a small part of what it had
        own = torch.maximum(covariance.diagonal(dim1=-2, dim2=-1), 1e-8 * self.tril.square().sum(-1))
        self.tril = torch.linalg.cholesky(covariance + small * torch.diag_embed(own))
        self.log_density, self.gradient = self._evaluate(self.x)


def _starts(density: Callable[[Tensor], Tensor], loc: Tensor, tril: Tensor, chains: int, data: Data) -> Tensor:
    tries = torch.randn(8 * chains, *loc.shape, dtype=loc.dtype)
    tries = loc + 1.5 * (tril @ tries.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad(), unchecked():
        usable = torch.isfinite(density(tries))
    least = int(usable.sum(0).min())
    if least < chains:
        raise no_density(data, f"loc, tril: got {least} starts with finite density, expected {chains}")
    order = usable.logical_not().to(torch.int8).argsort(dim=0, stable=True)[:chains]
    return torch.take_along_dim(tries, order.unsqueeze(-1), 0)
