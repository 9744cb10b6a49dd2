"""Train the animals with learnt parts and store their weights in models/data/weights, with what they reach on test data.

    python benchmarks/weights.py [NAME ...] [--seed 0]

The training is that of ``physzoo fit NAME`` and resumes where it was interrupted (runs/weights/NAME).
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from physzoo.folder import SETTINGS
from physzoo.models import get, names
from physzoo.run import evaluate_on_test, fit_only
from physzoo.task import RunOptions
from physzoo.weights import save

RUNS = Path(__file__).parents[1] / "runs" / "weights"
PACKAGES = {"torch": "torch", "pyro": "pyro-ppl", "physzoo": "physzoo"}


def main() -> None:
    learnt = [name for name in names() if get(name).training is not None]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=learnt, help="animals; all that have learnt parts by default")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    wrong = sorted(set(given.names) - set(learnt))
    if wrong:
        sys.exit(f"names: got {', '.join(wrong)}, expected some of {', '.join(learnt)}")
    torch.set_num_threads(1)
    for name in given.names:
        folder = RUNS / name
        options = RunOptions(seed=given.seed, resume=(folder / SETTINGS).exists(), progress=False)
        task = fit_only(name, folder, options).task
        found = evaluate_on_test(task)
        facts = {
            "command": f"python benchmarks/weights.py {name} --seed {given.seed}",
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "seed": given.seed,
            "steps": task.recipe.steps,
            "versions": {key: version(package) for key, package in PACKAGES.items()},
            "metrics": found.flat(),
        }
        print(save(task, facts), flush=True)


if __name__ == "__main__":
    main()
