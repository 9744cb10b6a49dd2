"""How long a posterior of 1,000 draws for new data takes: amortised guides of ``poisson1d``, wall time, one thread.

    python benchmarks/poisson1d_speed.py [--repeats 30]

The time does not depend on the weights, so the guides are not trained. Median over 16 data sets of the median over repeats;
run it while nothing else runs. Pass levels: 10 ms for full rank, 50 ms for the flow.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from _store import store

from physzoo.core.simulate import simulate
from physzoo.guides import amortize
from physzoo.models import get
from physzoo.models.poisson1d import Poisson1D

SETS, SEED = 16, 71001
LEVELS = {"full rank": 10.0, "refined spline flow": 50.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    model, recipe = Poisson1D().float(), get("poisson1d").recipe
    y = simulate(model, SETS, seed=SEED)["y"]
    plans = {"full rank": ("full", {}), "refined spline flow": (recipe.family, dict(recipe.options))}
    rows = []
    for name, (family, options) in plans.items():
        guide = amortize(model, "mlp", family, example={"y": y[0]}, simulations=16384, **options)
        medians = []
        for data in y:
            times = []
            for _ in range(repeats):
                started = time.perf_counter()
                guide.sample({"y": data}, 1000)
                times.append(1e3 * (time.perf_counter() - started))
            medians.append(float(np.median(times)))
        typical = float(np.median(medians))
        rows.append(
            {
                "guide": name,
                "ms_for_1000_draws": typical,
                "slowest_data_set_ms": max(medians),
                "level_ms": LEVELS[name],
                "passed": typical < LEVELS[name],
            }
        )
    store("poisson1d_speed", rows, data_sets=SETS, repeats=repeats, threads=1)


if __name__ == "__main__":
    main()
