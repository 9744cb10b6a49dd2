"""Collect what the stored tables say of each animal into the certificates that `physzoo list` and `show` read.

    python benchmarks/certificates.py

Nothing is measured here: run it after the scripts that ``SOURCES`` names.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _store import RESULTS, lines_of, table

from physzoo.core.files import replacing

Rows = list[dict[str, Any]]
Facts = dict[str, Any]
LEVEL, WALKING = 0.01, "locomotion_attentive_flow"
TARGET = Path(__file__).parents[1] / "models/data/certificates.json"


def lynx_hare(rows: Rows, _: Facts) -> dict[str, Any]:
    return {
        "c2st": max(row["c2st"] for row in rows),
        "calibration": f"worst of {len(rows)} seeds against 10,000 published draws; "
        f"k-hat {max(row['k_hat'] for row in rows):.2f}",
    }


def linear_gaussian(rows: Rows, _: Facts) -> dict[str, Any]:
    row = next(row for row in rows if row["family"] == "full" and row["direction"] == "reverse")
    return {"calibration": f"KL to the closed form {row['kl_to_posterior']:.1g} nat"}


def flow(rows: Rows, _: Facts) -> dict[str, Any]:
    p = min(row["smallest_holm_p"] for row in rows)
    return {
        "c2st": max(row["median_c2st"] for row in rows),
        "calibration": f"worst of {len(rows)} trainings: 512 data sets, smallest Holm p {p:.2g}; "
        f"k-hat {max(row['median_k_hat'] for row in rows):.2f}",
    }


def poisson1d(rows: Rows, _: Facts) -> dict[str, Any]:
    return flow([row for row in rows if "refined spline" in row["guide"]], _)


def by_recipe(rows: Rows, _: Facts) -> dict[str, Any]:
    row = rows[0]
    verdict = str(row["calibration"]).split(", ", 1)[0]
    return {"c2st": row["c2st"], "calibration": f"k-hat {row['k_hat']:.2f}; {verdict}"}


def aristoff_bangerth(rows: Rows, _: Facts) -> dict[str, Any]:
    found = {row["row"]: row for row in rows}
    row, plain = found["flow"], found["flow, ELBO"]
    return {
        "calibration": "a flow fitted to a short HMC run, against a long one: "
        f"{row['means_within_0.15_sd']} of 64 means within 0.15 sd, {row['sds_within_15_percent']} of 64 "
        f"sds within 15 %; k-hat {row['k_hat']:.2f}; by the recipe's ELBO alone {plain['means_within_0.15_sd']} means and "
        f"{plain['sds_within_15_percent']} sds"
    }


def lotka_volterra(rows: Rows, facts: Facts) -> dict[str, Any]:
    return {
        "c2st": sum(row["c2st"] for row in rows) / len(rows),
        "calibration": f"mean of {len(rows)} published references; k-hat {max(row['k_hat'] for row in rows):.2f}; "
        f"over the prior not calibrated before refinement, smallest Holm p {facts['smallest_holm_p']:.1g}"
        if facts["smallest_holm_p"] < LEVEL
        else f"mean of {len(rows)} published references; smallest Holm p {facts['smallest_holm_p']:.2g}",
    }


def channel_darcy(rows: Rows, facts: Facts) -> dict[str, Any]:
    own = [row for row in rows if row["map_of"] == "model"]
    return {
        "c2st": sorted(row["c2st_alone"] for row in own)[len(own) // 2],
        "calibration": f"median of {len(own)} references (worst {max(row['c2st_alone'] for row in own):.2f}), a flow for each; "
        f"k-hat {max(row['k_hat_alone'] for row in own):.2f}; one amortised guide for all: "
        f"smallest Holm p at most {max(facts['smallest_holm_p'], 1e-12):.1g}",
    }


def grey_box(rows: Rows, _: Facts, animal: str, name: str = "grey box") -> dict[str, Any]:
    """Coverage on test data of the unknowns of the physics, mean over trainings, where they are known; ranks on its own data."""
    row = next(row for row in rows if row["row"] == name)
    own = next(line for line in table("self_calibration")["rows"] if line["animal"] == animal)
    p, joint = min(own["physics"], own["codes"] or 1.0), own["joint_rejected"]
    ranks = f"on its own data smallest Holm p {p:.2g}, joint quantities {'pass' if joint == 'none' else 'rejected'}"
    mark = "_covered_95"
    covered = [
        f"{key.removesuffix(mark)} {100 * value:.0f}"
        for key, value in row.items()
        if key.endswith(mark) and "many_" not in key
    ]
    words = f"95 % intervals on test data cover {', '.join(covered)} %" if covered else "no truths to check against"
    return {"calibration": f"{words}; MAE {row['mae']:.2g}, {_trainings(row['seeds'])}; {ranks}"}


def _trainings(number: int) -> str:
    return "one training" if number == 1 else f"mean of {number} trainings"


SOURCES: dict[str, tuple[str, Callable[[Rows, Facts], dict[str, Any]]]] = {
    "lynx_hare": ("lynx_hare", lynx_hare),
    "linear_gaussian": ("linear_gaussian", linear_gaussian),
    "poisson1d": ("poisson1d_forward", poisson1d),
    "darcy2d": ("darcy2d", by_recipe),
    "nonlinear_poisson1d": ("nonlinear_poisson1d", by_recipe),
    "inverse_kinematics": ("inverse_kinematics", flow),
    "channel_darcy": ("channel_darcy", channel_darcy),
    **{
        name: (name, partial(grey_box, animal=name))
        for name in ("pendulum", "advection_diffusion", "galaxy", "locomotion")
    },
    "locomotion_attentive_flow": (
        "locomotion_attentive_flow",
        partial(grey_box, animal="locomotion_attentive_flow", name="attentive flow"),
    ),
    "aristoff_bangerth": ("aristoff_bangerth", aristoff_bangerth),
    "lotka_volterra_benchmark": ("lotka_volterra_benchmark", lotka_volterra),
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found = {}
    for name, (stored, summary) in SOURCES.items():
        path = RESULTS / f"{stored}.json"
        if not path.exists():
            print(f"{name}: no table {stored}.json, so no certificate")
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        found[name] = {
            **summary(lines_of(record), record["facts"]),
            "date": record["date"],
            "command": record["command"],
        }
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    with replacing(TARGET) as beside:
        beside.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
