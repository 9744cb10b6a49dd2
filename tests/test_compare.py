"""A comparison finds no difference between equal samples and measures the one between others."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import xarray as xr
from conjugate import Exact, Linear
from scipy import sparse

from physzoo.core.simulate import simulate
from physzoo.inference.compare import _thinned, c2st, compare
from physzoo.inference.posterior import posterior
from physzoo.inference.references import Reference

COUNT = 1500


def normal(seed, count=COUNT, width=1.0, shift=0.0, size=8):
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
    assert all(abs(v - 1) < 4 / np.sqrt(COUNT) for k, v in found.sd_ratio.items() if k != "rate")
    assert max(v for k, v in found.w1_sd.items() if k != "rate") < 4 / np.sqrt(COUNT)
    assert json.loads(json.dumps(found.to_dict()))["c2st"] == found.c2st


@pytest.mark.parametrize(("wrong", "least"), [({"width": 0.8}, 0.60), ({"shift": 0.3}, 0.60)])
def test_a_wrong_width_or_shift_is_measured_and_detected(wrong, least):
    found = compare(normal(2, **wrong), REFERENCE, positive=("rate",))
    assert found.c2st > least
    for name in (f"z[{k}]" for k in range(8)):
        assert abs(found.sd_ratio[name] - wrong.get("width", 1.0)) < 4 / np.sqrt(COUNT)
        assert abs(found.mean_error_sd[name] - wrong.get("shift", 0.0)) < 4 * found.resolution
        # W1 between N(0, s^2) and N(m, 1): |m| or (1 - s) sqrt(2 / pi)
        exact = wrong.get("shift", 0.2 * np.sqrt(2 / np.pi))
        assert abs(found.w1_sd[name] - exact) < 4 * found.resolution


def test_a_small_sample_still_shows_a_narrow_one():
    narrow = normal(3, count=1000, width=0.8)["z"]
    assert c2st(narrow, REFERENCE["z"][:1000]) > 0.6


def test_the_score_is_reproducible_and_its_seed_matters_little():
    a, b = normal(4, count=500)["z"], REFERENCE["z"][:500]
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
    assert weighted.draws < COUNT
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


def labelled(values, order="abc", dims=("chain", "draw", "site")):
    found = xr.Dataset({"z": (("chain", "draw", "site"), values)}, coords={"site": list("abc")})
    return xr.DataTree.from_dict({"posterior": found.sel(site=list(order)).transpose(*dims)})


def test_labels_decide_and_positions_do_not():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4, 100, 3)) + np.array([0, 10, 100])
    expected = compare(labelled(a), labelled(b), classify=False).to_dict()
    assert max(map(abs, expected["mean_error_sd"].values())) < 0.4
    for other in (
        labelled(a, "cba"),
        labelled(a, dims=("site", "draw", "chain")),
        labelled(a)["posterior"].to_dataset(),
    ):
        found = compare(other, labelled(b), classify=False).to_dict()
        assert found["mean_error_sd"] == pytest.approx(expected["mean_error_sd"])
        assert found["draws"] == pytest.approx(400)
    plain = compare({"z": a.reshape(-1, 3)}, labelled(b), classify=False)
    assert plain.mean_error_sd == pytest.approx(expected["mean_error_sd"])
    for wrong, told in (
        (labelled(a).map_over_datasets(lambda d: d.assign_coords(site=list("abd")) if d else d), "coordinates"),
        (labelled(a).map_over_datasets(lambda d: d.rename(site="place") if d else d), "dimensions"),
        (labelled(a).map_over_datasets(lambda d: d.isel(chain=0) if d else d), "chain and draw"),
    ):
        with pytest.raises(ValueError, match=rf"draws\['z'\]: got .*{told}"):
            compare(wrong, labelled(b), classify=False)


def test_heavy_tails_are_compared_by_quantiles_and_logarithms():
    rng = np.random.default_rng(1)
    scale = {name: np.exp(5 * rng.normal(size=4000)) for name in ("draws", "reference")}
    found = compare({"rate": scale["draws"]}, {"rate": scale["reference"]}, classify=False)
    assert not 0.8 < found.sd_ratio["rate"] < 1.25
    assert found.worst_quantile_error < 0.03
    assert abs(found.log_sd_ratio["rate"] - 1) < 0.05
    assert abs(found.log_mean_error_sd["rate"]) < 0.08
    assert found.heavy == ["rate"]
    assert "rate are too heavy for moments: go by quantiles" in found.summary
    wide = compare({"rate": scale["draws"] ** 1.5}, {"rate": scale["reference"]}, classify=False)
    assert abs(wide.log_sd_ratio["rate"] - 1.5) < 0.08
    # P(1.5 x < -1.645) for x ~ N(0, 1)
    assert wide.quantiles["rate"][0.05] == pytest.approx(0.1364, abs=0.02)
    assert wide.heavy == []


def test_a_constant_entry_is_met_or_infinitely_missed():
    rng = np.random.default_rng(2)
    fixed = lambda value: {"l": np.stack([np.full(50, value), rng.normal(size=50)], 1)}  # noqa: E731
    met, missed = (
        compare(fixed(1e-12), fixed(1e-12), classify=False),
        compare(fixed(2e-12), fixed(1e-12), classify=False),
    )
    assert (met.mean_error_sd["l[0]"], met.sd_ratio["l[0]"], met.w1_sd["l[0]"]) == (0.0, 1.0, 0.0)
    assert np.isinf(missed.mean_error_sd["l[0]"])
    assert np.isinf(missed.w1_sd["l[0]"])


def test_whole_numbers_and_truth_values_are_numbers():
    rng = np.random.default_rng(3)
    counts = rng.poisson(3.0, size=(2, 500))
    found = compare({"n": counts[0]}, {"n": counts[1].astype(np.uint8)}, classify=False)
    assert found.worst_quantile_error < 0.08
    assert compare({"b": counts[0] > 2}, {"b": counts[1] > 2}, classify=False).worst_mean_error < 0.2


ENDLESS = [1.0]
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(20, complex),
        np.zeros(20, "M8[D]"),
        np.zeros(20, "m8[s]"),
        np.zeros(20, [("a", float)]),
        np.ma.masked_array(np.zeros(20), np.arange(20) < 3),
        np.array(["1"] * 20),
        sparse.eye(20),
        torch.zeros(20, device="meta"),
        ENDLESS,
        {"z": {}},
        np.float64(1.0),
        np.zeros((20, 0)),
    ],
    ids=str,
)
def test_what_holds_no_draws_is_refused(value):
    for source in (lambda: {"z": value}, lambda: Reference("x", {"z": value}, {})):
        with pytest.raises((TypeError, ValueError), match=r"got .* expected"):
            compare(source(), {"z": np.zeros(20)}, classify=False)
    with pytest.raises((TypeError, ValueError), match=r"got .* expected"):
        c2st(value, np.zeros((20, 1)))
