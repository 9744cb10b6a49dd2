"""The last stage of a training: the guide alone moves, its state is what is restored, and a resumed run does not repeat it."""

import shutil
from pathlib import Path

import pytest
import torch

from physzoo.folder import CHECKPOINT, FINISHED, BadInput
from physzoo.inference.checkpoint import CheckpointError, load
from physzoo.run import fit_only
from physzoo.task import RunOptions, restore


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finish") / "pendulum"
    fit_only("pendulum", path, RunOptions(steps=30, quick=True, progress=False), say=lambda _: None)
    return path


def test_only_the_guide_moves(folder: Path) -> None:
    before, after = (load(folder / name)["modules"] for name in (CHECKPOINT, FINISHED))
    assert all(torch.equal(value, after["model"][name]) for name, value in before["model"].items())
    assert any(not torch.equal(value, after["guide"][name]) for name, value in before["guide"].items())


def test_the_finished_guide_is_restored(folder: Path) -> None:
    _, task = restore(folder, progress=False)
    after = load(folder / FINISHED)["modules"]["guide"]
    assert all(torch.equal(value, after[name]) for name, value in task.guide.state_dict().items())


def test_resuming_a_done_run_changes_nothing(folder: Path) -> None:
    before = (folder / FINISHED).read_bytes()
    options = RunOptions(steps=30, quick=True, resume=True, progress=False)
    said: list[str] = []
    task = fit_only("pendulum", folder, options, say=said.append).task
    after = load(folder / FINISHED)["modules"]["guide"]
    assert all(torch.equal(value, after[name]) for name, value in task.guide.state_dict().items())
    assert len(before) == len((folder / FINISHED).read_bytes())
    assert any(line.startswith("finish") for line in said)


def test_a_fit_that_is_not_done_is_not_restored(folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "half"
    shutil.copytree(folder, copied)
    (copied / FINISHED).unlink()
    with pytest.raises(BadInput, match="a run whose fit is not done"):
        restore(copied, progress=False)


def test_a_last_stage_without_its_first_is_thrown_away(folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "orphan"
    shutil.copytree(folder, copied)
    (copied / CHECKPOINT).unlink()
    stale = torch.load(copied / FINISHED, weights_only=True)["modules"]["model"]["log_scale"]
    options = RunOptions(steps=30, quick=True, seed=0, resume=True, progress=False)
    task = fit_only("pendulum", copied, options, say=lambda _: None).task
    again = load(copied / CHECKPOINT)["modules"]["model"]["log_scale"]
    assert torch.equal(task.model.log_scale, again)  # type: ignore[arg-type]
    assert torch.equal(stale, again)  # the same seed, so the same model


def test_a_damaged_last_stage_is_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "damaged"
    shutil.copytree(folder, copied)
    (copied / FINISHED).write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError):
        fit_only("pendulum", copied, RunOptions(steps=30, quick=True, resume=True, progress=False), say=lambda _: None)
