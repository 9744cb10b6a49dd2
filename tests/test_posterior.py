"""The ArviZ posterior holds what the guide draws, with densities from which the evidence follows."""

from __future__ import annotations

import arviz as az
import numpy as np
import pyro
import pytest
import torch
from conjugate import Exact, Linear, Plated
from pyro import distributions as dist
from pyro.infer.autoguide import AutoMultivariateNormal
from xarray import open_datatree

from physzoo.core.prototype import prototype
from physzoo.core.simulate import simulate
from physzoo.guides.amortize import amortize
from physzoo.inference.calibration import calibrate, data_checks
from physzoo.inference.density import Latents
from physzoo.inference.density.densities import draw
from physzoo.inference.importance import importance_resample
from physzoo.inference.posterior import pointwise, posterior, sample
from physzoo.physics import ODEProblem, observe

MODEL = Linear()
Y = simulate(MODEL, 1, seed=3)["y"][0]


def variable(tree, path):
    return tree[path].to_numpy()


def test_importance_weights_of_the_exact_guide_are_all_the_evidence():
    tree = posterior(MODEL, Exact(MODEL), {"y": Y}, draws=200)
    weights = variable(tree, "sample_stats/log_p") - variable(tree, "sample_stats/log_q")
    np.testing.assert_allclose(weights, float(MODEL.log_evidence(Y)), atol=1e-9)


def test_draws_have_the_moments_of_the_closed_form():
    tree = posterior(MODEL, Exact(MODEL), {"y": Y}, draws=4000, seed=1)
    mean, covariance = MODEL.posterior(Y)
    z, sd = variable(tree, "posterior/z")[0], covariance.diagonal()[:2].sqrt().numpy()
    error = (z.mean(0) - mean[:2].numpy()) / sd
    assert np.abs(error).max() < 4 / np.sqrt(4000)
    assert np.abs(z.std(0) / sd - 1).max() < 4 / np.sqrt(2 * 4000)


def moments_off(tree):
    """Largest error of the means in sd and largest deviation of the sd ratios from one, against the closed form."""
    mean, covariance = MODEL.posterior(Y)
    sd = covariance.diagonal().sqrt().numpy()
    draws = np.c_[variable(tree, "posterior/z")[0], np.log(variable(tree, "posterior/rate")[0])]
    return np.abs((draws.mean(0) - mean.numpy()) / sd).max(), np.abs(draws.std(0) / sd - 1).max()


def test_resampling_by_importance_weights_turns_a_wrong_guide_into_the_posterior():
    tree = posterior(MODEL, Exact(MODEL, width=1.3, shift=0.4), {"y": Y}, draws=40_000, seed=5, prior=False)
    corrected = importance_resample(tree, seed=6)
    count = corrected.attrs["draws"]
    assert count == corrected["posterior/z"].shape[1] == int(corrected.attrs["effective_draws"])
    assert 0.2 < count / 40_000 < 0.8
    assert corrected.attrs["k_hat"] < 0.7
    mean_off, sd_off = moments_off(corrected)
    assert mean_off < 4 / np.sqrt(count)
    assert sd_off < 4 / np.sqrt(2 * count)
    mean_off, sd_off = moments_off(tree)  # what it was
    assert mean_off > 0.35
    assert sd_off > 0.25


def test_resampled_rows_stay_together_and_other_groups_stay_as_they_were(tmp_path):
    dims, coords = {"y": ["sensor"]}, {"sensor": list("abcd")}
    tree = posterior(MODEL, Exact(MODEL, width=1.3), {"y": Y}, draws=500, units={"y": "m"}, dims=dims, coords=coords)
    chosen = importance_resample(tree, 300, seed=1)
    assert set(chosen.children) == set(tree.children)
    assert chosen["log_likelihood/y"].dims == ("chain", "draw", "sensor")
    assert chosen["posterior_predictive/y"].attrs["units"] == "m"
    before = {float(row): index for index, row in enumerate(variable(tree, "posterior/rate")[0])}
    rows = [before[float(rate)] for rate in variable(chosen, "posterior/rate")[0]]
    others = ("posterior/z", "posterior_predictive/y", "log_likelihood/y", "sample_stats/log_p", "sample_stats/log_q")
    for path in others:
        np.testing.assert_array_equal(variable(chosen, path)[0], variable(tree, path)[0][rows])
    np.testing.assert_array_equal(chosen["prior/z"], tree["prior/z"])
    assert "k_hat" not in tree.attrs  # what was given is left alone
    np.testing.assert_array_equal(importance_resample(tree, 300, seed=1)["posterior/z"], chosen["posterior/z"])
    assert np.isfinite(az.ess(chosen)["z"]).all()
    tree.to_netcdf(tmp_path / "posterior.nc")
    with open_datatree(tmp_path / "posterior.nc") as back:
        np.testing.assert_array_equal(importance_resample(back, 300, seed=1)["posterior/z"], chosen["posterior/z"])


def chains(log_p, **others):
    """A tree of given log ratios, (chain, draw), whose draws are their own numbers."""
    numbers = np.arange(log_p.size, dtype=float).reshape(log_p.shape)
    stats = {"log_p": log_p, "log_q": np.zeros(log_p.shape)}
    return az.from_dict({"posterior": {"x": numbers}, "sample_stats": stats, **others})


def test_resampling_takes_every_chain_in_any_order_of_dimensions():
    log_p = np.where(np.random.default_rng(0).random((2, 100)) < 0.5, 0.0, -np.inf)
    tree = chains(log_p)
    turned = tree.copy()
    turned["sample_stats"] = type(tree)(tree["sample_stats"].to_dataset().transpose("draw", "chain"))
    for given in (tree, turned):
        rows = variable(importance_resample(given, 400), "posterior/x")[0].astype(int)
        assert np.isfinite(log_p.ravel()[rows]).all()
        assert len(set(rows)) == np.isfinite(log_p).sum()  # equal weights: each of them is drawn


def test_weights_that_cannot_be_trusted_are_told_and_trees_without_them_are_refused():
    narrow = posterior(MODEL, Exact(MODEL, width=0.25), {"y": Y}, draws=2000, prior=False)
    with pytest.warns(UserWarning, match=r"tree: got k-hat \d.*, expected below 0.7"):
        importance_resample(narrow)
    usual = chains(np.random.default_rng(0).normal(size=(1, 100)))
    longer = chains(np.zeros((1, 100)))
    longer["posterior"] = type(longer)(chains(np.zeros((1, 500)))["posterior"].to_dataset())
    for tree, words in (
        (az.from_dict({"posterior": {"z": np.zeros((1, 50))}}), "without log_p and log_q of every chain and draw"),
        (usual.sel(chain=0), "without log_p and log_q of every chain and draw"),
        (importance_resample(usual), "resampled already"),
        (longer, "in posterior, expected .* as in sample_stats"),
        (chains(np.zeros((1, 24))), "24 draws, expected at least 25"),
        (chains(np.full((1, 50), -np.inf)), "no draw with a finite density"),
        (chains(np.where(np.arange(50) == 7, np.inf, 0.0)[None]), "a draw with an infinite weight"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"tree: got .*{words}"):
            importance_resample(tree)


def test_layout_is_arvizs_with_units_dims_and_pointwise_likelihood(tmp_path):
    tree = posterior(
        MODEL, Exact(MODEL), {"y": Y}, draws=100, dims={"y": ["sensor"]}, coords={"sensor": list("abcd")},
        units={"rate": "1/year", "y": "m"},
    )  # fmt: skip
    groups = {"posterior", "prior", "prior_predictive", "posterior_predictive", "observed_data"}
    assert set(tree.children) == groups | {"log_likelihood", "sample_stats"}
    assert tree["posterior/z"].dims[:2] == ("chain", "draw")
    assert tree["posterior/rate"].attrs["units"] == "1/year"
    assert tree["observed_data/y"].dims == ("sensor",)
    assert tree["log_likelihood/y"].shape == (1, 100, 4)
    assert "_x" not in tree["posterior"].data_vars  # auxiliary sites stay inside
    assert np.isfinite(az.loo(tree).elpd)
    tree.to_netcdf(tmp_path / "posterior.nc")
    with open_datatree(tmp_path / "posterior.nc") as back:
        np.testing.assert_array_equal(back["posterior/z"], tree["posterior/z"])


def test_pointwise_likelihood_adds_up_and_a_mask_hides_its_entries():
    class Masked(Linear):
        def __call__(self, y=None):
            keep = torch.tensor([True, False, True, True])
            z = pyro.sample("z", dist.Normal(torch.zeros(4).double(), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(z, 0.5).mask(keep).to_event(1), obs=y)

    site = prototype(Masked(), {"y": Y}).nodes["y"]
    entries = pointwise(site)
    assert entries.seen.tolist() == [True, False, True, True]
    assert entries.log_prob[1] == 0
    torch.testing.assert_close(entries.log_prob.sum(), site["fn"].log_prob(site["value"]))


def test_masked_entries_are_no_data_for_arviz_and_are_predicted_all_the_same():
    def model(y=None, mask=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        observe("y", z[..., None] + torch.zeros(4), 0.5, obs=y, mask=mask)

    def guide(y=None, mask=None):
        pyro.sample("z", dist.Normal(0.0, 1.0))

    data = {"y": torch.tensor([0.3, torch.nan, 7.0, -1.0]), "mask": torch.tensor([True, False, False, True])}
    tree = posterior(model, guide, data, draws=5)
    assert tree["observed_data/y"].dims == ("y_seen",)
    np.testing.assert_array_equal(tree["observed_data/y"].values, np.float32([0.3, -1.0]))
    np.testing.assert_array_equal(tree["log_likelihood/y"].coords["y_seen"], [0, 3])
    assert tree["posterior_predictive/y"].shape == tree["log_likelihood/y"].shape == (1, 5, 2)
    np.testing.assert_array_equal(tree["constant_data/y"].values, np.float32([0.3, np.nan, np.nan, -1.0]))
    np.testing.assert_array_equal(tree["predictions/y"].values[..., [0, 3]], tree["posterior_predictive/y"].values)


class Bursting(torch.nn.Module):
    """du/dt = rate u^2 from 1 is infinite at t = 1 / rate: faster rates than one half have no solution."""

    def __init__(self):
        super().__init__()
        self.problem = ODEProblem(
            lambda t, u, z: z["rate"][..., None] * u**2,
            [0.0, 1.0, 2.0], substeps=40, on_failure="reject", dtype=torch.float64,
        )  # fmt: skip

    def forward(self, y=None):
        rate = pyro.sample("rate", dist.LogNormal(torch.tensor(-1.5).double(), 1.0))
        u = self.problem.solve({"rate": rate, "initial_state": torch.ones(1).double()})[..., 1:, 0]
        observe("y", torch.where(u < 1e6, u, torch.nan), 0.1, obs=y)


@pytest.mark.filterwarnings("ignore::physzoo.physics.likelihoods.SolverWarning")
def test_a_draw_without_a_solution_has_no_likelihood_and_predicts_nothing():
    model, data = Bursting(), {"y": torch.tensor([1.3, 1.7]).double()}
    guide = amortize(model, None, "full", example=data, simulations=512)
    tree = posterior(model, guide, data, draws=400)
    rate, log_p = (variable(tree, path)[0] for path in ("posterior/rate", "sample_stats/log_p"))
    log_likelihood, predictive = (
        variable(tree, f"{group}/y")[0] for group in ("log_likelihood", "posterior_predictive")
    )
    nowhere = np.isneginf(log_p)
    assert 0.05 < nowhere.mean() < 0.95
    assert np.isfinite(variable(importance_resample(tree, 400), "sample_stats/log_p")).all()
    assert rate[nowhere].min() > rate[~nowhere].max()
    assert np.isneginf(log_likelihood[nowhere]).all()
    assert np.isfinite(log_likelihood[~nowhere]).all()
    assert np.isnan(predictive[nowhere]).all()
    assert np.isfinite(predictive[~nowhere]).all()
    drawn = draw(model, guide, data, 400, predictive=True, seed=0)
    assert torch.equal(torch.isneginf(drawn.log_likelihood["y"]), torch.isneginf(drawn.log_p))
    assert torch.equal(drawn.predictive["y"].isnan().all(-1), torch.isneginf(drawn.log_p))
    values = {name: value.unsqueeze(1) for name, value in drawn.values.items()}
    batch = {"y": data["y"].unsqueeze(0)}
    seen = Latents.of(model, data).terms(model, values, batch, datasets=True)[1][:, 0]
    torch.testing.assert_close(seen, drawn.log_likelihood["y"])
    checks = data_checks(model, guide, data, draws=400)
    below = (predictive[~nowhere] < data["y"].numpy()).mean(0)
    np.testing.assert_allclose(checks.predictive_pit["y"], below, atol=0.01)
    assert np.isfinite(checks.loo_pit["y"]).all()
    found = calibrate(model, guide, datasets=64, draws=50, progress=False)
    assert found.flatness is not None
    assert np.isfinite(found.flatness)


def test_the_same_seed_gives_the_same_draws_and_leaves_the_generator_alone():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, second = (posterior(MODEL, Exact(MODEL), {"y": Y}, draws=50, seed=5) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(first["posterior/z"], second["posterior/z"])
    other = posterior(MODEL, Exact(MODEL), {"y": Y}, draws=50, seed=6)
    assert not np.array_equal(first["posterior/z"], other["posterior/z"])


def test_stock_auto_guides_and_models_with_plates_work():
    model, y = Plated(), torch.tensor([1.0, 2.0, 0.5]).double()
    guide = AutoMultivariateNormal(model)
    guide(y=y)
    tree = posterior(model, guide, {"y": y}, draws=60)
    assert tree["posterior/mu"].shape == (1, 60)
    assert tree["posterior/a"].shape == tree["log_likelihood/y"].shape == (1, 60, 3)
    assert tree["prior/a"].shape == (1, 60, 3)


def test_unconstrained_vector_goes_there_and_back_with_its_jacobian():
    latents = Latents.of(MODEL, {"y": Y})
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values, log_det = latents.unpack(x)
    torch.testing.assert_close(latents.pack(values), x)
    torch.testing.assert_close(log_det, x[:, 2])  # rate = exp(x_3)
    mean, covariance = MODEL.posterior(Y)
    exact = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x) + MODEL.log_evidence(Y)
    torch.testing.assert_close(latents.log_density(MODEL, x, {"y": Y}), exact)
    torch.testing.assert_close(latents.log_density(MODEL, x[0], {"y": Y}), exact[0])


def test_sampling_without_the_model_agrees_with_the_full_posterior():
    draws = sample(Exact(MODEL), {"y": Y}, 4000, seed=2)
    mean, covariance = MODEL.posterior(Y)
    error = (draws["rate"].log().mean() - mean[2]) / covariance[2, 2].sqrt()
    assert abs(float(error)) < 4 / np.sqrt(4000)
    batch = sample(Exact(MODEL), {"y": Y.expand(3, 4)}, 10, datasets=3)
    assert batch["z"].shape == (10, 3, 2)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"draws": 0}, "draws"), ({"units": {"beta": "m"}}, "beta"), ({"dims": {"x": ["a"]}}, "x")],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        posterior(MODEL, Exact(MODEL), {"y": Y}, **arguments)
