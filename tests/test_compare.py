"""A comparison finds no difference between equal samples and measures the one between others."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conjugate import Exact, Linear

from physzoo.guides.sites import simulate
from physzoo.inference.compare import _thinned, c2st, compare
from physzoo.inference.posterior import posterior


def normal(seed, count=4000, width=1.0, shift=0.0, size=8):
    rng = np.random.default_rng(seed)
    return {
        "z": shift + width * rng.normal(size=(count, size)),
        "rate": np.exp(width * rng.normal(size=count)),
    }


REFERENCE = normal(0)


def test_equal_samples_cannot_be_told_apart():
    found = compare(normal(1), REFERENCE)
    assert abs(found.c2st - 0.5) < 4 * found.c2st_error
    assert max(abs(v) for k, v in found.mean_error_sd.items() if k != "rate") < 4 * found.resolution
    assert all(abs(v - 1) < 4 / np.sqrt(4000) for k, v in found.sd_ratio.items() if k != "rate")
    assert max(v for k, v in found.w1_sd.items() if k != "rate") < 0.06
    assert json.loads(json.dumps(found.to_dict()))["c2st"] == found.c2st


@pytest.mark.parametrize(("wrong", "least"), [({"width": 0.8}, 0.60), ({"shift": 0.3}, 0.60)])
def test_a_wrong_width_or_shift_is_measured_and_detected(wrong, least):
    found = compare(normal(2, **wrong), REFERENCE, positive=("rate",))
    assert found.c2st > least
    for name in (f"z[{k}]" for k in range(8)):
        assert abs(found.sd_ratio[name] - wrong.get("width", 1.0)) < 4 / np.sqrt(4000)
        assert abs(found.mean_error_sd[name] - wrong.get("shift", 0.0)) < 4 * found.resolution
        # W1 between N(0, s^2) and N(m, 1): |m| or (1 - s) sqrt(2 / pi)
        exact = wrong.get("shift", 0.2 * np.sqrt(2 / np.pi))
        assert abs(found.w1_sd[name] - exact) < 4 * found.resolution


def test_a_small_sample_still_shows_a_narrow_one():
    narrow = normal(3, count=1000, width=0.8)["z"]
    assert c2st(narrow, REFERENCE["z"][:1000]) > 0.6


def test_the_score_is_reproducible_and_its_seed_matters_little():
    a, b = normal(4, count=1500)["z"], REFERENCE["z"]
    scores = [c2st(a, b, seed=seed) for seed in (0, 0, 1)]
    assert scores[0] == scores[1]
    assert abs(scores[0] - scores[2]) < 0.05


def test_importance_weights_repair_a_wide_proposal():
    proposal = normal(5, width=1.2, size=2)
    z = proposal["z"]
    log_ratio = -0.5 * (z**2).sum(1) + 0.5 * (z**2).sum(1) / 1.44
    reference = {"z": REFERENCE["z"][:, :2]}
    bare = compare({"z": z}, reference)
    weighted = compare({"z": z}, reference, weights=np.exp(log_ratio))
    assert bare.c2st > 0.53
    assert abs(weighted.c2st - 0.5) < 0.02
    assert weighted.draws < 4000
    assert all(abs(ratio - 1) < 0.06 for ratio in weighted.sd_ratio.values())
    assert min(bare.sd_ratio.values()) > 1.1


def test_weights_of_more_draws_than_the_limit_are_not_thrown_away():
    """Draws worth a tenth of their number are thinned to as many as they are worth, by weight."""
    wide, exact = normal(1, count=20000, width=2.0, size=2)["z"], normal(2, count=4000, size=2)["z"]
    log_w = -0.5 * (wide**2).sum(1) * (1 - 1 / 4)
    weights = np.exp(log_w - log_w.max())
    weights /= weights.sum()
    chosen, part = _thinned(weights, 2000, np.random.default_rng(0))
    assert len(set(chosen)) == len(chosen)
    assert abs(len(chosen) - 2000) <= 1
    assert part.sum() ** 2 / (part**2).sum() > 0.9 * len(chosen)  # uniformly drawn, they would be worth a third
    mean = part @ wide[chosen] / part.sum()
    assert np.abs(mean).max() < 0.1
    found = compare({"z": wide}, {"z": exact}, weights=weights, limit=2000)
    assert found.c2st == pytest.approx(0.5, abs=3 * found.c2st_error)
    few = np.zeros(20000)
    few[:50] = 1 / 50
    assert np.isfinite(c2st(wide, exact, few, limit=2000))
    few[4:] = 0
    with pytest.raises(ValueError, match="got 4 draws with a weight"):
        c2st(wide, exact, few, limit=2000)


def test_arviz_posteriors_are_taken_as_they_are():
    model = Linear()
    data = {"y": simulate(model, 1, seed=3)["y"][0]}
    trees = [posterior(model, Exact(model), data, draws=1000, seed=seed) for seed in (0, 1)]
    found = compare(*trees, classify=False)
    assert set(found.mean_error_sd) == {"z[0]", "z[1]", "rate"}
    assert found.worst_mean_error < 4 * found.resolution
    narrow = posterior(model, Exact(model, width=0.8), data, draws=1000)
    assert compare(narrow, trees[1], classify=False).sd_ratio["z[0]"] < 0.9


@pytest.mark.parametrize(
    ("draws", "options", "named"),
    [
        ({"w": np.zeros((20, 8))}, {}, "sites"),
        ({"z": np.zeros((20, 3))}, {}, "site shape"),
        ({"z": np.zeros((3, 8))}, {}, "at least 10"),
        (normal(1, count=20), {"weights": -np.ones(20)}, "weights"),
        (normal(1, count=20), {"positive": ("z",)}, "positive"),
    ],
)
def test_bad_arguments_are_named(draws, options, named):
    with pytest.raises(ValueError, match=named):
        compare(draws, REFERENCE, **options)
