"""The tables of measurements in README.md and benchmarks/README.md, from the stored result files.

    python benchmarks/summary.py

Writes them anew, each between its two marks; a test checks that both files hold what the result files say.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from _levels import levels_table
from _lines_grey_box import GREY
from _lines_inverse import GUIDES, LEARNT, RESIDUALS, TRUTH
from _lines_spine import SPINE
from _store import Line, Say, table

from physzoo.core.files import replacing

ROOT = Path(__file__).parents[1]

# mark -> result file -> its lines
TABLES: dict[str, Mapping[str, Say]] = {
    "spine": SPINE,
    "grey boxes": GREY,
    "outside truth": TRUTH,
    "residuals": RESIDUALS,
    "guides": GUIDES,
    "learnt": LEARNT,
}
# result files whose first line stands in the README
HEADLINES = (
    *("lynx_hare", "linear_gaussian", "poisson1d_forward", "darcy2d"),
    *("lotka_volterra_benchmark", "aristoff_bangerth", "inverse_kinematics", "missing_sensors", "residual_cost"),
    *("pendulum", "advection_diffusion", "galaxy", "locomotion", "self_calibration"),
    *("outside_models", "bad_input", "fit_overhead", "kill_resume"),
)


def lines(names: Iterable[str]) -> list[Line]:
    """Return claim, figure and file of every line of some result files."""
    every = {name: say for part in TABLES.values() for name, say in part.items()}
    return [line for name in names for line in every[name](table(name))]


def headlines() -> list[Line]:
    """Return the lines of the README."""
    return [lines([name])[0] for name in HEADLINES]


def as_table(rows: Iterable[Line]) -> str:
    """Return lines as a Markdown table."""
    body = [f"| {claim} | {figure} | `{name}` |" for claim, figure, name in rows]
    return "\n".join(["", "| what | found | file |", "|---|---|---|", *body, ""])  # blank lines: Markdown wants them


def filled(text: str, tables: Mapping[str, str]) -> str:
    """Return ``text`` with each table put between <!-- NAME --> and <!-- end -->.

    Raises:
        ValueError: a table has no place, or not exactly one.
    """
    for name, content in tables.items():
        place = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        text, count = place.subn(lambda found, content=content: found[1] + content + found[2], text)
        if count != 1:
            raise ValueError(f"{name}: got {count} places for this table, expected one")
    return text


def pages() -> dict[Path, str]:
    """Return both files as they should be."""
    tables = {"levels": levels_table()} | {name: as_table(lines(part)) for name, part in TABLES.items()}
    wanted = {ROOT / "README.md": {"headlines": as_table(headlines())}, ROOT / "benchmarks" / "README.md": tables}
    return {path: filled(path.read_text(encoding="utf-8"), found) for path, found in wanted.items()}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for path, text in pages().items():
        with replacing(path) as beside:
            beside.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
