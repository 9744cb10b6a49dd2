"""B5: how expressive must a guide be? Seven families, equal CPU time of training, two posteriors that are not Gaussian.

    python benchmarks/guide_ablation.py [--quick] [--seconds 15 100]

The bar with one sensor and 10 % noise (8 unknowns, one number seen), and inverse kinematics (a thin sheet with two branches; it
takes longer to learn), both against exact independent draws. Amortised over fresh simulations, batch 512, the same encoder and
rate for all. As many steps as the stored table has, or, with --seconds, as fit into the time, which is measured. Every family
by the forward KL; the two ends, and those that draw in one pass, by the reverse KL as well. C2ST is over four data sets with
1,000 draws a side, calibration over 512 data sets; sd x 0.8 is the negative control.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from _exact import rejected
from _judge import against
from _store import Rows, store, table
from torch import Tensor

from physzoo.core.global_state import seeded
from physzoo.core.simulate import simulate
from physzoo.guides import AmortizedGuide, amortize
from physzoo.inference.calibration import calibrate
from physzoo.inference.fit import Simulator, fit
from physzoo.inference.fit.driver import FitOptions
from physzoo.inference.objectives import ELBO, ForwardKL, Objective
from physzoo.models.inverse_kinematics import InverseKinematics, rejection
from physzoo.models.poisson1d import Poisson1D

SETS, DRAWS, DATASETS, SEED = 4, 1000, 512, 82001
FAMILIES = ("diagonal", "low_rank", "full", "planar", "coupling", "iaf", "spline")  # from plain to expressive
BOTH_DIRECTIONS = ("diagonal", "full", "iaf", "spline")
LEVELS = ("diagonal", "full", "spline")  # those of which the pass levels speak
OPTIONS: dict[str, dict[str, Any]] = {
    "spline": {"transforms": 4},
    "coupling": {"transforms": 6},
    "iaf": {"transforms": 3},
}


@dataclass(frozen=True)
class Target:
    """A model with data sets and exact, independent draws of their posteriors, (SETS, DRAWS, d)."""

    name: str
    model: Callable[[], Any]
    data: Tensor
    reference: np.ndarray


def one_sensor() -> Target:
    """Return the bar with one sensor, with exact draws."""

    def build() -> Poisson1D:
        return Poisson1D(sensors=1, noise=0.10)

    y = simulate(build(), SETS, seed=SEED)["y"]
    draws = np.stack([rejected(build(), {"y": one}, DRAWS, SEED + 100 + i).numpy() for i, one in enumerate(y)])
    return Target("poisson1d, one sensor", build, y, draws)


def arm() -> Target:
    """Return inverse kinematics, with independent exact draws."""
    y = simulate(InverseKinematics(), SETS, seed=SEED)["y"]
    draws = np.stack([rejection(hand, DRAWS, SEED + 100 + i).numpy() for i, hand in enumerate(y)])
    return Target("inverse kinematics", InverseKinematics, y, draws)


def trained(
    target: Target, family: str, objective: Objective, steps: int | None, seconds: float, seed: int
) -> tuple[Any, ...]:
    """Return model, guide, steps and CPU seconds of a training of so many steps, or as many as ``seconds`` allow."""
    model = target.model().float()

    def fitted(steps: int) -> tuple[AmortizedGuide, float]:
        example = {"y": target.data[0].float()}
        guide = amortize(model, "mlp", family, example=example, simulations=8192, seed=seed, **OPTIONS.get(family, {}))
        started = time.process_time()
        options = FitOptions(steps, 2e-3, warmup=0.02, max_skipped=20, seed=seed, progress=False)
        fit(model, guide, Simulator(512), objective, options)
        return guide, time.process_time() - started

    fitted(3)
    if steps is None:
        steps = max(10, round(seconds * 40 / fitted(40)[1]))
    guide, spent = fitted(steps)
    return model, guide, steps, spent


def judged(target: Target, model: Any, guide: AmortizedGuide, seed: int, datasets: int = DATASETS) -> dict[str, Any]:
    """Return how far the guide is from the references, and whether it is calibrated."""
    with seeded(seed):
        draws = guide.sample({"y": target.data.to(guide.loc.dtype)}, DRAWS)["z"].double().transpose(0, 1).numpy()
    checked, narrowed = (
        calibrate(model, guide, datasets=datasets, draws=200, seed=seed + 7, widen=widen, progress=False)
        for widen in (1.0, 0.8)
    )
    return {
        **against(draws, target.reference, DRAWS),
        "smallest_holm_p": min(checked.adjusted.values()),
        "calibrated": checked.passed,
        "coverage_95": checked.coverage.get(0.95),
        "median_k_hat": float(np.median(checked.k_hat)),
        "sd_x_0.8_rejected": not narrowed.passed,
    }


def row(
    target: Target, family: str, objective: Objective, seconds: float | None, seed: int, datasets: int = DATASETS
) -> dict[str, Any]:
    direction = "reverse KL" if isinstance(objective, ELBO) else "forward KL"
    facts = {"target": target.name, "family": family, "objective": direction}
    steps = stored_steps(facts) if seconds is None else None
    model, guide, steps, spent = trained(target, family, objective, steps, seconds or 0.0, seed)
    return {**facts, "steps": steps, **judged(target, model, guide, seed, datasets), "training_cpu_seconds": spent}


def stored_steps(facts: dict[str, str]) -> int:
    """Return the steps of the row of the stored table that has these facts."""
    return next(line["steps"] for line in table("guide_ablation")["rows"] if facts.items() <= line.items())


def verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return which pass levels are met, by target, forward KL."""
    facts: dict[str, Any] = {"diagonal_rejected": {}, "spline_accepted": {}, "k_hat_falls": {}}
    for name in dict.fromkeys(row["target"] for row in rows):
        forward = {r["family"]: r for r in rows if r["target"] == name and r["objective"] == "forward KL"}
        k_hat = [forward[family]["median_k_hat"] for family in LEVELS]
        facts["diagonal_rejected"][name] = not forward["diagonal"]["calibrated"]
        facts["spline_accepted"][name] = forward["spline"]["calibrated"]
        facts["k_hat_falls"][name] = k_hat == sorted(k_hat, reverse=True)
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one second of training, three families, 64 data sets")
    parser.add_argument(
        "--seconds", type=float, nargs=2, default=[None, None], help="CPU seconds of training for a row of each target"
    )
    parser.add_argument("--seed", type=int, default=82101)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    name, times, datasets = "guide_ablation", given.seconds, DATASETS
    plans: Any = [(ForwardKL(), FAMILIES), (ELBO(1), BOTH_DIRECTIONS)]
    if given.quick:
        name, times, datasets, plans = "guide_ablation_quick", [1.0, 1.0], 64, [(ForwardKL(), LEVELS)]
    rows, targets = Rows(name), [one_sensor(), arm()]
    for target, seconds in zip(targets, times, strict=True):
        for objective, families in plans:
            for family in families:
                key = (target.name, family, type(objective).__name__, seconds, given.seed)
                rows.add(key, partial(row, target, family, objective, seconds, given.seed, datasets))
    store(
        name,
        rows,
        seeds={"references": SEED, "training": given.seed},
        pass_levels="forward KL: diagonal rejected, spline accepted; k-hat falls from diagonal over full to spline",
        references="exact and independent draws",
        **verdict(rows),
    )
    rows.done()


if __name__ == "__main__":
    main()
