"""Does a residual likelihood find the forward model's posterior? Total variation on a grid, two unknowns.

    python benchmarks/residual_tv.py [--quick]

Part one has the state integrated out in closed form, so nothing is fitted: what the likelihood itself
targets, with and without log|det dr/du|, for three residual scales and for sensors that go missing. Part two
fits ``ResidualGuide`` by the ELBO and compares its q(z) with the exact posterior. With "0 of 8" sensors the
posterior must be the prior.

What is left in part one is the residual noise itself, O(s_r^2) beside the sensors' noise and largest for soft
bars. The guide's q(u | z) leaves it out, so in part two q(z) can lie closer to the forward posterior than the
likelihood's own target does.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Any

import torch
from _store import store
from torch import Tensor

from physzoo.guides import AmortizedGuide, amortize
from physzoo.guides.state import ResidualGuide
from physzoo.inference.fit import fit
from physzoo.inference.modes import laplace
from physzoo.inference.objectives import ELBO
from physzoo.models.poisson1d import LARGEST_AT_PRIOR_MEAN, Poisson1D, collapsed_log_joint

REACH = 6.0
POINTS = 121


@dataclass(frozen=True)
class Case:
    """How much is observed: sensors, noise as a fraction of max u, and how many of the sensors are kept."""

    sensors: int
    noise: float
    kept: int | None = None
    modes: int = 2

    @property
    def label(self) -> str:
        kept = self.sensors if self.kept is None else self.kept
        return f"{kept} of {self.sensors} sensors, {100 * self.noise:.0f} % noise"

    def model(self, likelihood: str = "forward", residual_scale: float = 1e-2, corrected: bool = True) -> Poisson1D:
        scale: dict[str, Any] = {"residual_scale": residual_scale, "corrected": corrected}
        return Poisson1D(likelihood, self.modes, self.sensors, self.noise, **scale)  # type: ignore[arg-type]

    def data(self, seed: int) -> dict[str, Tensor]:
        """A data set from the prior predictive."""
        generator = torch.Generator().manual_seed(seed)
        model = self.model()
        z = torch.randn(self.modes, generator=generator, dtype=torch.float64)
        noise = model.noise * torch.randn(self.sensors, generator=generator, dtype=torch.float64)
        order = torch.randperm(self.sensors, generator=generator)
        mask = order < (self.sensors if self.kept is None else self.kept)
        return {"y": model.problem.observe(model.problem.solve(z)) + noise, "mask": mask}


CASES = (Case(8, 0.02), Case(3, 0.05), Case(1, 0.10), Case(8, 0.02, kept=0))
MISSING = tuple(Case(8, 0.02, kept=kept) for kept in (6, 4, 2, 1))


def lattice(low: Tensor, high: Tensor, points: int = POINTS) -> tuple[Tensor, float]:
    """Return the cell centres of a box, shape (points^2, 2), and the area of a cell."""
    fraction = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    x, y = (low[k] + (high[k] - low[k]) * fraction for k in (0, 1))
    return torch.cartesian_prod(x, y), float((high - low).prod()) / points**2


def box(log_densities: list[Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest box that holds everything above e^-14 of either maximum, a coarse cell added."""
    margin = 2 * REACH / math.isqrt(len(points))
    keep = torch.stack([value > value.max() - 14 for value in log_densities]).any(0)
    return points[keep].amin(0) - margin, points[keep].amax(0) + margin


def masses(log_density: Tensor) -> Tensor:
    return torch.softmax(log_density, 0)


def outline(model: Poisson1D, z: Tensor, data: dict[str, Tensor]) -> Tensor:
    """The log density of z for s_r = 0: cheap, and wide enough to place a grid by."""
    exact = Poisson1D("forward", 2, len(data["y"]), model.noise / LARGEST_AT_PRIOR_MEAN)
    value = collapsed_log_joint(exact, z, **data)
    return value if model.corrected else value - model.problem.logdet(model.problem.load, z)


def fitted_grid(models: tuple[Poisson1D, ...], data: dict[str, Tensor], points: int = POINTS) -> tuple[Tensor, float]:
    """Return a grid on which all of the models' posteriors are resolved."""
    corner = torch.full((2,), REACH, dtype=torch.float64)
    coarse, _ = lattice(-corner, corner, 2 * POINTS)
    return lattice(*box([outline(model, coarse, data) for model in models], coarse), points)


def total_variation(first: Poisson1D, second: Poisson1D, data: dict[str, Tensor], points: int = POINTS) -> float:
    """TV between the posteriors of z under two likelihoods, on a grid fitted to both."""
    with torch.no_grad():
        fine, _ = fitted_grid((first, second), data, points)
        p, q = (masses(collapsed_log_joint(model, fine, **data)) for model in (first, second))
    return 0.5 * float((p - q).abs().sum())


@dataclass(frozen=True)
class Fitted:
    """A fitted guide against the exact posterior."""

    total_variation: float
    kl: float


def fitted(case: Case, seed: int, steps: int, corrected: bool = True, particles: int = 64) -> Fitted:
    """Fit q(z) q(u | z) to the residual likelihood by the ELBO; compare q(z) with the forward posterior."""
    data, exact = case.data(seed), case.model()
    model = case.model("residual", corrected=corrected)
    start = laplace(exact, data, seed=seed)
    guide_z = amortize(exact, None, "spline", example=data, whitening=start, seed=seed)
    guide = ResidualGuide(guide_z, model.problem, (model.problem.elements - 1,), model.residual_scale)
    fit(model, guide, data, ELBO(particles), steps=steps, learning_rate=5e-3, seed=seed, progress=False)
    return against_exact(exact, guide_z, data)


def against_exact(exact: Poisson1D, guide_z: AmortizedGuide, data: dict[str, Tensor]) -> Fitted:
    """Hold q(z) against the forward posterior on a grid."""
    with torch.no_grad():
        fine, cell = fitted_grid((exact,), data)
        p = masses(collapsed_log_joint(exact, fine, **data))
        log_q = guide_z.log_prob({"z": fine}, data)
        q = log_q.exp() * cell
    outside = max(0.0, 1 - float(q.sum()))
    kl = float((q * (log_q + math.log(cell) - p.clamp_min(1e-300).log())).sum())
    return Fitted(0.5 * (float((p - q).abs().sum()) + outside), kl)


def closed_form_rows(seeds: range, scales: tuple[float, ...] = (1e-3, 1e-2, 1e-1)) -> list[dict[str, object]]:
    """What the likelihood targets, nothing fitted."""
    rows: list[dict[str, object]] = []
    for case in CASES + MISSING:
        for scale in scales:
            for corrected in (True, False):
                residual = case.model("residual", scale, corrected)
                values = [total_variation(case.model(), residual, case.data(seed)) for seed in seeds]
                rows.append(
                    {
                        "part": "closed form",
                        "case": case.label,
                        "residual_scale": scale,
                        "corrected": corrected,
                        "data_sets": len(values),
                        "tv_median": sorted(values)[len(values) // 2],
                        "tv_max": max(values),
                        "tv_min": min(values),
                    }
                )
    return rows


def fitted_rows(seeds: range, steps: int) -> list[dict[str, object]]:
    """What the ELBO finds, residual scale 1e-2, corrected."""
    rows: list[dict[str, object]] = []
    for case in CASES:
        results = [fitted(case, seed, steps) for seed in seeds]
        values = [result.total_variation for result in results]
        rows.append(
            {
                "part": "fitted",
                "case": case.label,
                "residual_scale": 1e-2,
                "corrected": True,
                "data_sets": len(values),
                "tv_median": sorted(values)[len(values) // 2],
                "tv_max": max(values),
                "tv_min": min(values),
                "kl_max": max(result.kl for result in results),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two data sets a case instead of eight")
    options = parser.parse_args()
    seeds = range(2 if options.quick else 8)
    rows = closed_form_rows(seeds) + fitted_rows(seeds, steps=1500)
    store("residual_tv", rows, grid=f"{POINTS} x {POINTS}", seeds=[*seeds], guide="spline, ELBO, 1500 steps")


if __name__ == "__main__":
    main()
