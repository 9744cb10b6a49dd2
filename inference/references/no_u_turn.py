"""Reference posterior by the No-U-Turn sampler of Pyro, several chains, in whitened unconstrained
coordinates."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor
from tqdm import tqdm

from ...core.arguments import Data
from ...core.global_state import alone, seeded, unchecked
from ...core.require import LONGEST, check_size, flag, real, seed_number, shown, tensors, whole
from ..arrays import dense, no_density
from ..density.gradient_check import check_gradients
from ..density.latents import Latents
from ..density.precision import in_one, widest, workable
from ..density.scale import spread
from ..processes import own_pool, result, submit
from .result import Reference, summarise, warn_of


@alone()
def nuts(
    model: Callable[..., Any],
    data: Data,
    *,
    chains: int = 4,
    draws: int = 1000,
    warmup: int = 500,
    initial: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]] | None = None,
    inverse_mass: Tensor | None = None,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    workers: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> Reference:
    """Draw from the posterior of one data set with Pyro's NUTS.

    The chains move in w with x = loc + L w, L L' = ``inverse_mass``: a Laplace covariance makes the
    posterior nearly isotropic before the first step, and NUTS adapts its own mass matrix on top (a dense one
    without it). Without it L is diagonal and holds the prior's spread, so that no unit of an unknown matters.

    Args:
        model: a Pyro model of one data set.
        data: its arguments.
        chains: number of chains.
        draws: kept draws per chain, at least 4, which R-hat needs.
        warmup: adaptation steps per chain.
        initial: constrained values to start from: one mapping for all chains, which are scattered about it by
            N(0, inverse_mass) (by a tenth of the prior's spread without it), or one per chain. Prior draws
            otherwise.
        inverse_mass: covariance (d, d) in unconstrained space, sites in the model's order.
        target_accept: acceptance that the step size is adapted to; raise it against divergences.
        max_tree_depth: at most 2^depth - 1 leapfrog steps a draw.
        workers: processes, spawned; then model and data must be picklable and a script guarded by
            ``__main__``. They end with this process, and Ctrl-C ends them.
        seed: chain c is seeded with seed + c.
        progress: whether to show bars.

    Raises:
        ValueError: a number out of range, a covariance that does not fit, or no start with finite density.

    Warns:
        TrustWarning: R-hat above 1.01, fewer than 400 effective draws, or divergences.

    Source: Hoffman, Gelman, arXiv:1111.4246; Pyro's implementation.
    """
    for name, number, least, most in (
        ("chains", chains, 1, LONGEST),
        ("draws", draws, 4, LONGEST),
        ("warmup", warmup, 1, LONGEST),
        ("workers", workers, 1, 1024),
        ("max_tree_depth", max_tree_depth, 1, 20),
    ):
        whole(name, number, least, most)
    flag("progress", progress)
    real("target_accept", target_accept, 0.0, 1.0, "a rate between 0 and 1")
    seed_number(seed)
    model, data = in_one(model, data)
    latents = Latents.of(model, data)
    check_gradients(model, data)
    check_size(chains=chains, draws=draws, unknowns=latents.size)
    starts, factor = _starts(model, data, latents, chains, initial, inverse_mass, seed)
    shown = progress and workers == 1
    options = _Options(draws, warmup, target_accept, max_tree_depth, inverse_mass is None, shown)
    tasks: list[tuple[Any, ...]] = [
        (model, data, start, factor, options, seed + chain) for chain, start in enumerate(starts)
    ]
    found = [_chain(*task) for task in tasks] if workers == 1 else _in_processes(tasks, workers, progress)
    x = torch.stack([chain[0] for chain in found])
    values, _ = latents.unpack(x)
    draws_of = {name: value.double().numpy() for name, value in values.items()}
    reference = Reference(
        "nuts",
        draws_of,
        summarise(draws_of),
        {"diverging": np.stack([chain[1] for chain in found])},
        {
            "seed": seed,
            "warmup": warmup,
            "target_accept": target_accept,
            "step_size": [chain[2] for chain in found],
            "acceptance": [chain[3] for chain in found],
        },
    )
    warn_of(reference)
    return reference


@dataclass(frozen=True)
class _Options:
    draws: int
    warmup: int
    target_accept: float
    max_tree_depth: int
    full_mass: bool
    progress: bool


@dataclass(frozen=True)
class _Potential:
    """-log p(z(x), y) - log|det dz/dx| as a function of w, x = loc + L w."""

    model: Callable[..., Any]
    data: Data
    latents: Latents
    loc: Tensor
    factor: Tensor

    def __call__(self, position: Mapping[str, Tensor]) -> Tensor:
        x = self.loc + self.factor @ position["w"]
        with unchecked():  # a far step may underflow to the edge of a support
            energy = -self.latents.log_density(self.model, x, self.data).to(x.dtype)
        # a rejected solve has density zero: NUTS reads infinite energy as a divergence, NaN as nothing at all
        return torch.where(torch.isnan(energy), torch.full_like(energy, torch.inf), energy)


def _chain(
    model: Callable[..., Any], data: Data, start: Tensor, factor: Tensor, options: _Options, seed: int
) -> tuple[Tensor, np.ndarray, float, float]:
    latents = Latents.of(model, data)
    potential = _Potential(model, data, latents, start, factor)
    with seeded(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a proposal that the solver rejects is part of sampling
        kernel = NUTS(
            potential_fn=potential,
            full_mass=options.full_mass,
            target_accept_prob=options.target_accept,
            max_tree_depth=options.max_tree_depth,
        )
        runner = MCMC(
            kernel,
            num_samples=options.draws,
            warmup_steps=options.warmup,
            initial_params={"w": torch.zeros_like(start)},
            disable_progbar=not options.progress,
        )
        runner.run()
    diagnostics = runner.diagnostics()
    diverging = np.zeros(options.draws, bool)
    diverging[diagnostics["divergences"]["chain 0"]] = True
    x = start + runner.get_samples()["w"] @ factor.T
    return x.detach(), diverging, float(kernel.step_size), float(diagnostics["acceptance rate"]["chain 0"])


def _in_processes(tasks: list[tuple[Any, ...]], workers: int, progress: bool) -> list[Any]:
    with own_pool(workers) as pool:
        futures = [submit(pool, _chain, *task) for task in tasks]
        with tqdm(total=len(futures), desc="nuts", unit="chain", disable=not progress) as bar:
            for future in futures:
                future.add_done_callback(lambda _: bar.update())
            return [result(future) for future in futures]


def _starts(
    model: Callable[..., Any],
    data: Data,
    latents: Latents,
    chains: int,
    initial: Any,
    inverse_mass: Tensor | None,
    seed: int,
) -> tuple[list[Tensor], Tensor]:
    """Return one start x per chain and the factor L."""
    prior = latents.prior(model, data, 64 * chains, seed)
    scale = spread(prior)
    with unchecked():
        wanted = widest(prior, inverse_mass, *data.values()) or prior.dtype
        prior = prior.to(workable(lambda x: latents.log_density(model, x, data), prior[0], wanted))
    factor = torch.diag(scale).to(prior)
    if inverse_mass is not None:
        factor = _cholesky(inverse_mass, factor)
    if initial is None:
        usable = [x for x in prior if _finite(model, data, latents, x)]
        if len(usable) < chains:
            raise no_density(data, "model: got no prior draws with finite density, expected some; pass initial=")
        return usable[:chains], factor
    if not isinstance(initial, Mapping):
        if not isinstance(initial, Sequence) or len(initial) != chains:
            raise ValueError(f"initial: got {shown(initial)}, expected one start for each of {chains} chains")
        starts = [_packed(latents, values, prior) for values in initial]
    else:
        centre = _packed(latents, initial, prior)
        scatter = factor if inverse_mass is not None else 0.1 * factor
        with seeded(seed):
            tries = [centre + scatter @ torch.randn(latents.size, dtype=prior.dtype) for _ in range(16 * chains)]
        starts = [x for x in tries if _finite(model, data, latents, x)][:chains]
        starts += [centre] * (chains - len(starts))
    for start in starts:
        if not _finite(model, data, latents, start):
            raise no_density(data, "initial: got a point without finite density, expected one inside the posterior")
    return starts, factor


def _cholesky(inverse_mass: Any, like: Tensor) -> Tensor:
    dense("inverse_mass", inverse_mass)
    if inverse_mass.shape != like.shape:
        got, expected = tuple(inverse_mass.shape), tuple(like.shape)
        raise ValueError(f"inverse_mass: got shape {got}, expected {expected}")
    factor, info = torch.linalg.cholesky_ex(inverse_mass.to(like.dtype))
    if int(info) or not bool(torch.isfinite(factor).all()):
        raise ValueError(f"inverse_mass: got a matrix of shape {tuple(like.shape)}, expected it positive definite")
    return factor


def _packed(latents: Latents, values: Any, like: Tensor) -> Tensor:
    tensors("initial", values)
    for name, shape in latents.shapes.items():
        if name not in values or values[name].shape != shape:
            got = tuple(values[name].shape) if name in values else "nothing"
            raise ValueError(f"initial['{name}']: got {got}, expected shape {tuple(shape)}")
        if not bool(torch.isfinite(values[name]).all()):
            raise ValueError(f"initial['{name}']: got an entry that is not finite, expected finite numbers")
    return latents.pack(dict(values)).to(like.dtype).detach()


def _finite(model: Callable[..., Any], data: Data, latents: Latents, x: Tensor) -> bool:
    with torch.no_grad(), unchecked():
        return bool(torch.isfinite(latents.log_density(model, x, data)))
