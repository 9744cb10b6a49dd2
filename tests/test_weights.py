"""Trained weights: what is loaded is what was saved, nothing is unpickled, and a foreign file is refused in one sentence."""

import os
import pickle

import pytest
import torch

import physzoo
from physzoo.task import RunOptions, animal_named, build_task
from physzoo.weights import save


@pytest.fixture(scope="module")
def task():
    return build_task(animal_named("advection_diffusion"), RunOptions(seed=3), None, 0)


@pytest.fixture(scope="module")
def path(task, tmp_path_factory):
    return save(task, {"command": "a test", "seed": 3}, tmp_path_factory.mktemp("weights"))


def test_the_loaded_guide_has_the_same_density(task, path):
    found = physzoo.load("advection_diffusion", path)
    torch.manual_seed(0)
    draws = task.guide.sample(task.data, 5)
    assert torch.equal(found.guide.log_prob(draws, task.data), task.guide.log_prob(draws, task.data))
    assert torch.equal(found.model.decode(draws).full, task.model.decode(draws).full)
    assert found.facts["seed"] == 3


def test_weights_are_small_and_leave_nothing_beside(path):
    assert path.stat().st_size < 2_000_000
    assert sorted(file.name for file in path.parent.iterdir()) == [path.with_suffix(".json").name, path.name]


def test_another_animals_weights_are_refused(path):
    with pytest.raises(ValueError, match="expected weights of pendulum"):
        physzoo.load("pendulum", path)


def test_a_pickle_is_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    foreign = tmp_path / "pendulum.safetensors"
    foreign.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="expected weights of pendulum"):
        physzoo.load("pendulum", foreign)
    assert not (tmp_path / "sprung").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"path: got '.*none.safetensors', expected a file written by save"):
        physzoo.load("pendulum", tmp_path / "none.safetensors")


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "\0"])
def test_broken_facts_beside_the_weights_are_named(path, tmp_path, text):
    copied = tmp_path / path.name
    copied.write_bytes(path.read_bytes())
    copied.with_suffix(".json").write_text(text)
    with pytest.raises(ValueError, match=r"path: got '.*json', which is damaged"):
        physzoo.load("advection_diffusion", copied)


def test_what_is_no_path_is_refused():
    with pytest.raises(TypeError, match="path: got 3"):
        physzoo.load("pendulum", 3)
    with pytest.raises(
        ValueError, match=r"(name: got 'pendulum' without weights|path: got .* expected a file written by save)"
    ):
        physzoo.load("pendulum", "x" * 300 + ".safetensors")


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_weights_and_facts_are_new_together_or_not_at_all(task, path, tmp_path, monkeypatch, at):
    folder = path.parent
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    count, flush = [0], os.fsync

    def full(descriptor):
        count[0] += 1
        if count[0] == at:
            raise OSError(28, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    if at <= 2:
        with pytest.raises(OSError, match="No space"):
            save(task, {"command": "another"}, folder)
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    else:
        save(task, {"command": "a test", "seed": 3}, folder)
        assert count[0] == 2
