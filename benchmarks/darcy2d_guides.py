"""Rows 2 to 4 on darcy2d: amortised guides of a finite-element model, from the forward to the reverse KL, and a second stage.

    python benchmarks/darcy2d_guides.py [--seed 89001] [--quick]

A full-rank guide trained by the forward KL, the UQ-VAE's objective for four alpha and the reverse KL, same network (no
Gauss-Newton steps), steps, rate and batch for all. Then a spline flow by the forward KL on fresh pairs, and its base
relaxed at each data set and fitted by the reverse KL with the finite-element likelihood, diagonal (as in the paper) and
full; and a spline flow that refines by two Gauss-Newton steps through a network for the solver, as in ``break_even.py``, whose
solves and training count as its own. Against HMC of eight data sets by C2ST; rank test over 512 data sets, sd x 0.8 its negative
control. A flow for one data set alone (row 1) is ``darcy2d.py``. No setting was tuned here. CPU seconds are those of a training,
or of the second stage for all data sets.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace
from typing import Any

import torch
from _store import Rows, store
from break_even import Size, guide_of, surrogate_of
from relaxed_base import BASES, FEW, STEPS, Case, judged, ranked, relaxed

from physzoo.core.simulate import simulate
from physzoo.guides import AmortizedGuide, amortize
from physzoo.inference.fit import Simulator, fit
from physzoo.inference.modes import laplace
from physzoo.inference.objectives import ELBO, AlphaJS, ForwardKL, Objective
from physzoo.inference.references import hmc
from physzoo.models.darcy2d import Darcy2D

SETS, RANKED, BATCH, RATE = 8, 512, 128, 2e-3
TRAINING = {"full": 1500, "spline": 3000}  # steps
ALPHAS = (0.05, 0.2, 0.5, 0.9)

Row = dict[str, Any]


def case(seed: int, quick: bool) -> Case:
    """Return simulated data sets, the first of them with HMC through the adjoint."""
    model = Darcy2D()
    pairs = simulate(model, 16 if quick else RANKED, seed=seed)
    chains = []
    for index, y in enumerate(pairs["y"][:SETS]):
        at = laplace(model, {"y": y}, seed=seed + 1000 + index)  # not the seed of the truths
        draws = 20 if quick else 250
        chains.append(
            hmc(
                model,
                {"y": y},
                loc=at.loc,
                tril=at.tril,
                chains=20,
                draws=draws,
                seed=seed + 1000 + index,
                progress=False,
            )
        )
    references = torch.stack([torch.from_numpy(found.draws["z"]).flatten(0, 1) for found in chains])
    trust = {"r_hat": max(found.r_hat for found in chains), "ess": min(found.ess for found in chains)}
    return Case(model.float(), {"z": pairs["z"].float(), "y": pairs["y"].float()}, references, trust)


def trained(own: Case, family: str, objective: Objective, seed: int, quick: bool) -> tuple[AmortizedGuide, float]:
    """Return an amortised guide and its CPU seconds."""
    started, example = time.process_time(), {"y": own.pairs["y"][0]}
    guide = amortize(own.model, "mlp", family, example=example, simulations=4096, seed=seed)
    steps = TRAINING[family] // (50 if quick else 1)
    options: Row = {"steps": steps, "learning_rate": RATE, "warmup": 0.02, "max_skipped": 10, "seed": seed}
    fit(own.model, guide, Simulator(BATCH), objective, progress=False, **options)
    return guide, time.process_time() - started


def refined(own: Case, quick: bool) -> tuple[AmortizedGuide, float]:
    """Return a spline flow that refines through a network, trained on pairs of the exact model, and the CPU seconds."""
    started, size, exact, replaced = time.process_time(), Size(), Darcy2D(), Darcy2D()
    size = replace(size, steps=100, solves=256, pairs=(256, 256), guide_steps=(50, 50)) if quick else size
    replaced.problem, _, _ = surrogate_of(exact, size, energy=False)  # type: ignore[assignment]
    guide, _ = guide_of(own.model, replaced.float(), size.pairs[1], size.guide_steps[1])
    return guide, time.process_time() - started


def line(own: Case, facts: Row, guide: Any, seconds: float, seed: int) -> Row:
    """Return what is known of one guide."""
    found = judged(own.model, guide, own.pairs["y"][:SETS], own.references, seed + 1)
    return facts | found | ranked(own, guide, seed + 2) | {"cpu_seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=89001)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the steps: to see that it runs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    seed, quick = given.seed, given.quick
    name = "darcy2d_guides" + ("_quick" if quick else "")
    rows, own = Rows(name), case(seed + 100, quick)
    between = {f"UQ-VAE {alpha:g}": AlphaJS(alpha) for alpha in ALPHAS}
    objectives: dict[str, Objective] = {"forward KL": ForwardKL(), **between, "reverse KL": ELBO(1)}

    def amortised(family: str, label: str) -> Row:
        guide, seconds = trained(own, family, objectives[label], seed, quick)
        return line(own, {"family": family, "objective": label}, guide, seconds, seed)

    def second(base: str) -> Row:
        steps = STEPS // (20 if quick else 1)
        stage, spent = relaxed(own.model, first, own.pairs["y"], bool(BASES[base]), seed + 200, steps, FEW // 4)
        facts = {"family": "spline", "objective": f"forward KL, then {base}"}
        return line(own, facts, stage, spent, seed)

    for label in objectives:
        rows.add(("full", label, seed), lambda label=label: amortised("full", label))
    first, seconds = trained(own, "spline", objectives["forward KL"], seed, quick)
    facts = {"family": "spline", "objective": "forward KL"}
    rows.add(("spline", "forward KL", seed), lambda: line(own, facts, first, seconds, seed))
    for base in ("diagonal base", "full base"):
        rows.add(("spline", base, seed), lambda base=base: second(base))

    def through_a_network() -> Row:
        guide, spent = refined(own, quick)
        return line(own, {"family": "refined spline", "objective": "forward KL"}, guide, spent, seed)

    rows.add(("refined spline", "forward KL", seed), through_a_network)
    store(name, rows, seed=seed, batch=BATCH, steps=TRAINING, references=own.trust, ranked_data_sets=RANKED,
          cpu_seconds=time.process_time())  # fmt: skip
    rows.done()


if __name__ == "__main__":
    main()
