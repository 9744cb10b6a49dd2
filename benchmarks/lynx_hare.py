"""Lynx and hare against the published draws: spline flow from a Laplace start, three seeds.

    python benchmarks/lynx_hare.py [--seeds 11 12 13]

The reference are the 10,000 draws of posteriordb (hudson_lynx_hare-lotka_volterra), read from the folder that the
environment variable PHYSZOO_SHARED names (default ../shared). sd x 0.8 is the negative control of the classifier.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _judge import narrowed
from _recipe import alone
from _store import store
from torch import Tensor

from physzoo.inference.compare import c2st, compare
from physzoo.inference.density.densities import draw
from physzoo.inference.importance import k_hat
from physzoo.inference.modes import laplace
from physzoo.models import get

SITES = ("alpha", "beta", "gamma", "delta", "initial_state", "sigma")


def published() -> np.ndarray:
    shared = Path(os.environ.get("PHYSZOO_SHARED", Path(__file__).parents[2] / "shared"))
    path = shared / "data/posteriordb/hudson_lynx_hare-lotka_volterra.npz"
    if not path.is_file():
        raise SystemExit(f"PHYSZOO_SHARED: got '{shared}', expected a folder with data/posteriordb/{path.name}")
    draws = np.load(path, allow_pickle=False)["draws"]
    return draws.transpose(0, 2, 1).reshape(-1, 8)


def columns(values: dict[str, Tensor]) -> np.ndarray:
    return torch.cat([values[name].reshape(len(values[name]), -1) for name in SITES], -1).numpy()


def row(seed: int, reference: np.ndarray) -> dict[str, Any]:
    animal = get("lynx_hare")
    model, data = animal.model(), animal.data()
    wall, cpu = time.perf_counter(), time.process_time()
    guide = alone(model, animal.recipe, data, laplace(model, data, seed=seed), seed)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    draws = draw(model, guide, data, 10_000, seed=seed + 1)
    x = columns(draws.values)
    result = compare({"x": x}, {"x": reference}, limit=4000)
    return {
        "seed": seed,
        "worst_mean_error_sd": float(np.abs((x.mean(0) - reference.mean(0)) / reference.std(0)).max()),
        "smallest_sd_ratio": float((x.std(0) / reference.std(0)).min()),
        "largest_sd_ratio": float((x.std(0) / reference.std(0)).max()),
        "c2st": result.c2st,
        "c2st_sd_x_0.8": c2st(narrowed(x)[:4000], reference[:: len(reference) // 4000][:4000]),
        "k_hat": float(k_hat(draws.log_p.numpy(), draws.log_q.numpy())),
        "cpu_seconds": cpu,
        "wall_seconds": wall,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    reference = published()
    rows = [row(seed, reference) for seed in seeds]
    levels = "means within 0.1 sd, sd ratios in [0.9, 1.1], C2ST < 0.58, k-hat < 0.7, fit under 90 CPU seconds"
    store("lynx_hare", rows, pass_levels=levels, reference="posteriordb, hudson_lynx_hare-lotka_volterra, 10,000 draws")


if __name__ == "__main__":
    main()
