"""channel_darcy: is a flow fitted to one data set calibrated there, by the ELBO alone and with wake-sleep after it?

    python benchmarks/channel_refits.py

The flow of the recipe is fitted to the animal's data, its draws are truths of 128 second data sets, and their ranks among
the draws of refits are counted (``physzoo.posterior_sbc``), as `physzoo check` does. Negative control: sd x 0.8.

Source: Saeilynoja, Schmitt, Buerkner, Vehtari, arXiv:2502.03279.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from _recipe import alone
from _store import Rows, store

from physzoo.inference.laplace import laplace_mixture
from physzoo.inference.posterior_sbc import posterior_sbc
from physzoo.models.registry import get
from physzoo.task import Budget

STAGES = {"ELBO": 0, "ELBO, then wake-sleep": Budget.refit_wake}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=99001)
    parser.add_argument("--quick", action="store_true", help="few steps and data sets: to see that it runs")
    given = parser.parse_args()
    seed, quick = given.seed, given.quick
    torch.set_num_threads(1)
    animal, budget = get("channel_darcy"), Budget.of(quick)
    model: Any = animal.model()
    data = animal.data()
    guide = alone(model, animal.recipe, data, laplace_mixture(model, data, seed=seed), seed, 20 if quick else 1)
    name = "channel_refits_quick" if quick else "channel_refits"
    rows = Rows(name)
    for stage, wake in STAGES.items():
        for widen in (1.0, 0.8):

            def made(stage: str = stage, wake: int = wake, widen: float = widen) -> dict[str, Any]:
                started = time.process_time()
                options: dict[str, Any] = {"steps": 20} if quick else {}
                found = posterior_sbc(
                    model, guide, data, datasets=budget.refits, family=animal.recipe.family, wake=min(wake, budget.refit_wake),
                    widen=widen, seed=seed + 1, progress=False, **options,
                )  # fmt: skip
                return {
                    "refits": stage,
                    "sd_times": widen,
                    "rejected": bool(found.rejected),
                    "smallest_holm_p": min(found.adjusted.values()),
                    **{f"covered_{100 * float(level):.0f}": share for level, share in found.coverage.items()},
                    "median_k_hat": float(np.median(found.k_hat)),
                    "cpu_seconds": time.process_time() - started,
                }

            rows.add([seed, stage, widen], made)
    store(name, rows, seed=seed, datasets=budget.refits, pass_levels="Holm p > 0.01 with wake-sleep, sd x 0.8 rejected")
    rows.done()


if __name__ == "__main__":
    main()
