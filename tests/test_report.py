"""A run from data to report: what it finds about systems whose answer is known, and what it leaves behind."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from physzoo.folder import REFERENCE, BadInput, Folder
from physzoo.inference.fit.checkpoint import load
from physzoo.models import get
from physzoo.references import make_reference, read_reference
from physzoo.report.labels import layout, scalars
from physzoo.report.page import page
from physzoo.report.write import verdict
from physzoo.run import Result, fit_only, run
from physzoo.task import Budget, RunOptions, restore


def quiet(line: str) -> None:
    """Swallow what a run says."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result, list[str]]:
    """A run of the system with a closed form, its folder and what it said."""
    folder, said = tmp_path_factory.mktemp("runs") / "linear_gaussian", []
    result = run("linear_gaussian", folder, RunOptions(steps=1500, quick=True, progress=False), said.append)
    return folder, result, said


@pytest.fixture(scope="module")
def report(whole: tuple[Path, Result, list[str]]) -> dict:
    """What report.json holds."""
    return json.loads((whole[0] / "report.json").read_text())


def test_a_full_gaussian_guide_finds_the_closed_form(report: dict) -> None:
    draws = 500
    assert report["reference"]["method"] == "closed form"
    for row in report["parameters"].values():
        assert abs(row["mean_error_sd"]) < 4 / np.sqrt(draws) + 0.05
        assert abs(row["sd_ratio"] - 1) < 4 / np.sqrt(2 * draws) + 0.05
    assert report["k_hat"] < 0.7


def test_the_report_says_what_importance_weights_make_of_the_posterior(
    whole: tuple[Path, Result, list[str]], report: dict
) -> None:
    corrected, draws = report["corrected"], report["comparison"]["draws"]
    assert 0.5 * draws < corrected["draws"] < draws
    assert max(abs(error) for error in corrected["mean_error_sd"].values()) < 4 / np.sqrt(corrected["draws"])
    assert escape(corrected["summary"]) in (whole[0] / "report.html").read_text()
    without = page({**report, "corrected": None, "k_hat": 0.93}, whole[1].task.animal, {})
    assert "Importance weights cannot correct this posterior: k-hat 0.93" in without


def test_the_exact_reference_has_the_closed_forms_moments(whole: tuple[Path, Result, list[str]]) -> None:
    result = whole[1]
    closed_form = result.task.animal.closed_form
    assert closed_form is not None
    assert result.reference is not None
    mean, covariance = closed_form(result.task.data)
    draws = result.reference.draws["z"].reshape(-1, len(mean))
    np.testing.assert_allclose(draws.mean(0), mean, atol=1e-10)
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=1e-10)


def test_report_json_says_what_was_done_and_found(report: dict) -> None:
    assert {
        "format", "name", "title", "guide", "encoder", "objective", "steps", "seed", "quick", "device",
        "date", "versions", "verdict", "passed", "checks", "seconds", "fit", "parameters", "k_hat", "c2st",
        "comparison", "corrected", "reference", "nuts", "calibration", "evaluation", "files",
    } == set(report)  # fmt: skip
    assert report["steps"] == report["fit"]["steps"] == 150
    assert {"laplace", "fit", "posterior", "reference", "compare", "calibrate", "total"} <= set(report["seconds"])
    assert {"python", "torch", "pyro", "physzoo"} <= set(report["versions"])
    assert {"pvalues", "coverage", "verdict", "passed"} <= set(report["calibration"])
    row = report["parameters"]["z[0]"]
    assert (row["label"], row["unit"]) == ("source amplitude, mode 1", "1")
    assert report["passed"] == all(check["passed"] for check in report["checks"])


def test_a_quick_run_says_so_first(report: dict) -> None:
    assert report["verdict"].startswith("quick run, not to be judged by")


def test_no_path_of_this_machine_is_in_the_report(whole: tuple[Path, Result, list[str]]) -> None:
    text = (whole[0] / "report.json").read_text() + (whole[0] / "settings.json").read_text()
    assert str(whole[0]) not in text
    assert str(Path.home()) not in text


def test_every_file_is_there_and_nothing_half_written(whole: tuple[Path, Result, list[str]], report: dict) -> None:
    found = {path.name for path in whole[0].iterdir()}
    assert found == {*report["files"], "report.json", "settings.json"}


def test_every_figure_shows_something(whole: tuple[Path, Result, list[str]], report: dict) -> None:
    figures = [name for name in report["files"] if name.endswith(".png")]
    assert {"predictive_y.png", "marginals.png", "pairs.png", "fit.png", "calibration.png"} == set(figures)
    for name in figures:
        pixels = imread(whole[0] / name)[..., :3]
        assert min(pixels.shape[:2]) > 200
        assert (pixels < 0.9).any(-1).mean() > 0.01, f"{name} is blank"


class Page(HTMLParser):
    """Collects tags, image sources and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the tag that was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.words += data


def test_the_page_stands_alone_and_leads_with_the_verdict(whole: tuple[Path, Result, list[str]], report: dict) -> None:
    page = Page((whole[0] / "report.html").read_text())
    assert page.open == []
    assert len(page.images) == 5
    assert all(image.startswith("data:image/png;base64,") for image in page.images)
    assert page.words.index(report["verdict"]) < page.words.index("Unknowns")
    assert get("linear_gaussian").story in page.words
    assert re.search(r"https?://", page.words) is None


def test_the_posterior_file_is_an_arviz_tree_with_names_and_units(
    whole: tuple[Path, Result, list[str]],
) -> None:
    from xarray import open_datatree

    with open_datatree(whole[0] / "posterior.nc", engine="h5netcdf") as tree:
        assert {
            "posterior",
            "prior",
            "posterior_predictive",
            "observed_data",
            "log_likelihood",
            "sample_stats",
        } <= set(tree.children)
        assert tree["posterior"]["z"].dims == ("chain", "draw", "mode")
        assert tree["posterior"]["z"].attrs["units"] == "1"
        assert tree.attrs["name"] == "linear_gaussian"


def test_every_step_is_announced_with_its_time(whole: tuple[Path, Result, list[str]]) -> None:
    steps = [line.split()[0] for line in whole[2][:-1]]
    assert steps == ["laplace", "guide", "fit", "posterior", "reference", "compare", "calibrate", "report"]
    assert all(re.search(r"\d+\.\d s", line) for line in whole[2][:-1])


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    options = RunOptions(steps=40, progress=False)
    straight = fit_only("linear_gaussian", tmp_path / "straight", options, quiet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("physzoo.run.FitOptions", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit_only("linear_gaussian", tmp_path / "resumed", options, quiet)
    assert load(tmp_path / "resumed" / "checkpoint.pt")["step"] < 40
    again = fit_only("linear_gaussian", tmp_path / "resumed", RunOptions(steps=40, resume=True, progress=False), quiet)
    assert again.fit.steps == 40
    for name, value in straight.task.guide.state_dict().items():
        assert torch.equal(value, again.task.guide.state_dict()[name]), name


class Interrupted:
    """Fit options whose schedule is interrupted half-way, as by Ctrl-C."""

    def __new__(cls, **settings: object) -> object:
        """Build the real options with the interruption in their schedule."""
        from physzoo.inference.fit import FitOptions

        plain = FitOptions(**settings)  # type: ignore[arg-type]

        def stop(done: float) -> float:
            if done >= 0.5:
                raise KeyboardInterrupt
            return plain.factor(round(done * plain.steps))

        return FitOptions(**{**settings, "schedule": stop})  # type: ignore[arg-type]


def test_a_resumed_run_keeps_the_reference(whole: tuple[Path, Result, list[str]], tmp_path: Path) -> None:
    for path in whole[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = (tmp_path / "reference.npz").read_bytes()
    options = RunOptions(steps=1500, quick=True, resume=True, progress=False)
    result = run("linear_gaussian", tmp_path, options, quiet)
    assert (tmp_path / "reference.npz").read_bytes() == before
    first, second = whole[1].posterior["posterior"]["z"].values, result.posterior["posterior"]["z"].values
    np.testing.assert_array_equal(first, second)


def test_a_restored_guide_draws_what_it_drew(whole: tuple[Path, Result, list[str]]) -> None:
    _, task = restore(whole[0])
    values = {"z": torch.tensor(whole[1].posterior["posterior"]["z"].values[0, :5])}
    torch.testing.assert_close(
        task.guide.log_prob(values, task.data),
        whole[1].task.guide.log_prob(values, task.data),
        rtol=0,
        atol=0,
    )


def test_an_amortised_animal_is_calibrated_over_its_prior(tmp_path: Path) -> None:
    options = RunOptions(guide="full", steps=300, quick=True, progress=False)
    result = run("poisson1d", tmp_path / "bar", options, quiet)
    assert result.task.amortised
    assert result.calibration is not None
    assert result.calibration.datasets == 64
    found = json.loads((tmp_path / "bar" / "report.json").read_text())
    assert found["encoder"] == "mlp"
    assert found["reference"]["method"] != "closed form"


def test_a_recipe_names_the_sampler_of_the_reference(tmp_path: Path) -> None:
    fitted = fit_only("poisson1d", tmp_path / "out", RunOptions(steps=5, guide="diagonal", progress=False), quiet)
    several = replace(fitted.task.animal, recipe=replace(fitted.task.animal.recipe, reference="smc"))
    for task, method in ((fitted.task, "hmc"), (replace(fitted.task, animal=several), "smc")):
        folder = Folder(tmp_path / method)
        folder.path.mkdir()
        assert make_reference(task, Budget.of(quick=True), folder, None).method == method
        assert read_reference(folder.file(REFERENCE)).method == method


def test_published_means_are_held_against_the_guide(tmp_path: Path) -> None:
    from physzoo.report.write import published_means

    result = fit_only("lynx_hare", tmp_path / "out", RunOptions(steps=5, guide="diagonal", progress=False), quiet)
    found = published_means(result)
    assert found["alpha"] == pytest.approx(0.546864)
    assert found["initial_state[0]"] == pytest.approx(34.0352)
    assert set(found) == {scalar.key for scalar in scalars(get("lynx_hare"), result.task.shapes)}


def test_scalars_carry_their_coordinates_and_units() -> None:
    found = scalars(get("lynx_hare"), {"alpha": (), "initial_state": (2,)})
    assert [scalar.key for scalar in found] == ["alpha", "initial_state[0]", "initial_state[1]"]
    assert [scalar.axis for scalar in found] == [
        "hare growth rate [1/year]",
        "population in 1900, hare [thousand pelts]",
        "population in 1900, lynx [thousand pelts]",
    ]


def test_a_description_of_another_shape_is_left_out() -> None:
    found = layout(get("lynx_hare"), {"initial_state": (3,), "sigma": (2,)})
    assert "initial_state" not in found["dims"]
    assert found["dims"]["sigma"] == ("species",)
    assert found["units"]["initial_state"] == "thousand pelts"


def test_the_verdict_names_what_failed() -> None:
    from physzoo.report.write import Check

    good, bad = Check("a", "fine", "fine", True), Check("b", "k-hat 0.90", "k-hat < 0.7", False)
    assert verdict([good], False) == "reliable: passes all 1 checks"
    assert verdict([good, bad], False) == "do not rely on it: k-hat 0.90, expected k-hat < 0.7"


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"guide": "horse"}, "--guide"), ({"steps": 0}, "--steps"), ({"seed": -1}, "--seed")],
)
def test_options_are_checked_before_anything_runs(changes: dict, word: str) -> None:
    with pytest.raises(BadInput, match=word):
        RunOptions(**changes)


def test_an_image_is_drawn_as_an_image(tmp_path) -> None:
    """Four panels a channel: what was seen, the median, the width, what is left."""
    import numpy as np

    from physzoo.models import get
    from physzoo.report.figures_images import draw_image

    random = np.random.default_rng(0)
    observed, replicated = random.random((3, 8, 8)), random.random((50, 3, 8, 8))
    draw_image(tmp_path / "image.png", get("galaxy").quantities["x"], observed, replicated)
    assert (tmp_path / "image.png").read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["image.png"]
