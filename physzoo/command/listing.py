"""The list of animals: in 100 columns, at length, or for programs.

What it says of the zoo's own animals lies in ``models/data/animals.json``, so that the list needs no torch:
``python -m physzoo.command.listing`` writes that file, and a test holds it against the animals.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ..core.files import replacing
from .certificates import certificate, certificates, status

if TYPE_CHECKING:
    from ..models.registry import Animal

COLUMNS = 100
ROOM = "physzoo.models"  # also the group of entry points by which other packages add animals


def animals() -> list[dict[str, Any]]:
    """Return what the list says of every animal; the register is asked where it is loaded, or where other packages add to it."""
    packaged = files(ROOM).joinpath("data/animals.json")
    known = packaged.is_file() and f"{ROOM}.registry" not in sys.modules and not entry_points(group=ROOM)
    rows = json.loads(packaged.read_text(encoding="utf-8")) if known else registered()
    found = certificates()
    return [
        {**row, "status": status(found.get(row["name"])), "certificate": certificate(found.get(row["name"]))}
        for row in rows
    ]


def registered() -> list[dict[str, Any]]:
    """Return the facts of every animal in the registry."""
    from ..models.registry import get, names

    return [_facts(get(name)) for name in names()]


def _facts(animal: Animal) -> dict[str, Any]:
    words = {"name": animal.name, "title": animal.title, "physics": animal.physics}
    return {**words, "likelihoods": list(animal.likelihoods), "guide": animal.guide}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print name, title and status of each animal, no line longer than ``COLUMNS``."""
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("name", no_wrap=True)
    table.add_column("title", overflow="fold")
    table.add_column("status", no_wrap=True)
    for animal in rows:
        table.add_row(animal["name"], animal["title"], animal["status"])
    _print(table)
    print("C2ST: can a classifier tell guide from reference? 0.5: no. More by physzoo list --long, show NAME")


def print_long(rows: list[dict[str, Any]]) -> None:
    """Print all that is known of each animal, a paragraph each."""
    for animal in rows:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in animal.items():
            if name not in ("name", "status"):
                table.add_row(f"  {name}", ", ".join(value) if isinstance(value, list) else value)
        print(animal["name"])
        _print(table)
        print()


def _print(table: Table) -> None:
    """Print a table as text; rich itself would end the process where nobody reads on."""
    console = Console(highlight=False, markup=False)
    width = min(console.width, COLUMNS) if console.is_terminal else COLUMNS
    console = Console(highlight=False, markup=False, color_system=None, width=width)
    with console.capture() as text:
        console.print(table)
    print("\n".join(line.rstrip() for line in text.get().splitlines()))


if __name__ == "__main__":
    with as_file(files(ROOM)) as room, replacing(room / "data" / "animals.json") as beside:
        own = [row for row in registered() if (room / f"{row['name']}.py").is_file()]
        beside.write_text(json.dumps(own, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
