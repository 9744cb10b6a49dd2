"""darcy2d by its recipe: the whole of `physzoo run darcy2d`, its numbers kept as a table.

python benchmarks/darcy2d.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import torch
from _store import store

from physzoo.run import run
from physzoo.task import RunOptions


def by_recipe(animal: str, text: str | None) -> None:
    """Run an animal and store its table; ``text`` is what ``--help`` says."""
    argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run(animal, folder, RunOptions(progress=False))
        report = json.loads(Path(folder, "report.json").read_text(encoding="utf-8"))
    parameters = report["parameters"].values()
    row = {
        "c2st": report["c2st"],
        "worst_mean_error_sd": max(abs(row["mean_error_sd"]) for row in parameters),
        "smallest_sd_ratio": min(row["sd_ratio"] for row in parameters),
        "largest_sd_ratio": max(row["sd_ratio"] for row in parameters),
        "k_hat": report["k_hat"],
        "reference_r_hat": report["reference"]["r_hat"],
        "reference_ess": report["reference"]["ess"],
        "calibration": report["calibration"]["verdict"],
        "seconds": report["seconds"]["total"],
        "verdict": report["verdict"],
    }
    store(animal, [row], seconds=report["seconds"])


def main() -> None:
    by_recipe("darcy2d", __doc__)


if __name__ == "__main__":
    main()
