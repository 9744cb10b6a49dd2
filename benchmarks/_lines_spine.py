"""Lines of the tables of measurements about the engine and its first references: (claim, figure, file) of each stored table."""

from __future__ import annotations

from typing import Any

from _lines_inverse import refinements
from _store import Line, Say, table


def lynx_hare(stored: dict[str, Any]) -> list[Line]:
    rows = stored["rows"]
    figure = (
        f"C2ST {max(r['c2st'] for r in rows):.3f}, means within {max(r['worst_mean_error_sd'] for r in rows):.3f} sd, "
        f"sd ratios {min(r['smallest_sd_ratio'] for r in rows):.2f} to {max(r['largest_sd_ratio'] for r in rows):.2f}, "
        f"k-hat {max(r['k_hat'] for r in rows):.2f}, {max(r['cpu_seconds'] for r in rows):.0f} CPU s"
    )
    return [("`lynx_hare` against 10,000 published draws, worst of three seeds", figure, "lynx_hare")]


def linear_gaussian(stored: dict[str, Any]) -> list[Line]:
    found = {(row["family"], row["direction"]): row for row in stored["rows"]}
    mean_field = max(found["diagonal", d]["worst_variance_error"] for d in ("reverse", "forward"))
    figure = (
        f"KL {found['full', 'reverse']['kl_to_posterior']:.4f} (full rank), "
        f"{found['spline', 'reverse']['kl_to_posterior']:.4f} (flow); mean field's known variances within "
        f"{100 * mean_field:.1f} % in both directions"
    )
    return [("`linear_gaussian` against the closed form", figure, "linear_gaussian")]


def poisson1d_forward(stored: dict[str, Any]) -> list[Line]:
    splines = [row for row in stored["rows"] if "refined spline" in row["guide"]]
    others = [row for row in stored["rows"] if "refined spline" not in row["guide"]]
    single = ""
    if "smallest_sd_ratio" in splines[0]:
        least, most = (f([r[k] for r in splines]) for f, k in ((min, "smallest_sd_ratio"), (max, "largest_sd_ratio")))
        single = f" (of a single one {least:.2f} to {most:.2f})"
    holm = [[row["smallest_holm_p"], *row["smallest_holm_p_two_more_seeds"]] for row in splines]
    shown = "; ".join(", ".join(f"{p:.2g}" for p in values) for values in holm)
    found = (
        f"median C2ST {max(r['median_c2st'] for r in splines):.3f} (single data set "
        f"{max(r['worst_c2st'] for r in splines):.2f}), sd ratios of the median data set "
        f"{min(r['smallest_sd_ratio_by_unknown'] for r in splines):.2f} to "
        f"{max(r['largest_sd_ratio_by_unknown'] for r in splines):.2f}{single}, "
        f"{max(r['training_cpu_seconds'] for r in splines):.0f} CPU s"
    )
    control = "rejected" if all(row["sd_x_0.8_rejected"] for row in splines) else "not always rejected"
    return [
        (
            f"`poisson1d`, one amortised flow with {refinements('poisson1d')} through the solver for each data set, 16 references, "
            f"worst of {len(splines)} trainings",
            found,
            stored["name"],
        ),
        (
            "the same, calibration on three times 512 data sets for each training",
            f"smallest Holm p {shown}; sd x 0.8 {control}",
            stored["name"],
        ),
        (
            "the same problem, other guides: median C2ST, calibration",
            "; ".join(
                f"{row['guide']} {row['median_c2st']:.3f}, {'calibrated' if row['calibrated'] else 'rejected'} "
                f"({row['training_cpu_seconds']:.0f} CPU s)"
                for row in others
            ),
            stored["name"],
        ),
    ]


def poisson1d_speed(stored: dict[str, Any]) -> list[Line]:
    each = ", ".join(f"{row['guide']} {row['ms_for_1000_draws']:.2g} ms" for row in stored["rows"])
    busy = [row["ms_for_1000_draws"] for row in table("poisson1d_forward")["rows"] if "refined spline" in row["guide"]]
    figure = f"{each} (trained flows, measured while two trainings ran: {min(busy):.0f} to {max(busy):.0f} ms)"
    return [("the same, 1,000 draws for a new data set from a guide that is not trained", figure, "poisson1d_speed")]


def by_recipe(stored: dict[str, Any]) -> list[Line]:
    """An animal's recipe against HMC."""
    row, name = stored["rows"][0], stored["name"]
    figure = f"C2ST {row['c2st']:.3f}, means within {row['worst_mean_error_sd']:.3f} sd, k-hat {row['k_hat']:.2f}"
    return [(f"`{name}` against HMC through the finite-element adjoint", figure, name)]


def fem_cost(stored: dict[str, Any]) -> list[Line]:
    ratio = {row["operation"]: row["ratio"] for row in stored["rows"] if row.get("ratio")}
    batch, one = ratio["FEMProblem, a sample of a batch of 8"], ratio["FEMProblem, one sample"]
    claim = "finite elements: solve + gradient against the bare sum of their parts"
    return [(claim, f"{batch:.2f} x in a batch, {one:.2f} x for a single sample", "fem_cost")]


def fit_overhead(stored: dict[str, Any]) -> list[Line]:
    ratio = {row["loop"]: row["ratio"] for row in stored["rows"]}
    figure = f"{ratio['fit']:.2f} x (stock SVI {ratio['stock SVI']:.2f} x)"
    return [("`fit` against a hand-written torch loop", figure, "fit_overhead")]


def kill_resume(stored: dict[str, Any]) -> list[Line]:
    kills = [row for row in stored["rows"] if row["signal"] == "SIGKILL"]
    others = len(stored["rows"]) - len(kills)
    same = sum(row["same_numbers"] for row in stored["rows"])
    promised = sum(row["as_promised"] for row in stored["rows"] if row["signal"] != "SIGKILL")
    left = "nothing" if stored["facts"]["nothing_left"] else "something"
    animals = len({row["animal"] for row in stored["rows"]})
    claim = f"`physzoo run` of {animals} animals ended in all its stages: {len(kills)} kill -9, {others} SIGTERM or Ctrl-C; then --resume"
    figure = f"{same} of {len(stored['rows'])} reports have the numbers of an uninterrupted run; "
    figure += f"{promised} of {others} signals ended as documented; {left} left behind"
    return [(claim, figure, "kill_resume")]


def bad_input(stored: dict[str, Any]) -> list[Line]:
    found = stored["rows"][-1]
    claim = (
        f"bad values for every argument of {len(stored['rows']) - 1} functions and commands: {found['inputs']:,} inputs"
    )
    figure = f"{found['sentence']:,} refused by one sentence, {found['accepted']} legitimate, "
    figure += f"{found['raw']} raw errors, {found['silent']} silent, {found['hang']} hang"
    return [(claim, figure, "bad_input")]


def outside_models(stored: dict[str, Any]) -> list[Line]:
    found, calls = stored["rows"][-1], len(stored["facts"]["calls"])
    claim = f"{len(stored['rows']) - 1} models as strangers write them, each through {calls} calls, against exact posteriors"
    figure = (
        f"of {stored['facts']['pairs']:,} pairs {found['right']:,} right, {found['warned']} told not to be trusted, "
    )
    figure += f"{found['refused']} refused by one sentence, {found['wrong']} wrong"
    return [(claim, figure, "outside_models")]


def fingerprints(stored: dict[str, Any]) -> list[Line]:
    rows = stored["rows"]
    claim = f"loss and posterior moments of a quick fit of {len(rows)} animals, seed 0, to the last bit"
    return [
        (claim, f"{sum(row['unknowns'] for row in rows)} unknowns; `--check` holds code against them", "fingerprints")
    ]


SPINE: dict[str, Say] = {
    "lynx_hare": lynx_hare,
    "linear_gaussian": linear_gaussian,
    "poisson1d_forward": poisson1d_forward,
    "poisson1d_speed": poisson1d_speed,
    "darcy2d": by_recipe,
    "nonlinear_poisson1d": by_recipe,
    "fem_cost": fem_cost,
    "fit_overhead": fit_overhead,
    "kill_resume": kill_resume,
    "bad_input": bad_input,
    "outside_models": outside_models,
    "fingerprints": fingerprints,
}
