"""The Lotka-Volterra task of a benchmark of simulation-based inference: one amortised guide, then one for each observation.

    python benchmarks/lotka_volterra_benchmark.py [--observations FOLDER] [--seed 21]

FOLDER holds observation_*.npz, each with "observation" (20 numbers, prey first) and "reference_posterior" (draws of the four
rates; other files are passed over, and named); by default that of the data folder that the environment variable PHYSZOO_SHARED
names. The guide of a single observation starts at mean and covariance of the amortised one and is fitted by the ELBO. C2ST on
logarithms of the rates, 4,000 draws a side. Negative control: the draws with 0.8 times their sd. The level of the refined guides,
.55, rejects them; that of the amortised guide, .75, is too far for it.
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
from _recipe import alone, amortised
from _store import store

from physzoo.core.global_state import seeded
from physzoo.guides import AmortizedGuide
from physzoo.inference.calibration import calibrate
from physzoo.inference.compare import c2st
from physzoo.inference.density.densities import draw
from physzoo.inference.importance import k_hat
from physzoo.models import get
from physzoo.models.lotka_volterra_benchmark import RATES, counts
from physzoo.models.recipe import Recipe

DRAWS = 4000
REFINED = Recipe(steps=300, learning_rate=3e-3, particles=64)
REFINED_LEVEL = 0.55
PUBLISHED = {"NPE": 0.981, "SNPE": 0.928, "SNLE": 0.695, "SNRE": 0.831}


def compared_with(path: Path) -> bool:
    """Whether a file has what a posterior is held against; say so where it has not."""
    missing = {"observation", "reference_posterior"} - set(np.load(path, allow_pickle=False).files)
    if missing:
        print(f"{path}: passed over, it has no {' and no '.join(sorted(missing))}")
    return not missing


def row(model: Any, guide: AmortizedGuide, path: Path, seed: int) -> dict[str, Any]:
    """Return the line of one observation."""
    stored = np.load(path, allow_pickle=False)
    data, reference = counts(stored["observation"]), np.log(stored["reference_posterior"].astype(float))
    reference = reference[np.random.default_rng(seed).permutation(len(reference))]
    one, started = draw(model, guide, data, DRAWS, seed=seed), time.process_time()
    with seeded(seed + 1):
        near = guide.whitening(data)
    refined = alone(model, REFINED, data, near, seed)
    seconds = time.process_time() - started
    two = draw(model, refined, data, DRAWS, seed=seed + 2)
    x, y = (np.stack([found.values[name].log().numpy() for name in RATES], -1) for found in (one, two))
    compared = {"": x, "_refined": y, "_sd_x_0.8": narrowed(x), "_refined_sd_x_0.8": narrowed(y)}
    score = {name: c2st(found, reference[:DRAWS]) for name, found in compared.items()}
    return {
        "observation": path.stem.split("_")[-1],
        "c2st": score[""],
        "c2st_refined": score["_refined"],
        "c2st_sd_x_0.8": score["_sd_x_0.8"],
        "c2st_refined_sd_x_0.8": score["_refined_sd_x_0.8"],
        "worst_mean_error_sd": float(np.abs((x.mean(0) - reference.mean(0)) / reference.std(0)).max()),
        "worst_mean_error_sd_refined": float(np.abs((y.mean(0) - reference.mean(0)) / reference.std(0)).max()),
        "smallest_sd_ratio": float((x.std(0) / reference.std(0)).min()),
        "largest_sd_ratio": float((x.std(0) / reference.std(0)).max()),
        "k_hat": float(k_hat(one.log_p.numpy(), one.log_q.numpy())),
        "k_hat_refined": float(k_hat(two.log_p.numpy(), two.log_q.numpy())),
        "refinement_cpu_seconds": seconds,
    }


def main() -> None:
    shared = Path(os.environ.get("PHYSZOO_SHARED", Path(__file__).parents[2] / "shared"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--observations", type=Path, default=shared / "data/sbibm/lotka_volterra")
    parser.add_argument("--seed", type=int, default=21)
    given = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(given.observations.glob("observation_*.npz"))
    paths = [path for path in paths if compared_with(path)]
    if not paths:
        raise SystemExit(
            f"observations: got '{given.observations}', expected a folder with observation_*.npz and references"
        )
    animal, started = get("lotka_volterra_benchmark"), time.process_time()
    model = animal.model()
    guide = amortised(model, animal.recipe, animal.data(), given.seed)
    seconds = time.process_time() - started
    rows = [row(model, guide, path, given.seed) for path in paths]
    found = calibrate(model, guide, datasets=512, seed=given.seed + 60, progress=False)
    control = calibrate(model, guide, datasets=512, seed=given.seed + 61, widen=0.8, progress=False)
    narrow = min(line["c2st_refined_sd_x_0.8"] for line in rows)
    store(
        "lotka_volterra_benchmark",
        rows,
        seed=given.seed,
        mean_c2st=float(np.mean([line["c2st"] for line in rows])),
        mean_c2st_refined=float(np.mean([line["c2st_refined"] for line in rows])),
        mean_c2st_published=PUBLISHED,
        published="Lueckmann et al., arXiv:2101.04653: mean of ten observations, 100,000 simulations, no likelihood",
        pass_levels=f"mean C2ST <= 0.75 with one amortised guide, <= {REFINED_LEVEL} after refinement",
        cpu_seconds=seconds,
        total_cpu_seconds=seconds + sum(line["refinement_cpu_seconds"] for line in rows),
        smallest_holm_p=min(found.adjusted.values()),
        coverage=found.coverage,
        median_k_hat=float(np.median(found.k_hat)),
        sd_x_0_8_rejected=bool(control.rejected),
        refined_sd_x_0_8_rejected=narrow > REFINED_LEVEL,
    )


if __name__ == "__main__":
    main()
