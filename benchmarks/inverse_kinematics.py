"""The recipe of inverse kinematics, three trainings, against independent exact draws of four posteriors.

    python benchmarks/inverse_kinematics.py [--quick]

C2ST with 1,000 draws a side, calibration over 512 data sets, sd x 0.8 as negative control. "Bent to one side" is the share of
draws for the symmetric data set of the animal whose last joint is turned further to the right than the first: exactly half.
"""

from __future__ import annotations

import argparse
import time
import warnings
from functools import partial
from typing import Any

import torch
from _recipe import amortised
from _store import Rows, store
from guide_ablation import DATASETS, Target, arm, judged

from physzoo.core.global_state import seeded
from physzoo.models import get

SEEDS = (83001, 83002, 83003)
SHARE_DRAWS = 20_000


def row(target: Target, seed: int, less: int, datasets: int) -> dict[str, Any]:
    animal = get("inverse_kinematics")
    model, started = animal.model().float(), time.process_time()
    data = {"y": animal.data()["y"].float()}
    guide = amortised(model, animal.recipe, data, seed, less)
    seconds = time.process_time() - started
    with seeded(seed + 1):
        z = guide.sample(data, SHARE_DRAWS)["z"]
    side = (z[:, 3] > z[:, 1]).double().mean().item()
    return {
        "seed": seed,
        **judged(target, model, guide, seed, datasets),
        "bent_to_one_side": side,
        "cpu_seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the steps, one training")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    name = "inverse_kinematics_quick" if given.quick else "inverse_kinematics"
    target, rows = arm(), Rows(name)
    for seed in SEEDS[: 1 if given.quick else None]:
        rows.add((seed,), partial(row, target, seed, *((50, 64) if given.quick else (1, DATASETS))))
    store(name, rows, pass_levels="median C2ST <= 0.58, Holm p > 0.01 at 512 data sets, one side in [0.4, 0.6]")
    rows.done()


if __name__ == "__main__":
    main()
