"""The check accepts the exact posterior at its level and rejects what is wrong: width, shift, prior."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyro
import pytest
import torch
from conjugate import OPERATOR, Exact, Linear, Plated
from pyro import distributions as dist
from pyro.infer.autoguide import AutoMultivariateNormal
from scipy import stats

from physzoo.core.simulate import simulate
from physzoo.inference.calibration import calibrate, calibrate_draws, data_checks, pit, uniformity
from physzoo.inference.calibration.contraction import wider_than_the_prior
from physzoo.inference.calibration.sbc import ecdf, ecdf_band, effect, holm
from physzoo.inference.fit import Simulator, fit, simulated_once
from physzoo.inference.importance import k_hat, smoothed
from physzoo.inference.objectives import ForwardKL
from physzoo.inference.warn import TrustWarning

MODEL = Linear()
EXACT = Exact(MODEL)


def check(guide, **options):
    return calibrate(MODEL, guide, progress=False, **options)


@pytest.fixture(scope="module")
def accepted():
    return check(EXACT)


def test_the_exact_posterior_is_accepted_with_nominal_coverage(accepted):
    assert accepted.passed
    assert accepted.verdict.startswith("calibrated")
    for level, share in accepted.coverage.items():
        assert abs(share - level) < 4 * np.sqrt(level * (1 - level) / 512)
    for shares in accepted.interval_coverage.values():
        for level, share in shares.items():
            assert abs(share - level) < 4 * np.sqrt(level * (1 - level) / 512)
    assert all(abs(found.shift) < 4 / np.sqrt(512) for found in accepted.effects.values())
    assert all(abs(found.width - 1) < 4 / np.sqrt(2 * 512) for found in accepted.effects.values())


def test_numbers_of_the_exact_posterior_are_the_closed_form(accepted):
    _, covariance = MODEL.posterior(torch.zeros(4, dtype=torch.float64))
    # the prior variance of one is estimated from 512 truths
    for found, exact in zip(accepted.contraction.values(), 1 - covariance.diagonal(), strict=True):
        assert abs(found - float(exact)) < 4 * np.sqrt(2 / 512) * float(1 - exact)
    assert np.allclose(accepted.k_hat, 0)  # equal weights
    mutual_information = -0.5 * float(torch.logdet(covariance))
    assert abs(accepted.information - mutual_information) < 4 * np.sqrt(3 / 512)


def test_false_rejections_happen_at_the_level_of_the_decision():
    smallest = np.array([min(check(EXACT, seed=100 + 17 * run).adjusted.values()) for run in range(60)])
    # at 1 %: 0.6 expected of 60; four or more have probability 0.003. At 20 %: 12 expected.
    assert (smallest < 0.01).sum() <= 3
    assert 3 <= (smallest < 0.2).sum() <= 24


@pytest.mark.parametrize("seed", [0, 10, 20, 30])
@pytest.mark.parametrize("wrong", [{"width": 0.8}, {"width": 1.25}, {"shift": 0.3}, {"shift": -0.3}])
def test_wrong_width_and_shift_are_rejected_and_measured(wrong, seed):
    found = check(Exact(MODEL, **wrong), seed=seed)
    assert not found.passed
    assert found.verdict.startswith("not calibrated")
    for measured in found.effects.values():
        assert abs(measured.width - wrong.get("width", 1.0)) < 5 / np.sqrt(2 * 512) * wrong.get("width", 1.0)
        assert abs(measured.shift - wrong.get("shift", 0.0)) < 5 / np.sqrt(512)


def test_the_prior_is_rejected_although_all_its_parameters_rank_well():
    found = check(Exact(MODEL, prior=True))
    assert all(found.adjusted[name] > 0.01 for name in ("z[0]", "z[1]", "rate"))
    assert max(abs(value) for value in found.contraction.values()) < 0.2
    assert found.adjusted["log_likelihood"] < 1e-6
    assert not found.passed
    assert abs(found.information) < 1e-9


def test_prior_draws_without_a_likelihood_are_inconclusive_not_calibrated():
    rng = np.random.default_rng(0)
    truths, draws = {"z": rng.normal(size=(512, 2))}, {"z": rng.normal(size=(100, 512, 2))}
    found = calibrate_draws(truths, draws)
    assert not found.rejected
    assert not found.passed
    assert found.verdict.startswith("inconclusive")


def test_the_prior_passes_where_it_is_the_posterior():
    blind = Linear(noise=1e4)
    found = calibrate(blind, Exact(blind), progress=False)
    assert found.passed
    assert "no information" in found.verdict


def test_the_built_in_negative_control_equals_a_guide_that_is_too_narrow():
    control, narrow = check(EXACT, widen=0.8), check(Exact(MODEL, width=0.8))
    assert not control.passed
    for level in control.coverage:
        assert abs(control.coverage[level] - narrow.coverage[level]) < 4 * np.sqrt(0.5 / 512)
    assert abs(control.nlpd - narrow.nlpd) < 0.05
    # stretching twice gives the guide back
    assert check(Exact(MODEL, width=0.8), widen=1.25).passed


@dataclass(frozen=True)
class FitExact:
    """A fit that needs no optimisation; at module level, so that spawned processes can import it."""

    model: Linear
    width: float = 1.0
    draws: bool = False

    def __call__(self, data):
        guide = Exact(self.model, width=self.width)
        if not self.draws:
            return guide
        x = guide.density(data["y"]).sample((400,))
        return {"z": x[:, :2], "rate": x[:, 2].exp()}


@pytest.mark.parametrize("draws", [False, True])
def test_repeated_fits_are_checked_like_an_amortised_guide(draws):
    options = {"datasets": 200, "draws": 100, "progress": False}
    assert calibrate(MODEL, fit=FitExact(MODEL, draws=draws), **options).passed
    assert not calibrate(MODEL, fit=FitExact(MODEL, width=0.7, draws=draws), **options).passed


def test_an_executor_gives_what_one_process_gives():
    options = {"datasets": 12, "draws": 50, "progress": False}
    serial = calibrate(MODEL, fit=FitExact(MODEL), **options)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        spread = calibrate(MODEL, fit=FitExact(MODEL), executor=pool, **options)
    assert serial.to_dict() == spread.to_dict()


def test_stock_guides_and_plates_can_be_checked():
    def fit(data):
        guide = AutoMultivariateNormal(model)
        guide(**data)
        return guide

    model = Plated()
    found = calibrate(model, fit=fit, datasets=30, draws=50, progress=False)
    assert set(found.effects) == {"mu", "a[0]", "a[1]", "a[2]"}
    assert not found.passed  # untrained
    assert found.nlpd is None


def test_a_batch_of_data_sets_may_come_from_elsewhere():
    pairs = simulate(MODEL, 256, seed=9)
    assert check(EXACT, pairs=pairs).passed
    # data of a noisier world than the model's
    noisier = simulate(Linear(noise=0.8), 256, seed=9)
    assert not check(EXACT, pairs=noisier).passed
    # latents that the simulator does not know are left out
    partial = {name: value for name, value in pairs.items() if name != "rate"}
    assert set(check(EXACT, pairs=partial).pvalues) == {"z[0]", "z[1]", "tarp"}


def test_failed_simulations_are_dropped_and_counted():
    pairs = simulate(MODEL, 64, seed=9)
    pairs["y"][:5] = torch.nan
    assert check(EXACT, pairs=pairs).dropped == 5


def test_report_is_json_and_picture_is_png(accepted, tmp_path):
    stored = json.loads(json.dumps(accepted.to_dict()))
    assert stored["passed"] is True
    path = accepted.plot(tmp_path / "calibration.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ValueError, match=r"\.png"):
        accepted.plot(tmp_path / "calibration.pdf")
    assert all(ranks.min() >= 0 and ranks.max() <= 200 for ranks in accepted.ranks.values())


def test_jittered_ranks_are_uniform_and_ties_are_broken_fairly():
    rng = np.random.default_rng(1)
    assert uniformity(pit(rng.normal(size=2000), rng.normal(size=(20, 2000)), rng)) > 0.01
    assert uniformity(pit(np.zeros(2000), np.zeros((20, 2000)), rng)) > 0.01
    raw = (rng.normal(size=(20, 2000)) < rng.normal(size=2000)).sum(0) / 20
    assert uniformity(raw) < 0.01  # the trap: discrete ranks


def test_holm_is_the_textbook_adjustment():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})


def test_ecdf_band_holds_uniform_samples_at_its_level():
    band, rng = ecdf_band(200), np.random.default_rng(2)
    inside = []
    for _ in range(400):
        found = ecdf(rng.uniform(size=200), band.points)[1:-1]
        inside.append(((found >= band.lower[1:-1]) & (found <= band.upper[1:-1])).all())
    assert abs(np.mean(inside) - 0.95) < 4 * np.sqrt(0.05 * 0.95 / 400)
    narrow = effect(np.clip(0.5 + 1.6 * (rng.uniform(size=200) - 0.5), 0.001, 0.999))
    assert narrow.width < 1


def test_k_hat_grows_with_the_mismatch_of_the_tails():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2000, 20))
    target = -0.5 * x**2
    wide, narrow = (x * s for s in (1.2, 0.5))

    def log_normal(z, s):
        return -0.5 * (z / s) ** 2 - np.log(s)

    fine = k_hat(-0.5 * wide**2, log_normal(wide, 1.2))
    poor = k_hat(-0.5 * narrow**2, log_normal(narrow, 0.5))
    # proposal sd s below one: the weights' tail has shape 1 - s^2 = 0.75; above one they are bounded
    assert np.median(fine) < 0.2
    assert abs(np.median(poor) - 0.75) < 0.2
    assert (k_hat(target, target + 3.0) == 0).all()
    weights, _ = smoothed(-0.5 * wide**2, log_normal(wide, 1.2))
    assert np.allclose(np.exp(weights).sum(0), 1)
    assert k_hat(np.full(100, -np.inf), np.zeros(100)) == np.inf


@pytest.mark.parametrize(("draws", "kept"), [(1000, 72), (40_000, 500), (200, 32)])
def test_rejected_draws_weigh_nothing_however_many_they_are(draws, kept):
    ratio = np.full(draws, -np.inf)
    ratio[:kept] = 0.5 * np.random.default_rng(0).normal(size=kept)
    log_weights, shape = smoothed(ratio, np.zeros(draws))
    assert np.isneginf(log_weights[kept:]).all()
    assert np.isclose(np.exp(log_weights[:kept]).sum(), 1)
    assert shape < 0.7
    assert k_hat(np.where(np.arange(draws) < 24, 0.0, -np.inf), np.zeros(draws)) == np.inf


@pytest.mark.parametrize("ratio", [np.r_[np.zeros(500), np.full(500, -np.inf)], np.r_[np.zeros(999), -1e-3]])
def test_equal_largest_weights_are_those_of_the_posterior_where_it_has_a_density(ratio):
    log_weights, shape = smoothed(ratio, np.zeros(1000))
    assert shape == 0
    np.testing.assert_allclose(np.exp(log_weights), np.exp(ratio) / np.exp(ratio).sum())


@pytest.mark.parametrize("span", [1e2, 1e3, 4.75e3, 4.85e3, 4.95e3, 1e5])
def test_weights_thousands_of_nats_apart_are_never_called_usable(span):
    log_weights, shape = smoothed(-np.linspace(0, span, 200), np.zeros(200))
    assert shape > 0.7
    assert np.isclose(np.exp(log_weights).sum(), 1)


def test_leave_one_out_ranks_find_data_that_the_model_does_not_explain():
    big = torch.linspace(-1, 1, 120, dtype=torch.float64)

    def model(y=None):
        level = pyro.sample("level", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        pyro.sample("y", dist.Normal(level[..., None].expand(*level.shape, 120), 1.0).to_event(1), obs=y)

    def guide(y=None, widen=1.0):
        precision = 1 + y.shape[-1]
        pyro.sample("level", dist.Normal(y.sum(-1) / precision, widen * precision**-0.5))

    noise = torch.randn(120, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    right = data_checks(model, guide, {"y": 0.3 + noise})
    assert right.loo_pvalue["y"] > 0.01
    assert right.loo_k_hat["y"].max() < 0.7
    assert data_checks(model, guide, {"y": 0.3 + 0.4 * noise}).loo_pvalue["y"] < 0.01
    assert data_checks(model, guide, {"y": 4 * big + noise}).loo_pvalue["y"] < 0.01
    wide = data_checks(model, lambda y=None: guide(y, widen=2.0), {"y": 0.3 + noise}, draws=4000)
    # the weights repair a guide of twice the width
    assert wide.k_hat < 0.5
    assert np.abs(wide.loo_pit["y"] - right.loo_pit["y"]).max() < 4 * np.sqrt(0.25 / 1000 + 0.25 / 2000)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"guide": None}, "guide, fit"),
        ({"datasets": 1}, "datasets"),
        ({"draws": 1}, "draws"),
        ({"widen": 0.0}, "widen"),
    ],
)
def test_bad_arguments_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        calibrate(MODEL, **{"guide": EXACT, **options})


@dataclass(frozen=True)
class Virtual:
    """The model with its noiseless data as a state u tied to the unknowns by a virtual observable."""

    noise: float = 0.5

    def __call__(self, y=None):
        zero = OPERATOR.new_zeros(2)
        z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
        rate = pyro.sample("rate", dist.LogNormal(zero[0], 1.0))
        x = torch.cat([z, rate.log().unsqueeze(-1)], -1)
        u = pyro.sample("u", dist.Normal(OPERATOR.new_zeros(4), 100.0).to_event(1))
        pyro.sample("r", dist.Normal(u - x @ OPERATOR.T, 0.01).to_event(1), obs=torch.zeros_like(u))
        pyro.sample("y", dist.Normal(u, self.noise).to_event(1), obs=y)


@dataclass(frozen=True)
class WithState:
    """A guide of the virtual model: that of the unknowns, and any state."""

    unknowns: Exact

    def __call__(self, y):
        self.unknowns(y)
        pyro.sample("u", dist.Normal(y, 1.0).to_event(1))


def ordered(y=None):
    """A hard constraint, which simulations do not keep; at half of the draws its factor is zero."""
    a, b = (pyro.sample(name, dist.Normal(torch.zeros(()), 1.0)) for name in "ab")
    pyro.factor("ordered", torch.where(a < b, 0.0, -torch.inf))
    return pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)


def test_a_model_with_a_constraint_does_not_simulate_its_density():
    for seed in range(4):
        torch.manual_seed(seed)
        with pytest.raises(ValueError, match="'ordered' is observed even without data"):
            simulated_once(ordered, None, 8)


def test_a_model_with_virtual_observables_is_held_against_its_forward_model():
    with pytest.raises(ValueError, match="'r' is observed even without data"):
        calibrate(Virtual(), WithState(EXACT))
    for train in (
        lambda: fit(Virtual(), WithState(EXACT), Simulator(4), ForwardKL(), steps=1, progress=False),
        lambda: simulated_once(Virtual(), WithState(EXACT), 8),
    ):
        with pytest.raises(ValueError, match="'r' is observed even without data"):
            train()
    for guide, passes in ((EXACT, True), (Exact(MODEL, width=0.8), False), (Exact(MODEL, prior=True), False)):
        found = calibrate(Virtual(), WithState(guide), simulator=MODEL, progress=False)
        assert found.passed is passes
        assert set(found.effects) == {"z[0]", "z[1]", "rate"}
        assert found.adjusted["log_likelihood"] > 0.01 or not passes
    with pytest.raises(ValueError, match="rate"):
        calibrate(Virtual(), lambda y: pyro.sample("z", dist.Normal(y[..., :2], 1.0).to_event(1)), simulator=MODEL)


@dataclass(frozen=True)
class Failing:
    """The exact fit, which raises for data with y[0] above one number and draws NaN above another."""

    raises: float
    nan: float

    def __call__(self, data):
        if data["y"][0] > self.raises:
            raise ArithmeticError("no minimum")
        guide = Exact(MODEL)
        x = guide.density(data["y"]).sample((60,))
        return {"z": torch.where(data["y"][0] > self.nan, torch.nan, x[:, :2]), "rate": x[:, 2].exp()}


def test_fits_that_fail_are_dropped_counted_and_told():
    pairs = simulate(MODEL, 150, seed=4)
    top = pairs["y"][:, 0].sort().values
    failing = Failing(raises=float(top[-6]), nan=float(top[-11]))
    options = {"pairs": pairs, "draws": 50, "progress": False}
    with pytest.warns(TrustWarning, match="dropped 10 of 150 data sets .*(no minimum|not finite)"):
        found = calibrate(MODEL, fit=failing, **options)
    assert (found.dropped, found.datasets) == (10, 140)
    assert found.verdict.endswith("(140 data sets, 50 draws each, 10 more dropped as failed)")
    assert not any("narrow" in word for word in found.verdict.split())
    with pytest.raises(ValueError, match=r"fit: got 75 failures in .* expected fewer than half .*no minimum"):
        calibrate(MODEL, fit=Failing(float(top[74]), 9.0), **options)


def test_a_fit_that_always_fails_ends_the_check_at_once():
    seen = []

    def fit(data):
        seen.append(data)
        raise ArithmeticError("no minimum")

    with pytest.raises(ValueError, match="got 5 failures in 5 fits of 64, expected") as caught:
        calibrate(MODEL, fit=fit, datasets=64, draws=10, progress=False)
    assert len(seen) == 5
    assert isinstance(caught.value.__cause__, ArithmeticError)


def test_threads_take_turns_and_find_what_one_process_finds():
    options = {"datasets": 12, "draws": 30, "progress": False}
    with ThreadPoolExecutor(4) as pool:
        spread = calibrate(MODEL, fit=FitExact(MODEL, draws=True), executor=pool, **options)
    assert spread.to_dict() == calibrate(MODEL, fit=FitExact(MODEL, draws=True), **options).to_dict()
    with pytest.raises(TypeError, match="executor: got 3, expected something with submit"):
        calibrate(MODEL, fit=FitExact(MODEL), executor=3, **options)


@pytest.mark.parametrize("sets", [2, 8, 32, 99])
def test_too_few_data_sets_never_pass_and_reject_what_is_far_off(sets):
    found = check(EXACT, datasets=sets, draws=50)
    assert not found.passed
    assert not found.failed
    assert found.verdict.startswith("too few data sets to tell, expected at least 100")
    assert check(EXACT, datasets=100, draws=50).passed
    if sets > 8:
        wrong = check(Exact(MODEL, width=0.1), datasets=sets, draws=50)
        assert wrong.failed
        assert wrong.verdict.startswith("not calibrated")


def test_draws_that_are_not_finite_are_dropped_and_most_of_them_are_refused():
    rng = np.random.default_rng(0)
    truths, draws = rng.normal(size=200), rng.normal(size=(100, 200))
    draws[:, :20], truths[-3:] = np.nan, np.inf
    found = calibrate_draws({"z": truths}, {"z": draws})
    assert (found.dropped, found.datasets) == (23, 177)
    assert abs(found.effects["z"].width - 1) < 0.25
    assert "narrow" not in found.verdict
    draws[3, :100] = np.nan
    with pytest.raises(ValueError, match=r"draws: got 103 of 200 data sets .* expected few"):
        calibrate_draws({"z": truths}, {"z": draws})


@pytest.mark.parametrize("unit", [1e-10, 1.0])
def test_draws_wider_than_the_prior_do_not_pass_at_any_level_of_the_rank_tests(unit):
    """Variances of 1.68 times the prior's, under a likelihood that is flat and so excuses a lack of contraction."""
    rng = np.random.default_rng(0)
    truths, draws = rng.normal(size=128), rng.normal(size=(200, 128)) * 1.68**0.5
    flat = np.zeros(128), np.zeros((200, 128))
    found = calibrate_draws({"z": unit * truths}, {"z": unit * draws}, log_likelihood=flat, alpha=1e-4)
    assert found.contraction["z"] < -0.4
    assert found.wider == ("z",)
    assert not replace(found, adjusted=dict.fromkeys(found.adjusted, 1.0)).passed  # not by its ranks alone
    assert found.verdict.startswith("not calibrated")
    right = calibrate_draws({"z": truths}, {"z": rng.normal(size=(200, 128))}, log_likelihood=flat)
    assert right.passed
    assert right.wider == ()


def test_false_alarms_of_width_are_rarer_than_the_level():
    rng = np.random.default_rng(1)
    alarms = 0
    for law in (lambda size: rng.normal(size=size), lambda size: rng.standard_t(5, size=size)):
        for _ in range(150):
            truths, draws = law((100, 2)), law((30, 100, 2))
            alarms += bool(wider_than_the_prior(truths, draws, ["a", "b"], 0.01))
    assert alarms <= 9  # 3 expected of 300; ten or more have probability 0.001


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"alpha": None}, "alpha"),
        ({"seed": -1}, "seed"),
        ({"truths": {"z": np.zeros(20, complex)}}, "truths"),
        ({"draws": {"z": np.zeros((5, 20), "M8[D]")}}, "draws"),
        ({"draws": {"z": np.zeros((5, 19))}}, "draws"),
        ({"quantities": {"q": np.zeros(20)}}, "quantities"),
        ({"quantities": {"q": (np.zeros(20), np.zeros((4, 20)))}}, "quantities"),
        ({"quantities": {"tarp": (np.zeros(20), np.zeros((5, 20)))}}, "quantities"),
        ({"quantities": [1]}, "quantities"),
        ({"log_likelihood": (np.zeros(19), np.zeros((5, 20)))}, "log_likelihood"),
        ({"log_q": 3}, "log_q"),
        ({"unconstrained": (np.zeros((20, 1)), np.zeros((5, 19, 1)))}, "unconstrained"),
    ],
)
def test_draws_that_cannot_be_checked_are_refused(changes, named):
    rng = np.random.default_rng(0)
    usual = {"truths": {"z": rng.normal(size=20)}, "draws": {"z": rng.normal(size=(5, 20))}}
    with pytest.raises((ValueError, TypeError), match=f"{named}.*got.*expected"):
        calibrate_draws(**{**usual, **changes})


def counts(y=None):
    rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
    return pyro.sample("y", dist.Poisson(rate[..., None] * torch.ones(300)).to_event(1), obs=y)


def exact_rate(y):
    pyro.sample("rate", dist.Gamma(1.0 + y.sum(-1), 301.0))


def test_ranks_of_counts_are_uniform_and_the_wrong_law_is_found():
    loo, predictive = [], []
    for seed in range(4):
        y = torch.poisson(torch.full((300,), 0.7), generator=torch.Generator().manual_seed(seed))
        found = data_checks(counts, exact_rate, {"y": y}, draws=200, seed=seed)
        assert min(found.predictive_pvalue["y"], found.loo_pvalue["y"]) > 0.01
        loo.append(found.loo_pit["y"])
        predictive.append(found.predictive_pit["y"])
    for ranks in (loo, predictive):
        assert stats.kstest(np.concatenate(ranks), "uniform").pvalue > 0.01
    spread = torch.poisson(2 * torch.rand(300, generator=torch.Generator().manual_seed(9)) ** 3 * 3)
    wrong = data_checks(counts, exact_rate, {"y": spread}, draws=200)
    assert max(wrong.predictive_pvalue["y"], wrong.loo_pvalue["y"]) < 0.01
