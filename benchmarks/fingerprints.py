"""What `physzoo fit NAME --quick --seed 0` gives for every animal, to the last bit, so that moved code can be held against it.

    python benchmarks/fingerprints.py [--check] [--animals lynx_hare,pendulum]

A fingerprint is the loss after the last step and a digest of the means and standard deviations of all unknowns under the
posterior. ``--check`` stores nothing: it names the animals whose fingerprint is another than the stored one, and ends with status 1
if there is one. Without it the rows of the animals that are named are measured anew; what changed is kept beside them, old and new.
Fingerprints of other versions of torch or of another processor may differ in the last digits.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _store import store, table

from physzoo.models.registry import IN_THE_ZOO
from physzoo.run import fit_only
from physzoo.task import RunOptions


def fingerprint(name: str) -> dict[str, Any]:
    """Fit an animal in a folder of its own and return its numbers."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = RunOptions(quick=True, seed=0, progress=False)
        found = fit_only(name, Path(folder) / "run", options, say=lambda _: None)
    draws = found.posterior["posterior"].to_dataset()
    flat = [np.asarray(draws[site].values, dtype=np.float64) for site in sorted(map(str, draws.data_vars))]
    columns = np.concatenate([value.reshape(value.shape[0] * value.shape[1], -1) for value in flat], 1)
    moments = np.stack([columns.mean(0), columns.std(0)])
    return {
        "animal": name,
        "steps": found.fit.steps,
        "loss": found.fit.losses[-1],
        "unknowns": columns.shape[1],
        "mean_of_means": float(moments[0].mean()),
        "mean_of_sds": float(moments[1].mean()),
        "digest": hashlib.sha256(moments.tobytes()).hexdigest()[:16],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="compare with the stored fingerprints")
    parser.add_argument("--animals", default=",".join(IN_THE_ZOO), help="names, with commas between them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, moved = [], []
    before = {row["animal"]: row for row in table("fingerprints")["rows"]}
    for name in options.animals.split(","):
        rows.append(fingerprint(name))
        if options.check:
            same = rows[-1] == before.get(name)
            moved += [] if same else [name]
            print(f"{name:<28} {'same' if same else f'{before.get(name)} before, {rows[-1]} now'}", flush=True)
        else:
            print(rows[-1], flush=True)
    if not options.check:
        now = {row["animal"]: row for row in rows}
        changed = [
            {"animal": name, "before": before[name], "now": row}
            for name, row in now.items()
            if name in before and row != before[name]
        ]
        every = [now.get(name, before.get(name)) for name in IN_THE_ZOO]
        store("fingerprints", [row for row in every if row], quick=True, seed=0, changed=changed)
    sys.exit(1 if moved else 0)


if __name__ == "__main__":
    main()
