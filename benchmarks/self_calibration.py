"""Is each trained model's guide the posterior of that model? SBC of the stored weights on data that the model itself makes.

    python benchmarks/self_calibration.py [NAME ...] [--datasets 512]

Lines of animals that are not named stay as they are stored.

What is missing from 95 % on test data, if this passes, is the model's error and not the guide's. p-values are Holm's over the
group: the unknowns of the physics; the codes of the learnt parts; and the joint quantities log-likelihood, log joint, log q
and TARP, which see what single ranks do not. Negative control: draws stretched by 0.8 about their mean.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
import torch
from _store import RESULTS, store

from physzoo.inference.calibration import calibrate
from physzoo.inference.calibration.result import Calibration
from physzoo.inference.calibration.sbc import holm
from physzoo.weights import available, load

JOINT = ("log_likelihood", "log_joint", "log_q", "tarp")
SEED = 71301
LEVEL = 0.01


def row(name: str, datasets: int) -> dict[str, Any]:
    """Return the line of one animal."""
    trained = load(name)
    inside = tuple(getattr(trained.model, "physics_sites", ()))
    started = time.process_time()
    found = calibrate(trained.model, trained.guide, datasets=datasets, seed=SEED, progress=False)
    control = calibrate(trained.model, trained.guide, datasets=datasets, seed=SEED + 9, widen=0.8, progress=False)
    metrics = trained.facts.get("metrics", {})
    return {
        "animal": name,
        "physics": _smallest(found, lambda key: key.split("[")[0] in inside),
        "codes": _smallest(found, lambda key: key not in JOINT and key.split("[")[0] not in inside),
        "joint": _smallest(found, lambda key: key in JOINT),
        "joint_rejected": ", ".join(key for key, p in _group(found, JOINT.__contains__).items() if p < LEVEL) or "none",
        "coverage_95_of_the_joint": found.coverage.get(0.95),
        "median_k_hat": float(np.median(found.k_hat)),
        "sd_x_0.8_rejected": bool(control.rejected),
        "test_coverage_95": {k.removesuffix("_covered_95"): v for k, v in metrics.items() if k.endswith("_covered_95")},
        "cpu_seconds": time.process_time() - started,
    }


def _group(found: Calibration, wanted: Any) -> dict[str, float]:
    return holm({key: p for key, p in found.pvalues.items() if wanted(key)})


def _smallest(found: Calibration, wanted: Any) -> float | None:
    return min(_group(found, wanted).values(), default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", default=list(available()), help="animals; all with stored weights by default"
    )
    parser.add_argument("--datasets", type=int, default=512)
    given = parser.parse_args()
    wrong = sorted(set(given.names) - set(available()))
    if wrong:
        sys.exit(f"names: got {', '.join(wrong)}, expected some of {', '.join(available()) or 'none'}")
    torch.set_num_threads(1)
    measured = {}
    for name in given.names:
        measured[name] = row(name, given.datasets)
        print(measured[name], flush=True)
    rows = {**stored(given.datasets), **measured}
    store("self_calibration", [rows[name] for name in sorted(rows)], datasets=given.datasets, level=LEVEL, seed=SEED)


def stored(datasets: int) -> dict[str, dict[str, Any]]:
    """Return the lines of earlier calls that asked for as many data sets; an animal that is named is measured again."""
    path = RESULTS / "self_calibration.json"
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {line["animal"]: line for line in found["rows"]} if found["facts"]["datasets"] == datasets else {}


if __name__ == "__main__":
    main()
