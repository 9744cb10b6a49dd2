"""The stages of a training before and after its fit: the guide alone moves; what is restored and resumed is the last one."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from physzoo.core.simulate import simulate
from physzoo.folder import CHECKPOINT, FINISHED, BadInput
from physzoo.guides.cleansing import cleansing_guide
from physzoo.inference.evaluation.reconstruction import robust_noise
from physzoo.inference.fit import CheckpointError, FitOptions, Simulator, physics_first
from physzoo.inference.fit.batches import Batches
from physzoo.inference.fit.checkpoint import load
from physzoo.inference.fit.stages import codes_of, settle_noise
from physzoo.models import registry
from physzoo.models.galaxy import TRAINING, Galaxy
from physzoo.models.galaxy_data import DATA
from physzoo.models.recipe import Recipe
from physzoo.run import fit_only
from physzoo.task import RunOptions, restore


def fitted(name: str, path: Path) -> Path:
    fit_only(name, path / name, RunOptions(steps=30, quick=True, progress=False), say=lambda _: None)
    return path / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted("pendulum", tmp_path_factory.mktemp("finish"))


def test_only_the_guide_moves(folder: Path) -> None:
    before, after = (load(folder / name)["modules"] for name in (CHECKPOINT, FINISHED))
    assert all(torch.equal(value, after["model"][name]) for name, value in before["model"].items())
    assert any(not torch.equal(value, after["guide"][name]) for name, value in before["guide"].items())


def test_the_finished_guide_is_restored(folder: Path) -> None:
    _, task = restore(folder, progress=False)
    after = load(folder / FINISHED)["modules"]["guide"]
    assert all(torch.equal(value, after[name]) for name, value in task.guide.state_dict().items())


def test_resuming_a_done_run_changes_nothing(folder: Path) -> None:
    before = load(folder / FINISHED)
    options = RunOptions(steps=30, quick=True, resume=True, progress=False)
    said: list[str] = []
    task = fit_only(folder.name, folder, options, say=said.append).task
    after = load(folder / FINISHED)
    assert all(torch.equal(value, after["modules"]["guide"][name]) for name, value in task.guide.state_dict().items())
    assert (before["step"], before["facts"]) == (after["step"], after["facts"])
    assert torch.equal(before["losses"], after["losses"])
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


def test_the_first_stage_teaches_the_guide_of_the_physics_alone() -> None:
    """After it, data of the physics alone are explained by the guide; model, codes and cleansing are as they were."""
    torch.manual_seed(0)
    model = Galaxy(size=12, code=2)
    drawn = simulate(model.physics_alone, 200, seed=1)
    data = {"x": drawn["x"]}
    guide = cleansing_guide(model, {"x": drawn["x"][0]}, simulations=256, **TRAINING["guide"])
    states = {
        name: {key: value.clone() for key, value in part.state_dict().items()}
        for name, part in (("model", model), ("guide", guide))
    }
    before = float(guide.physics.log_prob(drawn, data).mean().detach())
    stage = {"steps": 60, "learning_rate": 3e-3, "batch_size": 64}
    found = physics_first(model, guide, stage, FitOptions(steps=1, seed=3, progress=False))
    assert found.steps == 60
    assert float(guide.physics.log_prob(drawn, data).mean().detach()) > before + 2.0
    assert all(torch.equal(value, states["model"][key]) for key, value in model.state_dict().items())
    moved = {key for key, value in guide.state_dict().items() if not torch.equal(value, states["guide"][key])}
    assert moved
    assert all(key.startswith("physics.") for key in moved)


def test_a_run_says_its_first_stage_and_a_resumed_one_does_not_repeat_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    animal = registry.get("galaxy")
    stages: dict[str, Any] = {name: {**TRAINING[name], "steps": 20} for name in ("start", "finish")}
    few = replace(DATA, sizes=(100, 10, 10)).splits
    short = replace(animal, training=replace(animal.training, splits=few, **stages))
    monkeypatch.setitem(registry._ANIMALS, "galaxy", short)
    options = RunOptions(steps=2, quick=True, progress=False)
    said: list[str] = []
    fit_only("galaxy", tmp_path / "galaxy", options, say=said.append)
    assert [line.split()[0] for line in said if line.split()[0] in ("start", "fit", "finish")] == [
        "start",
        "fit",
        "finish",
    ]
    said.clear()
    fit_only(
        "galaxy", tmp_path / "galaxy", RunOptions(steps=2, quick=True, resume=True, progress=False), say=said.append
    )
    assert not any(line.startswith("start") for line in said)


def test_half_of_the_last_stage_is_simulated_around_codes_of_the_data() -> None:
    """Their images are the decoder's at these codes; the other half has codes of the prior."""
    torch.manual_seed(0)
    model = Galaxy(size=12, code=2)
    data = {"x": simulate(model, 30, seed=1)["x"]}
    guide = cleansing_guide(model, {"x": data["x"][0]}, simulations=256, **TRAINING["guide"])
    seen = codes_of(guide, data, seed=3, rows=8)
    assert seen["z_A"].shape == (30, 2 * 3 * 3)
    assert torch.equal(seen["z_A"], codes_of(guide, data, seed=3, rows=8)["z_A"])
    batch = Batches(model, Simulator(21, seen=seen), seed=0).at(0)
    assert batch.latents is not None
    found = (batch.latents["z_A"][:, None] == seen["z_A"]).all(-1).any(1)
    assert found.tolist() == [True] * 10 + [False] * 11
    misfit = (batch.data["x"] - model.decode(batch.latents).full) / model.sd
    assert 0.9 < float(misfit[:10].square().mean().detach()) < 1.1


def test_codes_of_data_are_asked_of_a_guide_that_has_them_and_for_data() -> None:
    model = Galaxy(size=12, code=0)
    guide = cleansing_guide(model, {"x": torch.rand(3, 12, 12)}, simulations=64, **TRAINING["guide"])
    with pytest.raises(TypeError, match="without codes"):
        codes_of(guide, {"x": torch.rand(2, 3, 12, 12)}, 0)
    model = Galaxy(size=12, code=2)
    guide = cleansing_guide(model, {"x": torch.rand(3, 12, 12)}, simulations=64, **TRAINING["guide"])
    with pytest.raises(ValueError, match="data: got none"):
        codes_of(guide, {}, 0)


def test_noise_is_settled_by_data_where_it_was_learnt() -> None:
    model = Galaxy(size=12, code=2)
    data = {"x": simulate(model, 20, seed=1)["x"]}
    guide = cleansing_guide(model, {"x": data["x"][0]}, simulations=64, **TRAINING["guide"])
    settle_noise(model, guide, data, seed=2)
    assert float(model.sd) == pytest.approx(robust_noise(model, guide, data, seed=2), rel=1e-5)
    with pytest.raises(ValueError, match="got none"):
        settle_noise(model, guide, {}, seed=2)
    with pytest.raises(ValueError, match="got noise 'fixed'"):
        settle_noise(Galaxy(size=12, code=2, noise="fixed"), guide, data, seed=2)


def test_objectives_are_of_one_data_set_or_of_many() -> None:
    with pytest.raises(ValueError, match="objective: got 'reweighted' with the encoder 'mlp', expected another"):
        Recipe(encoder="mlp", objective="reweighted")
    with pytest.raises(ValueError, match="objective: got 'forward_kl' with no encoder, expected another"):
        Recipe(objective="forward_kl")
