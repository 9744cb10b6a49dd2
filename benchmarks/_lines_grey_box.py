"""Lines of the tables of measurements about grey boxes: (claim, figure, file) of each stored table."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from _store import Line, Say, lines_of, table

Row = dict[str, Any]


def _self_calibration(stored: dict[str, Any]) -> list[Line]:
    found = stored["rows"]
    ranks = "; ".join(
        f"{row['animal']} {row['physics']:.2g}" + ("" if row["codes"] is None else f", {row['codes']:.2g}")
        for row in found
    )
    joint = [row["animal"] for row in found if row["joint_rejected"] != "none"]
    other = f"; joint quantities (log-likelihood, ...) rejected for {', '.join(joint)}" if joint else ""
    claim = f"stored weights on {stored['facts']['datasets']} data sets that each model makes: smallest Holm p, physics and codes"
    return [(claim, ranks + other, "self_calibration")]


def _ablation(stored: dict[str, Any]) -> list[Line]:
    rows = {row["row"]: row for row in lines_of(stored)}
    whole = rows.pop("without the last stage")
    rows.pop("grey box")
    parts = ", ".join(f"{name} {row['omega_mae']:.3f}" for name, row in rows.items())
    spread = max(row["omega_mae_sd"] for row in (whole, *rows.values()))
    claim = f"`pendulum`, each regulariser off in turn: frequency's MAE, mean of {whole['seeds']} short trainings, no last stage"
    return [(claim, f"all {whole['omega_mae']:.3f}, {parts}; sd of a training up to {spread:.3f}", "pendulum_ablation")]


def _noise(stored: dict[str, Any]) -> list[Line]:
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
        + ("the mean error falls nowhere on the way" if not falls else f"it falls somewhere for: {'; '.join(falls)}")
    )
    system, many = stored["name"].removeprefix("noise_study_"), len(stored["facts"]["seeds"])
    claim = f"`{system}`, error of clean data from noisy ones, {many} training{'s' if many > 1 else ''} a row"
    return [(claim, figure, stored["name"])]


def _attentive_flow(stored: dict[str, Any]) -> list[Line]:
    rows = {row["row"].removeprefix("attentive flow, "): row for row in lines_of(stored)}
    whole = rows.pop("attentive flow")
    members = [name for name in ("both", "flow", "attention", "neither") if name in rows]
    each = ", ".join(f"{name} {rows[name]['sum_of_squares']:.4f}" for name in members)
    many = whole["seeds"]
    claim = f"`locomotion_attentive_flow` on 100 validation strides, 17 numbers, {many} training{'s' if many > 1 else ''} a row"
    published = rows["both"].get("sum_of_squares_published")
    known = "" if published is None else f", authors' code {published:.2g}"
    figure = f"sum of squares {whole['sum_of_squares']:.4f} (PCA 17 {rows['PCA 17']['sum_of_squares']:.4f}{known}); "
    spread = max((rows[name].get("sum_of_squares_sd", 0.0) for name in members), default=0.0)
    sd = f" (sd of a row's trainings up to {spread:.1g})" if spread else ""
    sd += f"; the physics alone is worse than the training mean (share {whole['physics_share']:.2f})" * (
        whole["physics_share"] < 0
    )
    return [(claim, f"{figure}without the last stage, by what the guide has: {each}{sd}", stored["name"])]


def _grey_box(say: Callable[[Row], str], stored: dict[str, Any]) -> list[Line]:
    """The line of a grey box, mean and sd over its trainings."""
    name, row = stored["name"], next(row for row in lines_of(stored) if row["row"] == "grey box")
    data = "simulated test data"
    if name == "locomotion":
        data = (
            "100 validation strides of "
            + ("simulated" if stored["facts"]["data"].startswith("synth") else "measured")
            + " walking"
        )
    many = "one training" if row["seeds"] == 1 else f"mean of {row['seeds']} trainings"
    return [(f"`{name}` on {data}, {many}", say(row), name)]


def _of(row: Row, metric: str, form: str) -> str:
    return f"{row[metric]:{form}} +- {row[f'{metric}_sd']:{form.replace('.2', '.1').replace('.3', '.1')}}"


def _floor(name: str) -> str:
    return f"{table(name)['facts']['noise_floor_mae']:.3g}"


def _pendulum(row: Row) -> str:
    return (
        f"MAE {_of(row, 'mae', '.2g')} rad (authors' code {row['mae_published']:.2g}), frequency's MAE "
        f"{_of(row, 'omega_mae', '.2g')} 1/s (authors' code {row['omega_mae_published']:.2g}) and 95 % interval covers "
        f"{100 * row['omega_covered_95']:.0f} % (authors' code {100 * row['omega_covered_95_published']:.0f} %), "
        f"{row['cpu_seconds']:.0f} CPU s"
    )


def _advection_diffusion(row: Row) -> str:
    return (
        f"MAE {row['mae']:.2g} (noise floor {_floor('advection_diffusion')}, authors' code {row['mae_published']:.2g}), diffusivity's MAE "
        f"{row['a_mae']:.1g} and 95 % interval covers {100 * row['a_covered_95']:.0f} %, error of steps 600 to 1,000 "
        f"{row['steps_600_1000']:.1g}, {row['cpu_seconds']:.0f} CPU s"
    )


def _locomotion(row: Row) -> str:
    pca = next(line for line in table("locomotion")["rows"] if line["row"] == "PCA 21")
    start = next(line for line in table("locomotion")["rows"] if line["row"].startswith("network started"))
    return (
        f"21 numbers a stride: sum of squares {_of(row, 'sum_of_squares', '.3g')}, MAE {row['mae']:.2g} rad (PCA "
        f"{pca['sum_of_squares']:.3g}, network started at PCA {start['sum_of_squares']:.3g}, authors' code "
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
    more = ", ".join(f"{100 * row[f'many_{site}_covered_95']:.1f}" for site in ("I0", "A", "e", "angle"))
    beside += f", of 2,000 more images {more} %"
    return f"95 % intervals of I0, A, e, angle cover {covered} %{beside}; MAE {row['mae']:.3g} (noise floor {_floor('galaxy')})"


def _counterfactual(stored: dict[str, Any]) -> list[Line]:
    row = next(row for row in lines_of(stored) if row["row"] == "grey box")
    factors = ("0.2", "0.6", "0.8", "1.5", "2", "3")
    each = ", ".join(
        f"x {f} {row[f'counterfactual_{f}']:.2g} ({row[f'counterfactual_{f}_published']:.2g})" for f in factors
    )
    return [("`pendulum` at another frequency: MAE (authors' code)", each, "pendulum_counterfactual")]


def _epoch_cost(stored: dict[str, Any]) -> list[Line]:
    ratio = {row["what"]: row["ratio"] for row in stored["rows"]}
    figure = (
        f"{ratio['physzoo, unrolled']:.2f} x, gradient of all intervals at once {ratio['physzoo, parallel']:.2f} x "
        f"(wanted: at most {stored['facts']['pass_level']:g} x)"
    )
    return [("an epoch of the published pendulum network against a hand-written torch loop", figure, "epoch_cost")]


GREY: dict[str, Say] = {
    "pendulum": partial(_grey_box, _pendulum),
    "pendulum_counterfactual": _counterfactual,
    "pendulum_ablation": _ablation,
    "advection_diffusion": partial(_grey_box, _advection_diffusion),
    "galaxy": partial(_grey_box, _galaxy),
    "locomotion": partial(_grey_box, _locomotion),
    "locomotion_attentive_flow": _attentive_flow,
    "self_calibration": _self_calibration,
    **{f"noise_study_{name}": _noise for name in ("pendulum", "advection_diffusion", "locomotion")},
    "epoch_cost": _epoch_cost,
}
