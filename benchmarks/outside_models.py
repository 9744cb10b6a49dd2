"""Models as strangers write them, each through the whole API, against exact posteriors.

    python benchmarks/outside_models.py --workers 2

The models and their exact draws are those of tests/models_from_outside. Every (model, call) pair ends as "right" (within the
stated distance of the exact posterior), "warned" (not right, and a warning says so), "refused" (by one sentence) or "wrong"; the
last must be none. Of every scalar and of sums of scalars the distribution function may be off by 0.05 + 2.2 s and the central
68 % interval's width by 12 % + 4 s, s = sqrt(1/n + 1/20,000) with n the effective number of draws.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from _store import Rows, store

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from models_from_outside.calls import CALLS, Trial, run
from models_from_outside.gallery import CASES

VERDICTS = ("right", "warned", "refused", "wrong")


def of_case(index: int) -> dict[str, Any]:
    """Put one model through all calls."""
    torch.set_num_threads(1)
    trial = Trial(CASES[index])
    outcomes = {call: run(trial, call) for call in CALLS}
    counts = Counter(outcome.verdict for outcome in outcomes.values())
    pairs = {call: [outcome.verdict, outcome.found] for call, outcome in outcomes.items()}
    return {"model": trial.case.name, **{verdict: counts[verdict] for verdict in VERDICTS}, "pairs": pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--workers", type=int, default=1, help="processes")
    options = parser.parse_args()
    rows = Rows("outside_models")
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        missing = [index for index, case in enumerate(CASES) if (case.name,) not in rows.made]
        futures = {CASES[index].name: pool.submit(of_case, index) for index in missing}
        for case in CASES:
            rows.add([case.name], lambda name=case.name: futures[name].result())
    total: dict[str, Any] = {"model": "all"} | {verdict: sum(row[verdict] for row in rows) for verdict in VERDICTS}
    everything = list(rows)
    table = [{key: value for key, value in row.items() if key != "pairs"} for row in everything]
    store("outside_models", [*table, total], pairs=len(CASES) * len(CALLS), calls=list(CALLS), everything=everything)
    rows.done()


if __name__ == "__main__":
    main()
