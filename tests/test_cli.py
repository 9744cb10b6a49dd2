"""The command line: what it says, what it leaves behind, and how it refuses."""

from __future__ import annotations

import io
import json
import pickle
import re
import shutil
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np
import pytest
import torch

from physzoo.cli import main
from physzoo.command import listing
from physzoo.models import get, names
from physzoo.models.datasets import SYSTEMS, Splits


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def physzoo(*arguments: str | Path, cwd: Path | None = None) -> Ended:
    """Run the command line in this process: importing torch anew for every line would take minutes."""
    out, err = io.StringIO(), io.StringIO()
    command = patch.object(sys, "argv", ["physzoo", *map(str, arguments)])
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        command,
        chdir(cwd or "."),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return Ended(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def refused(result: Ended, *words: str) -> None:
    """Exit status 2 and one sentence that holds the words."""
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 2, result.stderr
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("physzoo: ")
    assert [word for word in words if word not in lines[0]] == []


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder written by a quick fit."""
    folder = tmp_path_factory.mktemp("runs") / "fitted"
    result = physzoo("fit", "linear_gaussian", "--out", folder, "--quick")
    assert result.returncode == 0, result.stderr
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_list_names_every_animal_in_a_hundred_columns() -> None:
    result = physzoo("list")
    assert result.returncode == 0
    rows = result.stdout.splitlines()
    assert max(map(len, rows)) <= 100
    assert [row.split()[0] for row in rows if not row.startswith(" ")][:-1] == ["name", *names()]
    for name in names():
        row = next(row for row in rows if row.startswith(f"{name} "))
        assert get(name).title.split(",")[0].split(" of ")[0] in row
        assert row.endswith(("measured", "-")) or re.search(r"C2ST 0\.\d{3}$", row)


def test_the_list_needs_no_torch_and_says_what_the_animals_say() -> None:
    packaged = json.loads((Path(__file__).parents[1] / "models" / "data" / "animals.json").read_text())
    assert packaged == listing.registered()
    script = "import sys; sys.argv[1:] = ['list']; from physzoo.cli import _command; _command(['list']); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "False", found.stderr


def test_list_tells_all_at_length_and_to_programs() -> None:
    animals = json.loads(physzoo("list", "--json").stdout)
    assert [animal["name"] for animal in animals] == list(names())
    certified = [animal for animal in animals if animal["certificate"] != "-"]
    assert certified
    long = physzoo("list", "--long").stdout
    assert max(map(len, long.splitlines())) <= 100
    words = " ".join(long.split())
    for animal in animals:
        assert animal["physics"] == get(animal["name"]).physics
        assert animal["guide"] in words
    for animal in certified:
        assert re.search(r"20\d\d-\d\d-\d\d, python benchmarks/\w+\.py", animal["certificate"])
        assert " ".join(animal["certificate"].split()) in words


@pytest.mark.parametrize("name", names())
def test_show_tells_story_priors_units_and_source(name: str) -> None:
    result, animal = physzoo("show", name), get(name)
    assert result.returncode == 0, result.stderr
    assert animal.story in result.stdout
    assert animal.source in result.stdout
    for site, prior in animal.priors.items():
        assert prior in result.stdout
        assert f"[{animal.quantities[site].unit}]" in result.stdout


@pytest.mark.parametrize("command", [[sys.executable, "-m", "physzoo"], [str(Path(sys.executable).parent / "physzoo")]])
def test_both_ways_to_start_it(command: list[str]) -> None:
    import physzoo as package

    def ended(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)

    assert ended("--version").stdout.strip() == package.__version__
    mistake = ended("show", "unicorn")
    assert mistake.returncode == 2
    assert mistake.stderr.count("\n") == 1
    assert "Traceback" not in mistake.stderr


def test_a_fit_leaves_settings_checkpoint_and_posterior(fitted: Path) -> None:
    assert set(contents(fitted)) == {"settings.json", "checkpoint.pt", "posterior.nc"}
    assert json.loads((fitted / "settings.json").read_text())["name"] == "linear_gaussian"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "unicorn"), ("name", "'unicorn'", "lynx_hare")),
        (("run", "unicorn", "--out", "new"), ("name", "'unicorn'", "lynx_hare")),
        (("run", "lynx_hare"), ("--out",)),
        (("run", "lynx_hare", "--out", "new", "--guide", "horse"), ("--guide", "'horse'", "spline")),
        (("fit", "pendulum", "--out", "new", "--guide", "spline"), ("--guide", "'spline'", "guide of its own")),
        (("fit", "linear_gaussian", "--out", "new", "--guide", "own"), ("--guide", "'own'", "none of its own")),
        (("run", "lynx_hare", "--out", "new", "--steps", "0"), ("--steps", "0", "at least 1")),
        (("run", "lynx_hare", "--out", "new", "--steps", "many"), ("--steps",)),
        (("run", "lynx_hare", "--out", "new", "--seed", "-1"), ("--seed", "-1")),
        (("run", "lynx_hare", "--out", "new", "--device", "abacus"), ("--device", "'abacus'", "cpu")),
        (("run", "lynx_hare", "--out", "file.txt"), ("--out", "file.txt", "folder")),
        (("run", "lynx_hare", "--out", "full"), ("--out", "full", "other files")),
        (("check", "unicorn"), ("'unicorn'", "lynx_hare")),
        (("check", "full"), ("full", "physzoo")),
        (("compare", "full", "full"), ("A", "full", "report")),
        (("compare", "file.txt", "file.txt"), ("A", "file.txt", ".nc")),
        (("dance",), ("dance",)),
        (("data", "unicorn", "--out", "new/data.npz"), ("name", "'unicorn'", "pendulum")),
        (("data", "pendulum"), ("--out",)),
        (("data", "pendulum", "--out", "full"), ("--out", "full", ".npz")),
        (("data", "pendulum", "--out", "new/data.npz", "--seed", "-1"), ("--seed", "-1")),
        (("data", "galaxy", "--out", "new/data.npz", "--source", "none.h5"), ("--source", "none.h5", "not there")),
        (("data", "galaxy", "--out", "new/data.npz", "--source", "file.txt"), ("--source", "file.txt", "HDF5")),
        (("data", "locomotion", "--out", "new/data.npz", "--source", "full"), ("--source", "full", "SubjectN.mat")),
        (("data", "locomotion", "--out", "new/data.npz", "--source", "file.txt"), ("--source", "file.txt", ".npz")),
        (("data", "pendulum", "--out", "new/data.npz", "--source", "full"), ("--source", "full", "data_train.txt")),
        (("data", "pendulum", "--out", "new/data.npz", "--hold-out", "speed"), ("--hold-out", "speed", "locomotion")),
    ],
)
def test_a_mistake_is_told_in_one_sentence_and_nothing_is_written(
    tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    (tmp_path / "file.txt").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine too")
    before = contents(tmp_path)
    refused(physzoo(*arguments, cwd=tmp_path), *words)
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_without_arguments_the_help_is_shown_line_by_line(tmp_path: Path) -> None:
    found = physzoo(cwd=tmp_path)
    assert found.returncode == 2
    assert {"Commands:", "Options:"} <= {line.strip() for line in found.stdout.splitlines()}


def test_a_new_fit_takes_away_what_was_said_of_the_old_one(fitted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(fitted, folder)
    for name in ("report.json", "report.html", "calibration.json", "calibration.png"):
        (folder / name).write_text("of the old fit")
    (folder / "report.json").write_text('{"files": ["pairs.png", "../thesis.png", "checkpoint.pt"]}')
    (folder / "pairs.png").write_text("of the old fit")
    (tmp_path / "thesis.png").write_text("mine")
    line = ("fit", "linear_gaussian", "--out", folder, "--quick", "--seed", "3")
    refused(physzoo(*line), "--overwrite", "--resume")
    assert physzoo(*line, "--overwrite").returncode == 0
    assert (tmp_path / "thesis.png").exists()
    assert set(contents(folder)) == {"settings.json", "checkpoint.pt", "posterior.nc"}


def test_the_report_of_another_animal_is_not_written_over(fitted: Path) -> None:
    before = contents(fitted)
    refused(physzoo("run", "lynx_hare", "--out", fitted), "--out", "linear_gaussian", "lynx_hare")
    assert contents(fitted) == before


def test_other_settings_do_not_resume(fitted: Path) -> None:
    before = contents(fitted)
    refused(
        physzoo("fit", "linear_gaussian", "--out", fitted, "--quick", "--resume", "--seed", "7"),
        "--seed",
        "7",
        "0",
    )
    assert contents(fitted) == before


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["truncated", "text", "pickle", "torch pickle", "other tensors"])
def test_a_damaged_checkpoint_is_refused_and_left_alone(fitted: Path, tmp_path: Path, kind: str) -> None:
    for path in fitted.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    trap, checkpoint = tmp_path / "sprung", tmp_path / "checkpoint.pt"
    if kind == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-2000])
    elif kind == "text":
        checkpoint.write_text("not a checkpoint")
    elif kind == "pickle":
        checkpoint.write_bytes(pickle.dumps(Trap(trap)))
    elif kind == "torch pickle":
        torch.save({"format": "physzoo-checkpoint-1", "modules": Trap(trap)}, checkpoint)
    else:
        torch.save({"weights": torch.ones(3)}, checkpoint)
    before = contents(tmp_path)
    refused(
        physzoo("fit", "linear_gaussian", "--out", tmp_path, "--quick", "--resume"),
        "checkpoint",
        "checkpoint.pt",
    )
    refused(physzoo("check", tmp_path, "--quick"), "checkpoint", "checkpoint.pt")
    assert contents(tmp_path) == before
    assert not trap.exists()


def test_data_are_simulated_into_one_file_with_source_and_licence(tmp_path: Path) -> None:
    target = tmp_path / "new" / "pendulum.npz"
    result = physzoo("data", "pendulum", "--out", target, "--seed", "3")
    assert result.returncode == 0, result.stderr
    splits = Splits.load(target, "pendulum")
    for line in (
        "train x (1000, 50, 1)",
        "valid x (500, 50, 1)",
        "test  x (1000, 50, 1)",
        "omega, gamma, f, A, theta0",
    ):
        assert line in result.stdout
    assert splits.source in result.stdout
    assert splits.licence in result.stdout
    assert splits.seed == 3
    before = contents(tmp_path)
    refused(physzoo("data", "pendulum", "--out", target, "--seed", "4"), "--out", "--force")
    assert contents(tmp_path) == before
    assert physzoo("data", "pendulum", "--out", target, "--seed", "4", "--force").returncode == 0
    assert Splits.load(target).seed == 4


def test_force_spares_files_that_physzoo_data_did_not_write(tmp_path: Path) -> None:
    (tmp_path / "thesis.npz").write_text("mine")
    before = contents(tmp_path)
    refused(physzoo("data", "pendulum", "--out", tmp_path / "thesis.npz", "--force"), "--out", "thesis.npz")
    assert contents(tmp_path) == before


def test_data_are_read_from_original_files(tmp_path: Path) -> None:
    strides = SYSTEMS["locomotion"].generate(0).train
    covariates = {name: value.numpy() for name, value in strides.covariates.items()}
    np.savez(tmp_path / "strides.npz", angles=strides.x.mT.numpy(), **covariates)
    line = ("data", "locomotion", "--source", tmp_path / "strides.npz", "--out")
    result = physzoo(*line, tmp_path / "out.npz")
    assert result.returncode == 0, result.stderr
    assert "Sci. Data 6:309 (2019)" in result.stdout
    assert "check before redistributing" in result.stdout
    assert physzoo(*line, tmp_path / "fast.npz", "--hold-out", "speed").returncode == 0
    held = Splits.load(tmp_path / "fast.npz")
    assert held.test is not None
    assert float(held.test.covariates["speed"].max()) > float(held.train.covariates["speed"].max())
    refused(physzoo(*line, tmp_path / "age.npz", "--hold-out", "age"), "--source", "'age'", "speed")


def test_the_decals_edition_is_refused_by_its_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "Galaxy10.h5", "w") as file:
        file["images"], file["ans"] = np.zeros((3, 256, 256, 3), "uint8"), np.full(3, 6, "uint8")
    result = physzoo("data", "galaxy", "--source", tmp_path / "Galaxy10.h5", "--out", tmp_path / "out.npz")
    refused(result, "--source", "DECaLS", "256 x 256", "SDSS")
    assert not (tmp_path / "out.npz").exists()


def test_run_and_fit_offer_the_same_options() -> None:
    options = [
        [word for word in physzoo(command, "--help").stdout.split() if word.startswith("--")]
        for command in ("run", "fit")
    ]
    assert options[0] == options[1]
    assert {"--guide", "--steps", "--seed", "--device", "--quick", "--resume", "--overwrite", "--confirm"} <= set(
        options[0]
    )


def test_compare_with_itself_finds_nothing(fitted: Path) -> None:
    result = physzoo("compare", fitted, fitted / "posterior.nc")
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("z[")]
    assert len(rows) == 6
    assert all(float(row[1]) == 0.0 and float(row[2]) == 1.0 for row in rows)


def test_compare_refuses_another_system(fitted: Path, tmp_path: Path) -> None:
    result = physzoo("fit", "lynx_hare", "--out", tmp_path / "other", "--quick", "--guide", "diagonal", "--steps", "10")
    assert result.returncode == 0, result.stderr
    refused(physzoo("compare", fitted, tmp_path / "other"), "A, B", "site")


def test_check_runs_the_contract_of_an_animal() -> None:
    result = physzoo("check", "linear_gaussian")
    assert result.returncode == 0, result.stdout + result.stderr
    assert all(line.startswith("yes") for line in result.stdout.splitlines())


def test_check_judges_a_fitted_folder(fitted: Path) -> None:
    result = physzoo("check", fitted, "--quick")
    found = json.loads((fitted / "calibration.json").read_text())
    assert result.returncode == (0 if found["verdict"].startswith("too few data sets") else 1), result.stderr
    assert not found["passed"]
    assert found["verdict"] in result.stdout
    assert (fitted / "calibration.png").stat().st_size > 10_000
