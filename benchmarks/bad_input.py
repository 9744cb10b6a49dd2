"""Inputs that no argument can take, to every public function, constructor and command.

    python benchmarks/bad_input.py

The functions, the values and the command lines are those of tests/bad_inputs: every argument in turn is given every value. Each
input ends as a "sentence" (one line below 400 characters that names the argument, what it got and what was expected), "accepted"
(a value that is legitimate by the table of reasons there), "raw" (any other error, or a change of global state), "silent" (taken
without a reason) or "hang" (longer than 5 s); the last three must be none. The command line must end with exit status 2.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from contextlib import chdir
from pathlib import Path
from typing import Any

import torch
from _store import store

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from bad_inputs import judge, lines
from bad_inputs.targets import targets
from bad_inputs.values import VALUES

FAULTS = ("raw", "silent", "hang")


def of_functions(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give every argument of every function every value; what is a fault is added to ``found``."""
    rows = []
    for target in targets():
        target.function(**target.usual())  # what is refused afterwards is refused for the one value
        counts: Counter[str] = Counter()
        for argument, value in target.inputs(VALUES):
            outcome = judge.judged(target, argument, value, VALUES[value])
            counts[outcome.verdict] += 1
            if outcome.verdict in FAULTS:
                found.append({"target": target.name, "argument": argument, "value": value, **outcome._asdict()})
        rows.append(_row(target.name, counts))
    return rows


def of_commands(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the command line what cannot be meant; what is a fault is added to ``found``."""
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        desk = lines.desk(Path(name))
        for command, words in lines.lines():
            outcome = lines.judged(words, desk)
            counts.setdefault(command, Counter())[outcome.verdict] += 1
            if outcome.verdict in FAULTS:
                found.append({"target": command, "words": [word[:40] for word in words], **outcome._asdict()})
    return [_row(f"physzoo {command}".replace("physzoo physzoo", "physzoo"), each) for command, each in counts.items()]


def _row(name: str, counts: Counter[str]) -> dict[str, Any]:
    return {"target": name, "inputs": counts.total(), **{verdict: counts[verdict] for verdict in judge.VERDICTS}}


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0]).parse_args()
    torch.set_num_threads(1)
    faults: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, chdir(name):
        table = [*of_functions(faults), *of_commands(faults)]
    total = {"target": "all"} | {key: sum(row[key] for row in table) for key in ("inputs", *judge.VERDICTS)}
    store("bad_input", [*table, total], values=list(VALUES), functions=len(targets()), faults=faults)


if __name__ == "__main__":
    main()
