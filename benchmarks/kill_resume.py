"""Kill `physzoo run` in every stage and at every write, resume it, and hold report.json against that of an uninterrupted run.

    python benchmarks/kill_resume.py [--kills 100] [--animals lynx_hare,inverse_kinematics,pendulum]

Three animals: an ODE with one data set, an amortised guide, a grey box. Every kill hits a process of its own in a fresh
folder, half of them while a file is being written, half at a random moment (seeded) of a stage, stages in turn. Some
more are by SIGTERM and by SIGINT, which have to end with their status and one sentence. Then the same command with --resume
runs to its end, and every number of its report but the times has to be the same. No process may be left.

The checks are cut down (`SMALL`), and processes are forked from one that has everything imported, so that a run takes seconds;
training data are made once, and so is the mode that the guide of one data set starts from (the uninterrupted run finds it
anew); the grey box gets a short last stage of its guide, and prior draws in place of a reference.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _store import Rows, store

import physzoo.report
import physzoo.run
from physzoo.cli import main as command_line
from physzoo.core.prototype import prototype
from physzoo.core.simulate import simulate
from physzoo.core.sites import latent_sites
from physzoo.inference.calibration import posterior_sbc
from physzoo.models import get, registry
from physzoo.task import Budget

SMALL = Budget(
    draws=100,
    chains=4,
    reference_draws=20,
    particles=50,
    warmup=20,
    datasets=16,
    refits=4,
    refit_wake=2,
    nuts_draws=4,
    nuts_warmup=2,
)
STEPS = 200  # of the recipe's; --quick makes a tenth of them
FINISH = {
    "steps": 200,
    "learning_rate": 1e-3,
    "batch_size": 64,
}  # a last stage for the grey box, a tenth of it with --quick
SHARES = {"lynx_hare": 0.1, "inverse_kinematics": 0.7, "pendulum": 0.2}  # of the kills, by what a run costs
STATUS = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130}
PATIENCE = 300.0  # seconds until a process counts as hanging


@dataclass(frozen=True)
class Ended:
    """How a process ended: its status, what it announced and when, and what it said on standard error."""

    status: int
    events: list[tuple[float, str]]
    said: str
    left: bool


@dataclass(frozen=True)
class Moment:
    """When to send a signal: ``wait`` seconds after a stage began, or while the file number ``write`` is written."""

    stage: str = ""
    wait: float = 0.0
    write: int | None = None


def run(name: str, folder: Path, resume: bool, start: Any, kill: tuple[str, Moment] | None = None) -> Ended:
    """Run an animal in a process of its own, and end that at the moment that is asked for."""
    reading, writing = os.pipe()
    said = folder.with_suffix(".stderr")
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.close(reading)
            os.setsid()
            for stream, target in ((1, os.devnull), (2, said)):
                os.dup2(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
            _announce(writing, None if kill is None else kill[1].write)
            if start is not None:
                physzoo.run.STARTS = dict.fromkeys(physzoo.run.STARTS, lambda *_, **__: start)
            sys.argv = ["physzoo", "run", name, "--out", str(folder), "--quick", "--steps", str(STEPS)]
            sys.argv += ["--resume"] if resume else []
            command_line()
        except SystemExit as error:
            status = int(error.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writing)
    events = []
    deadline = time.monotonic() + PATIENCE
    sent = False
    with os.fdopen(reading) as lines:
        for line in lines:
            events.append((time.monotonic(), line.strip()))
            if kill is not None and not sent and _due(kill[1], line.strip()):
                time.sleep(kill[1].wait)
                os.kill(pid, getattr(signal, kill[0]))
                sent = True
    _, code = os.waitpid(pid, 0)
    status = os.waitstatus_to_exitcode(code)
    return Ended(status, events, said.read_text(), _left(pid) or time.monotonic() > deadline)


def _announce(pipe: int, pause_at: int | None) -> None:
    """Tell the parent of every stage and every file; at the file number ``pause_at`` wait for the signal."""
    flush, clock, written = os.fsync, physzoo.run.Clock.__call__, 0

    def tell(words: str) -> None:
        os.write(pipe, f"{words}\n".encode())

    def flushed(descriptor: int) -> None:
        nonlocal written
        tell(f"write {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        written += 1
        if written - 1 == pause_at:
            tell("paused")
            signal.pause()
        flush(descriptor)

    @contextmanager
    def announced(self: Any, step: str) -> Iterator[Any]:
        tell(f"stage {step}")
        with clock(self, step) as note:
            yield note

    os.fsync = flushed
    physzoo.run.Clock.__call__ = announced  # type: ignore[method-assign]
    physzoo.run.posterior_sbc = partial(posterior_sbc, steps=20, draws=20)
    Budget.of = classmethod(lambda cls, quick: SMALL)  # type: ignore[method-assign, assignment]


def _due(moment: Moment, line: str) -> bool:
    return line == ("paused" if moment.write is not None else f"stage {moment.stage}")


def _left(group: int) -> bool:
    """Whether a process of the group lives on for a minute."""
    for _ in range(600):  # a worker that has just been started has to import torch before it can see that it is alone
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    os.killpg(group, signal.SIGKILL)
    return True


def numbers(folder: Path) -> dict[str, Any]:
    """Return what the report says, without times and dates."""
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {key: value for key, value in found.items() if key not in ("seconds", "date")}


def moments(ended: Ended, count: int, generator: torch.Generator) -> list[Moment]:
    """Return when to end a run, by how an uninterrupted one went: in a stage and at a write in turn, spread over all of them."""
    stages = [(when, line.split()[1]) for when, line in ended.events if line.startswith("stage ")]
    ends = [when for when, _ in stages[1:]] + [ended.events[-1][0]]
    lasted = [(name, end - begun) for (begun, name), end in zip(stages, ends, strict=True)]
    writes = sum(line.startswith("write ") for _, line in ended.events)
    found = []
    for index in range(count):
        place = index // 2
        if index % 2:
            found.append(Moment(write=(place * writes) // max(count // 2, 1)))
        else:
            halves = max((count + 1) // 2, 1)
            name, seconds = lasted[place % len(lasted) if halves >= len(lasted) else place * len(lasted) // halves]
            found.append(Moment(name, seconds * torch.rand((), generator=generator).item()))
    return found


def _words(events: list[tuple[float, str]]) -> str:
    """Say where a process was when it ended."""
    paused = len(events) > 1 and events[-1][1] == "paused"
    last = events[-2][1].split()[1].removeprefix(".").removesuffix(".tmp") if paused else ""
    stage = next((line.split()[1] for _, line in reversed(events) if line.startswith("stage ")), "start")
    return f"{stage}, {last} half written" if paused else stage


def _cheap(name: str) -> registry.Animal:
    """Return an animal; of a grey box one with training data made once, a short last stage and prior draws as reference."""
    animal = get(name)
    if animal.training is not None:
        splits = animal.training.splits(0)
        changes = {"finish": FINISH, "counterfactuals": {}, "continued": None}
        training = replace(animal.training, splits=lambda _: splits, **changes)
        animal = replace(animal, training=training, exact_draws=partial(_prior_draws, animal.model()))
        registry._ANIMALS[name] = animal
    return animal


def _prior_draws(model: Any, data: Any, count: int, seed: int) -> dict[str, torch.Tensor]:
    drawn = simulate(model, count, seed=seed)
    return {site: drawn[site] for site in latent_sites(prototype(model, data))}


def of_animal(name: str, kills: int, add: Callable[[tuple[Any, ...], Callable[[], dict[str, Any]]], Any]) -> None:
    """Kill and resume an animal and add a row for each kill."""
    generator = torch.Generator().manual_seed(0)
    animal = _cheap(name)
    start = None
    if animal.recipe.encoder is None:
        start = physzoo.run.STARTS[animal.recipe.start](animal.model(), animal.data(), seed=0)
    with tempfile.TemporaryDirectory() as desk:
        whole = run(name, Path(desk, "whole"), False, None)
        if whole.status != 0:
            sys.exit(f"{name}: the uninterrupted run ended with {whole.status}: {whole.said}")
        expected = numbers(Path(desk, "whole"))
        plan = [("SIGKILL", moment) for moment in moments(whole, kills, generator)]
        for sent in ("SIGTERM", "SIGINT"):
            plan += [(sent, moment) for moment in moments(whole, max(1, kills // 20), generator)]
        for index, (sent, moment) in enumerate(plan):

            def row(index: int = index, sent: str = sent, moment: Moment = moment) -> dict[str, Any]:
                folder = Path(desk, f"kill{index}")
                killed = run(name, folder, False, start, (sent, moment))
                done = killed.status == 0  # it was faster than the kill: the report is there
                told = sent == "SIGKILL" or (len(killed.said.splitlines()) == 1 and "--resume" in killed.said)
                resumed = run(name, folder, True, start)
                return {
                    "animal": name,
                    "signal": sent,
                    "ended": "before the signal" if done else _words(killed.events),
                    "as_promised": done or (killed.status == STATUS[sent] and told),
                    "same_numbers": resumed.status == 0 and numbers(folder) == expected,
                    "processes_left": killed.left or resumed.left,
                    "side_files_left": sum(path.name.endswith(".tmp") for path in folder.iterdir()),
                }

            add((name, kills, index), row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="by SIGKILL, over all animals")
    parser.add_argument("--animals", default=",".join(SHARES), help="names, with commas between them")
    parser.add_argument("--no-store", action="store_true", help="print the rows and store nothing")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    names = given.animals.split(",")
    total = sum(SHARES.get(name, 0.2) for name in names)
    rows = Rows("kill_resume" if not given.no_store else f"kill_resume_{os.getpid()}")
    try:
        for name in names:
            of_animal(name, max(1, round(given.kills * SHARES.get(name, 0.2) / total)), rows.add)
        whole = all(row["as_promised"] and row["same_numbers"] for row in rows)
        clean = not any(row["processes_left"] or row["side_files_left"] for row in rows)
        if not given.no_store:
            store("kill_resume", rows, same_numbers=whole, nothing_left=clean, steps=STEPS // 10, checks=vars(SMALL))
            rows.done()
    finally:
        if given.no_store:
            rows.done()
    if not (whole and clean):
        sys.exit(1)


if __name__ == "__main__":
    main()
