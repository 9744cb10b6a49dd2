"""Do residual likelihoods of finite elements find the forward model's posterior? darcy2d in 2D, and a nonlinear bar in 1D.

    python benchmarks/residual_posteriors.py [--data 2] [--seed N] [--quick]

q(u | z) q(z) is fitted to each data set by the ELBO of the residual likelihood (s_r 1 % of the load), then by reweighted
wake-sleep, with the factor |det dr/du| and without it, with all sensors and with a quarter of them; q(z), a spline flow, is then
held against the posterior of the forward model: by C2ST, and by total variation where there is a grid. sd x 0.8 is the negative
control.

    darcy2d               8 unknowns. The state is of ``PreconditionedGuide``, learnt under the prior first: residuals from tables,
                          no solve in the fit, nor in its start; the factor is a factorisation a sample, with its gradient about
                          four times as dear as a solve. Reference: HMC through the solver's adjoint; with few wells sequential
                          Monte Carlo.
    nonlinear_poisson1d   2 unknowns. The state is of ``ResidualGuide``, which solves for each draw, here by Kirchhoff's transform:
                          were it by the model's own solver and determinant, the determinant would cancel, a wrong one too.
                          Reference: a grid, from the exact nodal values that the transform gives.

Pass levels: C2ST below .6 and total variation below .05 with the factor; C2ST above .6 without it where a quarter of the sensors
is left. Levels and settings were settled on data sets of other seeds (94100, 94101, 94200).
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from _judge import NARROW, narrowed
from _store import Rows, store
from _weighted import trained_under_prior
from _weighted_inverse import LearntSolver
from residual_tv import POINTS, box, lattice, masses
from torch import Tensor, nn
from weighted_residual import darcy

from physzoo.core.global_state import seeded
from physzoo.core.simulate import simulate
from physzoo.guides import PreconditionedGuide, amortize
from physzoo.guides.state import ResidualGuide
from physzoo.inference.compare import c2st
from physzoo.inference.fit import fit
from physzoo.inference.modes import laplace
from physzoo.inference.objectives import ELBO, Reweighted
from physzoo.inference.references import hmc, smc
from physzoo.models.darcy2d import MODES, WELLS, Darcy2D
from physzoo.models.nonlinear_poisson1d import ELEMENTS, SENSORS, SOURCE, NonlinearPoisson1D
from physzoo.physics import Elliptic1D

SEED, QUICK_SEED, DRAWS, LEVEL, TV_LEVEL, CONVERGED = 94300, 94200, 2000, 0.6, 0.05, 1.01
LEARNING = 600  # steps of q(u | z) under the prior
WAKE = 400
STEPS_OF_MEAN = 8
LEARNT_SEED = 94100
REACH = 6.0  # of the unknowns of the nonlinear bar

Row = dict[str, Any]
Data = dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """An animal with what is particular to it.

    Attributes:
        name: of the animal, with the number of unknowns.
        model: (likelihood, corrected) -> the model.
        sensors: all of them; a quarter is left in the harder case.
        guide: (residual model, data, seed) -> q(u | z) q(z) at its start.
        reference: (data, seed) -> draws of the forward posterior, (DRAWS, d), the worst R-hat and the smallest ESS.
        steps, particles: of the fit by the ELBO.
        wake, wake_particles: of that by wake-sleep after it.
        grid: data -> points (G, d), the forward posterior's masses (G,) and the area of a cell, where there is a grid.
    """

    name: str
    model: Callable[[str, bool], Any]
    sensors: int
    guide: Callable[[Any, Data, int], Any]
    reference: Callable[[Data, int], tuple[np.ndarray, float, float]]
    steps: int
    particles: int
    wake: int
    wake_particles: int
    grid: Callable[[Data], tuple[Tensor, Tensor, float]] | None = None


def darcy2d(likelihood: str, corrected: bool) -> Darcy2D:
    return Darcy2D(likelihood, corrected=corrected)  # type: ignore[arg-type]


@cache
def learnt(steps: int) -> PreconditionedGuide:
    """q(u | z) of the aquifer, learnt under the prior without data and without a solve."""
    _, guide = trained_under_prior(darcy(), 4, steps, LEARNT_SEED, particles=64, modes=48)
    guide.steps = STEPS_OF_MEAN
    return guide


def solving_nothing(model: Darcy2D, data: Data, seed: int, learning: int) -> PreconditionedGuide:
    """q(z), started at the Laplace approximation through the guide's mean, and q(u | z)."""
    both = copy.deepcopy(learnt(learning))
    both.scale = model.residual_scale
    start_model: Any = darcy2d("forward", True)
    start_model.problem, start_model.field = LearntSolver(model.problem, both), nn.Identity()
    start = laplace(start_model, data, seed=seed + 1)
    both.guide_z = amortize(start_model, None, "spline", example=data, whitening=start, seed=seed, tail=10.0)
    return both


def of_aquifer(data: Data, seed: int, draws: int) -> tuple[np.ndarray, float, float]:
    """Draws of the forward posterior: by HMC; with few wells, where chains do not mix, by sequential Monte Carlo."""
    model = darcy2d("forward", True)
    if bool(data["mask"].all()):
        at = laplace(model, data, seed=seed + 1000)
        options: Row = {"chains": 20, "draws": draws, "seed": seed + 1000, "progress": False}
        found = hmc(model, data, loc=at.loc, tril=at.tril, **options)
    else:
        found = smc(model, data, particles=draws, final=draws // 5, seed=seed + 1000, progress=False)
    z = found.draws["z"].reshape(-1, MODES)
    return np.random.default_rng(seed).permutation(z)[:DRAWS], found.r_hat, found.ess


def bar(likelihood: str, corrected: bool) -> NonlinearPoisson1D:
    return NonlinearPoisson1D(likelihood, 2, corrected=corrected)  # type: ignore[arg-type]


class Kirchhoff:
    """The nonlinear bar by hand: u + u^3 / 3 solves the linear equation."""

    def __init__(self) -> None:
        self.linear = Elliptic1D(lambda z: z, [0.5], ELEMENTS, dtype=torch.float64)

    def solve(self, z: Tensor, residual: Tensor | None = None) -> Tensor:
        w = SOURCE * self.linear.solve(z, residual=None if residual is None else residual / SOURCE)
        return 2 * torch.sinh(torch.asinh(1.5 * w) / 3)

    def residual(self, u: Tensor, z: Tensor) -> Tensor:
        return SOURCE * self.linear.residual((u + u**3 / 3) / SOURCE, z)

    def logdet(self, u: Tensor, z: Tensor) -> Tensor:
        return self.linear.logdet(u, z) + (1 + u.square()).log().sum(-1)


def solving(model: NonlinearPoisson1D, data: Data, seed: int) -> ResidualGuide:
    """q(z), started at the Laplace approximation, and the state drawn by a solve for its residual."""
    exact = bar("forward", True)
    start = laplace(exact, data, seed=seed + 1)
    guide = amortize(exact, None, "spline", example=data, whitening=start, seed=seed, tail=10.0)
    return ResidualGuide(guide, Kirchhoff(), (ELEMENTS - 1,), model.residual_scale, field=model.field)


def on_grid(data: Data) -> tuple[Tensor, Tensor, float]:
    """Points of a grid that resolves the posterior, its masses there, and the area of a cell."""
    model, exact = bar("forward", True), Kirchhoff()

    def log_joint(z: Tensor) -> Tensor:
        error = (model.problem.observe(exact.solve(model.field(z))) - data["y"])[:, data["mask"]] / model.noise
        return -0.5 * (z.square().sum(-1) + error.square().sum(-1))

    corner = torch.full((2,), REACH, dtype=torch.float64)
    coarse, _ = lattice(-corner, corner, 4 * POINTS)
    fine, cell = lattice(*box([log_joint(coarse)], coarse))
    return fine, masses(log_joint(fine)), cell


def by_grid(data: Data, seed: int) -> tuple[np.ndarray, float, float]:
    """Draws of the posterior on a grid, moved within their cells."""
    z, mass, _ = on_grid(data)
    rng = np.random.default_rng(seed + 1000)
    chosen = z.numpy()[rng.choice(len(mass), DRAWS, p=mass.numpy() / mass.numpy().sum())]
    sides = [float(side[1] - side[0]) for side in (z[:, k].unique() for k in (0, 1))]
    return chosen + (rng.random(chosen.shape) - 0.5) * sides, 1.0, float(DRAWS)


@torch.no_grad()
def total_variation(part: Part, guide: Any, data: Data) -> tuple[float, float] | None:
    """TV of q(z) to the forward posterior, and of q with 0.8 times its sd, on the part's grid; None without one."""
    if part.grid is None:
        return None
    z, mass, cell = part.grid(data)
    mean = guide.sample(data, DRAWS)["z"].mean(0)
    found = []
    for factor in (1.0, NARROW):
        q = guide.log_prob({"z": mean + (z - mean) / factor}, data).exp() * cell / factor**2
        found.append(min(1.0, 0.5 * float((q - mass).abs().sum() + max(0.0, 1 - float(q.sum())))))
    return found[0], found[1]


def costs(samples: int = 64, rounds: int = 5) -> dict[str, float]:
    """CPU microseconds a sample of the aquifer's operations with their gradients, double precision, least of the rounds.

    A draw of ``PreconditionedGuide`` takes several residuals; the factor is taken once.
    """
    model = darcy2d("residual", True)
    z = torch.randn(samples, MODES, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    kappa = model.field(z)
    u, problem = model.problem.solve(kappa).detach(), model.problem
    operations = {
        "solve": lambda k: problem.observe(problem.solve(k)).square().sum(),
        "residual": lambda k: problem.residual(u.requires_grad_(), k).square().sum(),
        "determinant": lambda k: problem.logdet(u.requires_grad_(), k).sum(),
    }
    found = {}
    for name, operation in operations.items():
        times = []
        for _ in range(rounds + 1):
            fresh, began = kappa.clone().requires_grad_(), time.process_time()
            operation(fresh).backward()
            times.append(time.process_time() - began)
        found[name] = 1e6 * min(times[1:]) / samples
    return found


def parts(quick: bool) -> list[Part]:
    less = 20 if quick else 1
    guide = partial(solving_nothing, learning=LEARNING // less)
    reference = partial(of_aquifer, draws=40 if quick else 250)
    # fmt: off
    return [
        Part(
            "darcy2d, 8 unknowns", darcy2d, WELLS**2, guide, reference,
            steps=600 // less, particles=64, wake=WAKE // less, wake_particles=256,
        ),
        Part(
            "nonlinear_poisson1d, 2 unknowns", bar, SENSORS, solving, by_grid,
            steps=1200 // less, particles=16, wake=WAKE // less, wake_particles=64, grid=on_grid,
        ),
    ]
    # fmt: on


def line(part: Part, kept: int, corrected: bool, seeds: range) -> Row:
    """Return the row of one animal, number of sensors and likelihood."""
    found, seconds, model = [], 0.0, part.model("residual", corrected)
    for seed in seeds:
        pairs = simulate(part.model("forward", True), 1, seed=seed)
        order = torch.randperm(part.sensors, generator=torch.Generator().manual_seed(seed))
        data = {"y": pairs["y"][0], "mask": order < kept}
        exact, r_hat, ess = reference_of(part, kept, seed, data)
        began = time.process_time()
        both = part.guide(model, data, seed)
        options: Row = {"seed": seed, "max_skipped": 50, "progress": False}
        fit(model, both, data, ELBO(part.particles), steps=part.steps, learning_rate=5e-3, **options)
        fit(model, both, data, Reweighted(part.wake_particles), steps=part.wake, learning_rate=2e-3, **options)
        seconds += time.process_time() - began
        with seeded(seed + 2000):
            z = both.guide_z.sample(data, DRAWS)["z"]
        ratio = z.std(0).numpy() / exact.std(0)
        error = np.abs(z.mean(0).numpy() - exact.mean(0)) / exact.std(0)
        far = total_variation(part, both.guide_z, data)
        found.append((c2st(z.numpy(), exact), c2st(narrowed(z).numpy(), exact), error.max(), ratio, r_hat, ess, far))
        print(part.name, kept, corrected, seed, found[-1], flush=True)
    scores, controls, errors, ratios, hats, sizes, fars = zip(*found, strict=True)
    variations = {
        "tv_worst": max(far[0] for far in fars),
        "tv_best": min(far[0] for far in fars),
        "tv_sd_x_0.8_smallest": min(far[1] for far in fars),
    } if part.grid else {}  # fmt: skip
    return {
        "problem": part.name,
        "sensors": f"{kept} of {part.sensors}",
        "corrected": corrected,
        "data_sets": len(found),
        "c2st_worst": max(scores),
        "c2st_best": min(scores),
        "c2st_sd_x_0.8_smallest": min(controls),
        "worst_mean_error_sd": float(max(errors)),
        "smallest_sd_ratio": float(np.min(ratios)),
        "largest_sd_ratio": float(np.max(ratios)),
        "reference_r_hat": max(hats),
        "reference_ess": min(sizes),
        "cpu_seconds": seconds / len(found),
        **variations,
    }


_REFERENCES: dict[tuple[str, int, int], tuple[np.ndarray, float, float]] = {}


def reference_of(part: Part, kept: int, seed: int, data: Data) -> tuple[np.ndarray, float, float]:
    """The reference of a data set, made once."""
    key = (part.name, kept, seed)
    if key not in _REFERENCES:
        _REFERENCES[key] = part.reference(data, seed)
    return _REFERENCES[key]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=int, default=2, help="data sets a line")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the work: to see that it runs")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    name = "residual_posteriors" + ("_quick" if given.quick else "")
    first = QUICK_SEED if given.quick else given.seed
    rows, seeds = Rows(name), range(first, first + (1 if given.quick else given.data))
    for part in parts(given.quick):
        for kept in (part.sensors, part.sensors // 4):
            for corrected in (True, False):
                key = (part.name, kept, corrected, part.steps, part.wake, LEARNING, first, len(seeds))
                rows.add(key, partial(line, part, kept, corrected, seeds))
    right = all(row["c2st_worst"] < LEVEL and row.get("tv_worst", 0.0) < TV_LEVEL for row in rows if row["corrected"])
    few = [row for row in rows if not row["corrected"] and row["sensors"].startswith(("2 ", "6 "))]
    right = right and all(row["reference_r_hat"] < CONVERGED for row in rows)
    store(name, rows, seed=first, draws=DRAWS, residual_scale=0.01, level=LEVEL, tv_level=TV_LEVEL, darcy2d_microseconds=costs(),
          passed=right and all(row["c2st_best"] > LEVEL for row in few))  # fmt: skip
    rows.done()


if __name__ == "__main__":
    main()
