"""The report of a run: what was found as numbers (report.json), the figures, and the page for a person."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np

from ..folder import CALIBRATION_FIGURE, CHECKPOINT, FINISHED, PAGE, POSTERIOR, REFERENCE, REPORT, Folder
from ..inference.compare import Comparison
from ..inference.importance import USABLE, k_hat
from ..inference.references.result import Reference
from ..references import disagreement
from ..result import Result
from ..task import settings_of
from .figures import draw_fit, draw_marginals, draw_pairs, draw_predictive
from .figures_images import draw_image
from .grey_box import draw_grey_box
from .labels import Scalar, quantity, scalars

FORMAT = "physzoo-report-1"
PACKAGES = {"torch": "torch", "pyro": "pyro-ppl", "arviz": "arviz", "numpy": "numpy", "physzoo": "physzoo"}

# A mean off by 0.2 sd costs a 90 % interval less than 1 % of its coverage, an sd ratio of 0.8 about 9 %.
MEAN_ERROR, SD_RATIO, C2ST = 0.2, (0.8, 1.25), 0.6
R_HAT, ESS, DIVERGENT = 1.01, 400, 0.01
STANDARD_ERRORS = 4.5  # the largest of eight normal errors exceeds it once in 20,000 runs


@dataclass(frozen=True)
class Check:
    """One question that a posterior has to answer.

    Attributes:
        name: what is asked.
        found: what was found, in words.
        expected: what would pass.
        passed: the answer.
    """

    name: str
    found: str
    expected: str
    passed: bool


def write_report(result: Result, folder: Folder) -> str:
    """Write figures, report.json and report.html, each to the side first; return the verdict."""
    from .page import page

    record = report(result)
    figures = draw_figures(result, folder, record)
    kept = [name for name in (POSTERIOR, CHECKPOINT, FINISHED, REFERENCE) if folder.file(name).is_file()]
    record["files"] = [*kept, *figures, PAGE]
    folder.write_json(REPORT, record)
    folder.write_text(PAGE, page(record, result.task.animal, {name: folder.file(name) for name in figures}))
    return str(record["verdict"])


def report(result: Result) -> dict[str, Any]:
    """Return the report as plain data, ready for JSON."""
    task, tree = result.task, result.posterior
    stats = group(tree, "sample_stats")
    shape = float(k_hat(stats["log_p"][0], stats["log_q"][0]))
    checks = judge(result, shape)
    reference, calibration = result.reference, result.calibration
    return {
        "format": FORMAT,
        **settings_of(task.animal, task.options),
        "title": task.animal.title,
        "encoder": task.recipe.encoder,
        "objective": task.animal.objective,
        "device": task.options.device or "cpu",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": {
            "python": platform.python_version(),
            **{key: version(name) for key, name in PACKAGES.items()},
        },
        "verdict": verdict(checks, task.options.quick),
        "passed": all(check.passed for check in checks),
        "checks": [vars(check) for check in checks],
        "seconds": {**result.seconds, "total": sum(result.seconds.values())},
        "fit": {
            "steps": result.fit.steps,
            "final_loss": _mean(result.fit.losses[-50:]),
            "stopped": result.fit.stopped,
            "parameters": sum(parameter.numel() for parameter in task.guide.parameters()),
        },
        "parameters": _table(result),
        "k_hat": shape,
        "c2st": None if result.comparison is None else result.comparison.c2st,
        "comparison": None if result.comparison is None else result.comparison.to_dict(),
        "corrected": None if result.corrected is None else result.corrected.to_dict(),
        "reference": _sampler(reference),
        "nuts": _sampler(result.nuts),
        "calibration": None if calibration is None else calibration.to_dict(),
        "evaluation": None if result.evaluation is None else result.evaluation.flat(),
    }


def _sampler(reference: Reference | None) -> dict[str, Any] | None:
    if reference is None:
        return None
    return {
        "method": reference.method,
        "chains": len(next(iter(reference.draws.values()))),
        "draws": _count(reference),
        "r_hat": reference.r_hat,
        "ess": reference.ess,
        "divergences": reference.divergences,
        "settings": reference.settings,
    }


def judge(result: Result, shape: float) -> list[Check]:
    """Return the checks that the steps of this run allow."""
    checks = []
    if result.reference is not None:
        found = result.reference
        if found.method == "closed form":
            checks.append(Check("reference is exact", "closed form", "closed form", True))
        else:
            words = f"{found.method}: R-hat {found.r_hat:.3f}, {found.ess:.0f} effective draws"
            words += f", {found.divergences} divergences" if "diverging" in found.stats else ""
            good = found.r_hat < R_HAT and found.ess > ESS and found.divergences <= DIVERGENT * _count(found)
            expected = f"R-hat < {R_HAT}, over {ESS} effective draws"
            checks.append(Check("reference has converged", words, expected, good))
    if result.reference is not None and result.nuts is not None:
        worst = disagreement(result.reference, result.nuts)
        words = f"NUTS, {_count(result.nuts)} draws: means within {worst:.1f} standard errors"
        checks.append(
            Check("NUTS confirms the reference", words, f"at most {STANDARD_ERRORS:g}", worst <= STANDARD_ERRORS)
        )
    if result.comparison is not None:
        checks += _against_reference(result.comparison)
    checks.append(Check("importance weights are usable", f"k-hat {shape:.2f}", f"k-hat < {USABLE}", shape < USABLE))
    if result.calibration is not None:
        found = result.calibration
        checks.append(Check("calibrated on simulated data", found.verdict, "no rank test rejects", found.passed))
    return checks


def _against_reference(comparison: Comparison) -> list[Check]:
    worst = max(comparison.mean_error_sd, key=lambda name: abs(comparison.mean_error_sd[name]))
    error = comparison.mean_error_sd[worst]
    low, high = min(comparison.sd_ratio.values()), max(comparison.sd_ratio.values())
    checks = [
        Check(
            "means agree with the reference",
            f"largest error {error:+.2f} sd ({worst})",
            f"within {MEAN_ERROR} sd",
            abs(error) <= MEAN_ERROR,
        ),
        Check(
            "spreads agree with the reference",
            f"sd ratios {low:.2f} to {high:.2f}",
            f"{SD_RATIO[0]} to {SD_RATIO[1]}",
            SD_RATIO[0] <= low and high <= SD_RATIO[1],
        ),
    ]
    if comparison.c2st is not None:
        words = f"a classifier is right in {comparison.c2st:.1%} of cases"
        checks.append(Check("draws look like the reference's", words, f"at most {C2ST:.0%}", comparison.c2st <= C2ST))
    return checks


def verdict(checks: list[Check], quick: bool) -> str:
    """Return one sentence: every check passed, or which did not and why."""
    failed = [check for check in checks if not check.passed]
    if failed:
        words = "do not rely on it: " + "; ".join(f"{c.found}, expected {c.expected}" for c in failed)
    else:
        words = f"reliable: passes all {len(checks)} checks"
    return f"quick run, not to be judged by; {words}" if quick else words


def group(tree: Any, name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a group of a DataTree, name -> array; empty where there is no such group."""
    if name not in tree.children:
        return {}
    return {str(key): value.values for key, value in tree[name].data_vars.items()}


def columns(source: Mapping[str, Any], parameters: list[Scalar]) -> dict[str, np.ndarray]:
    """Return scalar -> draws (S,) of site -> (chain, draw, *site shape), as far as the sites are there."""
    result = {}
    for scalar in parameters:
        if scalar.site in source:
            value = np.asarray(source[scalar.site], float)
            result[scalar.key] = value.reshape(-1, *value.shape[2:])[(slice(None), *scalar.index)]
    return result


def published_means(result: Result) -> dict[str, float]:
    """Return scalar -> published posterior mean, empty where nothing was published."""
    published = result.task.animal.published or {}
    arrays = {site: np.asarray(value, float) for site, value in published.items()}
    return {
        scalar.key: float(arrays[scalar.site][scalar.index])
        for scalar in scalars(result.task.animal, result.task.shapes)
        if scalar.site in arrays
    }


def _table(result: Result) -> dict[str, dict[str, Any]]:
    parameters = scalars(result.task.animal, result.task.shapes)
    drawn = columns(group(result.posterior, "posterior"), parameters)
    prior = columns(group(result.posterior, "prior"), parameters)
    reference = {} if result.reference is None else columns(result.reference.draws, parameters)
    published = published_means(result)
    rows = {}
    for scalar in parameters:
        key, values = scalar.key, drawn[scalar.key]
        row: dict[str, Any] = {
            "label": scalar.label,
            "unit": scalar.unit,
            "mean": values.mean(),
            "sd": values.std(ddof=1),
            "q05": np.quantile(values, 0.05),
            "q95": np.quantile(values, 0.95),
        }
        if key in prior:
            row |= {"prior_mean": prior[key].mean(), "prior_sd": prior[key].std(ddof=1)}
        if key in reference and result.reference is not None:
            summary = result.reference.summary
            row |= {
                "reference_mean": summary["mean"][scalar.site][scalar.index],
                "reference_sd": summary["sd"][scalar.site][scalar.index],
                "reference_mcse": summary["mcse_mean"][scalar.site][scalar.index],
            }
        if result.comparison is not None and key in result.comparison.mean_error_sd:
            row |= {
                "mean_error_sd": result.comparison.mean_error_sd[key],
                "sd_ratio": result.comparison.sd_ratio[key],
                "w1_sd": result.comparison.w1_sd[key],
            }
        if key in published:
            spread = row.get("reference_sd", row["sd"])
            row |= {
                "published_mean": published[key],
                "published_error_sd": (row["mean"] - published[key]) / spread,
            }
        rows[key] = row
    return rows


def draw_figures(result: Result, folder: Folder, record: Mapping[str, Any]) -> list[str]:
    """Draw every figure into the folder and return their names."""
    task, tree = result.task, result.posterior
    parameters = scalars(task.animal, task.shapes)
    drawn, prior = columns(group(tree, "posterior"), parameters), columns(group(tree, "prior"), parameters)
    reference = None if result.reference is None else columns(result.reference.draws, parameters)
    names = []
    # entries that a mask hides are predicted, too, and stand in groups of their own
    predictive = {**group(tree, "posterior_predictive"), **group(tree, "predictions")}
    for site, observed in {**group(tree, "observed_data"), **group(tree, "constant_data")}.items():
        replicated = predictive[site]
        path, meaning = folder.file(f"predictive_{site}.png"), quantity(task.animal, site)
        replicated = replicated.reshape(-1, *replicated.shape[2:])
        solved = np.isfinite(replicated).reshape(len(replicated), -1).all(1)  # NaN where a draw has no solution
        if not solved.any():
            continue
        replicated = replicated[solved]
        if meaning.dims[-2:] == ("row", "column"):
            draw_image(path, meaning, observed, replicated)
        else:
            draw_predictive(path, meaning, observed, replicated)
        names.append(f"predictive_{site}.png")
    draw_marginals(folder.file("marginals.png"), parameters, drawn, reference, prior, published_means(result))
    names.append("marginals.png")
    if len(parameters) > 1:
        draw_pairs(folder.file("pairs.png"), parameters, drawn, reference)
        names.append("pairs.png")
    stats = group(tree, "sample_stats")
    weights = stats["log_p"][0] - stats["log_q"][0]
    first = record["objective"].split(",")[0]  # the losses are those of the main fit
    words = {"elbo": "negative ELBO", "forward_kl": "-log q(z | y)"}.get(first, "objective")
    draw_fit(folder.file("fit.png"), result.fit.losses, weights, record["k_hat"], words)
    names.append("fit.png")
    names += draw_grey_box(result, folder)
    if result.calibration is not None:
        result.calibration.plot(folder.file(CALIBRATION_FIGURE))
        names.append(CALIBRATION_FIGURE)
    return names


def _count(reference: Reference) -> int:
    return math.prod(next(iter(reference.draws.values())).shape[:2])


def _mean(losses: list[float]) -> float:
    finite = [loss for loss in losses if np.isfinite(loss)]
    return float(np.mean(finite)) if finite else float("nan")
