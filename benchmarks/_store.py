"""Where benchmarks leave their tables: a JSON file each in benchmarks/results, and the same on the screen."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from physzoo.core.files import replacing

Line = tuple[str, str, str]  # claim, figure, name of the stored table
Say = Callable[[dict[str, Any]], list[Line]]  # stored table -> what is said of it

RESULTS = Path(__file__).parent / "results"
PACKAGES = {"torch": "torch", "pyro": "pyro-ppl", "physzoo": "physzoo"}


def store(name: str, rows: Sequence[Mapping[str, Any]], **facts: Any) -> Path:
    """Write ``benchmarks/results/NAME.json`` and print the rows as a table.

    Args:
        name: name of the table, letters, digits and underscores.
        rows: one mapping a line of the table; column order is that of the first appearance.
        **facts: what else belongs to the claim (seeds, sizes, tolerances).

    Returns:
        The path of the file.

    Raises:
        ValueError: ``name`` is no identifier.
    """
    if not name.isidentifier():
        raise ValueError(f"name: got '{name}', expected letters, digits and underscores")
    table = [{column: _plain(value) for column, value in row.items()} for row in rows]
    record = {
        "name": name,
        "command": _command(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": {
            "python": platform.python_version(),
            **{key: _version(value) for key, value in PACKAGES.items()},
        },
        "cpu": cpu(),
        "facts": _plain(facts),
        "rows": table,
    }
    path = RESULTS / f"{name}.json"
    with replacing(path) as beside:
        beside.write_text(json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    print(table_text(table))
    return path


class Rows(list[dict[str, Any]]):
    """The rows of a long benchmark, each kept on disk once it is made, so that a run that was cut off goes on where it was.

    Args:
        name: name of the table; the rows lie in ``benchmarks/results/NAME.rows.tmp`` until ``done``.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.path = RESULTS / f"{name}.rows.tmp"
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        self.made = {tuple(key): row for key, row in map(json.loads, text.splitlines())}

    def add(self, key: Sequence[Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Append and return the row of ``key`` (numbers and strings), made now unless an earlier run has; print it."""
        row = self.made.get(tuple(key))
        if row is None:
            row = _plain(make())
            RESULTS.mkdir(exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([list(key), row]) + "\n")
        self.append(row)
        print(row, flush=True)
        return row

    def done(self) -> None:
        """Forget the kept rows: the table is stored."""
        self.path.unlink(missing_ok=True)


def table(name: str) -> dict[str, Any]:
    """Return the stored table of that name."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def lines_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a stored table with all their numbers, also where the table shows some of them only."""
    return record["facts"].get("everything", record["rows"])


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as an aligned text table, numbers to the right with four significant digits."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [
        max(len(column), *(len(line[i]) for line in cells)) if cells else len(column)
        for i, column in enumerate(columns)
    ]
    number = [all(isinstance(row.get(column), int | float | None) for row in rows) for column in columns]

    def line(values: Sequence[str]) -> str:
        padded = (v.rjust(w) if n else v.ljust(w) for v, w, n in zip(values, widths, number, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(columns), line(["-" * width for width in widths]), *(line(values) for values in cells)])


def cpu() -> str:
    """Return the processor's model and the number of cores this process may use."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass  # not Linux: the platform's own word stands
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores"


def _command() -> str:
    # The way to repeat it from the repository's root, without the path of this machine.
    script = Path(sys.argv[0]).name
    return shlex.join(["python", f"benchmarks/{script}", *sys.argv[1:]])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _plain(value: Any) -> Any:
    """Return ``value`` in JSON's types; a number that is not finite becomes a string."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
