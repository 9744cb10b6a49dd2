"""Sequential Monte Carlo against closed forms and a grid, and where chains that agree are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pytest
import torch
from conjugate import Linear, Plated
from pyro import distributions as dist
from scipy.stats import norm, t, truncnorm
from torch import Tensor

from physzoo.core.simulate import simulate
from physzoo.inference.modes import laplace, laplace_mixture
from physzoo.inference.references import grid, hmc, pcn, smc

Y = torch.tensor([1.5, 0.2, -0.7, 0.0], dtype=torch.float64)


def standard_errors(found: Any, site: str, mean: Any, sd: Any) -> float:
    """The largest error of a mean or sd in its standard errors."""
    summary = found.summary
    errors = [
        (summary[key][site] - exact) / summary[f"mcse_{key}"][site] for key, exact in (("mean", mean), ("sd", sd))
    ]
    return float(np.abs(errors).max())


def test_it_finds_a_closed_form_and_its_evidence() -> None:
    model = Linear(noise=0.1)
    found = smc(model, {"y": Y}, seed=1, progress=False)
    mean, covariance = model.posterior(Y)
    assert found.trusted()
    assert found.draws["z"].shape == (8, 500, 2)
    assert (found.draws["rate"] > 0).all()
    assert standard_errors(found, "z", mean[:2].numpy(), covariance.diagonal()[:2].sqrt().numpy()) < 4
    told = np.array(found.settings["log_evidence"])
    assert abs(told.mean() - float(model.log_evidence(Y))) < 4 * told.std(ddof=1) / 8**0.5 + 0.02
    assert found.settings["temperatures"] > 3


def folded(y: Tensor | None = None) -> None:
    """y = |x| + e, x ~ N(0.2, 1): two modes far apart, of unequal mass."""
    x = pyro.sample("x", dist.Normal(torch.tensor(0.2, dtype=torch.float64), 1.0))
    pyro.sample("y", dist.Normal(x.abs(), 0.05), obs=y)


def test_two_modes_have_their_masses_where_chains_agree_on_one() -> None:
    data = {"y": torch.tensor(1.5, dtype=torch.float64)}
    exact = grid(folded, data, points=4001)
    right = float(exact.probability[np.asarray(exact.axes[0]) > 0].sum())
    assert 0.6 < right < 0.7
    found = smc(folded, data, particles=1000, moves=5, final=20, seed=2, progress=False)
    shares = (found.draws["x"] > 0).mean(1)
    assert found.trusted(1.02, 100)
    assert abs(shares.mean() - right) < 4 * shares.std(ddof=1) / 8**0.5
    assert abs(np.mean(found.settings["log_evidence"]) - exact.log_evidence) < 0.1
    start = laplace(folded, data)
    chains = hmc(folded, data, loc=start.loc, tril=start.tril, seed=2, progress=False)
    assert chains.trusted()
    assert float((chains.draws["x"] > 0).mean()) in (0.0, 1.0)


def test_the_laplace_approximations_at_all_modes_have_the_moments() -> None:
    data = {"y": torch.tensor(1.5, dtype=torch.float64)}
    exact = grid(folded, data, points=4001)
    start = laplace_mixture(folded, data, starts=32, candidates=64)
    assert float(start.loc[0]) == pytest.approx(exact.mean["x"], abs=0.01)
    assert float(start.tril[0, 0]) == pytest.approx(exact.sd["x"], rel=0.01)
    one = Linear()
    data = {"y": simulate(one, 1, seed=3)["y"][0]}
    assert torch.allclose(laplace_mixture(one, data).tril, laplace(one, data).tril, atol=1e-3)


def test_too_few_particles_are_seen() -> None:
    data = {"y": torch.tensor(1.5, dtype=torch.float64)}
    assert not smc(folded, data, particles=8, moves=1, final=1, ess=0.1, seed=2, progress=False).trusted()


def test_plates_heavy_tails_and_impossible_draws() -> None:
    plated, seen = Plated(), simulate(Plated(), 3, seed=1)["y"]
    found = smc(plated, {"y": seen[0]}, particles=300, final=40, progress=False)
    assert found.draws["a"].shape == (8, 300, 3)
    mean = plated.mean_of_mu(seen[:1]).numpy()[0]
    assert abs(found.summary["mean"]["mu"] - mean) / found.summary["mcse_mean"]["mu"] < 4

    def tails(y: Tensor | None = None) -> None:
        z = pyro.sample("z", dist.StudentT(torch.tensor(3.0).double(), 0.0, 1.0))
        pyro.factor("positive", torch.where(z > 0, 0.0, -torch.inf))
        pyro.sample("y", dist.Normal(z, 1e6), obs=y)

    half = smc(tails, {"y": torch.zeros(()).double()}, progress=False)
    assert (half.draws["z"] > 0).all()
    beyond = (half.draws["z"] > 4).mean(1)
    assert abs(beyond.mean() - 2 * t.sf(4, 3)) < 4 * beyond.std(ddof=1) / 8**0.5


def narrow(x: Tensor, y: Tensor | None, noise: float) -> None:
    pyro.sample("y", dist.Normal(x, noise), obs=y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_at_which_the_model_makes_no_sense_have_no_weight(dtype: torch.dtype) -> None:
    def model(y: Tensor | None = None) -> None:
        narrow(pyro.sample("x", dist.Normal(torch.tensor(0.0, dtype=dtype), 1.0)).log(), y, 0.5)

    data = {"y": torch.tensor(-0.2, dtype=dtype)}
    found, exact = smc(model, data, particles=301, progress=False), grid(model, data, points=4001)
    assert found.draws["x"].shape == (8, 301)
    at, share = np.asarray(exact.axes[0]), np.asarray(exact.probability)
    mean = float(at @ share)
    assert standard_errors(found, "x", mean, float(np.sqrt((at - mean) ** 2 @ share))) < 4.5
    assert abs(np.mean(found.settings["log_evidence"]) - exact.log_evidence) < 0.1


def test_data_of_any_weight_are_come_by_in_steps() -> None:
    def model(y: Tensor | None = None) -> None:
        narrow(pyro.sample("x", dist.Normal(torch.tensor(0.0).double(), 1.0)), y, 1e-10)

    found = smc(model, {"y": torch.tensor(0.7).double()}, particles=200, moves=10, final=20, progress=False)
    assert found.trusted(1.02, 200)
    assert float(found.draws["x"].std()) == pytest.approx(1e-10, rel=0.1)
    assert np.mean(found.settings["log_evidence"]) == pytest.approx(norm.logpdf(0.7), abs=0.3)


def test_a_narrow_ridge_is_kept_whole() -> None:
    def model(y: Tensor | None = None) -> None:
        x = pyro.sample("x", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        narrow(x.sum(-1), y, 1e-6)

    found = smc(model, {"y": torch.tensor(0.0).double()}, moves=10, final=40, progress=False)
    assert found.trusted()
    assert found.settings["acceptance"] > 0.15
    assert standard_errors(found, "x", 0.0, 0.5**0.5) < 4.5
    assert float(found.draws["x"].sum(-1).std()) == pytest.approx(1e-6, rel=0.1)


def test_few_possible_starts_spread_before_the_data_count() -> None:
    def model(y: Tensor | None = None) -> None:
        x = pyro.sample("x", dist.Normal(torch.tensor(0.0).double(), 1.0))
        pyro.factor("above", torch.where(x > 2.0, 0.0, -torch.inf))
        narrow(x, y, 1e3)

    found = smc(model, {"y": torch.tensor(0.0).double()}, progress=False)
    assert found.trusted(1.02, 200)
    assert found.summary["mean"]["x"] == pytest.approx(truncnorm.mean(2.0, np.inf), abs=0.02)
    assert np.mean(found.settings["log_evidence"]) == pytest.approx(
        norm.logsf(2.0) + norm.logpdf(0, scale=1e3), abs=0.15
    )


def test_densities_without_bound_weigh_nothing() -> None:
    def model(y: Tensor | None = None) -> None:
        x = pyro.sample("x", dist.Normal(torch.tensor(0.0).double(), 1.0))
        pyro.factor("pole", torch.where(x > 1.0, torch.inf, 0.0))
        narrow(x, y, 1.0)

    data = {"y": torch.tensor(0.5).double()}
    exact = grid(model, data, points=401)
    assert np.isfinite(exact.probability).all()
    for found in (
        smc(model, data, particles=50, moves=2, final=5, progress=False),
        pcn(model, data, draws=50, progress=False),
    ):
        assert (found.draws["x"] <= 1.0).all()


def test_the_seed_makes_the_draws_and_leaves_the_generator() -> None:
    options: dict[str, Any] = {"particles": 20, "moves": 1, "final": 1, "progress": False}
    before = torch.get_rng_state()
    first, again, other = (smc(Linear(), {"y": Y}, seed=seed, **options).draws["z"] for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="particles: got 15, expected a whole number of at least 16"):
        smc(Linear(), {"y": Y}, particles=15, progress=False)

    def impossible(y: Tensor | None = None) -> None:
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0).double(), 1.0))
        pyro.factor("never", z * 0 - torch.inf)
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    for sampler, told in ((smc, "at any of 500 draws"), (pcn, "at any prior draw tried")):
        with pytest.raises(ValueError, match=f"model: got no finite density {told}"):
            sampler(impossible, {"y": torch.zeros(()).double()}, progress=False)
