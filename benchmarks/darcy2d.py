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


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run("darcy2d", folder, RunOptions(progress=False))
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
    store("darcy2d", [row], seconds=report["seconds"])


if __name__ == "__main__":
    main()
