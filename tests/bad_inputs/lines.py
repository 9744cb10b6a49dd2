"""Command lines that cannot be meant, and what comes of each: exit status 2 and one sentence."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import numpy as np

from physzoo.cli import main

from .judge import SECONDS, Hang, Outcome

NAMES = (
    "unicorn", "", " ", "linear-gaussian", "LINEAR_GAUSSIAN", "linear_gaussian ", "../lynx_hare", "a\tb", "x" * 3000, "-1", "--",
    "nan", "ünïcode", "lynx_hare/", "None", "linear_gaussian\n", "*", "$HOME", "~", "%s",
)  # fmt: skip
PLACES = (
    "thesis.txt", "empty", "garbage.nc", "garbage.npz", "words.npz", "settings/settings.json", "settings", "full", "missing", "",
    "x" * 300, "missing/a/b.nc", "garbage.npz/more", "empty.npz", "truncated.npz", "text.json", "/dev/null", "a\tb.nc", ".",
)  # fmt: skip
NUMBERS = (
    "-1", "0", "2.5", "nan", "inf", "-inf", "1e3", "word", "", " ", "0x10", "1,000", "1_0_", "٣a", "--5", "True", "None", "[]", "9" * 30,
    "9" * 5000, "1e999", "²",
)  # fmt: skip
DEVICES = ("abacus", "cuda:99", "meta", "", "cpu:x", "xpu", "CPU ", "3", "mps:-1", "x" * 500)
GUIDES = ("unicorn", "", "Spline", "own", "full,diagonal", "3", "None", "spline ", "x" * 900, "full\n")


def desk(folder: Path) -> Path:
    """Make files and folders that are not physzoo's."""
    (folder / "thesis.txt").write_text("mine")
    for name in ("empty", "settings", "full"):
        (folder / name).mkdir()
    (folder / "settings" / "settings.json").write_text(json.dumps({"format": "physzoo-run-1", "name": "unicorn"}))
    (folder / "full" / "report.json").write_text("{}")
    for name in ("garbage.nc", "garbage.npz", "text.json"):
        (folder / name).write_bytes(b"\x89HDF nonsense" * 9)
    (folder / "empty.npz").write_bytes(b"")
    np.savez(folder / "words.npz", words=np.array(["a", "b"]))
    whole = (folder / "words.npz").read_bytes()
    (folder / "truncated.npz").write_bytes(whole[: len(whole) // 2])
    return folder


def lines() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the command and the words of each line."""
    for name in NAMES:
        yield "show", ("show", name)
        yield "run", ("run", name, "--out", "new")
        yield "fit", ("fit", name, "--out", "new", "--quick")
        yield "check", ("check", name)
        yield "data", ("data", name, "--out", "new.npz")
        yield "list", ("list", name if name not in ("", "--") else "x")
        yield "physzoo", (name or "x",)
    for place in PLACES:
        yield "check", ("check", place)
        yield "compare", ("compare", place, "words.npz")
        yield "compare", ("compare", "words.npz", place)
        yield "data", ("data", "galaxy", "--source", place, "--out", "new.npz")
        yield "data", ("data", "locomotion", "--source", place, "--out", "new.npz", "--hold-out", "age")
    for place in ("thesis.txt", "full", "settings", "garbage.npz/more", "", ".", "/dev/null", "/proc/new", "x" * 300):
        yield "run", ("run", "linear_gaussian", "--out", place)
        yield "fit", ("fit", "linear_gaussian", "--out", place, "--resume")
        yield "data", ("data", "pendulum", "--out", place)
    for number in NUMBERS:
        for command in ("run", "fit"):
            yield command, (command, "linear_gaussian", "--out", "new", "--steps", number)
        if number not in ("0", "1e3"):
            yield "fit", ("fit", "linear_gaussian", "--out", "new", "--seed", number)
            yield "data", ("data", "pendulum", "--out", "new.npz", "--seed", number)
    for device in DEVICES:
        yield "fit", ("fit", "linear_gaussian", "--out", "new", "--device", device)
    for guide in GUIDES:
        yield "run", ("run", "linear_gaussian", "--out", "new", "--guide", guide)
    for command in ("run", "fit", "show", "check", "compare", "data"):
        yield command, (command,)
        yield command, (command, "--unicorn")
        yield command, (command, "a", "b", "c", "d")
        yield command, (command, "linear_gaussian", "--out")
        yield command, (command, "--quick=maybe", "linear_gaussian")
    yield "run", ("run", "linear_gaussian", "--out", "new", "--resume", "--overwrite")
    yield "data", ("data", "pendulum", "--out", "new.npz", "--hold-out", "age")


def judged(words: tuple[str, ...], folder: Path) -> Outcome:
    """Run one line in this process and say how it ended; nothing in the folder may change."""
    before = sorted(folder.rglob("*"))
    out, err = io.StringIO(), io.StringIO()
    previous = signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, 4 * SECONDS)
    status: object = 0
    try:
        with patch.object(sys, "argv", ["physzoo", *words]), chdir(folder), redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as ended:
        status = ended.code
    except Hang:
        return Outcome("hang", f"more than {4 * SECONDS} s")
    except BaseException as error:
        return Outcome("raw", f"{type(error).__name__}: {error}"[:200])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    said = err.getvalue()
    if sorted(folder.rglob("*")) != before:
        return Outcome("silent", f"files changed ({said[:150]})")
    if status == 0:
        return Outcome("silent", f"status 0 ({said[:150]})")
    right = status == 2 and said.startswith("physzoo: ") and said.count("\n") == 1 and len(said) < 500
    return Outcome("sentence" if right and "Traceback" not in said else "raw", f"{status}: {said[:200]}")


def _ring(*_: object) -> None:
    raise Hang
