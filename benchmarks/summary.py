"""The README's table of measurements, from the stored result files.

    python benchmarks/summary.py

Prints the lines; a test checks that the README holds exactly these.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from _lines_inverse import INVERSE
from _store import RESULTS, lines_of

Row = dict[str, Any]


def table(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def lines() -> list[str]:
    """Return the rows: claim, figure, result file."""
    lynx, linear, flow = (
        table("lynx_hare")["rows"],
        table("linear_gaussian")["rows"],
        table("poisson1d_forward")["rows"],
    )
    splines, full = [row for row in flow if "spline" in row["guide"]], flow[1]
    holm = [[row["smallest_holm_p"], *row["smallest_holm_p_two_more_seeds"]] for row in splines]
    shown = "; ".join(", ".join(f"{p:.2g}" for p in values) for values in holm)
    darcy = table("darcy2d")["rows"][0]
    cost = {row["operation"]: row["ratio"] for row in table("fem_cost")["rows"] if row.get("ratio")}
    one, batch = cost["FEMProblem, one sample"], cost["FEMProblem, a sample of a batch of 8"]
    overhead = {row["loop"]: row["ratio"] for row in table("fit_overhead")["rows"]}
    kills = table("kill_resume")
    gauss = {(row["family"], row["direction"]): row for row in linear}
    mean_field = max(gauss["diagonal", d]["worst_variance_error"] for d in ("reverse", "forward"))
    rows = [
        (
            "`lynx_hare` against 10,000 published draws, worst of three seeds",
            f"C2ST {max(r['c2st'] for r in lynx):.3f}, means within {max(r['worst_mean_error_sd'] for r in lynx):.3f} sd, "
            f"sd ratios {min(r['smallest_sd_ratio'] for r in lynx):.2f} to {max(r['largest_sd_ratio'] for r in lynx):.2f}, "
            f"k-hat {max(r['k_hat'] for r in lynx):.2f}, {max(r['cpu_seconds'] for r in lynx):.0f} CPU s",
            "lynx_hare",
        ),
        (
            "`linear_gaussian` against the closed form",
            f"KL {gauss['full', 'reverse']['kl_to_posterior']:.4f} (full rank), "
            f"{gauss['spline', 'reverse']['kl_to_posterior']:.4f} (flow); mean field's known variances within "
            f"{100 * mean_field:.1f} % in both directions",
            "linear_gaussian",
        ),
        (
            f"`poisson1d`, one amortised flow, 16 references, worst of {len(splines)} trainings",
            f"median C2ST {max(r['median_c2st'] for r in splines):.3f} (single data set "
            f"{max(r['worst_c2st'] for r in splines):.2f}), sd ratios "
            f"{min(r['smallest_sd_ratio_by_unknown'] for r in splines):.2f} to "
            f"{max(r['largest_sd_ratio_by_unknown'] for r in splines):.2f}, "
            f"{max(r['training_cpu_seconds'] for r in splines):.0f} CPU s",
            "poisson1d_forward",
        ),
        (
            "the same, calibration on three times 512 data sets for each training",
            f"smallest Holm p {shown}; sd x 0.8 "
            f"{'rejected' if all(row['sd_x_0.8_rejected'] for row in splines) else 'not always rejected'}",
            "poisson1d_forward",
        ),
        (
            "the same with a full-rank Gaussian guide",
            f"median C2ST {full['median_c2st']:.3f}, {'calibrated' if full['calibrated'] else 'rejected'}",
            "poisson1d_forward",
        ),
        (
            "`darcy2d` against HMC through the finite-element adjoint",
            f"C2ST {darcy['c2st']:.3f}, means within {darcy['worst_mean_error_sd']:.3f} sd, k-hat {darcy['k_hat']:.2f}",
            "darcy2d",
        ),
        (
            "finite elements: solve + gradient against the bare sum of their parts",
            f"{batch:.2f} x in a batch, {one:.2f} x for a single sample",
            "fem_cost",
        ),
        (
            "`fit` against a hand-written torch loop",
            f"{overhead['fit']:.2f} x (stock SVI {overhead['stock SVI']:.2f} x)",
            "fit_overhead",
        ),
        (
            f"kill -9 at {len(kills['rows'])} random moments, then resume",
            "parameters bit-equal" if kills["facts"]["final_parameters_bit_equal"] else "parameters differ",
            "kill_resume",
        ),
    ]
    rows += [made for name, line in GREY_BOXES.items() if (made := _grey_box(name, line)) is not None]
    rows += [made for name, say in OTHERS.items() if (RESULTS / f"{name}.json").exists() for made in say(table(name))]
    return [f"| {claim} | {figure} | `{name}` |" for claim, figure, name in rows]


def _self_calibration(stored: dict[str, Any]) -> list[tuple[str, str, str]]:
    found = stored["rows"]
    ranks = "; ".join(
        f"{row['animal']} {row['physics']:.2g}" + ("" if row["codes"] is None else f", {row['codes']:.2g}")
        for row in found
    )
    joint = [row["animal"] for row in found if row["joint_rejected"] != "none"]
    other = f"; joint quantities (log-likelihood, ...) rejected for {', '.join(joint)}" if joint else ""
    claim = f"stored weights on {stored['facts']['datasets']} data sets that each model makes: smallest Holm p, physics and codes"
    return [(claim, ranks + other, "self_calibration")]


def _ablation(stored: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = {row["row"]: row for row in lines_of(stored)}
    whole = rows.pop("without the last stage")
    rows.pop("grey box")
    parts = ", ".join(f"{name} {row['omega_mae']:.3f}" for name, row in rows.items())
    spread = max(row["omega_mae_sd"] for row in (whole, *rows.values()))
    claim = f"`pendulum`, each regulariser off in turn: frequency's MAE, mean of {whole['seeds']} short trainings, no last stage"
    return [(claim, f"all {whole['omega_mae']:.3f}, {parts}; sd of a training up to {spread:.3f}", "pendulum_ablation")]


def _noise(stored: dict[str, Any]) -> list[tuple[str, str, str]]:
    shown = [row for row in stored["rows"] if row["share"] in (0.0, 0.25) and row["noise"] == "gaussian"]
    clean, noisy = shown
    verdicts = stored["facts"]["error_never_falls_up_to_25_percent"]
    falls = sorted(
        {f"{kind}, {column.replace('_', ' ')}" for kind, by in verdicts.items() for column, up in by.items() if not up}
    )

    def shown_of(row: Row, column: str) -> str:
        spread = f" +- {row[f'{column}_sd']:.1g}" if f"{column}_sd" in row else ""
        return f"{row[column]:.2g}{spread}"

    figure = (
        f"MAE {shown_of(clean, 'at_test')} without noise, {shown_of(noisy, 'at_test')} with 25 % Gaussian noise in the test "
        f"data, {shown_of(noisy, 'in_training_too')} with as much in the training data; "
        + (
            "the error rises with every step up to there"
            if not falls
            else f"it falls somewhere for: {'; '.join(falls)}"
        )
    )
    system, many = stored["name"].removeprefix("noise_study_"), len(stored["facts"]["seeds"])
    claim = f"`{system}`, error of clean data from noisy ones, {many} training{'s' if many > 1 else ''} a row"
    return [(claim, figure, stored["name"])]


def _attentive_flow(stored: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = {row["row"].removeprefix("attentive flow, "): row for row in lines_of(stored)}
    whole = rows.pop("attentive flow")
    members = [name for name in ("both", "flow", "attention", "neither") if name in rows]
    each = ", ".join(f"{name} {rows[name]['sum_of_squares']:.4f}" for name in members)
    many = whole["seeds"]
    claim = f"`locomotion_attentive_flow` on 100 validation strides, 17 numbers, {many} training{'s' if many > 1 else ''} a row"
    published = rows["both"].get("sum_of_squares_published")
    known = "" if published is None else f", published {published:.2g}"
    figure = f"sum of squares {whole['sum_of_squares']:.4f} (PCA 17 {rows['PCA 17']['sum_of_squares']:.4f}{known}); "
    spread = max((rows[name].get("sum_of_squares_sd", 0.0) for name in members), default=0.0)
    sd = f" (sd of a row's trainings up to {spread:.1g})" if spread else ""
    return [(claim, f"{figure}without the last stage, by what the guide has: {each}{sd}", stored["name"])]


def _grey_box(name: str, say: Callable[[Row], str]) -> tuple[str, str, str] | None:
    """The line of a grey box, mean and sd over its trainings; none before its table is stored."""
    if not (RESULTS / f"{name}.json").exists():
        return None
    stored = table(name)
    row = next((row for row in lines_of(stored) if row["row"] == "grey box"), None)
    if row is None:
        return None
    data = "simulated test data"
    if name == "locomotion":
        data = (
            "100 validation strides of "
            + ("simulated" if stored["facts"]["data"].startswith("synth") else "measured")
            + " walking"
        )
    many = "one training" if row["seeds"] == 1 else f"mean of {row['seeds']} trainings"
    return f"`{name}` on {data}, {many}", say(row), name


def _of(row: Row, metric: str, form: str) -> str:
    return f"{row[metric]:{form}} +- {row[f'{metric}_sd']:{form.replace('.2', '.1').replace('.3', '.1')}}"


def _pendulum(row: Row) -> str:
    return (
        f"MAE {_of(row, 'mae', '.2g')} rad (published {row['mae_published']:.2g}), frequency's MAE "
        f"{_of(row, 'omega_mae', '.2g')} 1/s (published {row['omega_mae_published']:.2g}) and 95 % interval covers "
        f"{100 * row['omega_covered_95']:.0f} % (published {100 * row['omega_covered_95_published']:.0f} %), "
        f"{row['cpu_seconds']:.0f} CPU s"
    )


def _advection_diffusion(row: Row) -> str:
    return (
        f"MAE {row['mae']:.2g} (noise floor 0.0008, published {row['mae_published']:.2g}), diffusivity's MAE "
        f"{row['a_mae']:.1g} and 95 % interval covers {100 * row['a_covered_95']:.0f} %, error of steps 600 to 1,000 "
        f"{row['steps_600_1000']:.1g}, {row['cpu_seconds']:.0f} CPU s"
    )


def _locomotion(row: Row) -> str:
    pca = next(line for line in table("locomotion")["rows"] if line["row"] == "PCA 21")
    start = next(line for line in table("locomotion")["rows"] if line["row"].startswith("network started"))
    return (
        f"21 numbers a stride: sum of squares {_of(row, 'sum_of_squares', '.3g')}, MAE {row['mae']:.2g} rad (PCA "
        f"{pca['sum_of_squares']:.3g}, network started at PCA {start['sum_of_squares']:.3g}, published "
        f"{row['sum_of_squares_published']:.2g}); the physics alone explains {100 * row['physics_share']:.0f} %"
    )


def _galaxy(row: Row) -> str:
    covered = ", ".join(f"{100 * row[f'{site}_covered_95']:.0f}" for site in ("I0", "A", "e", "angle"))
    bare = next((row for row in lines_of(table("galaxy")) if row["row"] == "without regularisers"), None)
    without = (
        ""
        if bare is None
        else ", ".join(f"{100 * bare[f'{site}_covered_95']:.0f}" for site in ("I0", "A", "e", "angle"))
    )
    beside = f" (without regularisers and stages {without} %)" if without else ""
    return f"95 % intervals of I0, A, e, angle cover {covered} %{beside}; MAE {row['mae']:.3g} (noise floor 0.0120)"


GREY_BOXES: dict[str, Callable[[Row], str]] = {
    "pendulum": _pendulum,
    "advection_diffusion": _advection_diffusion,
    "galaxy": _galaxy,
    "locomotion": _locomotion,
}


OTHERS: dict[str, Callable[[dict[str, Any]], list[tuple[str, str, str]]]] = {
    "pendulum_ablation": _ablation,
    "self_calibration": _self_calibration,
    **{f"noise_study_{name}": _noise for name in ("pendulum", "advection_diffusion", "locomotion")},
    "locomotion_attentive_flow": _attentive_flow,
    **INVERSE,
}


if __name__ == "__main__":
    print("\n".join(lines()))
