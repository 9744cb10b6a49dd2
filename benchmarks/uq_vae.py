"""B1, rows of the UQ-VAE: its divergence between the two KL directions, 1D elliptic problem, full-rank guide.

    python benchmarks/uq_vae.py [--quick]

Forward KL, JS_a + reverse KL for a = 0.05, 0.2, 0.5, 0.9, and reverse KL: the same network (no Gauss-Newton steps), steps,
rate and batch for all. Held against the pCN references of the first 8 data sets of poisson1d_forward.py, and calibrated on
512, as there; nothing was tuned on these data sets. sd x 0.8 is the negative control.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from _store import Rows, store
from poisson1d_forward import Plan, alone, references, row

from physzoo.inference.objectives import ELBO, AlphaJS, ForwardKL, Objective

SETS, ALPHAS = 8, (0.05, 0.2, 0.5, 0.9)
STEPS, RATE, BATCH = 16_000, 2e-3, 512
SHOWN = ("median_c2st", "worst_c2st", "median_sd_ratio", "smallest_sd_ratio_by_unknown", "largest_sd_ratio_by_unknown",
         "median_mean_error_sd", "smallest_holm_p", "calibrated", "coverage_95", "median_k_hat", "sd_x_0.8_rejected",
         "training_cpu_seconds")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a fiftieth of the steps, one alpha and data set, short references"
    )
    parser.add_argument("--seed", type=int, default=3)
    given = parser.parse_args()
    alone()
    name, less, sets = ("uq_vae_quick", 50, 1) if given.quick else ("uq_vae", 1, SETS)
    objectives: dict[str, Objective] = {
        f"UQ-VAE {alpha:g}": AlphaJS(alpha) for alpha in ALPHAS[: 1 if given.quick else None]
    }
    if not given.quick:
        objectives = {"forward KL": ForwardKL(), **objectives, "reverse KL": ELBO(1)}
    data, reference, trust = references(given.quick)

    def line(label: str, objective: Objective) -> dict[str, Any]:
        plan = Plan(label, "full", objective, STEPS // less, RATE, BATCH, seed=given.seed)
        found = row(plan, data[:sets].numpy(), reference[:sets].numpy())
        weight = {"forward_kl_weight": objective.forward_weight} if isinstance(objective, AlphaJS) else {}
        return {"objective": label, **{key: found[key] for key in SHOWN}, **weight}

    rows = Rows(name)
    for label, objective in objectives.items():
        rows.add((label, STEPS // less, given.seed), partial(line, label, objective))
    levels = "none for full rank: its shortfall is shown"
    store(name, rows, steps=STEPS // less, batch=BATCH, seed=given.seed, pass_levels=levels, references=trust)
    rows.done()


if __name__ == "__main__":
    main()
