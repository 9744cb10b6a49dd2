"""Reference samplers reach the closed form within their own standard errors, and say so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conjugate import Exact, Linear, Plated

from physzoo.core.simulate import simulate
from physzoo.inference.calibration import pit, tarp, uniformity
from physzoo.inference.calibration.sbc import ecdf_band, holm, interval_coverage
from physzoo.inference.compare import compare
from physzoo.inference.density import Latents
from physzoo.inference.references import Reference, grid, nuts, pcn, summarise
from physzoo.inference.references.quadrature import total_variation
from physzoo.references import disagreement

MODEL = Linear(noise=0.1)
PAIRS = simulate(MODEL, 4, seed=5)
Y = PAIRS["y"]
FINE = {"mean": 0.0, "mcse_mean": 0.1, "r_hat": 1.0, "ess_bulk": 1000.0, "ess_tail": 1000.0}


def z_scores(reference, mean):
    """Errors of E[z] in Monte-Carlo standard errors."""
    return (reference.summary["mean"]["z"] - mean) / reference.summary["mcse_mean"]["z"]


@pytest.fixture(scope="module")
def chains():
    return pcn(MODEL, {"y": Y}, datasets=True, draws=500, warmup=1200, thin=2, progress=False)


def test_pcn_finds_the_posteriors_of_a_batch(chains):
    mean, covariance = MODEL.posterior(Y)
    assert chains.trusted()
    assert np.abs(z_scores(chains, mean[:, :2].numpy())).max() < 4
    sd = covariance.diagonal()[:2].sqrt().numpy()
    error = (chains.summary["sd"]["z"] - sd) / chains.summary["mcse_sd"]["z"]
    assert np.abs(error).max() < 4.5
    exact = Exact(MODEL).density(Y[1]).sample((4000,))
    single = chains.select(1)
    assert single.draws["z"].shape == (8, 500, 2)
    assert compare(single, {"z": exact[:, :2], "rate": exact[:, 2].exp()}).c2st < 0.53


def test_pcn_that_does_not_adapt_is_exact_too_and_slower(chains):
    plain = pcn(MODEL, {"y": Y[0]}, chains=8, draws=400, warmup=1000, thin=5, adapt=False, progress=False)
    assert plain.ess < chains.ess
    mean, covariance = MODEL.posterior(Y[0])
    error = (plain.summary["mean"]["z"] - mean[:2].numpy()) / covariance.diagonal()[:2].sqrt().numpy()
    # R-hat is worse here: the error is held against the spread that this ESS allows
    assert np.abs(error).max() < 5 / np.sqrt(plain.ess)


def test_a_chain_that_has_not_converged_is_not_trusted():
    short = pcn(MODEL, {"y": Y[0]}, chains=4, draws=50, warmup=8, thin=1, adapt=False, progress=False)
    assert not short.trusted()


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_not_a_number_is_no_evidence(order):
    def statistic(fine, bad):
        return {name: np.array([fine, value]) for name, value in (("a", fine), ("b", bad), ("c", fine))[::order]}

    good = Reference("nuts", {}, {key: statistic(value, value) for key, value in FINE.items()})
    broken = Reference("nuts", {}, {key: statistic(value, np.nan) for key, value in FINE.items()})
    assert good.trusted()
    assert disagreement(good, good) == 0.0
    assert not broken.trusted()
    assert all(np.isnan(value) for value in (broken.r_hat, broken.ess, disagreement(good, broken)))


def test_pcn_may_start_at_the_densest_of_many_prior_draws():
    options = {"datasets": True, "chains": 4, "draws": 1, "warmup": 8, "thin": 1, "seed": 3, "progress": False}
    mean, covariance = MODEL.posterior(Y)
    sd = covariance.diagonal()[:2].sqrt().numpy()
    away = []
    for candidates in (None, 20_000):
        found = pcn(MODEL, {"y": Y}, candidates=candidates, **options)
        away.append(np.abs((found.draws["z"][:, 0] - mean[:, :2].numpy()) / sd).mean())
    assert away[1] < 3 < away[0]
    with pytest.raises(ValueError, match="candidates: got 2, expected a whole number of at least 4"):
        pcn(MODEL, {"y": Y}, **{**options, "candidates": 2})


def test_pcn_takes_models_with_plates():
    model, y = Plated(), simulate(Plated(), 3, seed=1)["y"]
    found = pcn(model, {"y": y}, datasets=True, draws=300, warmup=800, thin=3, progress=False)
    assert found.draws["a"].shape == (8, 300, 3, 3)
    error = (found.summary["mean"]["mu"] - model.mean_of_mu(y).numpy()) / found.summary["mcse_mean"]["mu"]
    assert np.abs(error).max() < 4


def test_pcn_visits_tails_that_its_normal_proposal_misses():
    import pyro
    from pyro import distributions as dist
    from scipy.stats import t

    def model(y=None):
        z = pyro.sample("z", dist.StudentT(torch.tensor(3.0).double(), 0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1e6), obs=y)

    found = pcn(model, {"y": torch.zeros(()).double()}, draws=1000, warmup=800, thin=4, progress=False)
    beyond = np.abs(found.draws["z"]) > 4
    exact = 2 * t.sf(4, 3)
    assert found.trusted()
    assert abs(beyond.mean() - exact) < 4 * float(summarise({"x": beyond})["mcse_mean"]["x"])


def test_chains_in_processes_are_the_same_chains():
    options = {"chains": 2, "draws": 10, "warmup": 10, "progress": False}
    serial, parallel = (nuts(MODEL, {"y": Y[0]}, workers=workers, **options) for workers in (1, 2))
    np.testing.assert_array_equal(serial.draws["z"], parallel.draws["z"])


@pytest.mark.parametrize("whitened", [False, True])
def test_nuts_finds_the_posterior(whitened):
    mean, covariance = MODEL.posterior(Y[0])
    options = {}
    if whitened:
        options = {"inverse_mass": covariance, "initial": {"z": mean[:2], "rate": mean[2].exp()}}
    found = nuts(MODEL, {"y": Y[0]}, chains=2, draws=300, warmup=150, seed=1, progress=False, **options)
    assert found.r_hat < 1.03
    assert found.ess > 100
    assert found.divergences == 0
    assert np.abs(z_scores(found, mean[:2].numpy())).max() < 4
    tree = found.tree(units={"rate": "1/year"})
    assert tree["posterior/z"].shape == (2, 300, 2)
    assert tree["sample_stats/diverging"].shape == (2, 300)
    assert tree["posterior/rate"].attrs["units"] == "1/year"
    assert tree.attrs["method"] == "nuts"


def two_unknowns(y=None, noise=0.3):
    """z ~ N(0, I_2), y = z_1 + z_2 / 2 + noise: posterior and evidence in closed form."""
    import pyro
    from pyro import distributions as dist

    z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(z[..., 0] + z[..., 1] / 2, noise), obs=y)


def test_grid_has_moments_and_evidence_of_the_closed_form():
    y = torch.tensor(0.7).double()
    found = grid(two_unknowns, {"y": y})
    row, variance = np.array([1.0, 0.5]), 1.25 + 0.09
    assert found.mean["z[0]"] == pytest.approx(row[0] * 0.7 / variance, abs=1e-4)
    assert found.sd["z[1]"] == pytest.approx(np.sqrt(1 - 0.25 / variance), abs=1e-3)
    exact = -0.5 * 0.49 / variance - 0.5 * np.log(2 * np.pi * variance)
    assert found.log_evidence == pytest.approx(exact, abs=1e-3)
    assert found.edge < 1e-3
    draws = found.reference(Latents.of(two_unknowns, {"y": y}), draws=4000)
    assert abs(draws.draws["z"][0, :, 0].mean() - found.mean["z[0]"]) < 4 * found.sd["z[0]"] / np.sqrt(4000)


def test_total_variation_is_zero_to_itself_and_known_for_shifted_normals():
    y = torch.tensor(0.7).double()
    bounds = [(-5.0, 5.0), (-5.0, 5.0)]
    one, other = (grid(two_unknowns, {"y": v}, bounds=bounds) for v in (y, y + 1))
    assert total_variation(one, one) == 0
    # both are N(m_i, C): TV = 2 Phi(|L^-1 (m_1 - m_2)| / 2) - 1
    row = np.array([1.0, 0.5])
    covariance = np.linalg.inv(np.eye(2) + np.outer(row, row) / 0.09)
    step = covariance @ row / 0.09
    distance = np.sqrt(step @ np.linalg.solve(covariance, step))
    from scipy.stats import norm

    assert total_variation(one, other) == pytest.approx(2 * norm.cdf(distance / 2) - 1, abs=2e-3)
    with pytest.raises(ValueError, match="grids"):
        total_variation(one, grid(two_unknowns, {"y": y}))


def test_grid_refuses_unknowns_whose_coordinates_are_not_their_own():
    import pyro
    from pyro import distributions as dist
    from pyro.distributions.transforms import OrderedTransform

    def ordered(y=None):
        base = dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)
        z = pyro.sample("z", dist.TransformedDistribution(base, [OrderedTransform()]))
        pyro.sample("y", dist.Normal(z.sum(-1), 0.3), obs=y)

    data = {"y": torch.tensor(0.5).double()}
    assert Latents.of(two_unknowns, data).elementwise
    assert not Latents.of(ordered, data).elementwise
    with pytest.raises(ValueError, match="model: got 2 unknowns, expected one or two scalars"):
        grid(ordered, data)


def test_grid_takes_a_positive_unknown():
    import pyro
    from pyro import distributions as dist

    def model(y=None):
        rate = pyro.sample("rate", dist.Gamma(torch.tensor(3.0).double(), 2.0))
        pyro.sample("y", dist.Exponential(rate), obs=y)

    found = grid(model, {"y": torch.tensor(0.8).double()}, points=801)
    assert found.mean["rate"] == pytest.approx(4 / 2.8, abs=2e-3)  # Gamma(4, 2.8)
    assert found.sd["rate"] == pytest.approx(2 / 2.8, abs=2e-3)


def test_summary_is_honest_about_correlated_chains():
    rng = np.random.default_rng(0)
    noise, series = rng.normal(size=(4, 2000)), np.zeros((4, 2000))
    for step in range(1, 2000):
        series[:, step] = 0.9 * series[:, step - 1] + noise[:, step]
    found = summarise({"x": series, "e": noise})
    # AR(1) with 0.9: ESS is (1 - 0.9) / (1 + 0.9) of the draws
    assert 0.6 < float(found["ess_bulk"]["x"]) / (8000 * 0.1 / 1.9) < 1.6
    assert float(found["ess_bulk"]["e"]) > 6000
    apart = summarise({"x": noise + np.arange(4)[:, None]})
    assert float(apart["r_hat"]["x"]) > 1.1


def test_a_reference_is_stored_and_read_back_without_pickle(chains, tmp_path):
    small = chains.thinned(100)
    assert small.ess == chains.ess
    path = small.save(tmp_path / "reference.npz")
    back = Reference.load(path)
    np.testing.assert_array_equal(back.draws["z"], small.draws["z"])
    assert back.settings == small.settings
    assert back.datasets == 4
    assert back.r_hat == small.r_hat
    assert [file.name for file in tmp_path.iterdir()] == ["reference.npz"]


def test_a_file_that_is_no_reference_is_named_and_not_executed(tmp_path):
    path = tmp_path / "wrong.npz"
    for content in (b"not a zip", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"wrong\.npz"):
            Reference.load(path)
    np.savez(path, meta=np.array({"format": "x"}, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"wrong\.npz"):
        Reference.load(path)


def test_any_site_name_is_stored_and_read_back(tmp_path):
    names = ["a/b", "../up", "x", "x.npy", "draws", "a b", "ü%2F", "meta"]
    draws = {name: np.full((2, 5), float(index)) + np.arange(5) for index, name in enumerate(names)}
    back = Reference.load(
        Reference("mine", draws, summarise(draws), {"s/t": np.zeros((2, 5))}).save(tmp_path / "r.npz")
    )
    assert list(back.draws) == names
    for index, name in enumerate(names):
        assert back.draws[name][0, 0] == index
        assert back.summary["mean"][name] == index + 2
    assert list(back.stats) == ["s/t"]


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"draws/z": np.zeros(3)},
        {"draws/z": np.zeros((2, 0))},
        {"draws/z": np.zeros((2, 3)), "draws/a": np.zeros((2, 4))},
        {"draws/z": np.zeros((2, 3), complex)},
        {"draws/z": np.zeros((2, 3)), "other": np.zeros(3)},
        {"draws/z": np.zeros((2, 3)), "summary/mean": np.zeros(3)},
    ],
)
@pytest.mark.parametrize("deep", [False, True])
def test_files_with_other_contents_are_refused(arrays, deep, tmp_path):
    meta = '{"format": "physzoo reference 1", "method": "x", "settings": {}, "datasets": null}'
    np.savez(tmp_path / "r.npz", meta=np.array("[" * 100_000 if deep else meta), **arrays)
    with pytest.raises(ValueError, match=r"path: got 'r\.npz', expected a file written by Reference\.save"):
        Reference.load(tmp_path / "r.npz")


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda ref: ref.save(3), "path"),
        (lambda ref: Reference("x", {"z": np.array([[None]])}, {}).save("x.npz"), "draws"),
        (lambda ref: Reference("x", ref.draws, {}, settings={"a": object()}).save("x.npz"), "settings"),
        (lambda ref: Reference("x", {}, {}).save("x.npz"), "draws"),
        (lambda ref: Reference.load(None), "path"),
        (lambda ref: ref.thinned("3"), "draws"),
        (lambda ref: ref.thinned(True), "draws"),
        (lambda ref: ref.select(None), "index"),
        (lambda ref: summarise({"z": np.zeros((2, 3), complex)}), "draws"),
        (lambda ref: summarise({"z": np.zeros(3)}), "draws"),
        (lambda ref: summarise([1]), "draws"),
        (lambda ref: nuts(MODEL, {"y": Y[0]}, draws=1), "draws"),
        (lambda ref: nuts(MODEL, {"y": Y[0]}, draws=2**64), "draws"),
        (lambda ref: pcn(MODEL, {"y": Y[0]}, thin=2**64), "thin"),
        (lambda ref: pcn(MODEL, {"y": Y[0]}, draws=10**8, chains=10**3), "chains, draws"),
        (lambda ref: grid(two_unknowns, {"y": Y[0, 0]}, points=10**6), "points"),
        (lambda ref: grid(two_unknowns, {"y": Y[0, 0] * torch.nan}), "data"),
        (lambda ref: nuts(MODEL, {"y": Y[0] * torch.nan}), "data"),
        (lambda ref: pcn(MODEL, {"y": Y[0] * torch.nan}, warmup=8), "data"),
        (lambda ref: pcn(MODEL, {"y": Y[0]}, loc=torch.zeros(3, device="meta")), "loc"),
        (lambda ref: total_variation([0.5, 0.6], [0.5, 0.5]), "p"),
        (lambda ref: pit([1.0], [[2.0]], 3), "rng"),
        (lambda ref: uniformity([0.5, 1.5]), "pits"),
        (lambda ref: holm({"a": np.nan}), "pvalues"),
        (lambda ref: ecdf_band([3]), "count"),
        (lambda ref: interval_coverage([0.5], [1.5]), "levels"),
        (lambda ref: tarp(np.zeros((3, 2)), np.zeros((4, 3, 1)), np.random.default_rng(0)), "truths, draws"),
    ],
)
def test_odd_arguments_are_refused_in_one_sentence(call, named):
    reference = Reference("x", {"z": np.zeros((2, 5))}, {})
    with pytest.raises((ValueError, TypeError), match=f"{named}.*: got .*expected") as caught:
        call(reference)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: nuts(MODEL, {"y": Y[0]}, chains=0), "chains"),
        (lambda: nuts(MODEL, {"y": Y[0]}, inverse_mass=torch.eye(2)), "inverse_mass"),
        (
            lambda: nuts(MODEL, {"y": Y[0]}, initial=[{"z": torch.zeros(2), "rate": torch.ones(())}]),
            "initial",
        ),
        (lambda: pcn(MODEL, {"y": Y[0]}, warmup=1), "warmup"),
        (lambda: pcn(MODEL, {"y": Y[0]}, loc=torch.zeros(2)), "loc"),
        (lambda: grid(MODEL, {"y": Y[0]}), "3 unknowns"),
        (lambda: grid(two_unknowns, {"y": Y[0, 0]}, bounds=[(0.0, 1.0)]), "bounds"),
    ],
)
def test_bad_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
