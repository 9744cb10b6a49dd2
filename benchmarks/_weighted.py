"""What benchmarks of q(u | z) share: the target exp(-beta |r|^2) of each kind of test function, and how q is held against it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from scipy import stats
from torch import Tensor

from physzoo.core.global_state import seeded
from physzoo.core.model_spec import Whitening
from physzoo.guides import PreconditionedGuide, amortize
from physzoo.inference.calibration.sbc import holm
from physzoo.inference.fit import DataSets, fit
from physzoo.inference.objectives import ELBO
from physzoo.models.likelihood import STATE_SCALE

POOL = 2**17


@dataclass(frozen=True)
class Gaussian:
    """N(mean, factor factor'), shapes (..., n) and (..., n, n)."""

    mean: Tensor
    factor: Tensor


@dataclass(frozen=True)
class Target:
    """p_beta(u | z) ~ exp(-|r(u, z)|^2 / (2 s_r^2)) for one kind of test function.

    Attributes:
        name: the test functions.
        size: n, entries of the state.
        prior: of z, one event dimension.
        energy: (u, z, s_r) -> |r|^2 / (2 s_r^2), which training sees; it may draw points.
        exact: (z, s_r) -> mean G^-1 g, (..., n), and a root R of the precision, R' R = G: the closed form.
        on_grid: coefficients -> values of the state where it is compared with the fine solution.
        fine: z -> the fine solution there.
        load: s_r that equals the load; scale: the s_r in question.
        problem: whose ``residual`` a ``PreconditionedGuide`` sees; it is the gradient of the energy where ``gradient``.
        field: z -> what the problem takes, where that is not z.
    """

    name: str
    size: int
    prior: dist.TorchDistribution
    energy: Callable[[Tensor, Tensor, float], Tensor]
    exact: Callable[[Tensor, float], tuple[Tensor, Tensor]]
    on_grid: Callable[[Tensor], Tensor]
    fine: Callable[[Tensor], Tensor]
    load: float
    scale: float
    problem: Any
    gradient: bool = False
    field: Any = None

    def draw(self, count: int, seed: int) -> Tensor:
        """Draws of z, (count, d)."""
        with seeded(seed):
            return self.prior.sample(torch.Size((count,)))

    @property
    def centre(self) -> Tensor:
        """The prior mean, (d,)."""
        return self.prior.mean


def from_residual(problem: Any, u: Tensor, z: Tensor, scale: float, field: Any = None) -> Tensor:
    """Energy of a square residual."""
    z = z if field is None else field(z)
    return 0.5 * (problem.residual(u, z) / scale).square().sum(-1)


def of_problem(problem: Any, size: int, field: Any = None) -> Callable[[Tensor, float], tuple[Tensor, Tensor]]:
    """The closed form of a square residual: A^-1 f and A / s_r."""

    def exact(z: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        unit, z = torch.eye(size, dtype=z.dtype), z if field is None else field(z)
        at_zero = problem.residual(0 * unit[:1], z[..., None, :])
        return problem.solve(z), (problem.residual(unit, z[..., None, :]) - at_zero).mT / scale

    return exact


def kl_per_dof(q: Gaussian, mean: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """KL(q || p_beta) / n of two Gaussians, exactly, in two parts: of the spread and of the mean, each (...)."""
    size = mean.shape[-1]
    white = root @ q.factor
    spread = 0.5 * (white.square().sum((-1, -2)) - size) - torch.linalg.slogdet(white)[1]
    shift = (root @ (q.mean - mean)[..., None])[..., 0]
    return spread / size, 0.5 * shift.square().sum(-1) / size


def whiteness(q: Gaussian, mean: Tensor, root: Tensor, seed: int) -> float:
    """Smallest Holm p of one draw a z: R (u - mean) is N(0, I) if q is p_beta.

    Kolmogorov-Smirnov of each entry over the z's, and of the sum of squares as a chi-square.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(q.mean.shape, generator=generator, dtype=q.mean.dtype)
    u = q.mean + (q.factor @ noise[..., None])[..., 0]
    white = (root @ (u - mean)[..., None])[..., 0].numpy()
    values = {f"entry {i}": float(stats.kstest(column, "norm").pvalue) for i, column in enumerate(white.T)}
    values["energy"] = float(stats.kstest(np.square(white).sum(1), stats.chi2(white.shape[1]).cdf).pvalue)
    return min(holm(values).values())


def judged(target: Target, q: Gaussian, z: Tensor, seed: int) -> dict[str, Any]:
    """Hold q(u | z) at many z against the closed form, and its mean against the fine solution."""
    with torch.no_grad():
        mean, root = target.exact(z, target.scale)
        spread, shift = kl_per_dof(q, mean, root)
        fine = target.fine(z)
        error = (target.on_grid(q.mean) - fine).norm(dim=-1) / fine.norm(dim=-1)
        narrow = Gaussian(q.mean, 0.8 * q.factor)
        narrow_kl = float(sum(part.mean() for part in kl_per_dof(narrow, mean, root)))
        return {
            "kl_per_dof": float((spread + shift).mean()),
            "median_kl_per_dof": float((spread + shift).median()),
            "of_the_mean": float(shift.mean()),
            "relative_l2": float(error.mean()),
            "worst_relative_l2": float(error.max()),
            "smallest_holm_p": whiteness(q, mean, root, seed),
            "sd_x_0.8_smallest_holm_p": whiteness(narrow, mean, root, seed),
            "sd_x_0.8_kl_per_dof": narrow_kl,
        }


class UnderPrior(PyroModule):
    """z from the prior unless it is given, u flat, exp(-energy); no data. With q(z) the prior the ELBO is -E KL(q(u | z) || p_beta)."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target, self.scale = target, target.load

    def prior(self, **data: Any) -> dict[str, Tensor]:
        """Sample z: also the guide of z."""
        return {"z": pyro.sample("z", self.target.prior)}

    def forward(self, z: Tensor | None = None) -> None:
        z = self.prior()["z"] if z is None else z
        flat = dist.Normal(z.new_zeros(self.target.size), STATE_SCALE).to_event(1)
        pyro.factor("r", -self.target.energy(pyro.sample("u", flat), z, self.scale))


class PlainNetwork:
    """q(u | z) = N(m(z), L(z) L(z)') by one network, in coordinates in which it is exact at the prior's centre."""

    def __init__(self, target: Target, seed: int) -> None:
        self.target, self.model = target, UnderPrior(target)
        centre = target.centre
        mean, root = target.exact(centre, target.load)
        start = Whitening(mean, torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(root.mT @ root))))
        self.start = start
        self.guide = amortize(
            self.model, "mlp", "full", example={"z": centre}, whitening=start, simulations=0, seed=seed
        )

    def train(self, steps: int, seed: int, stages: int = 3, batch: int = 256) -> None:
        """Fit by the ELBO while s_r falls from the load to the one in question, the last stage as long as the others."""
        data = DataSets({"z": self.target.draw(POOL, seed)}, batch)
        ratio = self.target.scale / self.target.load
        for stage in range(stages):
            self.model.scale = self.target.load * ratio ** (stage / max(stages - 1, 1))
            options: dict[str, Any] = {"learning_rate": 2e-3, "seed": seed + stage, "progress": False}
            fit(self.model, self.guide, data, ELBO(), steps=steps * (1 + (stage == stages - 1)), **options)

    @torch.no_grad()
    def __call__(self, z: Tensor) -> Gaussian:
        guide: Any = self.guide
        affine = guide.family.affine(guide.encoder(z=z))
        mean = self.start.loc + affine.loc @ self.start.tril.mT
        return Gaussian(mean, self.start.tril @ affine.tril)


def conditional(guide: Any, z: Tensor) -> Gaussian:
    """q(u | z) of a ``PreconditionedGuide``."""
    with torch.no_grad():
        return Gaussian(guide.mean(z), guide.factor(z))


def trained_under_prior(
    target: Target, steps: int, training: int, seed: int, particles: int = 256, **options: Any
) -> Any:
    """Return a ``PreconditionedGuide`` before and after it has learnt q(u | z) under the prior by the ELBO: no data, no solve.

    Training is at s_r = load, where mean and spread weigh alike; the guides come back with the s_r in question.
    """
    model = UnderPrior(target)
    options |= {"steps": steps, "energy": target.gradient, "seed": seed, "field": target.field}
    start, guide = (
        PreconditionedGuide(model.prior, target.problem, target.size, target.centre, target.load, **options)
        for _ in range(2)
    )
    settings: dict[str, Any] = {"learning_rate": 3e-3, "seed": seed, "progress": False}
    fit(model, guide, {}, ELBO(particles), steps=training, **settings)
    start.scale = guide.scale = target.scale
    return start, guide
