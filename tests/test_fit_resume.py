"""Checkpoints: what has to fit, what goes on, and what a full disk or a divergence leaves behind."""

import os
import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from physzoo.core.files import check_writable
from physzoo.inference.fit import CheckpointError, fit
from physzoo.inference.fit.checkpoint import load, save
from physzoo.inference.fit.driver import DivergedWarning, FitOptions
from physzoo.inference.fit.guard import NonFiniteError, sound
from physzoo.inference.objectives import ELBO, Renyi

QUIET = FitOptions(progress=False, learning_rate=0.05)
DATA = {"y": torch.tensor([0.8, 1.0, 1.2])}


def model(y=None):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3), 0.5).to_event(1), obs=y)


class Guide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.m, self.log_s = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(0.0))

    def forward(self, y=None):
        pyro.sample("z", dist.Normal(self.m, self.log_s.exp()))

    def values(self) -> list[float]:
        return [value.item() for value in self.parameters()]


def run(guide, path, objective=None, **options):
    return fit(model, guide, DATA, objective or ELBO(), QUIET, checkpoint=path, **options)


def test_a_fit_that_stopped_early_goes_on_with_more_patience_or_more_steps(tmp_path):
    path, early = tmp_path / "fit.pt", {"held_out": DATA, "evaluate_every": 4, "learning_rate": 0.2}
    first = run(Guide(), path, steps=3000, patience=2, **early)
    assert first.stopped == "early"
    assert run(Guide(), path, steps=3000, patience=2, resume=True, **early).steps == first.steps
    for options in ({"steps": 3000, "patience": 6}, {"steps": 4000, "patience": 2}, {"steps": first.steps + 7}):
        (tmp_path / "copy.pt").write_bytes(path.read_bytes())
        assert run(Guide(), tmp_path / "copy.pt", resume=True, **early, **options).steps > first.steps
    straight = run(Guide(), tmp_path / "other.pt", steps=3000, patience=6, **early)
    again = run(Guide(), path, steps=3000, patience=6, resume=True, **early)
    assert again.steps == straight.steps
    assert again.losses == straight.losses


OTHERS = [
    ({"optimizer": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)}, "optimizer Adam, got SGD"),
    ({"optimizer": lambda p, lr: torch.optim.AdamW(p, lr=lr)}, "optimizer Adam, got AdamW"),
    ({"optimizer": lambda p, lr: torch.optim.Adam([{"params": p[:1]}, {"params": p[1:]}], lr=lr)}, "another optimizer"),
    ({"seed": 1}, "seed 0, got 1"),
    ({"objective": Renyi(0.5)}, r"objective ELBO\(\), got Renyi\(alpha=0.5\)"),
]


@pytest.mark.parametrize(("options", "words"), OTHERS)
def test_what_does_not_fit_is_told_in_one_sentence_and_nothing_is_lost(options, words, tmp_path):
    path, guide = tmp_path / "fit.pt", Guide()
    run(guide, path, steps=5)
    before, values = path.read_bytes(), guide.values()
    with pytest.raises(CheckpointError, match=f"resume: .*{words}"):
        run(guide, path, steps=9, resume=True, **options)
    assert path.read_bytes() == before
    assert guide.values() == values
    assert run(guide, path, ELBO(4), steps=9, resume=True, clip_norm=None).steps == 9


@pytest.mark.parametrize(
    "change", [{"step": -5}, {"skipped": -1}, {"step": 3}, {"losses": torch.zeros(2)}, {"step": "x"}]
)
def test_a_checkpoint_whose_numbers_cannot_be_is_refused(change, tmp_path):
    path, guide = tmp_path / "fit.pt", Guide()
    run(guide, path, steps=5)
    state, values = load(path), guide.values()
    save(path, {**state, **change})
    with pytest.raises(CheckpointError, match="checkpoint: "):
        run(guide, path, steps=9, resume=True)
    assert guide.values() == values


FULL = """
import resource, sys, warnings
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
sys.path.insert(0, {tests!r})
from test_fit_resume import *
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    found = run(Guide(), {path!r}, steps=20, checkpoint_every=10, resume=True)
print(found.steps, sorted(str(entry.category.__name__) for entry in told), [len(str(entry.message)) for entry in told])
"""


def test_a_disk_that_is_full_ends_no_fit_and_leaves_the_previous_checkpoint(tmp_path):
    path = tmp_path / "fit.pt"
    run(Guide(), path, steps=5)
    before = path.read_bytes()
    script = FULL.format(tests=os.path.dirname(__file__), path=str(path))
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.startswith("20 ['CheckpointWarning', 'CheckpointWarning', 'CheckpointWarning']")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["fit.pt"]


@pytest.mark.parametrize("name", ["a" * 256, "a" * 252, "a\0b", "\udcff\ud800", "", "file/fit.pt"])
def test_a_checkpoint_that_cannot_be_written_is_refused_before_any_work(name, tmp_path):
    (tmp_path / "file").write_text("no folder")
    guide, calls = Guide(), []

    def counted(*arguments):
        calls.append(None)
        return ELBO()(*arguments)

    with pytest.raises(ValueError, match=r"checkpoint: got .*expected the path of a file"):
        run(guide, f"{tmp_path}/{name}" if name else "", counted, steps=3)
    assert not calls
    assert os.listdir(tmp_path) == ["file"]


def test_a_path_that_can_be_written_is_left_untouched(tmp_path):
    check_writable(tmp_path / "new" / "fit.pt")
    assert os.listdir(tmp_path / "new") == []


class Exploding(PyroModule):
    """A loss that grows with every step until it is no number."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))

    def forward(self, y=None):
        pyro.sample("z", dist.Normal(self.w, 1.0))


def growing(model, guide, batch):
    return -(guide.__self__ if hasattr(guide, "__self__") else guide).w.double().square().square()


@pytest.mark.parametrize("steps", [10, 200])
def test_a_diverged_state_is_not_kept_as_the_last_good_one(steps, tmp_path):
    """Falling without bound is no divergence that the loss shows; rising is, and NaN at its end."""
    path, guide = tmp_path / "fit.pt", Exploding()

    def rising(model, guide, batch):
        own = guide.__self__ if hasattr(guide, "__self__") else guide
        loss = own.w.double().square() ** 2
        return loss if loss < 1e30 else loss * torch.nan

    options = {"optimizer": lambda p, lr: torch.optim.SGD(p, lr=lr), "learning_rate": 1.0, "clip_norm": None}
    with pytest.raises(NonFiniteError, match=r"the last good state \(step \d+\) is in"):
        run(guide, path, rising, steps=steps, checkpoint_every=1, schedule="constant", **options)
    kept = load(path)
    assert abs(float(kept["modules"]["guide"]["w"])) < 1e3
    assert guide.w.item() == float(kept["modules"]["guide"]["w"])


def test_parameters_that_are_no_numbers_after_the_last_step_are_told():
    guide = Exploding()
    with pytest.raises(NonFiniteError, match="step 1: the parameters are not finite"):
        fit(
            model,
            guide,
            DATA,
            growing,
            QUIET,
            steps=1,
            learning_rate=1e38,
            clip_norm=None,
            optimizer=lambda p, lr: torch.optim.SGD(p, lr=lr),
        )
    assert guide.w.item() == 1.0


def test_a_fit_that_ends_far_above_its_start_is_told():
    def square(model, guide, batch):
        return (guide.__self__ if hasattr(guide, "__self__") else guide).w.square()

    with pytest.warns(DivergedWarning, match="the loss rose to .*lower learning_rate"):
        fit(
            model,
            Exploding(),
            DATA,
            square,
            QUIET,
            steps=60,
            learning_rate=1.05,
            schedule="constant",
            clip_norm=None,
            optimizer=lambda p, lr: torch.optim.SGD(p, lr=lr),
        )


def test_levels_decide_and_not_single_draws():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(300, generator=generator)
    falling = 100 * torch.exp(-torch.arange(300) / 50.0) + noise
    assert sound([])
    assert sound(falling.tolist())
    assert sound((noise + 1e3 * (torch.arange(300) == 299)).tolist())
    assert not sound(torch.cat([falling, 1e5 + noise]).tolist())
    assert not sound([10.0, 1e8])
