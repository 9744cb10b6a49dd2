"""How commands and runs end: by a signal, on a full disk, beside another run, with a flag forgotten; nothing whole is lost."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_cli import contents, physzoo, refused

import physzoo as package
from physzoo.command import endings
from physzoo.folder import CHECKPOINT, FORMAT, POSTERIOR, REPORT, SETTINGS, BadInput, Folder
from physzoo.inference.fit import CheckpointError
from physzoo.inference.fit.checkpoint import load
from physzoo.inference.fit.guard import NonFiniteError
from physzoo.models import registry
from physzoo.run import run
from physzoo.task import RunOptions, restore

FULL = OSError(errno.ENOSPC, "No space left on device")
ROW = {"name": "linear_gaussian", "guide": "full", "steps": 4, "seed": 0, "quick": True}
LINE = ("run", "linear_gaussian", "--quick", "--steps", "40")


def quiet(line: str) -> None:
    """Swallow what a run says."""


# ---------------------------------------------------------------- exit statuses


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (BadInput("--out: got 'x', expected y"), 2, "--out: got 'x', expected y"),
        (CheckpointError("checkpoint: damaged"), 2, "checkpoint: damaged"),
        (NonFiniteError("step 3: site 'z'"), 3, "the fit stopped at step 3: site 'z'"),
        (RuntimeError("first line\nsecond line"), 3, "broken by RuntimeError: first line;"),
        (ValueError(), 3, "broken by ValueError;"),
        (MemoryError("too much"), 3, "broken by MemoryError"),
        (SystemExit(7), 3, "broken by SystemExit: 7"),
        (FULL, 3, "the disk takes no more"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C; go on with: physzoo run a --out 'my dir' --resume"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_ending_has_its_status_and_one_sentence(
    error: BaseException, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    assert endings.run(command, ["run", "a", "--out", "my dir"]) == status
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
    assert "Traceback" not in told


def test_a_traceback_is_there_for_those_who_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PHYSZOO_DEBUG", "1")
    assert endings.run(lambda: {}["nothing"], ["list"]) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_signal_ends_command_and_workers_and_leaves_the_handlers_alone(
    number: signal.Signals, status: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()

    def command() -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)

    assert endings.run(command, ["fit", "a", "--out", "b", "--overwrite"]) == status
    told = capsys.readouterr().err
    assert f"stopped by {word}; go on with: physzoo fit a --out b --resume" in told
    assert "--overwrite" not in told
    worker.join(10)
    assert worker.exitcode == -signal.SIGTERM
    assert signal.getsignal(number) is before


def test_a_command_in_a_thread_leaves_signals_alone() -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(endings.run(lambda: 1, ["check"])))
    thread.start()
    thread.join()
    assert found == [1]


def test_help_tells_the_statuses_and_cuts_no_summary() -> None:
    whole = physzoo("--help").stdout
    assert "..." not in whole.split("Commands:")[1]
    for words in (("--help",), ("run", "--help"), ("fit", "--help"), ("check", "--help"), ("compare", "--help")):
        told = " ".join(physzoo(*words).stdout.split())
        assert "0 good, 1 a check failed" in told
        assert "143 by SIGTERM" in told


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="not on this system")
def test_output_that_nobody_takes_ends_a_command() -> None:
    command = [sys.executable, "-m", "physzoo", "--help"]
    with Path("/dev/full").open("w") as full:
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert found.returncode == 3
    assert found.stderr.count("\n") == 1
    reading, writing = os.pipe()
    os.close(reading)
    found = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (found.returncode, found.stderr) == (128 + signal.SIGPIPE, "")


# ---------------------------------------------------------------- a run whose work is done already


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run of the command line, and what is kept of it, so that further runs write the same and work little."""
    from physzoo import run as module
    from physzoo.report import write as report

    kept: dict[str, Any] = {}

    def keeping(name: str) -> Callable[..., Any]:
        function = getattr(module, name)

        def call(*arguments: Any, **options: Any) -> Any:
            kept[f"{name} {len(arguments)}"] = found = function(*arguments, **options)
            return found

        return call

    folder = tmp_path_factory.mktemp("endings") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw_figures", dot)
        patch.setattr(module, "check_calibration", keeping("check_calibration"))
        patch.setattr(module, "compare_with", keeping("compare_with"))
        start = keeping_start(module, kept)
        patch.setattr(module, "STARTS", dict.fromkeys(module.STARTS, start))
        assert physzoo(*LINE, "--out", folder).returncode == 0
    return folder, kept


def keeping_start(module: Any, kept: dict[str, Any]) -> Callable[..., Any]:
    first = module.STARTS["mode"]

    def call(*arguments: Any, **options: Any) -> Any:
        kept["start"] = first(*arguments, **options)
        return kept["start"]

    return call


@pytest.fixture
def cheap(whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of that run; further ones take the slow parts from it, and draw dots for figures. All writes are real."""
    from physzoo import run as module
    from physzoo.report import write as report

    folder, kept = whole
    monkeypatch.setattr(module, "STARTS", dict.fromkeys(module.STARTS, lambda *_, **__: kept["start"]))
    monkeypatch.setattr(module, "check_calibration", lambda *given: kept[f"check_calibration {len(given)}"])
    monkeypatch.setattr(module, "compare_with", lambda *given: kept[f"compare_with {len(given)}"])

    monkeypatch.setattr(report, "draw_figures", dot)
    return folder


def dot(result: Any, folder: Folder, record: Any) -> list[str]:
    with folder.beside("fit.png") as beside:
        beside.write_bytes(b"dot")
    return ["fit.png"]


def numbers(folder: Path) -> dict[str, Any]:
    """What a report says but for times and dates."""
    found = json.loads((folder / REPORT).read_text())
    return {key: value for key, value in found.items() if key not in ("seconds", "date")}


class Writes:
    """Counts what is flushed to disk, and lets the n-th time meet a full disk or a kill."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int | None, what: Callable[[], None] | None = None) -> None:
        self.count, self.at, self.flush, self.what = 0, at, os.fsync, what
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, descriptor: int) -> None:
        self.count += 1
        if self.at is not None and self.count >= self.at:
            if self.what is not None:
                self.what()
            raise FULL
        self.flush(descriptor)


def litter(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_a_disk_that_is_full_at_any_write_loses_nothing(
    cheap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the n-th write on every one fails, for every n; then there is room again."""
    with pytest.MonkeyPatch.context() as patch:
        counted = Writes(patch, None)
        assert physzoo(*LINE, "--out", tmp_path / "counted").returncode == 0
    assert counted.count >= 10
    assert numbers(tmp_path / "counted") == numbers(cheap)
    for at in range(1, counted.count + 1):
        folder = tmp_path / f"full{at}"
        with pytest.MonkeyPatch.context() as patch:
            Writes(patch, at)
            ended = physzoo(*LINE, "--out", folder)
        assert ended.returncode == 3, (at, ended)
        assert ended.stderr.strip().splitlines()[-1].startswith("physzoo: the disk takes no more")
        assert "Traceback" not in ended.stderr
        assert folder.exists() == (
            at > 2
        )  # the settings are flushed twice; a folder that holds nothing is taken away again
        if folder.exists():
            assert litter(folder) == []
            json.loads((folder / SETTINGS).read_text())
            if (folder / CHECKPOINT).exists():
                load(folder / CHECKPOINT)
        ended = physzoo(*LINE, "--out", folder, "--resume")
        assert ended.returncode == 0, (at, ended)
        assert numbers(folder) == numbers(cheap), at


def test_a_full_disk_spares_the_finished_report_of_a_run_that_is_resumed(
    cheap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "again"
    shutil.copytree(cheap, folder)
    before = contents(folder)
    Writes(monkeypatch, 1)
    assert physzoo(*LINE, "--out", folder, "--resume").returncode == 3
    assert contents(folder) == before


def test_a_posterior_on_a_disk_that_is_really_full_is_an_error_and_no_crash(cheap: Path, tmp_path: Path) -> None:
    """HDF5 itself must not write to the disk: it ends the process. Here files may have 20,000 bytes, as by ulimit -f."""
    resource = pytest.importorskip("resource")
    from xarray import open_datatree

    tree = open_datatree(cheap / POSTERIOR, engine="h5netcdf").load()
    folder = Folder(tmp_path)
    folder.write_tree(POSTERIOR, tree)
    before = contents(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            folder.write_tree(POSTERIOR, tree)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == before


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_kill_9_while_any_file_is_written_and_resume(cheap: Path, tmp_path: Path) -> None:
    """A process of its own is killed inside a write; benchmarks/kill_resume.py does so over all stages of three animals."""
    for at in (1, 9):
        folder = tmp_path / f"kill{at}"
        process = multiprocessing.get_context("fork").Process(target=killed_at, args=(at, folder))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, at
        assert physzoo(*LINE, "--out", folder, "--resume").returncode == 0
        assert numbers(folder) == numbers(cheap), at
        assert litter(folder) == []


def killed_at(write: int, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Writes(patch, write, lambda: os.kill(os.getpid(), signal.SIGKILL))
        run("linear_gaussian", folder, RunOptions(steps=40, quick=True, progress=False), quiet)


def test_a_run_that_is_stopped_says_where_and_goes_on(
    cheap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("physzoo.run.make_reference", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        ended = physzoo(*LINE, "--out", folder)
    assert ended.returncode == 143
    assert f"stopped by SIGTERM at step 'reference'; go on with: physzoo {' '.join(LINE)}" in ended.stderr
    assert physzoo(*LINE, "--out", folder, "--resume").returncode == 0
    assert numbers(folder) == numbers(cheap)


# ---------------------------------------------------------------- whose folder it is


def test_a_second_run_in_a_folder_is_refused_while_the_first_is_at_work(tmp_path: Path) -> None:
    with Folder.claimed(tmp_path / "mine", ROW):
        before = contents(tmp_path)
        refused(physzoo(*LINE, "--out", tmp_path / "mine"), "--out", "mine", "another run is at work")
        refused(physzoo("check", tmp_path / "mine"), "DIR", "another run is at work")
        assert contents(tmp_path) == before
    with Folder.claimed(tmp_path / "mine", ROW):
        assert set(contents(tmp_path)) == {f"mine/{SETTINGS}"}


def test_the_lock_of_a_dead_process_is_gone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    code = f"""
import time
from pathlib import Path
from physzoo.folder import Folder
with Folder(Path({str(tmp_path / "mine")!r})).locked("DIR"):
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match="another run is at work"), Folder.claimed(tmp_path / "mine", ROW):
            pass
        process.kill()
    with Folder.claimed(tmp_path / "mine", ROW):
        pass


def test_a_file_system_without_locks_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unknown)
    with pytest.warns(UserWarning, match="has no locks; start no second run"), Folder.claimed(tmp_path / "mine", ROW):
        pass


@pytest.mark.parametrize("name", [CHECKPOINT, POSTERIOR])
def test_a_folder_with_files_of_two_runs_is_refused(cheap: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(cheap, tmp_path / "one")
    assert physzoo("fit", *LINE[1:], "--seed", "1", "--out", tmp_path / "other").returncode == 0
    shutil.copy(tmp_path / "other" / name, tmp_path / "one" / name)
    before = contents(tmp_path)
    refused(physzoo("check", tmp_path / "one"), "DIR", name, "seed 1", "says 0")
    if name == CHECKPOINT:
        refused(physzoo(*LINE, "--resume", "--out", tmp_path / "one"), name, "seed 1", "says 0")
    assert contents(tmp_path) == before
    assert restore(tmp_path / "other", progress=False)[1].options.seed == 1


# ---------------------------------------------------------------- a flag forgotten


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ((CHECKPOINT,), "an unfinished fit"),
        ((CHECKPOINT, POSTERIOR), "a fit"),
        ((CHECKPOINT, REPORT), "a finished run"),
    ],
)
def test_a_run_is_not_thrown_away_by_a_forgotten_flag(tmp_path: Path, files: tuple[str, ...], words: str) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / SETTINGS).write_text(json.dumps({"format": FORMAT, **ROW}))
    for name in files:
        (folder / name).write_text("mine")
    before = contents(folder)
    refused(physzoo(*LINE, "--out", folder), f"which holds {words}", "--resume", "--overwrite", "another folder")
    assert contents(folder) == before
    with Folder.claimed(folder, ROW, resume=True):
        assert contents(folder) == before
    with Folder.claimed(folder, {**ROW, "seed": 5}, overwrite=True):
        assert set(contents(folder)) == {SETTINGS}
        assert json.loads((folder / SETTINGS).read_text())["seed"] == 5


def test_a_folder_is_consistent_wherever_writing_over_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings stand beside a checkpoint of theirs alone, whichever of the calls that change something is the last."""
    for last in range(12):
        folder = tmp_path / f"mine{last}"
        folder.mkdir()
        (folder / SETTINGS).write_text(json.dumps({"format": FORMAT, **ROW}))
        for name in (CHECKPOINT, POSTERIOR, REPORT, "finished.pt", "reference.npz", "report.html"):
            (folder / name).write_text("seed 0")
        done = [0]

        def counted(call: Callable[..., Any], done: list[int] = done, last: int = last) -> Callable[..., Any]:
            def until(*arguments: Any, **options: Any) -> Any:
                done[0] += 1
                if done[0] > last:
                    raise KeyboardInterrupt
                return call(*arguments, **options)

            return until

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", counted(Path.unlink))
            patch.setattr(Path, "replace", counted(Path.replace))
            try:
                with Folder.claimed(folder, {**ROW, "seed": 5}, overwrite=True):
                    pass
            except KeyboardInterrupt:
                pass
        seed = json.loads((folder / SETTINGS).read_text())["seed"]
        left = {path.name for path in folder.iterdir()} - {SETTINGS, f".{SETTINGS}.tmp"}
        assert seed == 0 or not left
        assert CHECKPOINT in left or not left  # nothing stands without what it is made of


# ---------------------------------------------------------------- hostile paths and files


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a fitted one in it, whose settings are as good as any."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / SETTINGS).write_text(json.dumps({"format": FORMAT, **ROW}))
    np.savez(tmp_path / "good.npz", x=np.zeros(3))
    return tmp_path


LONG = "x" * 300
NOT_TEXT = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize(
    "words",
    [
        ("fit", "linear_gaussian", "--out", LONG), ("check", LONG), ("compare", LONG, LONG), ("show", "x" * 10**5),
        ("data", "pendulum", "--out", f"{LONG}.npz"), ("data", "pendulum", "--out", "o.npz", "--source", LONG),
        ("show", NOT_TEXT), ("check", NOT_TEXT), ("compare", NOT_TEXT, NOT_TEXT), ("show", "\x1b[31m"),
        ("fit", "linear_gaussian", "--out", "\ud800"), ("fit", "linear_gaussian", "--out", "good.npz/x"),
        ("fit", "linear_gaussian", "--out", "new", "--device", "meta"),
        ("fit", "linear_gaussian", "--out", "new", "--steps", "9" * 30),
        ("fit", "linear_gaussian", "--out", "new", "--steps", "1e99"),
        ("fit", "linear_gaussian", "--out", "new", "--seed", "9" * 5000),
        ("fit", "linear_gaussian", "--out", "new", "--resume", "--overwrite"),
    ],
    ids=lambda words: " ".join(words)[:40].encode("ascii", "backslashreplace").decode(),
)  # fmt: skip
def test_words_that_nobody_means_are_refused_in_one_sentence(desk: Path, words: tuple[str, ...]) -> None:
    before = contents(desk)
    ended = physzoo(*words)
    refused(ended)
    assert len(ended.stderr) < 500
    assert "\x1b" not in ended.stderr
    assert contents(desk) == before
    assert not (desk / "new").exists()


@pytest.mark.parametrize("kind", ["pipe", "loop", "device", "folder"])
def test_what_is_no_file_is_not_waited_for(desk: Path, kind: str) -> None:
    def make(path: Path) -> None:
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to(path.name if kind == "loop" else "/dev/zero")

    for name in ("odd.nc", "odd.npz"):
        make(desk / name)
    refused(physzoo("compare", "odd.nc", "good"), "A", "odd.nc")
    refused(physzoo("compare", "odd.npz", "good"), "A", "odd.npz")
    refused(physzoo("data", "pendulum", "--out", "odd.npz", "--force"), "--out", "odd.npz")
    refused(physzoo("data", "galaxy", "--out", "new.npz", "--source", "odd.nc"), "--source", "odd.nc")
    if kind != "folder":
        refused(physzoo("fit", "linear_gaussian", "--out", "odd.nc"), "--out", "odd.nc")
    make(desk / "good" / CHECKPOINT)
    refused(physzoo("check", "good"), "DIR", "good")
    refused(physzoo("fit", "linear_gaussian", "--out", "good", "--resume", "--quick", "--steps", "40"), "checkpoint.pt")
    (desk / "good" / SETTINGS).unlink()
    make(desk / "good" / SETTINGS)
    refused(physzoo("check", "good"), "good")
    refused(physzoo("fit", "linear_gaussian", "--out", "good", "--overwrite"), "good")


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a":' * 10**5, "\0\1", "9" * 5000, "null", " " * 10**6])
def test_settings_that_are_none_are_refused(desk: Path, text: str) -> None:
    (desk / "good" / SETTINGS).write_text(text)
    refused(physzoo("check", "good"), "settings.json", "good")
    refused(physzoo("fit", "linear_gaussian", "--out", "good", "--overwrite"), "settings.json", "good")


def test_a_path_that_is_no_text_takes_a_run(cheap: Path, tmp_path: Path) -> None:
    folder = tmp_path / NOT_TEXT
    assert physzoo(*LINE, "--out", folder).returncode == 0
    assert numbers(folder) == numbers(cheap)


def nested(group: Any) -> None:
    for _ in range(500):
        group = group.create_group("g")


def soft(file: Any) -> None:
    import h5py

    file["posterior"]["z"] = h5py.SoftLink("/posterior/z")
    file["posterior"]["hard"] = file["posterior"]


HOSTILE = {
    "huge": lambda file: file["posterior"].create_dataset("z", (1, 10**6, 10**6), "f8", chunks=(1, 100, 100)),
    "loop": soft,
    "compound": lambda file: file["posterior"].create_dataset("z", data=np.zeros((1, 50), [("a", "f8")])),
    "complex": lambda file: file["posterior"].create_dataset("z", data=np.zeros((1, 50, 6), complex)),
    "words": lambda file: file["posterior"].create_dataset("z", data=np.array([["a"]], "S1")),
    "scalar": lambda file: file["posterior"].create_dataset("z", data=3.0),
    "nothing": lambda file: None,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_posteriors_are_not_compared(desk: Path, kind: str) -> None:
    import h5py

    with h5py.File(desk / "hostile.nc", "w") as file:
        file.create_group("posterior")
        HOSTILE[kind](file)
    refused(physzoo("compare", "hostile.nc", "hostile.nc"), "hostile.nc")


def test_groups_beside_the_posterior_are_not_read(cheap: Path, tmp_path: Path) -> None:
    import h5py

    shutil.copy(cheap / POSTERIOR, tmp_path / "many.nc")
    with h5py.File(tmp_path / "many.nc", "a") as file:
        nested(file.create_group("other"))
        nested(file["posterior"])
    ended = physzoo("compare", tmp_path / "many.nc", cheap)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("kind", ["shape", "deep", "object"])
def test_hostile_references_are_not_compared(desk: Path, kind: str) -> None:
    import io
    import zipfile

    header = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (10**13,)}
    np.lib.format.write_array_header_1_0(header, shape)
    about = io.BytesIO()
    np.save(about, np.array("[" * 10**5 if kind == "deep" else "{}"))
    with zipfile.ZipFile(desk / "hostile.npz", "w") as archive:
        archive.writestr("draws/z.npy", header.getvalue() if kind == "shape" else b"\x93NUMPY")
        archive.writestr("meta.npy", about.getvalue())
    refused(physzoo("compare", "hostile.npz", "hostile.npz"), "hostile.npz")
    refused(physzoo("data", "locomotion", "--out", "new.npz", "--source", "hostile.npz"), "--source")


# ---------------------------------------------------------------- plug-ins


ANIMAL: dict[str, Any] = {
    "title": "t", "physics": "p", "likelihoods": ("forward",), "model": dict, "data": dict,
    "quantities": {}, "recipe": registry.Recipe(), "priors": {}, "source": "s",
}  # fmt: skip


def plugin(**changes: Any) -> None:
    registry.register(registry.Animal("first_of_a_plugin", **ANIMAL))
    registry.register(registry.Animal(**{"name": "second_of_a_plugin", **ANIMAL, **changes}))


def broken() -> None:
    raise RuntimeError("nothing works\nat all")


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Loads the register anew with such entry points."""
    monkeypatch.setattr(registry, "_ANIMALS", dict(registry._ANIMALS))

    def load_with(*loads: Callable[[], None]) -> None:
        points = [SimpleNamespace(name=f"p{k}", value="pack.age", load=load) for k, load in enumerate(loads)]
        monkeypatch.setattr(registry, "entry_points", lambda group: points)
        registry._load.cache_clear()

    yield load_with
    registry._load.cache_clear()


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (broken, "RuntimeError (nothing works)"),
        (lambda: sys.exit(4), "SystemExit (4)"),
        (lambda: plugin(likelihoods=None), "TypeError (likelihoods: got None"),
        (lambda: plugin(name="lynx_hare"), "ValueError (name: got 'lynx_hare'"),
        (lambda: plugin(model=3), "TypeError (model: got 3"),
        (lambda: plugin(quantities={"z": 3}), "TypeError (quantities['z']"),
        (lambda: plugin(recipe={}), "TypeError (recipe: got {}"),
    ],
    ids=["raises", "exits", "likelihoods", "taken", "model", "quantities", "recipe"],
)
def test_a_broken_plugin_is_left_out_and_told_of(
    plugins: Callable[..., None], load: Callable[[], None], reason: str
) -> None:
    before = set(registry.names())
    plugins(load, lambda: plugin(name="of_a_good_plugin"))
    with pytest.warns(registry.PluginWarning) as told:
        names = registry.names()
    assert len(told) == 1
    assert reason in str(told[0].message)
    assert set(names) == before | {"first_of_a_plugin", "of_a_good_plugin"}
    assert registry.get("lynx_hare").name == "lynx_hare"


def test_the_command_line_goes_on_without_a_broken_plugin(plugins: Callable[..., None]) -> None:
    plugins(broken)
    ended = physzoo("list")
    assert ended.returncode == 0
    assert ended.stderr.strip().startswith(
        "physzoo: warning: plug-in 'p0' (pack.age): got RuntimeError (nothing works)"
    )
    assert "lynx_hare" in ended.stdout


def test_advertised_modules_can_be_asked_for_without_importing_them() -> None:
    for room, name in ((package, "weights"), (package, "task")):
        assert room.__getattr__(name).__name__ == f"physzoo.{name}"
    assert package.inference.__getattr__("reference_grid").__name__ == "physzoo.inference.reference_grid"
    assert package.models.__getattr__("likelihood").__name__ == "physzoo.models.likelihood"
    for room in (package.inference, package.models):
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            room.__getattr__("nothing")
    assert "pendulum" in package.weights.available()
