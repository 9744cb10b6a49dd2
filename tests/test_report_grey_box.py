"""The report of a grey box: it is written, with figures of its outputs, of time beyond the data, and of what would have been."""

import json
from dataclasses import replace

import pytest
import torch
from matplotlib.image import imread

from physzoo.folder import Folder
from physzoo.models import registry
from physzoo.report.write import write_report
from physzoo.run import fit_only
from physzoo.task import RunOptions

OWN = {
    "pendulum": {"outputs.png", "beyond.png", "counterfactual_omega.png"},
    "galaxy": {"outputs.png"},
}


@pytest.mark.parametrize("name", ["pendulum", "advection_diffusion"])
def test_what_would_have_been_and_what_comes_next_belong_to_the_data(name) -> None:
    training = registry.get(name).training
    test = training.splits(0).test.rows(torch.arange(5))
    clean = training.continued(test.truths, 2 * len(test.times))
    assert clean.shape == (5, 2 * len(test.times), test.x.shape[2])
    clean = clean[:, : len(test.times)].to(test.x)
    assert float((test.x - clean).abs().max()) < 6 * float((test.x - clean).std())
    assert float((test.x - clean).std()) < 0.2 * float(test.x.std())
    for changed in training.counterfactuals.values():
        torch.testing.assert_close(changed(test.truths, 1.0).to(clean), clean, rtol=0, atol=1e-5)
        assert float((changed(test.truths, 1.5).to(clean) - clean).abs().mean()) > 0.01


@pytest.mark.parametrize("name", OWN)
def test_the_report_is_written_with_its_own_figures(name, tmp_path, monkeypatch) -> None:
    animal = registry.get(name)
    stages = {stage: getattr(animal.training, stage) for stage in ("start", "finish")}
    few = {stage: {**options, "steps": 20} for stage, options in stages.items() if options is not None}
    splits = animal.training.splits(0)
    part = replace(splits, **{s: getattr(splits, s).rows(torch.arange(24)) for s in ("train", "valid")})
    part = part if splits.test is None else replace(part, test=splits.test.rows(torch.arange(24)))
    training = replace(animal.training, splits=lambda seed: part, **few)
    recipe = replace(animal.recipe, batch_size=8)
    monkeypatch.setitem(registry._ANIMALS, name, replace(animal, training=training, recipe=recipe))
    result = fit_only(name, tmp_path / name, RunOptions(steps=10, quick=True, progress=False), say=lambda _: None)
    folder = Folder(tmp_path / name)
    assert write_report(result, folder).startswith("quick run")
    record = json.loads(folder.file("report.json").read_text())
    assert OWN[name] <= set(record["files"])
    assert record["objective"] == animal.objective
    for figure in OWN[name]:
        assert imread(folder.file(figure))[..., :3].std() > 0.02
