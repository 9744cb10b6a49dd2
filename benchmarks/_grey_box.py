"""What the benchmarks of the grey-box systems share: train and evaluate one row, resume it, put published numbers beside it.

A row is a model with its options and how it is trained; it runs once for each seed, in this process. A run leaves
runs/SYSTEM/ROW-SEED.json (numbers) and .pt (checkpoint); a second call reads the first and resumes the second. Both belong
to the options in the JSON: with others, the run starts anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _store import store, table_text
from torch import Tensor, nn

from physzoo.core.files import replacing
from physzoo.guides.cleansing import cleansing_guide
from physzoo.inference.evaluation import Evaluation, evaluate, principal_components, training_mean
from physzoo.inference.fit import CheckpointError, DataSets, FitOptions, fit, guide_last, physics_first
from physzoo.inference.fit.checkpoint import load
from physzoo.inference.objectives import ELBO, GreyBoxELBO, Objective
from physzoo.models.baselines import BlackBox, NeuralODE, black_box_guide
from physzoo.models.datasets.splits import Split, Splits

RUNS = Path(__file__).parents[1] / "runs"
REGULARISERS = ("predictive", "cleansing", "sleep", "whole_sleep")
STAGES = ("start", "finish")
EVERY = 500  # steps between checkpoints

Numbers = dict[str, float]
Extra = Callable[[Any, Any, Split], Mapping[str, float]]


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: what it is called, e.g. "grey box".
        model: builds the model from ``options``; a GreyBox, or one of models/baselines.py.
        options: JSON-able options of the model.
        training: {"guide": {...}, "objective": {...}, "steps": .., "learning_rate": .., "batch_size": ..}, "start" and
            "finish" as in ``Training``, and further options of ``fit``; a dataclass with these fields does too. An
            "evaluate_every" makes the validation split choose the best state.
        published: metric -> published number, metrics as in ``Evaluation.flat``.
        most: how many of the seeds it gets at most, for what costs many times the others; ``None`` for all.
    """

    name: str
    model: Callable[..., nn.Module]
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Any = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)
    most: int | None = None

    def settings(self) -> dict[str, Any]:
        """Return the training as a dict of its own."""
        return dict(vars(self.training) if is_dataclass(self.training) else self.training)

    def trained(self, **changes: Any) -> Row:
        """Return the row with other entries in its training."""
        return replace(self, training={**self.settings(), **changes})


def arguments(system: str, text: str | None) -> argparse.Namespace:
    """Read the command line that all systems share: seeds, quick, ablate, only."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--quick", action="store_true", help="20 steps on 64 data sets: does it run? Nothing is stored")
    parser.add_argument("--ablate", action="store_true", help="each regulariser off in turn, instead of the baselines")
    parser.add_argument("--only", nargs="+", help="rows to run, by name; what is stored holds these alone")
    parser.add_argument("--runs", type=Path, default=RUNS / system, help="folder of checkpoints and numbers")
    torch.set_num_threads(1)
    given = parser.parse_args()
    if given.ablate:  # its rows have names of the main table's, and fewer steps
        given.runs = given.runs / "ablation"
    return given


def ablations(row: Row) -> list[Row]:
    """Return the row; without its last stage; without that and each of the rest in turn; and without all regularisers."""
    bare = replace(row.trained(finish=None), name="without the last stage", published={})
    objective = dict(row.settings().get("objective", {}))
    used = [name for name in REGULARISERS if objective.get(name)]
    rows = [row] if row.settings().get("finish") is None else [row, bare]
    if row.settings().get("start") is not None:
        rows.append(replace(bare.trained(start=None), name="without the first stage"))
    for name in used:
        rows.append(replace(bare.trained(objective={**objective, name: 0.0}), name=f"without {name}"))
    none = {**objective, **dict.fromkeys(used, 0.0)}
    return [*rows, replace(bare.trained(objective=none), name="without regularisers")]


def build(row: Row, split: Split, seed: int) -> tuple[nn.Module, Any, Objective]:
    """Return the model, its guide and the objective of a row, before training."""
    settings = row.settings()
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = row.model(**row.options).to(split.x.dtype)
    black = isinstance(model, BlackBox | NeuralODE)
    joint = black or "make" in settings
    make: Any = black_box_guide if black else settings.get("make", cleansing_guide)
    guide = make(model, {"x": split.x[0]}, data=split.x, seed=seed, **settings.get("guide", {}))
    particles = settings.get("objective", {}).get("particles", 1)
    return model, guide, ELBO(particles) if joint else GreyBoxELBO(**settings.get("objective", {}))


def train(row: Row, splits: Splits, seed: int, folder: Path) -> tuple[nn.Module, Any, float]:
    """Train a row from where its checkpoint stands; return model, guide and the CPU seconds of all calls together."""
    settings, path = row.settings(), _path(folder, row, seed, ".pt")
    _prepare(row, splits, seed, folder)
    model, guide, objective = build(row, splits.train, seed)
    batch = min(settings.pop("batch_size", len(splits.train)), len(splits.train))
    start, finish = settings.pop("start", None), settings.pop("finish", None)
    for name in ("make", "guide", "objective"):
        settings.pop(name, None)
    if "evaluate_every" in settings:
        settings["held_out"] = DataSets(splits.valid.data)
    folder.mkdir(parents=True, exist_ok=True)
    clock, last = _Clock(objective, path), _path(folder, row, seed, ".finished.pt")
    if clock.step < settings["steps"]:
        last.unlink(missing_ok=True)  # it finished another model
    options = FitOptions(
        **{"progress": False, "max_skipped": 10, "warmup": 0.02, "seed": seed, **settings},
        checkpoint=path, checkpoint_every=EVERY, resume=True,
    )  # fmt: skip
    if start is not None and not path.exists():
        physics_first(model, guide, start, options)
    fit(model, guide, DataSets(splits.train.data, batch_size=batch), clock, options)
    seconds = clock.stop()
    if finish is not None:
        clocks: list[_Clock] = []

        def timed(objective: Objective) -> Objective:
            clocks.append(_Clock(objective, last))
            return clocks[0]

        guide_last(model, guide, finish, replace(options, checkpoint=last), data=splits.train.data, around=timed)
        seconds += clocks[0].stop()
    return model, guide, seconds


def run(row: Row, splits: Splits, seed: int, folder: Path, extra: Extra | None = None, **how: Any) -> Numbers:
    """Train and evaluate one row with one seed on the test split; numbers on file are read instead.

    Args:
        extra: (model, guide, test split) -> more numbers, e.g. counterfactual errors.
        **how: options of ``evaluate``.
    """
    stored = _prepare(row, splits, seed, folder)
    if "numbers" in stored:
        return stored["numbers"]
    model, guide, seconds = train(row, splits, seed, folder)
    test = _test(splits)
    found = evaluate(model, guide, test.data, truths=test.truths, seed=seed, **how)
    numbers = {**found.flat(), "cpu_seconds": seconds}
    if hasattr(model, "sd"):
        numbers["noise_sd"] = float(model.sd)  # pyright: ignore[reportArgumentType]
    if extra is not None:
        numbers |= extra(model, guide, test)
    _write(_path(folder, row, seed, ".json"), {**stored, "numbers": numbers})
    print(f"{row.name}, seed {seed}: " + ", ".join(f"{k} {v:.4g}" for k, v in numbers.items()), flush=True)
    return numbers


def _prepare(row: Row, splits: Splits, seed: int, folder: Path) -> dict[str, Any]:
    """Take away checkpoints of other settings or data; return what is on file of these: marks and, if done, numbers."""
    path, mark = _path(folder, row, seed, ".json"), _mark(row, splits, seed)
    begun = _mark(row.trained(finish=None), splits, seed)
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if stored.get("mark") == mark:
        return stored
    _path(folder, row, seed, ".finished.pt").unlink(missing_ok=True)
    if stored.get("begun", stored.get("mark")) != begun:
        _path(folder, row, seed, ".pt").unlink(missing_ok=True)
    _write(path, {"mark": mark, "begun": begun})
    return {"mark": mark, "begun": begun}


def closed_form(name: str, found: Evaluation, seconds: float, published: Mapping[str, float] | None = None) -> Any:
    """Return a line of the table for what has no seed: the training mean, PCA."""
    return summary(name, [{**found.flat(), "cpu_seconds": seconds}], published)


def linear(splits: Splits, sizes: Sequence[int], published: Mapping[str, float] | None = None) -> list[Any]:
    """Return the lines of the training mean and of PCA with codes of the given sizes.

    Args:
        published: of the training mean.
    """
    train, test = splits.train.x, _test(splits).x
    lines, started = [], time.process_time()
    found = training_mean(train, test)
    lines.append(closed_form("training mean", found, time.process_time() - started, published))
    for size in sizes:
        started = time.process_time()
        found = principal_components(train, test, size)
        lines.append(closed_form(f"PCA {size}", found, time.process_time() - started))
    return lines


def summary(name: str, runs: Sequence[Mapping[str, float]], published: Mapping[str, float] | None = None) -> Any:
    """Return one line: for each metric the mean over seeds, "_sd" of the seeds (two or more), "_published" beside it."""
    line: dict[str, Any] = {"row": name, "seeds": len(runs)}
    for metric in dict.fromkeys(key for numbers in runs for key in numbers):
        values = [numbers[metric] for numbers in runs if metric in numbers]
        line[metric] = statistics.fmean(values)
        if len(values) > 1:
            line[f"{metric}_sd"] = statistics.stdev(values)
        if metric in (published or {}):
            line[f"{metric}_published"] = (published or {})[metric]
    for metric, value in (published or {}).items():
        line.setdefault(f"{metric}_published", value)
    return line


def table(
    tables: str | Mapping[str, Sequence[str]],
    rows: Sequence[Row],
    splits: Splits,
    given: argparse.Namespace,
    *,
    extra: Extra | None = None,
    closed: Sequence[Mapping[str, Any]] = (),
    **facts: Any,
) -> None:
    """Run all rows with all seeds, print and store the tables; with ``given.quick`` a small trial that stores nothing.

    Args:
        tables: name of each stored table -> its metrics; the first also holds every number of every line, as "everything".
            A name alone is one wide table of all metrics.
        given: from ``arguments``.
        closed: lines of ``closed_form``, put last.
        **facts: what else the claim needs, above all ``source``, where the published numbers are from.

    Raises:
        ValueError: ``--only`` names no row.
    """
    rows = [row for row in rows if given.only is None or row.name in given.only]
    if not rows:
        raise ValueError(f"only: got {given.only}, expected names of rows")
    folder, seeds = given.runs, given.seeds
    if given.quick:
        rows, splits = [row.trained(**_short(row)) for row in rows], small(splits)
        folder, seeds = given.runs / "quick", given.seeds[:1]
    lines = [
        summary(row.name, [run(row, splits, seed, folder, extra) for seed in seeds[: row.most]], row.published)
        for row in rows
    ]
    lines += [dict(line) for line in closed]
    facts |= {"seeds": list(seeds), "sizes": {name: len(split) for name, split in _parts(splits).items()}}
    if isinstance(tables, str):
        tables = {tables: [key for key in dict.fromkeys(key for line in lines for key in line) if key != "row"]}
    for name, metrics in tables.items():
        shown = [line for line in (_columns(line, metrics) for line in lines) if len(line) > 1]
        if given.quick:
            print(table_text(shown))
        else:
            store(name, shown, **facts, **({"everything": lines} if name == next(iter(tables)) else {}))


def _columns(line: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    wanted = [f"{metric}{suffix}" for metric in metrics for suffix in ("", "_sd", "_published")]
    return {"row": line["row"], **{name: line[name] for name in wanted if name in line}}


def small(splits: Splits, sets: int = 64) -> Splits:
    """Return the first data sets of each split."""
    parts = {name: split.rows(torch.arange(min(sets, len(split)))) for name, split in _parts(splits).items()}
    return replace(splits, **parts)


def _short(row: Row) -> dict[str, Any]:
    settings = row.settings()
    guide = {"simulations": 256, **settings.get("guide", {})}
    stages = {name: {**settings[name], "steps": 20} for name in STAGES if settings.get(name) is not None}
    return {"steps": 20, "batch_size": 32, "guide": guide, **stages}


class _Clock:
    """An objective that also keeps the CPU seconds of the training, over resumed calls, beside the checkpoint."""

    def __init__(self, objective: Objective, checkpoint: Path) -> None:
        self.objective, self.path = objective, checkpoint.with_suffix(".seconds.json")
        self.particles: int = getattr(objective, "particles", 1)
        self.step, self.before = 0, 0.0
        if checkpoint.exists():
            try:
                self.step = int(load(checkpoint)["step"])
            except CheckpointError:
                checkpoint.unlink()
        known = json.loads(self.path.read_text(encoding="utf-8")) if self.step and self.path.exists() else {}
        self.known = {int(step): seconds for step, seconds in known.items() if int(step) <= self.step}
        self.before = max(self.known.values(), default=0.0)
        self.started = time.process_time()

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any], batch: Any) -> Tensor:
        if torch.is_grad_enabled():  # else an evaluation on held-out data, which is no step
            if self.step % EVERY == 0:
                self.stop()
            self.step += 1
        return self.objective(model, guide, batch)

    def stop(self) -> float:
        """Note and return the CPU seconds up to now."""
        seconds = self.before + time.process_time() - self.started
        self.known[self.step] = seconds
        _write(self.path, self.known)
        return seconds


def _path(folder: Path, row: Row, seed: int, suffix: str) -> Path:
    stem = "".join(c if c.isalnum() else "_" for c in row.name)
    return folder / f"{stem}-{seed}{suffix}"


def _mark(row: Row, splits: Splits, seed: int) -> str:
    """What the numbers depend on, as far as it can be seen: options, training, data."""
    x = splits.train.x
    settings = {name: value for name, value in row.settings().items() if name not in STAGES or value is not None}
    seen = [row.model.__qualname__, row.options, settings, seed, tuple(x.shape), float(x.double().square().sum())]
    return hashlib.sha256(json.dumps(seen, default=_name, sort_keys=True).encode()).hexdigest()[:16]


def _name(value: Any) -> str:
    return getattr(value, "__qualname__", str(value))


def _write(path: Path, content: Mapping[Any, Any]) -> None:
    plain = {
        k: {n: v for n, v in value.items() if math.isfinite(v)} if isinstance(value, Mapping) else value
        for k, value in content.items()
    }
    with replacing(path) as beside:
        beside.write_text(json.dumps(plain, indent=1), encoding="utf-8")


def _parts(splits: Splits) -> dict[str, Split]:
    parts = {"train": splits.train, "valid": splits.valid, "test": splits.test}
    return {name: split for name, split in parts.items() if split is not None}


def _test(splits: Splits) -> Split:
    return splits.valid if splits.test is None else splits.test
