"""Reference posteriors of many data sets at once: preconditioned Crank-Nicolson, batched over chains and
data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...core.arguments import Data
from ...core.global_state import alone, seeded, unchecked
from ...core.require import LONGEST, check_size, flag, real, seed_number, shown, whole
from ..arrays import dense, no_density
from ..density.densities import count, one, proper
from ..density.latents import Latents
from ..density.precision import in_one, widest, workable
from ..density.scale import spread
from .result import Reference, summarise, warn_of

NOWHERE = "model: got no finite density at any prior draw tried, expected one per chain"
_INFLATE = 1.3  # variance of the proposal over that of the chains: a proposal with lighter tails sticks
_LARGEST = 3.0  # logit of the step: b <= 0.95, so that a state in a tail that the proposal misses still moves


@alone()
def pcn(
    model: Callable[..., Any],
    data: Data,
    *,
    datasets: bool = False,
    chains: int = 8,
    draws: int = 1000,
    warmup: int = 2000,
    thin: int = 5,
    loc: Tensor | None = None,
    tril: Tensor | None = None,
    adapt: bool = True,
    candidates: int | None = None,
    acceptance: float = 0.3,
    seed: int = 0,
    progress: bool = True,
) -> Reference:
    """Draw from the posteriors of one or many data sets by Metropolis steps that leave a normal law
    invariant.

        x' = m + sqrt(1 - b^2) (x - m) + b L e,   e ~ N(0, I)
        accept with min(1, [p(x' , y) / N(x'; m, L L')] / [p(x, y) / N(x; m, L L')])

    in unconstrained space. With N(m, L L') the prior this is plain pCN, whose acceptance does not fall with
    the dimension; any other normal is as exact, and a better one moves further. So the warm-up starts from
    the prior's moments (or from ``loc``, ``tril``), replaces them three times by the pooled moments of the
    chains of each data set, inflated, and adapts the step sizes to the wanted acceptance; then everything is
    frozen and the kept draws begin. Every other step is a random walk x' = x + s L e: in a tail that the
    normal does not cover, pCN alone stays for thousands of steps.

    Args:
        model: a Pyro model of one data set; no gradient is needed.
        data: its arguments; with ``datasets`` every tensor has the data-set dimension first.
        datasets: whether ``data`` is a batch of B data sets.
        chains: chains per data set, all started from prior draws.
        draws: kept draws per chain.
        warmup: adaptation steps.
        thin: steps per kept draw.
        loc: m in unconstrained space, (d,) or (B, d).
        tril: L, (d, d) or (B, d, d).
        adapt: whether m and L are adapted; b always is.
        candidates: prior draws of which the chains of each data set start at the densest; None starts them at any.
            Chains from any draw stay for good in small modes, where a posterior has such beside a far larger one.
        acceptance: wanted acceptance rate.
        seed: seed, another than that of data that ``simulate`` made: with the same one, their truth is among the starts;
            torch's generator is put back afterwards.
        progress: whether to show a bar.

    Raises:
        ValueError: a number out of range, shapes that do not fit, or no start with finite density.

    Warns:
        TrustWarning: R-hat above 1.01, or fewer than 400 effective draws.

    Source: Cotter, Roberts, Stuart, White, arXiv:1202.0709; Rudolf, Sprungk, arXiv:1504.03461 (general
        normal).
    """
    for name, number in (("chains", chains), ("draws", draws), ("thin", thin)):
        whole(name, number, 1, LONGEST)
    whole("warmup", warmup, 8, LONGEST)
    if candidates is not None:
        whole("candidates", candidates, chains, LONGEST)
    for name, value in (("datasets", datasets), ("adapt", adapt), ("progress", progress)):
        flag(name, value)
    real("acceptance", acceptance, 0.0, 1.0, "a rate between 0 and 1")
    seed_number(seed)
    sets = count(data) if datasets else 1
    model, data = in_one(model, data)
    latents = Latents.of(model, one(data) if datasets else data)

    check_size(chains=chains, draws=draws, datasets=sets, unknowns=latents.size)

    def density(x: Tensor) -> Tensor:
        with unchecked():
            if datasets:
                found = latents.log_density(model, x, data, datasets=True)
            else:
                found = latents.log_density(model, x[:, 0], data)[:, None]
        return proper(found.double())

    with seeded(seed), torch.no_grad():
        prior = latents.prior(model, one(data) if datasets else data, max(2048, chains * sets, candidates or 0), None)
        given = [value for value in (loc, tril) if isinstance(value, Tensor)]
        wanted = widest(prior, *given, *data.values()) or prior.dtype
        prior = prior.to(workable(density, prior[:1, None].expand(-1, sets, -1), wanted))
        starts = prior[: chains * sets].reshape(chains, sets, -1).clone()
        if candidates is not None:
            starts = _densest(density, prior[:candidates], chains, sets)
        try:
            walk = _Walk.start(density, prior, starts, loc, tril)
        except ValueError as error:
            raise (no_density(data, NOWHERE) if str(error) == NOWHERE else error) from None
        windows = {warmup // 4, warmup // 2, 3 * warmup // 4} if adapt else set()
        history: list[Tensor] = []
        kept, counter = [], 0
        accepted = torch.zeros(2, sets, dtype=walk.x.dtype)
        with tqdm(total=warmup + draws * thin, desc="pcn", unit="step", disable=not progress) as bar:
            for step in range(warmup):
                if step in windows:
                    walk = walk.refitted(torch.stack(history[len(history) // 2 :]))
                    history = []
                since = step - max((w for w in windows if w <= step), default=0)
                walk.adapt(step % 2, walk.step(density, step % 2), acceptance, since)
                history.append(walk.x.clone())
                bar.update()
            for _ in range(draws):
                for _ in range(thin):
                    counter += 1
                    accepted[counter % 2] += walk.step(density, counter % 2)
                kept.append(walk.x.clone())
                bar.update(thin)
    values, _ = latents.unpack(torch.stack(kept, 1))
    shown = {name: value if datasets else value[:, :, 0] for name, value in values.items()}
    result = {name: value.double().numpy() for name, value in shown.items()}
    steps = torch.tensor([[counter // 2], [(counter + 1) // 2]]).clamp_min(1)
    found = Reference(
        "pcn",
        result,
        summarise(result),
        {},
        {
            "seed": seed,
            "warmup": warmup,
            "thin": thin,
            "step": torch.stack([walk.size(0), walk.size(1)]).tolist(),
            "acceptance": (accepted / steps).tolist(),
        },
        sets if datasets else None,
    )
    warn_of(found)
    return found


@dataclass
class _Walk:
    """State of all chains: x (C, B, d), its log density (C, B), and the normal law of each data set."""

    x: Tensor
    log_density: Tensor
    loc: Tensor
    tril: Tensor
    tuned: Tensor  # (2, B): logit of b, log of the random walk's scale

    @classmethod
    def start(cls, density: Any, prior: Tensor, x: Tensor, loc: Tensor | None, tril: Tensor | None) -> _Walk:
        chains, sets, size = x.shape
        for name, given in (("loc", loc), ("tril", tril)):
            if given is not None:
                dense(name, given)
        middle = prior.mean(0) if loc is None else loc.to(prior)
        factor = _factor(prior - prior.mean(0), spread(prior).to(prior).square()) if tril is None else tril.to(prior)
        for name, value, shape in (("loc", middle, (size,)), ("tril", factor, (size, size))):
            if tuple(value.shape) not in (shape, (sets, *shape)):
                raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected {shape} or {(sets, *shape)}")
        if not bool((factor.diagonal(dim1=-2, dim2=-1) > 0).all()):
            raise ValueError(f"tril: got a diagonal entry <= 0 in {shown(factor)}, expected a Cholesky factor")
        factor = factor.expand(sets, size, size)
        middle = middle.expand(sets, size)
        # a start without finite density is replaced by further prior draws, a few times
        found = density(x)
        for _ in range(20):
            lost = ~torch.isfinite(found)
            if not lost.any():
                break
            again = prior[torch.randint(len(prior), (chains, sets))]
            x = torch.where(lost[..., None], again, x)
            found = density(x)
        if not torch.isfinite(found).all():
            raise ValueError(NOWHERE)
        return cls(x, found, middle, factor, torch.zeros(2, sets, dtype=x.dtype))

    def size(self, local: int) -> Tensor:
        """Step size of each data set: b in (0, 1), or the scale of the random walk."""
        return self.tuned[1].exp() * 2.38 / self.x.shape[-1] ** 0.5 if local else torch.sigmoid(self.tuned[0])

    def reference(self, x: Tensor) -> Tensor:
        """log N(x; m, L L') up to a constant, (C, B)."""
        z = torch.linalg.solve_triangular(self.tril, (x - self.loc).movedim(0, -1), upper=False)
        return -0.5 * z.double().square().sum(-2).mT

    def step(self, density: Any, local: int) -> Tensor:
        """Move all chains once, by pCN or by the random walk; return the acceptance rates (B,)."""
        size = self.size(local)[:, None]
        noise = size * torch.einsum("bij,cbj->cbi", self.tril, torch.randn_like(self.x))
        if local:
            proposal = self.x + noise
        else:
            proposal = self.loc + (1 - size**2).sqrt() * (self.x - self.loc) + noise
        found = density(proposal)
        ratio = found - self.log_density
        if not local:
            ratio = ratio - self.reference(proposal) + self.reference(self.x)
        taken = torch.rand_like(ratio).log() < ratio
        self.x = torch.where(taken[..., None], proposal, self.x)
        self.log_density = torch.where(taken, found, self.log_density)
        return taken.to(self.x.dtype).mean(0)

    def adapt(self, local: int, rate: Tensor, wanted: float, step: int) -> None:
        """Robbins-Monro step of a step size towards the wanted acceptance."""
        moved = self.tuned[local] + 4.0 / (1 + step) ** 0.6 * (rate - wanted)
        self.tuned[local] = moved.clamp(-9.0, _LARGEST)

    def refitted(self, history: Tensor) -> _Walk:
        """Replace the normal law of each data set by the moments of its chains, history (T, C, B, d)."""
        pooled = history.permute(2, 0, 1, 3).flatten(1, 2)
        middle = pooled.mean(1)
        before = self.tril.square().sum(-1)
        parts = zip(pooled - middle[:, None], before, strict=True)
        factor = torch.stack([_factor(part, variance) for part, variance in parts]) * np.sqrt(_INFLATE)
        return _Walk(self.x, self.log_density, middle, factor, torch.zeros_like(self.tuned))


def _densest(density: Any, prior: Tensor, chains: int, sets: int) -> Tensor:
    """Return the draws (n, d) that are densest under each data set, (chains, sets, d)."""
    parts = [density(part[:, None].expand(-1, sets, -1)) for part in prior.split(256)]
    return prior[torch.cat(parts).topk(chains, 0).indices]


def _factor(centred: Tensor, before: Tensor) -> Tensor:
    """Cholesky factor of the covariance of centred rows (n, d), kept positive definite; variances (d,) where no row differs."""
    unit = before.sqrt()
    covariance = (centred / unit).T @ (centred / unit) / max(len(centred) - 1, 1)
    small = max(1e-6, 10 * len(before) * torch.finfo(centred.dtype).eps)
    floor = small * covariance.diagonal().clamp_min(1e-12)
    return unit[:, None] * torch.linalg.cholesky(covariance + torch.diag(floor))
