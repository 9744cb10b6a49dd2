"""B8: which divergence? The same guides and steps under each objective, on two posteriors that are known.

    python benchmarks/divergences.py [--quick]

Linear Gaussian with an independent Gaussian guide: the posterior is closed form, and so are the variances that the two KL
directions must give. Once for one data set, where only the objectives that need the density apply, and once amortised over
simulated data, where distances between draws apply too: they know the model by its draws alone. Folded: y = |z_1| + z_2 / 2 +
noise, two mirrored modes, a spline flow amortised over y, against a grid. In a case all have the same steps
and rate, data sets a step (256) and draws for each of them where an objective draws (8; 512 for the single data set, which
starts at its Laplace approximation). Settings were found with other seeds. The amortised case takes 8,000 steps: after 2,000
the networks' means are still .15 posterior sd off, and Renyi .5 widens the variance of an unknown to cover that error.

"Mode" is the guide's mass in one half of the posterior's 95 % highest-density region over .95: half for the posterior itself.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyro
import torch
from _store import Rows, store
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor

from physzoo.core.global_state import seeded
from physzoo.core.model_spec import Whitening
from physzoo.core.simulate import simulate
from physzoo.guides import AmortizedGuide, amortize
from physzoo.inference.fit import Simulator, fit
from physzoo.inference.fit.driver import FitOptions
from physzoo.inference.modes import laplace
from physzoo.inference.objectives import (
    ELBO,
    MMD,
    AlphaJS,
    EnergyDistance,
    ForwardKL,
    Objective,
    Renyi,
    Reweighted,
    SlicedWasserstein,
)
from physzoo.inference.references import grid
from physzoo.inference.references.quadrature import Grid
from physzoo.models.linear_gaussian import LinearGaussian, exact_posterior, thermometers

PARTICLES, ALONE, BATCH, SETS, REGION = 8, 512, 256, 64, 0.95
STEPS = {False: 2000, True: 8000}  # of the linear case: for one data set, amortised
OBSERVED = (1.0, 1.5, 2.0, 2.5)


def of_the_density(particles: int) -> dict[str, Objective]:
    """Return the objectives that need the density p(z, y) alone."""
    return {
        "reverse KL": ELBO(particles),
        "Renyi .9": Renyi(0.9, particles),
        "Renyi .5": Renyi(0.5, particles),
        "Renyi 0": Renyi(0.0, particles),
        "reweighted wake": Reweighted(particles),
    }


PAIRS: dict[str, Objective] = {
    "UQ-VAE .5": AlphaJS(0.5, PARTICLES),
    "forward KL": ForwardKL(),
    "MMD": MMD(),
    "energy distance": EnergyDistance(),
    "sliced Wasserstein": SlicedWasserstein(),
}
ALL = of_the_density(PARTICLES) | PAIRS
COVERING = ("Renyi .5", "Renyi 0", "reweighted wake", "UQ-VAE .5", "forward KL")


class Folded(PyroModule):
    """y = |z_1| + z_2 / 2 + 0.2 e with z ~ N(0, I): the posterior is the same for z_1 and -z_1."""

    origin: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("origin", torch.zeros(2, dtype=torch.float64))

    def forward(self, y: Tensor | None = None) -> None:
        """Sample z, observe y of shape (1,)."""
        z = pyro.sample("z", dist.Normal(self.origin, 1.0).to_event(1))
        mean = (z[..., 0].abs() + 0.5 * z[..., 1]).unsqueeze(-1)
        pyro.sample("y", dist.Normal(mean, 0.2).to_event(1), obs=y)


def marginals(model: Any, data: dict[str, Tensor]) -> Whitening:
    """Return where a guide of one data set starts: at the Laplace approximation, each unknown by itself."""
    found = laplace(model, data)
    return Whitening(found.loc, (found.tril @ found.tril.T).diagonal().sqrt().diag())


def trained(
    model: Any,
    data: dict[str, Tensor],
    family: str,
    objective: Objective,
    steps: int,
    rate: float,
    seed: int,
    many: bool,
) -> tuple[AmortizedGuide, float]:
    """Return the guide and the CPU seconds of its steps."""
    encoder, start = ("mlp", None) if many else (None, marginals(model, data))
    options = {"transforms": 3} if family == "spline" else {}
    guide = amortize(model, encoder, family, example=data, whitening=start, simulations=8192, seed=seed, **options)
    source = Simulator(BATCH) if many else data
    started = time.process_time()
    settings = FitOptions(steps, rate, warmup=0.02, max_skipped=20, seed=seed, progress=False)
    fit(model, guide, source, objective, settings)
    return guide, time.process_time() - started


def linear_row(name: str, objective: Objective, many: bool, steps: int, seed: int) -> dict[str, Any]:
    """Return the variances of the fitted guide over those of the posterior."""
    exact = LinearGaussian()
    y = simulate(exact, SETS, seed=seed + 1)["y"] if many else thermometers()["y"].unsqueeze(0)
    model = exact.float() if many else exact
    example = {"y": y[0].float() if many else y[0]}
    guide, seconds = trained(model, example, "diagonal", objective, steps, 2e-3 if many else 0.01, seed, many)
    answers = [exact_posterior(LinearGaussian(), one) for one in y]
    with torch.no_grad(), seeded(seed + 2):
        draws = guide.sample({"y": y.to(guide.loc.dtype) if many else y[0]}, 4000 if many else 100_000)["z"].double()
    draws = draws if many else draws.unsqueeze(1)
    truth = answers[0].covariance.diagonal()
    ratio = (draws.var(0) / truth).mean(0)
    error = (draws.mean(0) - torch.stack([answer.mean for answer in answers])).abs() / truth.sqrt()
    return {
        "case": "linear Gaussian, " + ("amortised" if many else "one data set"),
        "objective": name,
        "smallest_variance_ratio": ratio.min().item(),
        "median_variance_ratio": ratio.median().item(),
        "largest_variance_ratio": ratio.max().item(),
        "variance_ratios": ratio.tolist(),
        "median_mean_error_sd": error.median().item(),
        "cpu_seconds": seconds,
    }


def region_masses(reference: Grid, guide: AmortizedGuide, y: Tensor) -> tuple[float, float, float]:
    """Return the total variation to the grid posterior, and the guide's mass in both halves of the region, over 0.95."""
    mesh = torch.cartesian_prod(*(torch.as_tensor(axis) for axis in reference.axes)).to(guide.loc.dtype)
    area = float(np.prod([axis[1] - axis[0] for axis in reference.axes]))
    with torch.no_grad():
        q = guide.log_prob({"z": mesh}, {"y": y.to(mesh).expand(len(mesh), 1)}).double().exp() * area
    p = torch.as_tensor(reference.probability).flatten()
    order = p.argsort(descending=True)
    inside = torch.zeros(len(p), dtype=torch.bool)
    inside[order[p[order].cumsum(0) <= REGION]] = True
    variation = 0.5 * float((p - q).abs().sum()) + 0.5 * max(0.0, 1 - float(q.sum()))
    left, right = (float(q[inside & side].sum()) / REGION for side in (mesh[:, 0] < 0, mesh[:, 0] > 0))
    return variation, left, right


def folded_row(name: str, objective: Objective, references: list[Grid], steps: int, seed: int) -> dict[str, Any]:
    """Return how the guide holds the two modes of the folded posterior."""
    model = Folded().float()
    guide, seconds = trained(model, {"y": torch.ones(1)}, "spline", objective, steps, 2e-3, seed, True)
    found = [
        region_masses(reference, guide, torch.tensor([y])) for reference, y in zip(references, OBSERVED, strict=True)
    ]
    smaller = [min(left, right) for _, left, right in found]
    return {
        "case": "folded, amortised",
        "objective": name,
        "training_seed": seed,
        "smaller_mode_median": float(np.median(smaller)),
        "smaller_mode_worst": min(smaller),
        "total_variation_median": float(np.median([variation for variation, _, _ in found])),
        "total_variation_worst": max(variation for variation, _, _ in found),
        "cpu_seconds": seconds,
    }


def verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return which pass levels are met."""
    facts: dict[str, Any] = {}
    for case in ("one data set", "amortised"):
        ratio = {row["objective"]: row["variance_ratios"] for row in rows if row["case"] == f"linear Gaussian, {case}"}
        order = ["reverse KL", "Renyi .5", "forward KL"]  # the last needs simulated data: not of one data set
        known = [ratio[name] for name in order if name in ratio]
        facts[f"ordered_{case.replace(' ', '_')}"] = all(bool(np.less_equal(a, b).all()) for a, b in pairwise(known))
    folded = [row for row in rows if row["case"].startswith("folded")]
    worst = {name: min(row["smaller_mode_worst"] for row in folded if row["objective"] == name) for name in COVERING}
    return facts | {
        "covering_worst_mode": worst,
        "both_modes_held": {name: mode >= 0.4 for name, mode in worst.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the steps")
    parser.add_argument("--seed", type=int, default=81001)
    given = parser.parse_args()
    torch.set_num_threads(1)
    less = 50 if given.quick else 1
    name = "divergences_quick" if given.quick else "divergences"
    rows = Rows(name)
    for many, objectives in ((False, of_the_density(ALONE)), (True, ALL)):
        for label, objective in objectives.items():
            make = partial(linear_row, label, objective, many, STEPS[many] // less, given.seed)
            rows.add(("linear", many, label, given.seed, STEPS[many]), make)
    references = [grid(Folded(), {"y": torch.tensor([y], dtype=torch.float64)}, points=161) for y in OBSERVED]
    for label, objective in ALL.items():
        make = partial(folded_row, label, objective, references, 1500 // less, given.seed)
        rows.add(("folded", label, given.seed), make)
    answer = exact_posterior(LinearGaussian(), thermometers()["y"])
    optimum = answer.reverse_variances / answer.forward_variances
    store(
        name,
        rows,
        seed=given.seed,
        pass_levels="variances ordered reverse KL <= Renyi .5 <= forward KL; covering objectives hold both modes >= 0.4",
        reverse_optimum_variance_ratios=optimum,
        forward_optimum_variance_ratios=[1.0] * len(optimum),
        largest_mass_at_the_edge_of_the_grid=max(reference.edge for reference in references),
        **verdict(rows),
    )
    rows.done()


if __name__ == "__main__":
    main()
