"""The page of a report: one self-contained HTML file, verdict first."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..folder import CALIBRATION_FIGURE
from ..models.registry import Animal
from .labels import quantity, with_unit

MOST_ROWS = 40
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; max-width: 72rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.subtitle { color: #555; margin-top: 0.2rem; }
.verdict { padding: 0.8rem 1rem; border-left: 6px solid; margin: 1.2rem 0; font-weight: 600; }
.good { border-color: #2b8a3e; background: #ebfbee; } .bad { border-color: #c92a2a; background: #fff5f5; }
table { border-collapse: collapse; font-size: 0.9rem; } .wide { overflow-x: auto; }
.wide td { white-space: nowrap; }
.wide table { font-size: 0.82rem; } .wide td, .wide th { padding: 0.25rem 0.5rem; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
pre { background: #f6f6f6; padding: 0.8rem 1rem; overflow-x: auto; font-size: 0.85rem; line-height: 1.4; }
figure { margin: 1rem 0 1.6rem; } figure img { max-width: 100%; height: auto; }
figcaption, .note { color: #444; font-size: 0.9rem; }
.yes { color: #2b8a3e; font-weight: 600; } .no { color: #c92a2a; font-weight: 600; }
"""

CAPTIONS = {
    "marginals": "Marginal posterior of each unknown: guide (filled), reference (line) and prior (dashed).",
    "pairs": "The most correlated pairs of unknowns: draws of the guide, and the regions that hold 50 % and "
    "90 % of the reference's draws.",
    "fit": "Left: the loss over the steps. Right: log importance weights of the guide's draws; the narrower, "
    "the closer the guide is to the posterior, and k-hat below 0.7 means that the weights could correct it.",
    "outputs": "The data beside posterior draws of the four outputs: everything, without the correction, without the "
    "learnt dynamics, the physics alone. What the physics does not explain, the learnt parts have to.",
    "beyond": "A test sequence, inferred from its first third and predicted further, and the error of many over time.",
    "counterfactual": "A test sequence with one unknown of the physics multiplied, all else as inferred, over what would "
    "really have been, and the error of many over the factor.",
    "calibration": "Calibration on simulated data: ranks of the truth among posterior draws (inside the grey "
    "band if uniform), expected coverage (on the diagonal if right), importance weights, contraction.",
}


def page(record: Mapping[str, Any], animal: Animal, figures: Mapping[str, Path]) -> str:
    """Return the page.

    Args:
        record: what report.json holds.
        animal: the animal, for its story.
        figures: file name -> path of each PNG; they are embedded.
    """
    first = [name for name in figures if name.startswith("predictive_")]
    rest = [name for name in figures if name not in first and name != CALIBRATION_FIGURE]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f"<title>{escape(record['name'])}: report</title><style>{STYLE}</style></head><body>",
            f"<h1>{escape(record['title'])}</h1>",
            f'<p class="subtitle">{escape(_settings(record))}</p>',
            f'<p class="verdict {"good" if record["passed"] else "bad"}">{escape(record["verdict"])}</p>',
            _checks(record["checks"]),
            "<h2>Data and replicated data</h2>",
            *(_figure(name, figures[name], _predictive(name, animal)) for name in first),
            "<h2>Unknowns</h2>",
            _parameters(record["parameters"]),
            *_corrected(record["corrected"], record["k_hat"]),
            *(_figure(name, figures[name], CAPTIONS[Path(name).stem.split("_")[0]]) for name in rest),
            *(_calibration(record, figures) if CALIBRATION_FIGURE in figures else []),
            *_evaluation(record["evaluation"]),
            "<h2>Story</h2>",
            f"<pre>{escape(animal.story)}</pre>",
            _table(("site", "prior"), [(site, text) for site, text in animal.priors.items()], 2),
            f"<p>Source: {escape(animal.source)}</p>",
            "<h2>How it was made</h2>",
            _made(record, animal),
            "</body></html>",
        ]
    )


def _settings(record: Mapping[str, Any]) -> str:
    encoder = f", encoder {record['encoder']}" if record["encoder"] else ", one data set"
    return (
        f"{record['name']}: guide {record['guide']}{encoder}, objective {record['objective']}, "
        f"{record['fit']['steps']} steps, seed {record['seed']}, {record['date']}"
    )


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for check in checks:
        mark = '<span class="yes">yes</span>' if check["passed"] else '<span class="no">no</span>'
        rows.append((escape(check["name"]), mark, escape(check["found"]), escape(check["expected"])))
    return _table(("check", "passed", "found", "expected"), rows, 4, raw=True)


def _parameters(parameters: Mapping[str, Mapping[str, Any]]) -> str:
    rows: list[tuple[str, ...]] = []
    any_row = next(iter(parameters.values()))
    against, published = (
        "reference_mean" in any_row,
        any("published_mean" in row for row in parameters.values()),
    )
    head = ["unknown", "meaning [unit]", "mean ± sd", "90 % interval"]
    head += ["reference ± sd", "error [sd]", "sd ratio"] if against else []
    head += ["published (distance)"] if published else []
    for key, row in list(parameters.items())[:MOST_ROWS]:
        cells = [key, with_unit(row["label"], row["unit"]), _plus_minus(row["mean"], row["sd"])]
        cells.append(f"{_number(row['q05'], row['sd'])} to {_number(row['q95'], row['sd'])}")
        if against:
            cells.append(_plus_minus(row["reference_mean"], row["reference_sd"]))
            cells += [
                _signed(row.get("mean_error_sd")),
                f"{row['sd_ratio']:.2f}" if "sd_ratio" in row else "",
            ]
        if published:
            known = "published_mean" in row
            cells.append(
                f"{_number(row['published_mean'], row['sd'])} ({_signed(row['published_error_sd'])})" if known else ""
            )
        rows.append(tuple(cells))
    notes = []
    if against:
        notes.append("error: mean of the guide minus that of the reference, in units of the reference's sd.")
    if published:
        notes.append("published: posterior mean from the literature, and how far the guide's is from it in sd.")
    if len(parameters) > len(rows):
        notes.append(f"{len(parameters) - len(rows)} more unknowns stand in report.json.")
    return f'<div class="wide">{_table(head, rows, 2)}</div><p class="note">{escape(" ".join(notes))}</p>'


def _corrected(found: Mapping[str, Any] | None, k_hat: float) -> list[str]:
    """What importance weights make of the posterior."""
    if found is None:
        return [f"<p>Importance weights cannot correct this posterior: k-hat {k_hat:.2f}.</p>"]
    return [
        f"<p>With importance weights (k-hat {k_hat:.2f}, worth {found['draws']:.0f} draws) the posterior against the reference: "
        f"{escape(found['summary'])}. <code>physzoo.importance_resample</code> gives draws of it, from posterior.nc.</p>"
    ]


def _calibration(record: Mapping[str, Any], figures: Mapping[str, Path]) -> list[str]:
    found = record["calibration"]
    around = "drawn from the prior" if record["encoder"] else "drawn from this posterior"
    rows = [
        (level, f"{float(share):.3f}", f"{_error(level, found['datasets']):.3f}")
        for level, share in found["coverage"].items()
    ]
    parts = [
        "<h2>Calibration</h2>",
        f"<p>On data sets simulated from unknowns {around}: {escape(found['verdict'])}.</p>",
        _figure(CALIBRATION_FIGURE, figures[CALIBRATION_FIGURE], CAPTIONS["calibration"]),
    ]
    if rows:
        parts.append(_table(("nominal coverage", "found", "standard error"), rows, 0))
    return parts


def _error(level: str, count: int) -> float:
    share = float(level)
    return math.sqrt(share * (1 - share) / count)


def _evaluation(found: Mapping[str, float] | None) -> list[str]:
    """What a trained model does on data that it has not seen; nothing where there is no such data."""
    if not found:
        return []
    note = (
        "Means over test data that the model was not trained on. The checks above ask whether the guide finds the posterior "
        "of this model; here coverage that is off its level shows the error of the model itself."
    )
    rows = [(name.replace("_", " "), f"{value:.4g}") for name, value in found.items()]
    return ["<h2>Test data</h2>", f'<p class="note">{note}</p>', _table(("what", "found"), rows, 1)]


def _made(record: Mapping[str, Any], animal: Animal) -> str:
    seconds = [(step, f"{value:.1f}") for step, value in record["seconds"].items()]
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    quick = " --quick" if record["quick"] else ""
    fit = record["fit"]
    steps = "" if record["quick"] or record["steps"] == animal.recipe.steps else f" --steps {record['steps']}"
    guide = "" if animal.training is not None else f" --guide {record['guide']}"
    command = f"physzoo run {record['name']}{guide} --seed {record['seed']}{steps}{quick} --out DIR"
    return "\n".join(
        [
            f"<pre>{escape(command)}</pre>",
            _table(("step", "seconds"), seconds, 1),
            f"<p>{fit['parameters']} parameters, final loss {fit['final_loss']:.4g} nat.</p>",
            f"<p>Versions: {escape(versions)}.</p>",
            "<p>posterior.nc is an ArviZ DataTree; checkpoint, reference and report.json are beside it.</p>",
        ]
    )


def _predictive(name: str, animal: Animal) -> str:
    site = Path(name).stem.removeprefix("predictive_")
    meaning = quantity(animal, site)
    if meaning.dims[-2:] == ("row", "column"):
        return f"Observed {meaning.label}, median and width of replications drawn from the posterior, and what is left."
    label = meaning.label
    return f"Observed {label} (points) and data replicated from the posterior: median, 50 % and 90 % intervals."


def _figure(name: str, path: Path, caption: str) -> str:
    image = base64.b64encode(path.read_bytes()).decode("ascii")
    alt = escape(Path(name).stem.replace("_", " "))
    picture = f'<img alt="{alt}" src="data:image/png;base64,{image}">'
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int, raw: bool = False) -> str:
    """Return a table whose first ``words`` columns are text and the others numbers, to the right."""

    def kind(column: int) -> str:
        return "" if column < words else ' class="number"'

    top = "".join(f"<th{kind(i)}>{escape(name)}</th>" for i, name in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{kind(i)}>{cell if raw else escape(cell)}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _number(value: float, sd: float) -> str:
    """Return ``value`` to the second digit of its sd."""
    if not (math.isfinite(value) and math.isfinite(sd) and sd > 0):
        return f"{value:.4g}"
    digits = 1 - math.floor(math.log10(sd))
    return f"{value:.{digits}f}" if 0 <= digits <= 8 else f"{value:.4g}"


def _plus_minus(mean: float, sd: float) -> str:
    return f"{_number(mean, sd)} ± {_number(sd, sd)}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"
