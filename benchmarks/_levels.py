"""The levels that were set before measuring, one by one: what was asked, what was found, whether it holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from _store import table

Level = tuple[str, str, str, bool, str, str]  # what, level, found, met, what a wrong posterior gives, file
Rows = list[dict[str, Any]]


def _rejected(every: bool) -> str:
    return f"sd x 0.8 {'rejected' if every else 'not always rejected'}"


def linear_gaussian(rows: Rows, _: dict[str, Any]) -> Level:
    found = {(row["family"], row["direction"]): row for row in rows}
    full, flow = found["full", "reverse"]["kl_to_posterior"], found["spline", "reverse"]["kl_to_posterior"]
    wrong = max(found["diagonal", way]["worst_variance_error"] for way in ("reverse", "forward"))
    shown = f"{full:.1g}, {flow:.1g}, {100 * wrong:.1f} %"
    level = "KL to the closed form: full rank .01, flow .02; mean field's known variances to 3 %"
    control = f"mean field's own KL {found['diagonal', 'reverse']['kl_to_posterior']:.2g}"
    return "linear Gaussian", level, shown, full < 0.01 and flow < 0.02 and wrong < 0.03, control, "linear_gaussian"


def poisson1d_forward(rows: Rows, _: dict[str, Any]) -> Level:
    flows = [row for row in rows if "refined spline" in row["guide"]]
    score = max(row["median_c2st"] for row in flows)
    error = max(row["median_mean_error_sd"] for row in flows)
    p = min(min(row["smallest_holm_p"], *row["smallest_holm_p_two_more_seeds"]) for row in flows)
    low, high = (
        pick(row[f"{end}_sd_ratio_by_unknown"] for row in flows) for pick, end in ((min, "smallest"), (max, "largest"))
    )
    met = score <= 0.58 and error < 0.1 and p > 0.01 and low >= 0.9 and high <= 1.1
    shown = f"{score:.3f}, {low:.2f} to {high:.2f}, {error:.2g} sd, {p:.2g}"
    level = "refined flow: median C2ST .58, sd ratios .9 to 1.1, mean error .1 sd, Holm p .01"
    control = _rejected(all(row["sd_x_0.8_rejected"] for row in flows))
    return "amortised guides, forward model", level, shown, met, control, "poisson1d_forward"


def weighted_residual(rows: Rows, _: dict[str, Any]) -> Level:
    learnt = [row for row in rows if row["part"] == "q(u | z)" and row["guide"] == "preconditioned, 6 steps"]
    kl, l2 = max(row["kl_per_dof"] for row in learnt), max(row["relative_l2"] for row in learnt)
    control = _rejected(all(row["sd_x_0.8_smallest_holm_p"] < 0.01 for row in learnt))
    level = "KL a degree of freedom .05, relative L2 1 %, whiteness p .01"
    p = min(row["smallest_holm_p"] for row in learnt)
    shown = f"{kl:.2g}, {100 * l2:.2g} %, {p:.2g}"
    met = kl < 0.05 and l2 < 0.01 and p > 0.01
    return "state from weighted residuals, 6 steps", level, shown, met, f"{control} (whiteness)", "weighted_residual"


def inverse_head(rows: Rows, _: dict[str, Any]) -> Level:
    row = next(row for row in rows if row["part"] == "inverse head" and row["guide"] == "together")
    head, kl, p = row["head_smallest_holm_p"], row["kl_per_dof"], row["smallest_holm_p"]
    met = head > 0.01 and kl < 0.05 and p > 0.01
    control = _rejected(row["head_sd_x_0.8_smallest_holm_p"] < 0.01)
    level = "head's Holm p .01; of the state KL .05, whiteness p .01"
    return "head and state learnt together", level, f"{head:.2g}; {kl:.2g}, {p:.2g}", met, control, "weighted_residual"


def surrogate(rows: Rows, _: dict[str, Any]) -> Level:
    carried = [row for row in rows if row["error_in_likelihood"] == "covariance"]
    narrow = [row for row in rows if "0.8" in str(row["error_in_likelihood"]) or "0.8" in str(row["network"])]
    lost = max(row["lost"] / row["lost_se"] for row in carried)
    shown = f"{sum(bool(row['covers']) for row in carried)} of {len(carried)} (at most {lost:.1f} se lost)"
    control = _rejected(bool(narrow) and not any(row["covers"] for row in narrow))
    level = "with the error's covariance no more than 2 standard errors of coverage lost"
    return "surrogate for the solver", level, shown, all(row["covers"] for row in carried), control, "surrogate"


def residual_tv(rows: Rows, _: dict[str, Any]) -> Level:
    at = [row for row in rows if row["part"] == "closed form" and row["residual_scale"] == 0.01]
    worst = max(row["tv_max"] for row in at if row["corrected"])
    few = ("2 of 8", "1 of 8", "1 of 1")
    failing = min(row["tv_median"] for row in at if not row["corrected"] and row["case"].startswith(few))
    level = "total variation .05 with the determinant; above without, a quarter of the sensors or fewer"
    met = worst < 0.05 < failing
    shown, control = f"{worst:.2g}; {failing:.2g}", "without the determinant"
    return "residual likelihood, 2 unknowns", level, shown, met, control, "residual_tv"


def missing_sensors(rows: Rows, facts: dict[str, Any]) -> Level:
    right, wrong = ([row for row in rows if row["corrected"] is way] for way in (True, False))
    worst = max(row["c2st_worst"] for row in right)
    failing = min(row["c2st_best"] for row in wrong if row["sensors_kept"] <= 2)
    kl = next(row["kl_to_the_prior"] for row in right if not row["sensors_kept"])
    level = "C2ST .6 with the determinant, above without (a quarter or fewer); KL to the prior .05 without sensors"
    control = _rejected(all(facts["controls_above_the_level"].values()))
    shown = f"{worst:.2f}; {failing:.2f}; {kl:.2g}"
    return "residual likelihood, 8 unknowns", level, shown, bool(facts["passed"]), control, "missing_sensors"


def guide_ablation(rows: Rows, facts: dict[str, Any]) -> Level:
    calibrated = all(facts["diagonal_rejected"].values()) and all(facts["spline_accepted"].values())
    falls = all(facts["k_hat_falls"].values())
    shown = (
        f"calibration {'as wanted' if calibrated else 'not as wanted'}; k-hat {'falls' if falls else 'does not fall'}"
    )
    level = "by the forward KL diagonal rejected, spline accepted, k-hat falling"
    control = _rejected(all(row["sd_x_0.8_rejected"] for row in rows if row["calibrated"]))
    return "families of guides", level, shown, calibrated and falls, control, "guide_ablation"


def divergences(rows: Rows, facts: dict[str, Any]) -> Level:
    shares: dict[str, float] = {}
    for row in rows:
        if "smaller_mode_worst" in row:
            name = row["objective"]
            shares[name] = min(shares.get(name, 1.0), row["smaller_mode_worst"])
    missed = [f"{name} {share:.2f}" for name, share in shares.items() if share < 0.4 and name != "reverse KL"]
    ordered = facts["ordered_one_data_set"] and facts["ordered_amortised"]
    shown = f"{'ordered' if ordered else 'not ordered'}; {', '.join(missed) or 'all'}{' below' if missed else ''}"
    level = (
        "variances ordered reverse KL, Renyi .5, forward KL; all but the reverse KL hold both modes with .4 at least"
    )
    control = f"reverse KL {shares['reverse KL']:.2f}"
    return "objectives", level, shown, bool(ordered) and not missed, control, "divergences"


def channel_darcy(rows: Rows, facts: dict[str, Any]) -> Level:
    scores = [row["c2st_alone"] for row in rows if "c2st_alone" in row]
    control = _rejected(min(row["c2st_alone_sd_x_0.8"] for row in rows if "c2st_alone" in row) > 0.6)
    shown = (
        f"a flow for each {', '.join(f'{score:.2f}' for score in sorted(scores))}; one amortised guide "
        f"{facts['median_c2st']['amortised']:.2f} (median), p {max(facts['smallest_holm_p'], 1e-12):.1g} or less"
    )
    met = max(scores) <= 0.6 and facts["smallest_holm_p"] > 0.01
    return "learnt prior", "C2ST .6 in the codes for every data set; Holm p .01", shown, met, control, "channel_darcy"


def residual_posteriors(rows: Rows, facts: dict[str, Any]) -> Level:
    right, wrong = ([row for row in rows if row["corrected"] is way] for way in (True, False))
    score, far = max(row["c2st_worst"] for row in right), max(row.get("tv_worst", 0.0) for row in right)
    failing = min(row["c2st_best"] for row in wrong if row["sensors"].startswith(("2 ", "6 ")))
    level = "C2ST .6 and total variation .05 with the determinant, C2ST above without (a quarter of the sensors)"
    control = _rejected(
        all(
            row["c2st_sd_x_0.8_smallest"] > facts["level"] or row.get("tv_sd_x_0.8_smallest", 0.0) > facts["tv_level"]
            for row in right
        )
    )
    shown, met = f"{score:.2f}, {far:.2g}; {failing:.2f}", bool(facts["passed"])
    return "residuals of finite elements", level, shown, met, control, "residual_posteriors"


def small_data(rows: Rows, _: dict[str, Any]) -> Level:
    structured = [row for row in rows if row["guide"] == "structured"]
    low, high = min(row["sd_ratio_min"] for row in structured), max(row["sd_ratio_max"] for row in structured)
    level = "structured guide: sd ratios .9 to 1.1"
    control = _rejected(
        min(row["smallest_c2st_sd_x_0.8"] for row in structured) > max(r["worst_c2st"] for r in structured)
    )
    return "small data", level, f"{low:.2f} to {high:.2f}", low >= 0.9 and high <= 1.1, control, "small_data"


def lotka_volterra(_: Rows, facts: dict[str, Any]) -> Level:
    one, refined = facts["mean_c2st"], facts["mean_c2st_refined"]
    level = "mean C2ST .75 by one amortised guide, .55 refined for each"
    control = f"{_rejected(facts['refined_sd_x_0_8_rejected'])} by .55"
    shown, name = f"{one:.3f}, {refined:.3f}", "lotka_volterra_benchmark"
    return "Lotka-Volterra benchmark", level, shown, one <= 0.75 and refined <= 0.55, control, name


def aristoff_bangerth(rows: Rows, facts: dict[str, Any]) -> Level:
    flow = next(row for row in rows if row["row"] == "flow")
    means, sds, turned = flow["means_within_0.15_sd"], flow["sds_within_15_percent"], flow["asymmetry_sd"]
    level = "of 64 means 60 to .15 sd, of 64 sds 48 to 15 %, symmetry to .1 sd"
    shown, control = f"{means}, {sds}, {turned:.2f} sd", _rejected(facts["control_rejected"])
    return "Aristoff-Bangerth", level, shown, means >= 60 and sds >= 48 and turned < 0.1, control, "aristoff_bangerth"


def inverse_kinematics(rows: Rows, _: dict[str, Any]) -> Level:
    score, p = max(row["median_c2st"] for row in rows), min(row["smallest_holm_p"] for row in rows)
    sides = [row["bent_to_one_side"] for row in rows]
    level = "median C2ST .58, Holm p .01, one of two branches .4 to .6"
    shown = f"{score:.3f}, {p:.2g}, {min(sides):.2f} to {max(sides):.2f}"
    met = score <= 0.58 and p > 0.01 and min(sides) >= 0.4 and max(sides) <= 0.6
    control = _rejected(all(row["sd_x_0.8_rejected"] for row in rows))
    return "several answers", level, shown, met, control, "inverse_kinematics"


def residual_cost(rows: Rows, facts: dict[str, Any]) -> Level:
    row, wanted = rows[0], facts["pass_level"]
    level = f"residual with gradient {wanted:.0f} times as quick as solve with gradient, 16 x 16 cells"
    return "cost of a residual", level, f"{row['ratio_single']:.1f}", row["ratio_single"] >= wanted, "", "residual_cost"


LEVELS: dict[str, tuple[Callable[[Rows, dict[str, Any]], Level], ...]] = {
    "linear_gaussian": (linear_gaussian,),
    "poisson1d_forward": (poisson1d_forward,),
    "weighted_residual": (weighted_residual, inverse_head),
    "surrogate": (surrogate,),
    "residual_tv": (residual_tv,),
    "missing_sensors": (missing_sensors,),
    "residual_posteriors": (residual_posteriors,),
    "guide_ablation": (guide_ablation,),
    "divergences": (divergences,),
    "channel_darcy": (channel_darcy,),
    "small_data": (small_data,),
    "lotka_volterra_benchmark": (lotka_volterra,),
    "aristoff_bangerth": (aristoff_bangerth,),
    "inverse_kinematics": (inverse_kinematics,),
    "residual_cost": (residual_cost,),
}


def levels_table() -> str:
    """Return the levels as a Markdown table."""
    found = [
        judge(stored["rows"], stored["facts"])
        for name, judges in LEVELS.items()
        for stored in [table(name)]
        for judge in judges
    ]
    body = [
        f"| {what} | {level} | {shown} | {'yes' if met else '**no**'} | {control} | `{name}` |"
        for what, level, shown, met, control, name in found
    ]
    head = ["| what | level | found | met | negative control | file |", "|---|---|---|---|---|---|"]
    return "\n".join(["", *head, *body, ""])  # blank lines: Markdown wants them
