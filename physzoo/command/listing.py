"""The list of animals: in 100 columns, at length, or for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from .certificates import certificate, status

if TYPE_CHECKING:
    from ..models.registry import Animal

COLUMNS = 100


def listed(animal: Animal, found: dict[str, Any] | None) -> dict[str, Any]:
    """Return what the list says of an animal."""
    return {
        "name": animal.name,
        "title": animal.title,
        "status": status(found),
        "physics": animal.physics,
        "likelihoods": list(animal.likelihoods),
        "guide": animal.guide,
        "certificate": certificate(found),
    }


def print_table(animals: list[dict[str, Any]]) -> None:
    """Print name, title and status of each animal, no line longer than ``COLUMNS``."""
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("name", no_wrap=True)
    table.add_column("title", overflow="fold")
    table.add_column("status", no_wrap=True)
    for animal in animals:
        table.add_row(animal["name"], animal["title"], animal["status"])
    _print(table)
    print("C2ST: can a classifier tell guide from reference? 0.5: no. More by physzoo list --long, show NAME")


def print_long(animals: list[dict[str, Any]]) -> None:
    """Print all that is known of each animal, a paragraph each."""
    for animal in animals:
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
