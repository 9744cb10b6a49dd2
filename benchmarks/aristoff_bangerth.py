"""The 64-block membrane of Aristoff and Bangerth: an own long reference, and a flow held against it.

    python benchmarks/aristoff_bangerth.py [--reference] [--seed 31]

The reference is HMC in log a with the adjoint gradient, 24 chains that start around the Laplace approximation; it is stored
beside the table (summary of all draws with Monte-Carlo standard errors, and thinned draws) and made again with --reference.
The guide is a spline flow with heavy tails, warmed up in stages: Laplace approximation, full-rank Gaussian by the ELBO, flow
by the ELBO, and reweighted wake-sleep, which covers the mass that the ELBO leaves out. Every forward solve is counted, those
of the Laplace approximation included; the benchmark's authors spent 2e11 on Metropolis samples. Pass levels: reference R-hat
below 1.01 and ESS above 1,000 for every log a; of the guide's 64 means at least 60 within 0.15 posterior sd and of its sds at
least 48 within 15 % of the reference; symmetric under the exchange of x and y to 0.1 sd. sd x 0.8 is the negative control.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _store import RESULTS, store
from torch import Tensor

from physzoo.guides import AmortizedGuide, amortize
from physzoo.guides.unconstrained import Whitening
from physzoo.inference.densities import draw
from physzoo.inference.fit import fit
from physzoo.inference.importance import k_hat
from physzoo.inference.laplace import laplace
from physzoo.inference.objectives import ELBO, Objective, Reweighted
from physzoo.inference.reference import Reference
from physzoo.inference.reference_hmc import hmc
from physzoo.models.aristoff_bangerth import BLOCKS, AristoffBangerth, deflections

REFERENCE = RESULTS / "aristoff_bangerth_reference.npz"
CHAINS, KEPT, WARMUP, STORED = 24, 8000, 500, 40
REFERENCE_SEED = 4096
DRAWS = 10_000
AUTHORS = 2e11
MEAN_LEVEL, SD_LEVEL, SYMMETRY_LEVEL = 0.15, 0.15, 0.1


@dataclass(frozen=True)
class Stage:
    """A fit of the flow: objective, steps, step size."""

    objective: Objective
    steps: int
    rate: float


FULL = Stage(ELBO(32), 400, 5e-3)
STAGES = (Stage(ELBO(32), 1000, 2e-3), Stage(Reweighted(128), 400, 1e-3), Stage(Reweighted(256), 1500, 1e-3))


class Counted(AristoffBangerth):
    """The membrane, which counts the samples that it solves for."""

    def __init__(self) -> None:
        super().__init__()
        self.solves, solve = 0, self.problem.solve

        def counting(z: Any, residual: Tensor | None = None) -> Tensor:
            u = solve(z, residual)
            self.solves += u.shape[:-1].numel()
            return u

        self.problem.solve = counting  # type: ignore[method-assign]


def reference() -> Reference:
    """Draw the reference and store it."""
    model, data, started = Counted(), deflections(), time.process_time()
    start = laplace(model, data, seed=REFERENCE_SEED)
    found = hmc(
        model, data, loc=start.loc, tril=start.tril, chains=CHAINS, draws=KEPT, warmup=WARMUP, seed=REFERENCE_SEED, progress=False
    )  # fmt: skip
    facts = {"cpu_seconds": time.process_time() - started, "solves": model.solves}
    stored = found.thinned(STORED)
    Reference(stored.method, stored.draws, stored.summary, {}, {**stored.settings, **facts}).save(REFERENCE)
    return Reference.load(REFERENCE)


def fitted(model: Counted, data: dict[str, Tensor], seed: int) -> AmortizedGuide:
    """Return the flow after all stages."""
    options: dict[str, Any] = {"seed": seed, "progress": False, "max_skipped": 50}
    gaussian = amortize(model, None, "full", example=data, whitening=laplace(model, data, seed=seed), seed=seed)
    fit(model, gaussian, data, FULL.objective, steps=FULL.steps, learning_rate=FULL.rate, **options)
    found = gaussian.whitening(data, 4000)
    near = Whitening(found.loc, found.tril)
    guide = amortize(model, None, "spline", example=data, whitening=near, seed=seed, tail=10.0, transforms=4)
    for stage in STAGES:
        fit(model, guide, data, stage.objective, steps=stage.steps, learning_rate=stage.rate, **options)
    return guide


def asymmetry(mean: np.ndarray, sd: np.ndarray) -> float:
    """Largest |E log a_ij - E log a_ji| in posterior sds."""
    mean, sd = mean.reshape(BLOCKS, BLOCKS), sd.reshape(BLOCKS, BLOCKS)
    return float((np.abs(mean - mean.T) / np.sqrt(sd * sd.T)).max())


def compared(name: str, mean: np.ndarray, sd: np.ndarray, exact: Reference) -> dict[str, Any]:
    """The row of means and sds of log a against the reference."""
    error = np.abs(mean - exact.summary["mean"]["log_a"]) / exact.summary["sd"]["log_a"]
    ratio = sd / exact.summary["sd"]["log_a"]
    return {
        "row": name,
        "means_within_0.15_sd": int((error < MEAN_LEVEL).sum()),
        "worst_mean_error_sd": float(error.max()),
        "median_mean_error_sd": float(np.median(error)),
        "sds_within_15_percent": int((np.abs(ratio - 1) < SD_LEVEL).sum()),
        "sd_ratio_min": float(ratio.min()),
        "sd_ratio_median": float(np.median(ratio)),
        "sd_ratio_max": float(ratio.max()),
        "asymmetry_sd": asymmetry(mean, sd),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", action="store_true", help="draw the reference again")
    parser.add_argument("--seed", type=int, default=31)
    given = parser.parse_args()
    torch.set_num_threads(1)
    exact = reference() if given.reference or not REFERENCE.exists() else Reference.load(REFERENCE)
    model, data, started = Counted(), deflections(), time.process_time()
    guide = fitted(model, data, given.seed)
    spent, seconds = model.solves, time.process_time() - started
    found = draw(model, guide, data, DRAWS, seed=given.seed)
    log_a = found.values["log_a"].numpy()
    k = float(k_hat(found.log_p.numpy(), found.log_q.numpy()))
    flow = {**compared("flow", log_a.mean(0), log_a.std(0), exact), "k_hat": k, "solves": spent, "cpu_seconds": seconds}
    control = compared("flow, sd x 0.8", log_a.mean(0), 0.8 * log_a.std(0), exact)
    own = compared("reference", exact.summary["mean"]["log_a"], exact.summary["sd"]["log_a"], exact)
    own |= {"solves": exact.settings["solves"], "cpu_seconds": exact.settings["cpu_seconds"]}
    error = exact.summary["mcse_mean"]["log_a"] / exact.summary["sd"]["log_a"]
    trusted = exact.r_hat < 1.01 and exact.ess > 1000
    right = (
        flow["means_within_0.15_sd"] >= 60
        and flow["sds_within_15_percent"] >= 48
        and flow["asymmetry_sd"] < SYMMETRY_LEVEL
    )
    store("aristoff_bangerth", [flow, control, own], seed=given.seed, draws=DRAWS, reference_seed=REFERENCE_SEED,
          reference_r_hat=exact.r_hat, reference_ess=exact.ess, reference_draws=CHAINS * KEPT,
          reference_worst_standard_error_sd=float(error.max()), solves_of_the_authors=AUTHORS,
          solves_saved_factor=AUTHORS / spent, trusted=trusted, passed=trusted and right,
          control_rejected=control["sds_within_15_percent"] < 48)  # fmt: skip


if __name__ == "__main__":
    main()
