"""What q(u | z), learnt without a solve, is good for in inverse problems: rows 10 and 12 of the review's table.

Row 12 is the structured guide q(u | z) q(z) for one data set, row 10 (PDDLVM) an inverse head p_theta(z | u) learnt with q(u | z):

    E log[ p(r = 0 | u, z) p_theta(z | u) p(u) / (q(u | z) p(z)) ],   p(u) flat.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pyro
import torch
from _weighted import Target, UnderPrior, conditional, kl_per_dof, whiteness
from pyro import distributions as dist
from pyro.nn import PyroModule
from residual_tv import Case, against_exact
from torch import Tensor

from physzoo.core.global_state import seeded
from physzoo.guides import PreconditionedGuide, amortize
from physzoo.inference.calibration import pit, uniformity
from physzoo.inference.calibration.sbc import effect, holm, interval_coverage
from physzoo.inference.fit import fit
from physzoo.inference.modes import laplace
from physzoo.inference.objectives import ELBO
from physzoo.models.likelihood import STATE_SCALE
from physzoo.physics import Problem

SETS, DRAWS = 512, 200


class LearntSolver(Problem):
    """A problem whose solve is a guide's mean: the start of q(z) needs no solver either."""

    def __init__(self, problem: Problem, guide: PreconditionedGuide) -> None:
        super().__init__()
        self.problem, self.guide = problem, (guide,)

    def solve(self, z: Any, residual: Tensor | None = None) -> Tensor:
        """Return m(z)."""
        return self.guide[0].mean(z)

    def observe(self, u: Tensor) -> Tensor:
        """Return what the sensors read."""
        return self.problem.observe(u)


def structured_row(case: Case, guide: PreconditionedGuide, seeds: range, steps: int) -> dict[str, Any]:
    """Fit q(u | z) q(z) to each data set by the ELBO of the residual likelihood; q(z) against the forward posterior."""
    found, seconds = [], 0.0
    for seed in seeds:
        data, began = case.data(seed), time.process_time()
        model, start_model = case.model("residual"), case.model()
        start_model.problem = LearntSolver(model.problem, guide)  # type: ignore[assignment]
        start = laplace(start_model, data, seed=seed)
        both = copy.deepcopy(guide)
        both.guide_z = amortize(start_model, None, "spline", example=data, whitening=start, seed=seed)
        options: dict[str, Any] = {"learning_rate": 5e-3, "seed": seed, "max_skipped": 50, "progress": False}
        fit(model, both, data, ELBO(64), steps=steps, **options)
        seconds += time.process_time() - began
        found.append(against_exact(case.model(), both.guide_z, data))
        print(case.label, seed, found[-1], flush=True)
    return {
        "part": "q(u | z) q(z)",
        "case": case.label,
        "data_sets": len(found),
        "tv_max": max(one.total_variation for one in found),
        "tv_median": float(np.median([one.total_variation for one in found])),
        "kl_max": max(one.kl for one in found),
        "cpu_seconds": seconds / len(found),
    }


def estimated(target: Target, u: Tensor, iterations: int = 10) -> tuple[Tensor, Tensor]:
    """Gauss-Newton's z-hat(u), (..., d), of |r(u, z)|^2 / s_r^2 + |z|^2, and the Cholesky factor of its precision.

    The other way round than usual: the state is given, so no equation is solved by A, only d numbers are sought.
    """
    z = u.new_zeros(*u.shape[:-1], target.centre.shape[0])
    unit = torch.eye(z.shape[-1], dtype=z.dtype)
    for step in range(iterations + 1):
        columns = [
            torch.func.jvp(lambda z: target.problem.residual(u, z), (z,), (one.expand_as(z),)) for one in unit.unbind()
        ]
        slope = torch.stack([column for _, column, *_ in columns], -1) / target.scale
        tril = torch.linalg.cholesky(slope.mT @ slope + unit)
        if step == iterations:
            break
        gradient = (slope.mT @ (columns[0][0] / target.scale)[..., None])[..., 0] + z
        move = torch.cholesky_solve(gradient[..., None], tril)[..., 0]
        # r grows as exp(z): from below a full step overshoots by far
        z = z - move / move.norm(dim=-1, keepdim=True).clamp_min(1.0)
    return z, tril


class VirtualPairs(PyroModule):
    """p(r = 0 | u, z) p_theta(z | u) p(u): the model whose ELBO under q(u | z) p(z) is that of PDDLVM.

    The head is a flow around Gauss-Newton's estimate: z = z-hat(u) + L^-T w, w ~ flow(z-hat, log diag L).
    """

    def __init__(self, target: Target, seed: int) -> None:
        super().__init__()
        self.target, self.scale = target, target.scale

        def unknowns(summary: Tensor) -> None:
            pyro.sample("w", dist.Normal(torch.zeros_like(target.centre), 1.0).to_event(1))

        example = {"summary": torch.zeros(2 * len(target.centre), dtype=torch.float64)}
        self.flow = amortize(unknowns, "mlp", "spline", example=example, simulations=0, seed=seed)

    def head_log_prob(self, z: Tensor, u: Tensor) -> Tensor:
        """Return log p_theta(z | u), shape (...)."""
        centre, tril = estimated(self.target, u)
        w = (tril.mT @ (z - centre)[..., None])[..., 0]
        log_scale = tril.diagonal(dim1=-2, dim2=-1).log()
        return self.flow.log_prob({"w": w}, {"summary": self._summary(centre, log_scale)}) + log_scale.sum(-1)

    def head_sample(self, u: Tensor, draws: int) -> Tensor:
        """Draw from p_theta(z | u): (draws, ..., d)."""
        centre, tril = estimated(self.target, u)
        log_scale = tril.diagonal(dim1=-2, dim2=-1).log()
        w = self.flow.sample({"summary": self._summary(centre, log_scale)}, draws)["w"]
        return centre + torch.linalg.solve_triangular(tril.mT, w[..., None], upper=True)[..., 0]

    def _summary(self, centre: Tensor, log_scale: Tensor) -> Tensor:
        return torch.cat([centre, log_scale - 5], -1)

    def forward(self) -> None:
        z = pyro.sample("z", self.target.prior)
        u = pyro.sample("u", dist.Normal(z.new_zeros(self.target.size), STATE_SCALE).to_event(1))
        pyro.factor("r", -self.target.energy(u, z, self.scale))
        # p_theta(z | u) in the place of the p(z) that the site brings
        pyro.factor("head", self.head_log_prob(z, u) - self.target.prior.log_prob(z))


@torch.no_grad()
def head_judged(model: VirtualPairs, guide: PreconditionedGuide, seed: int) -> dict[str, Any]:
    """Hold q(u | z) against p_beta and the finite-element solution, the head against its own pairs."""
    target = model.target
    z = target.draw(SETS, seed)
    q = conditional(guide, z)
    mean, root = target.exact(z, target.scale)
    sd = q.factor.square().sum(-1).sqrt()
    with seeded(seed):
        u = q.mean + (q.factor @ torch.randn(*q.mean.shape, 1, dtype=z.dtype))[..., 0]
        draws = model.head_sample(u, DRAWS)
    centre = draws.mean(0)
    checks = {}
    for name, values in (("head", draws), ("narrow", centre + 0.8 * (draws - centre))):
        rng = np.random.default_rng(seed)
        checks[name] = pit(z.numpy(), values.numpy(), rng)
    p = {name: min(holm({str(k): uniformity(one) for k, one in enumerate(v.T)}).values()) for name, v in checks.items()}
    widths = [effect(one).width for one in checks["head"].T]
    return {
        "kl_per_dof": float(sum(part.mean() for part in kl_per_dof(q, mean, root))),
        "smallest_holm_p": whiteness(q, mean, root, seed),
        "relative_l2": float(((q.mean - mean).norm(dim=-1) / mean.norm(dim=-1)).mean()),
        "covers_solution_95": float(((q.mean - mean).abs() < 1.96 * sd).double().mean()),
        "head_smallest_holm_p": p["head"],
        "head_sd_x_0.8_smallest_holm_p": p["narrow"],
        "head_width_min": min(widths),
        "head_width_max": max(widths),
        "head_coverage_90": float(np.mean([interval_coverage(one, [0.9])[0.9] for one in checks["head"].T])),
        "head_sd_over_prior": float(draws.std(0).mean()),
    }


class InverseHead:
    """The head learnt from pairs of a fixed q(u | z), then both learnt together by the ELBO of PDDLVM.

    Args:
        target: what q(u | z) is of.
        guide: gives q(u | z).
        seed: of the trainings.
        stages: steps of "head alone" and of "together", in this order.
    """

    def __init__(
        self, target: Target, guide: Callable[[], PreconditionedGuide], seed: int, stages: Mapping[str, int]
    ) -> None:
        self.target, self.seed, self.stages = target, seed, stages
        self.train = cache(self._train)
        self.model = VirtualPairs(target, seed)
        self.guide = cache(lambda: self._own(guide()))

    def _own(self, guide: PreconditionedGuide) -> PreconditionedGuide:
        own = copy.deepcopy(guide)
        own.guide_z = UnderPrior(self.target).prior
        return own

    def line(self, name: str) -> dict[str, Any]:
        """Return the line of a stage; those before it are trained first, also where their lines were made in another run."""
        for stage in self.stages:
            found = self.train(stage)
            if stage == name:
                return found
        raise KeyError(name)

    def _train(self, name: str) -> dict[str, Any]:
        together, guide, steps = name == "together", self.guide(), self.stages[name]
        guide.net.requires_grad_(together).train(together)
        began = time.process_time()
        options: dict[str, Any] = {"seed": self.seed, "max_skipped": 50, "progress": False}
        fit(self.model, guide, {}, ELBO(256), steps=steps, learning_rate=5e-4 if together else 2e-3, **options)
        seconds = time.process_time() - began
        first = {"part": "inverse head", "case": self.target.name, "guide": name}
        return first | head_judged(self.model, guide, self.seed + 1) | {"cpu_seconds": seconds}
