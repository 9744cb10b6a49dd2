"""Reference posteriors with several modes: sequential Monte Carlo from a normal law, tempered, in independent runs."""

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
from ..density.densities import proper
from ..density.latents import Latents
from ..density.precision import in_one, widest, workable
from ..density.scale import spread
from .result import Reference, summarise, warn_of

ACCEPTANCE = 0.25
MOST = 0.99  # share of effective particles, above which b would hardly rise
LEAST = 1e-40  # step of b: only what is impossible dies of it
LEAPS = 0.1  # share of the moves that go a whole difference: from one mode to the same place in another
WIDEST = 2.0  # the step may grow to this times the one that is best for a normal law
TEMPERATURES = 1000  # more are a density that is too rough
FIRST_PRIOR = 4096  # draws that say where the prior is


@alone()
def smc(
    model: Callable[..., Any],
    data: Data,
    *,
    runs: int = 8,
    particles: int = 500,
    moves: int = 20,
    final: int = 100,
    ess: float = 0.5,
    seed: int = 0,
    progress: bool = True,
) -> Reference:
    """Draw from the posterior of one data set by sequential Monte Carlo: also one of several modes.

        log p_b(x) = (1 - b) log N(x; m, S) + b [log p(z(x), y) + log|det dz/dx|],      b from 0 to 1
        x_i' = x_i + g r (x_j - x_k),      x_j, x_k of the other half of the run's particles,  r ~ U(1/2, 3/2)

    in unconstrained space, m and S the prior's moments there, entry by entry. Each b is the one at which the effective
    number of particles falls to ``ess`` of those that are left; then particles are resampled and moved. Differences of
    particles have the shape of the posterior and lead from mode to mode; g is adapted to the acceptance, and g r is 1 in
    a tenth of the moves. No gradient is needed.

    Chains that start in one mode do not know of another and agree on an R-hat of 1. The runs here are independent from the
    prior on, and stand where chains stand in the result: R-hat and the spread of the evidence tell whether they found the
    same modes with the same masses. What no particle of any run has met stays unseen: a mode much narrower than the
    particles lie apart while it rises is missed by all runs alike. Standard errors take the particles of a run for
    independent, which ``final`` moves make of the copies that resampling left.

    Args:
        model: a Pyro model of one data set.
        data: its arguments.
        runs: independent runs; at least 2, for R-hat.
        particles: of each run.
        moves: of every particle at each b.
        final: further moves at b = 1.
        ess: the share of the particles that are left as effective ones by the choice of b.
        seed: seed; torch's generator is put back afterwards.
        progress: whether to show a bar.

    Returns:
        draws of shape (runs, particles, *site shape), in random order, equally weighted. ``settings["log_evidence"]`` holds
        log p(y) of every run, ``settings["temperatures"]`` the number of b's.

    Raises:
        ValueError: a number out of range; a run of which no first draw, from N(m, S), has a finite density; or b does not
            come to 1 in 1,000 steps.

    Warns:
        TrustWarning: R-hat above 1.01, or fewer than 400 effective draws.

    Source: Del Moral, Doucet, Jasra, J. R. Statist. Soc. B 68 (2006) 411 (the sampler); Kantas, Beskos, Jasra,
        arXiv:1307.6127 (adaptive tempering in inverse problems); ter Braak, Stat. Comput. 16 (2006) 239 (the moves).
    """
    flag("progress", progress)
    model, data = in_one(model, data)
    latents = Latents.of(model, data)
    for name, number, least in (
        ("runs", runs, 2),
        ("particles", particles, 4 * latents.size + 4),
        ("moves", moves, 1),
        ("final", final, 1),
    ):
        whole(name, number, least, LONGEST)
    check_size(runs=runs, particles=particles, unknowns=latents.size)
    real("ess", ess, 0.0, MOST, f"a share between 0 and {MOST:g}")
    seed_number(seed)

    def density(x: Tensor) -> Tensor:
        with unchecked():
            found = latents.log_density(model, x.flatten(0, -2), data).double()
        return proper(found).reshape(x.shape[:-1])

    with seeded(seed), torch.no_grad():
        prior = latents.prior(model, data, FIRST_PRIOR, None)
        prior = prior[torch.isfinite(prior).all(-1)]
        if len(prior) < 2:
            raise ValueError(f"model: got no finite draw among {FIRST_PRIOR} of its prior, expected some")
        prior = prior.to(workable(density, prior[:2], widest(prior, *data.values()) or prior.dtype))
        unit = spread(prior).to(prior)
        swarm = _Swarm(density, prior.mean(0), unit * (prior / unit).std(0), runs, 2 * ((particles + 1) // 2))
        temperatures = 0
        with tqdm(desc="smc", unit="temperature", disable=not progress) as bar:
            while float(swarm.power.min()) < 1.0:
                swarm.reweighted(ess)
                for _ in range(moves):
                    swarm.move()
                temperatures += 1
                if temperatures == TEMPERATURES:
                    at = float(swarm.power.min())
                    raise ValueError(f"model: got only to b = {at:.2g} in {temperatures} temperatures, expected 1")
                bar.set_postfix(b=f"{float(swarm.power.min()):.3g}")
                bar.update()
            rate = torch.stack([swarm.move() for _ in range(final)]).mean()
        x = swarm.x[:, torch.randperm(swarm.x.shape[1])][:, :particles]
    values, _ = latents.unpack(x)
    result = {name: value.double().numpy() for name, value in values.items()}
    settings = {
        "seed": seed,
        "temperatures": temperatures,
        "acceptance": float(rate),
        "log_evidence": swarm.log_evidence.tolist(),
    }
    found = Reference("smc", result, summarise(result), {}, settings)
    warn_of(found)
    return found


class _Swarm:
    """The particles of all runs: x (R, N, d), log N(x; m, S) and log p(x, y), both (R, N), and b of each run, (R,)."""

    def __init__(self, density: Callable[[Tensor], Tensor], loc: Tensor, scale: Tensor, runs: int, count: int) -> None:
        self.density = density
        self.start = torch.distributions.Independent(torch.distributions.Normal(loc, scale), 1)
        self.x = self.start.sample(torch.Size((runs, count)))
        self.log_start, self.log_density = self.start.log_prob(self.x).double(), density(self.x)
        if not bool(torch.isfinite(self.log_density).any(1).all()):
            raise ValueError(
                f"model: got no finite density at any of {count} draws with the moments of its prior, expected some"
            )
        self.power = torch.zeros(runs, dtype=torch.float64)
        self.log_evidence = torch.zeros_like(self.power)
        self.log_scale = torch.zeros_like(self.power)

    def reweighted(self, ess: float) -> None:
        """Raise b of every run as far as the effective number of particles allows, and resample systematically."""
        gain = self.log_density - self.log_start
        step = _step(gain, 1.0 - self.power, ess)
        log_weight = step[:, None] * gain
        log_weight = torch.where(step[:, None] > 0, log_weight, 0.0)  # 0 times an infinite gain, where b is 1 already
        count = gain.shape[1]
        self.log_evidence += log_weight.logsumexp(1) - math.log(count)
        self.power = torch.where(step >= 1.0 - self.power, 1.0, self.power + step)
        edges = log_weight.softmax(1).cumsum(1)
        at = (torch.arange(count, dtype=torch.float64) + torch.rand(len(gain), 1, dtype=torch.float64)) / count
        chosen = torch.searchsorted(edges, at).clamp_max(count - 1)
        chosen = chosen.gather(1, torch.rand(chosen.shape).argsort(1))  # else halves would hold different regions
        self.x = torch.take_along_dim(self.x, chosen.unsqueeze(-1), 1)
        self.log_start, self.log_density = self.log_start.gather(1, chosen), self.log_density.gather(1, chosen)

    def move(self) -> Tensor:
        """Move every particle once, half by half, adapt the step of each run, and return the acceptance rates (R,)."""
        runs, count, size = self.x.shape
        half = count // 2
        rates = []
        for own, other in ((slice(0, half), slice(half, count)), (slice(half, count), slice(0, half))):
            x, others = self.x[:, own], self.x[:, other]
            first = torch.randint(half, (runs, half))
            second = (first + torch.randint(1, half, (runs, half))) % half
            leap = torch.rand(runs, half) < LEAPS
            scale = (2.38 / math.sqrt(2 * size) * self.log_scale.exp()).to(x)[:, None].expand(-1, half)
            scale = torch.where(leap, 1.0, scale * (0.5 + torch.rand(runs, half)))
            there, back = (torch.take_along_dim(others, which.unsqueeze(-1), 1) for which in (first, second))
            proposal = x + scale.unsqueeze(-1) * (there - back)
            log_start, log_density = self.start.log_prob(proposal).double(), self.density(proposal)
            before = self._tempered(self.log_start[:, own], self.log_density[:, own])
            change = self._tempered(log_start, log_density) - before
            taken = torch.rand_like(change).log() < change
            self.x[:, own] = torch.where(taken.unsqueeze(-1), proposal, x)
            self.log_start[:, own] = torch.where(taken, log_start, self.log_start[:, own])
            self.log_density[:, own] = torch.where(taken, log_density, self.log_density[:, own])
            rates.append((taken & ~leap).double().sum(1) / (~leap).sum(1).clamp_min(1))
        rate = torch.stack(rates).mean(0)
        self.log_scale = (self.log_scale + 0.3 * (rate - ACCEPTANCE)).clamp_max(math.log(WIDEST))
        return rate

    def _tempered(self, log_start: Tensor, log_density: Tensor) -> Tensor:
        b = self.power[:, None]
        return (1 - b) * log_start + torch.where(b > 0, b * log_density, 0.0)


def _step(gain: Tensor, room: Tensor, ess: float) -> Tensor:
    """Return how far b may rise, at most ``room`` (R,), until the effective number of the weights falls to its share.

    Where so many densities are zero that fewer are left at once, b hardly rises: the others take their places and move.
    """
    left, count = torch.isfinite(gain).sum(1), gain.shape[1]

    def effective(step: Tensor) -> Tensor:
        return 1 / (step[:, None] * gain).softmax(1).square().sum(1)

    low, high = torch.full_like(room, LEAST), room.clamp_min(LEAST)
    enough = effective(high) > ess * left
    for _ in range(80):
        middle = (low * high).sqrt()
        larger = effective(middle) > ess * left
        low, high = torch.where(larger, middle, low), torch.where(larger, high, middle)
    return torch.where(left < ess * count, LEAST, torch.where(enough, room, low))
