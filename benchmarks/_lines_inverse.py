"""Lines of the tables of measurements about inverse problems: (claim, figure, file) of each stored table."""

from __future__ import annotations

from typing import Any

from _store import Line, Say, table

from physzoo.models.registry import get


def refinements(name: str) -> str:
    """Return the Gauss-Newton steps that an animal's amortised guide takes for each data set, in words."""
    return f"{get(name).recipe.options['refine']} Gauss-Newton steps"


def lotka_volterra(stored: dict[str, Any]) -> list[Line]:
    facts, found = stored["facts"], stored["rows"]
    published = facts["mean_c2st_published"]
    figure = (
        f"mean C2ST {facts['mean_c2st']:.3f} (worst {max(row['c2st'] for row in found):.2f}), refined for each "
        f"{facts['mean_c2st_refined']:.3f}; {facts['total_cpu_seconds']:.0f} CPU s; over the prior, unrefined, smallest Holm p "
        f"{facts['smallest_holm_p']:.1g}; published without likelihood: "
        + ", ".join(f"{name} {value:.3f}" for name, value in published.items())
    )
    claim = (
        f"`lotka_volterra_benchmark`, one amortised guide with {refinements('lotka_volterra_benchmark')} through the solver for each "
        f"data set, {len(found)} published posteriors"
    )
    return [(claim, figure, "lotka_volterra_benchmark")]


def divergences(stored: dict[str, Any]) -> list[Line]:
    """The two halves of the table: widths of a mean-field Gaussian, and modes of a flow."""
    rows = stored["rows"]
    linear = [row for row in rows if row["case"] == "linear Gaussian, amortised"]

    def width(row: dict[str, Any]) -> str:
        error = row["median_mean_error_sd"]
        off = f" (means {error:.1g} sd off)" if error > 0.1 else ""
        low, middle, high = (row[f"{end}_variance_ratio"] for end in ("smallest", "median", "largest"))
        return f"{row['objective']} {middle:.2g} [{low:.2g}, {high:.2g}]{off}"

    ratios = ", ".join(width(row) for row in linear)
    names = dict.fromkeys(row["objective"] for row in rows if row["case"].startswith("folded"))
    worst = {n: min(row.get("smaller_mode_worst", 1.0) for row in rows if row["objective"] == n) for n in names}
    far = {n: max(row.get("total_variation_worst", 0.0) for row in rows if row["objective"] == n) for n in names}
    modes = ", ".join(f"{name} {worst[name]:.2f} ({far[name]:.2f})" for name in names)
    return [
        (
            "`linear_gaussian`, independent Gaussian guide: variance over the posterior's, median of the unknowns [least, most]",
            ratios,
            "divergences",
        ),
        (
            "two mirrored modes, spline flow: share in the lesser one, of .5 (total variation), worst; wanted at least .4",
            modes,
            "divergences",
        ),
    ]


def guide_ablation(stored: dict[str, Any]) -> list[Line]:
    made = []
    for name, objective in dict.fromkeys((row["target"], row["objective"]) for row in stored["rows"]):
        rows = [row for row in stored["rows"] if (row["target"], row["objective"]) == (name, objective)]
        each = ", ".join(
            f"{row['family'].replace('_', ' ')} {row['median_c2st']:.2f} {'yes' if row['calibrated'] else 'no'} "
            f"{row['median_k_hat']:.2f}"
            for row in rows
        )
        seconds = [row["training_cpu_seconds"] for row in rows]
        spent = f"{min(seconds):.0f} to {max(seconds):.0f} CPU s"
        claim = f"{name}, families at about equal time ({spent}), {objective}: C2ST, calibrated, k-hat"
        made.append((claim, each, "guide_ablation"))
    return made


def inverse_kinematics(stored: dict[str, Any]) -> list[Line]:
    rows = stored["rows"]
    sides = [row["bent_to_one_side"] for row in rows]
    figure = (
        f"median C2ST {max(row['median_c2st'] for row in rows):.3f}, smallest Holm p "
        f"{', '.join(format(row['smallest_holm_p'], '.2g') for row in rows)}, one of two mirrored branches holds "
        f"{min(sides):.3f} to {max(sides):.3f}, {max(row['cpu_seconds'] for row in rows):.0f} CPU s"
    )
    return [(f"`inverse_kinematics` against exact draws, worst of {len(rows)} trainings", figure, "inverse_kinematics")]


def uq_vae(stored: dict[str, Any]) -> list[Line]:
    each = ", ".join(
        f"{row['objective']} {row['median_c2st']:.2f} ({row['median_sd_ratio']:.2f})" for row in stored["rows"]
    )
    claim = f"`poisson1d`, full rank, {stored['facts']['steps']} steps: median C2ST (sd ratio) by objective"
    return [(claim, each, "uq_vae")]


def darcy2d_guides(stored: dict[str, Any]) -> list[Line]:
    names = {"full": "full rank", "spline": "spline", "refined spline": "spline refined through a network"}
    each = ", ".join(
        f"{names[row['family']]} {row['objective']} {row['median_c2st']:.2f}, {row['worst_c2st']:.2f} "
        f"({row['smallest_sd_ratio']:.2f} to {row['largest_sd_ratio']:.2f}{'' if row['calibrated'] else ', rejected'})"
        for row in stored["rows"]
    )
    claim = (
        "`darcy2d`, amortised guides, and a base fitted to each data set by the physics: median and worst C2ST (sd ratios of "
        "single unknowns; rejected by calibration)"
    )
    return [(claim, each, "darcy2d_guides")]


def surrogate(stored: dict[str, Any]) -> list[Line]:
    facts, exact = stored["facts"], stored["rows"][0]
    words = {"residual, energy": "no solve (energy)", "residual, plain": "no solve (plain residual)"}
    made = {(row["network"], row["from"], row["error_in_likelihood"]): row for row in stored["rows"]}
    parts = []
    for (network, source, error), row in made.items():
        if error == "none" and (network, source, "covariance") in made:
            carried = made[network, source, "covariance"]
            unsure = [found["r_hat_above_1.02"] for found in (row, carried)]
            parts.append(
                f"{network}, {words.get(source, source)}: {row['sensor_error_sy_held_out']:.2g} s_y, {row['q95_bias_sd']:.2g} sd, "
                f"{100 * row['coverage_90']:.0f} %, {100 * carried['coverage_90']:.0f} % ({unsure[0]}, {unsure[1]})"
            )
    claim = (
        f"`poisson1d`, a network for the solver, {facts['data_sets']} data sets: sensor error, bias of the means (95 % of them "
        "below), coverage of 90 % intervals without and with the error's covariance, which takes "
        f"{facts['error_solves']} solves more (posteriors with R-hat above 1.02 in both; solver {100 * exact['coverage_90']:.0f} %)"
    )
    return [(claim, "; ".join(parts), "surrogate")]


def break_even(stored: dict[str, Any]) -> list[Line]:
    said = " ".join(stored["facts"]["recommendation"])
    return [("break-even of a surrogate and of an amortised guide at equal accuracy", said, "break_even")]


def aristoff_bangerth(stored: dict[str, Any]) -> list[Line]:
    """The flow against the own reference."""
    facts, rows = stored["facts"], {row["row"]: row for row in stored["rows"]}
    flow, plain, chain = rows["flow"], rows["flow, ELBO"], rows["short chain"]
    figure = (
        f"of 64 means {flow['means_within_0.15_sd']} within 0.15 sd (worst {flow['worst_mean_error_sd']:.2f}), of 64 sds "
        f"{flow['sds_within_15_percent']} within 15 % (ratios {flow['sd_ratio_min']:.2f} to {flow['sd_ratio_max']:.2f}), "
        f"asymmetry {flow['asymmetry_sd']:.2f} sd, k-hat {flow['k_hat']:.2f}, {flow['solves']:.1g} solves, "
        f"{flow['cpu_seconds']:.0f} CPU s; the short run itself: worst mean {chain['worst_mean_error_sd']:.2f} sd, sd ratios "
        f"{chain['sd_ratio_min']:.2f} to {chain['sd_ratio_max']:.2f}; a flow by the ELBO alone, which is the recipe: "
        f"{plain['means_within_0.15_sd']} means and {plain['sds_within_15_percent']} sds"
    )
    cost = {(row["operation"], row["samples"]): row["median_ms"] for row in table("aristoff_bangerth_cost")["rows"]}
    operations = ("forward", "forward and gradient", "forward and gradient, Pyro model")
    milliseconds = ", ".join(
        f"{name} {cost[name, 'single']:.2g} ({cost[name, 'batch of 16']:.2g})" for name in operations
    )
    claim = (
        "`aristoff_bangerth`, a flow fitted to a short HMC run, against another, long one "
        f"(R-hat {facts['reference_r_hat']:.3f}, ESS {facts['reference_ess']:.0f})"
    )
    return [
        (claim, figure, "aristoff_bangerth"),
        ("the same, ms a sample alone (in a batch of 16), wanted at most 1.5", milliseconds, "aristoff_bangerth_cost"),
    ]


def residual_cost(stored: dict[str, Any]) -> list[Line]:
    """Samples a second of the residual over those of the solve."""
    ratios = ", ".join(
        f"{row['cells']}: {row['ratio_single']:.0f} ({row['ratio_double']:.0f})" for row in stored["rows"]
    )
    claim = (
        "`darcy2d`, residual and gradient against solve and gradient, samples a second by cells on a side, single (double) "
        f"precision, wanted at least {stored['facts']['pass_level']:.0f} at the animal's own 16"
    )
    return [(claim, f"{ratios} times as many", "residual_cost")]


def residual_tv(stored: dict[str, Any]) -> list[Line]:
    closed = [row for row in stored["rows"] if row["part"] == "closed form"]
    rows = [row for row in closed if row["residual_scale"] == 0.01]
    names = list(dict.fromkeys(row["case"] for row in rows))
    found = {(row["case"], row["corrected"]): row for row in rows}
    each = ", ".join(
        f"{name.replace(' sensors', '')} {found[name, True]['tv_max']:.2g} ({found[name, False]['tv_median']:.2g})"
        for name in names
    )
    soft = max(row["tv_max"] for row in closed if row["corrected"] and row["residual_scale"] == 0.1)
    claim = (
        "`poisson1d`, 2 unknowns, virtual observables (s_r 1 % of the load): total variation to the forward posterior, worst data "
        "set, by sensors and noise, with (median, without) the determinant; worst of all for s_r 10 %"
    )
    return [(claim, f"{each}; {soft:.2g}", "residual_tv")]


def missing_sensors(stored: dict[str, Any]) -> list[Line]:
    """C2ST by share of the sensors, with and without the determinant."""
    shown = {
        right: ", ".join(
            f"{100 * row['share']:g} % {row['c2st_worst' if right else 'c2st_best']:.2f}"
            for row in stored["rows"]
            if row["corrected"] is right and row["sensors_kept"]
        )
        for right in (True, False)
    }
    prior = next(row["kl_to_the_prior"] for row in stored["rows"] if row["corrected"] and not row["sensors_kept"])
    sets = min(row["data_sets"] for row in stored["rows"])
    many = "one data set" if sets == 1 else f"worst (without the determinant: best) of {sets} data sets"
    claim = f"`poisson1d`, virtual observables with sensors left out: C2ST to the forward posterior, {many}"
    figure = f"{shown[True]}, 0 % KL to the prior {prior:.2g}; without the determinant: {shown[False]}"
    return [(claim, figure, "missing_sensors")]


def residual_posteriors(stored: dict[str, Any]) -> list[Line]:
    """C2ST, and where there is a grid total variation, by sensors, with the determinant and without; what it costs."""
    rows = stored["rows"]

    def each(name: str, corrected: bool) -> str:
        which = "worst" if corrected else "best"
        return ", ".join(
            f"{row['sensors']} sensors {row[f'c2st_{which}']:.2f}"
            + (f" ({row[f'tv_{which}']:.2g})" if f"tv_{which}" in row else "")
            + (f", sd ratios {row['smallest_sd_ratio']:.2f} to {row['largest_sd_ratio']:.2f}" if corrected else "")
            for row in rows
            if row["problem"] == name and row["corrected"] is corrected
        )

    found = "; ".join(
        f"`{name.split(',')[0]}` {each(name, True)}; without {each(name, False)}"
        for name in dict.fromkeys(row["problem"] for row in rows)
    )
    claim = (
        f"finite elements, virtual observables (s_r {100 * stored['facts']['residual_scale']:g} % of the load), fitted: C2ST (total "
        f"variation) to the forward posterior, worst of {rows[0]['data_sets']} data sets; without the determinant, best"
    )
    cost = stored["facts"]["darcy2d_microseconds"]
    costs = ", ".join(f"{name} {value:.0f}" for name, value in cost.items())
    return [
        (claim, found, "residual_posteriors"),
        ("`darcy2d`, microseconds a sample with gradient, double precision", costs, "residual_posteriors"),
    ]


def small_data(stored: dict[str, Any]) -> list[Line]:
    """Spreads of three guides by residual scale."""
    each = "; ".join(
        f"{name} "
        + ", ".join(
            f"{row['sd_ratio_min']:.2g} to {row['sd_ratio_max']:.2g}" for row in stored["rows"] if row["guide"] == name
        )
        for name in dict.fromkeys(row["guide"] for row in stored["rows"])
    )
    scales = ", ".join(f"{row:g}" for row in dict.fromkeys(row["residual_scale"] for row in stored["rows"]))
    sets = min(row["data_sets"] for row in stored["rows"])
    claim = (
        f"`poisson1d`, {stored['facts']['sensors']} sensors and the residual (s_r {scales} of the load), {sets} data sets: "
        "sd ratios by guide"
    )
    return [(claim, each, "small_data")]


def channel_darcy(stored: dict[str, Any]) -> list[Line]:
    facts, rows = stored["facts"], [row for row in stored["rows"] if row["map_of"] == "model"]
    own, other = facts["gap"]["model"], facts["gap"]["generator"]
    words = {
        "alone": "a flow for each, by wake-sleep",
        "amortised": "one amortised guide",
        "weighted": "it with importance weights",
        "diagonal_base": "its base fitted to each, diagonal",
        "full_base": "full",
    }
    each = "; ".join(
        f"{words[kind]} {median:.3f} (worst {max(row[f'c2st_{kind}'] for row in rows):.2f})"
        for kind, median in facts["median_c2st"].items()
    )
    chains = "; ".join(f"{row['c2st_hmc']:.2f}" for row in stored["rows"])
    trust = f"R-hat at most {max(row['r_hat'] for row in stored['rows']):.3f}"
    figure = f"{each}; the amortised guide is {facts['verdict']}"
    shown = (
        f"error of the mean map {other['field_error']:.3f} of the contrast (own maps {own['field_error']:.3f}), 95 % intervals "
        f"cover {100 * other['patches_covered_95']:.0f} % of patch means (own {100 * own['patches_covered_95']:.0f} %)"
    )
    return [
        (
            f"`channel_darcy`, learnt prior, {len(rows)} references in the codes ({trust}): median C2ST",
            figure,
            "channel_darcy",
        ),
        ("HMC around the largest mode of these and two more, C2ST to them", chains, "channel_darcy"),
        ("the same under the true prior: 512 maps of the generator, not of the decoder", shown, "channel_darcy"),
    ]


def weighted_residual(stored: dict[str, Any]) -> list[Line]:
    """q(u | z) by kind of test function, then the two inverse uses of it."""
    rows = stored["rows"]
    learnt = [row for row in rows if row["part"] == "q(u | z)" and row["guide"].startswith("preconditioned")]
    last = {row["case"]: row for row in learnt}  # the most steps
    before = {row["case"]: row for row in learnt if row is not last[row["case"]]}
    plain = {row["case"]: row for row in rows if row.get("guide") == "plain network"}
    raw = {row["case"]: row for row in rows if row.get("guide") == "not trained, 6 steps"}

    def shown(name: str, row: dict[str, Any]) -> str:
        fewer = before[name]["guide"].removeprefix("preconditioned, ")
        others = [f"{fewer} {float(before[name]['kl_per_dof']):.2g}"]
        others += [f"not trained {float(raw[name]['kl_per_dof']):.2g}"] if name in raw else []
        others += [f"plain network, median {plain[name]['median_kl_per_dof']:.2g}"] if name in plain else []
        l2, seconds = 100 * row["relative_l2"], row["cpu_seconds"]
        return f"{name} {row['kl_per_dof']:.2g} ({'; '.join(others)}), {l2:.2g} %, {row['evaluations']}, {seconds:.0f} CPU s"

    steps = next(iter(last.values()))["guide"].removeprefix("preconditioned, ")
    scale = f"{100 * stored['facts']['residual_scale']:g} %"
    claim = (
        f"q(u given z) from weighted residuals (s_r {scale} of the load), a learnt preconditioner and {steps} of residual "
        "minimisation: KL a degree of freedom, relative L2, evaluations of the residual a draw (one more than there are test "
        "functions gives the matrix)"
    )
    fitted = [row for row in rows if row["part"] == "q(u | z) q(z)"]
    found = "; ".join(f"{row['case']}: {row['tv_max']:.3f} (worst of {row['data_sets']} data sets)" for row in fitted)
    heads = "; ".join(
        f"{row['guide']} {row['head_smallest_holm_p']:.2g} ({row['head_sd_x_0.8_smallest_holm_p']:.1g}), "
        f"{row['head_sd_over_prior']:.2g}, {row['kl_per_dof']:.2g}, {row['smallest_holm_p']:.2g}, "
        f"{100 * row['covers_solution_95']:.0f} %"
        for row in rows
        if row["part"] == "inverse head"
    )
    return [
        (claim, "; ".join(shown(name, row) for name, row in last.items()), "weighted_residual"),
        ("the same as the state's part of an inverse problem: total variation of q(z)", found, "weighted_residual"),
        (
            "an inverse head p(z given u) learnt on its pairs: smallest Holm p (sd x 0.8), its sd over the prior's; of q(u given z) "
            "KL a degree of freedom, p of whiteness, share of the solution in its 95 % intervals",
            heads,
            "weighted_residual",
        ),
    ]


def relaxed_base(stored: dict[str, Any]) -> list[Line]:
    """C2ST and calibration of the first stage and of both second stages, by what the flow learnt from and by the noise."""
    each = []
    for pairs, noise in dict.fromkeys((row["pairs"], row["noise"]) for row in stored["rows"]):
        rows = {row["base"]: row for row in stored["rows"] if (row["pairs"], row["noise"]) == (pairs, noise)}
        shown = ", ".join(
            f"{base} {row['median_c2st']:.2f}{'' if row['calibrated'] else ' (rejected)'}" for base, row in rows.items()
        )
        each.append(f"{pairs}, noise {100 * noise:g} %: {shown}")
    claim = (
        "`poisson1d`, a flow trained at 2 % noise, its base then fitted to each data set by the physics: median C2ST"
    )
    return [(claim, "; ".join(each), "relaxed_base")]


TRUTH: dict[str, Say] = {
    "lotka_volterra_benchmark": lotka_volterra,
    "aristoff_bangerth": aristoff_bangerth,
    "inverse_kinematics": inverse_kinematics,
}
RESIDUALS: dict[str, Say] = {
    "residual_cost": residual_cost,
    "residual_tv": residual_tv,
    "missing_sensors": missing_sensors,
    "residual_posteriors": residual_posteriors,
    "small_data": small_data,
    "weighted_residual": weighted_residual,
}
GUIDES: dict[str, Say] = {
    "guide_ablation": guide_ablation,
    "divergences": divergences,
    "uq_vae": uq_vae,
    "relaxed_base": relaxed_base,
    "darcy2d_guides": darcy2d_guides,
}
LEARNT: dict[str, Say] = {
    "surrogate": surrogate,
    "break_even": break_even,
    "channel_darcy": channel_darcy,
}
