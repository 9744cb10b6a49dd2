"""The imports of the installed layout: which file takes what from which other, wherever in the file the import stands."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("models", "guides", "physics", "inference")
FLOORS = {"core": 0, "physics": 1, "guides": 1, "inference": 2, "models": 3, "": 4}


def files() -> dict[str, Path]:
    """Return every module of the package, dotted name below ``physzoo`` to file; "" is the front door itself."""
    found = {}
    for room, folder in [("", ROOT / "physzoo"), *((room, ROOT / room) for room in ROOMS)]:
        for path in folder.rglob("*.py"):
            below = path.relative_to(folder)
            if room == "" and below.parts[0] in ROOMS:  # links to the rooms
                continue
            parts = [part for part in (room, *below.with_suffix("").parts) if part]
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def room_of(module: str) -> str:
    """Return the room of a module, "" for the front."""
    first = module.split(".")[0]
    return first if first in FLOORS else ""


def imports() -> dict[str, set[str]]:
    """Return the modules of the package that every module imports."""
    modules = files()
    return {name: _of(name, path, modules) for name, path in modules.items()}


def _of(name: str, path: Path, modules: dict[str, Path]) -> set[str]:
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "physzoo":
            base = []
        else:
            continue
        where = [*base, *((node.module or "").removeprefix("physzoo").strip(".").split(".") if node.module else [])]
        where = [part for part in where if part]
        for alias in node.names:
            inside = ".".join([*where, alias.name])
            target = inside if inside in modules else ".".join(where)
            if target in modules and target != name:
                found.add(target)
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected groups of more than one module (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = []
            while not group or group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                groups.append(sorted(group))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return groups
