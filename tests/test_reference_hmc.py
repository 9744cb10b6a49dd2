"""Batched Hamiltonian Monte Carlo against posteriors that are known."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pytest
import torch
from conjugate import Linear
from pyro import distributions as dist
from scipy import stats

from physzoo.inference.modes import laplace
from physzoo.inference.references import hmc
from physzoo.models import get

SETS = torch.tensor([[0.4, -0.3, 0.9, 0.1], [1.5, 0.2, -0.7, 0.0], [-2.0, 0.6, 0.3, 1.1]], dtype=torch.float64)


def test_it_finds_a_closed_form_within_its_standard_errors() -> None:
    animal = get("linear_gaussian")
    model, data = animal.model(), animal.data()
    whitening = laplace(model, data)
    found = hmc(model, data, loc=whitening.loc, tril=whitening.tril, seed=3, progress=False)
    assert animal.closed_form is not None
    mean, covariance = animal.closed_form(data)
    scale = covariance.diagonal().sqrt().numpy()
    error = (found.summary["mean"]["z"] - mean.numpy()) / found.summary["mcse_mean"]["z"]
    spread = (found.summary["sd"]["z"] - scale) / found.summary["mcse_sd"]["z"]
    assert np.abs(error).max() < 4
    assert np.abs(spread).max() < 4
    assert found.trusted()


def test_many_data_sets_are_sampled_at_once_each_from_its_own_posterior() -> None:
    model, mean, covariance = Linear(noise=0.3), *Linear(noise=0.3).posterior(SETS)
    starts = {"loc": mean + 0.1, "tril": 0.7 * torch.linalg.cholesky(covariance).expand(3, 3, 3)}
    found = hmc(model, {"y": SETS}, datasets=True, seed=4, progress=False, **starts)
    assert found.datasets == 3
    assert found.draws["z"].shape == (40, 250, 3, 2)
    assert found.trusted(r_hat=1.02)
    error = (found.summary["mean"]["z"] - mean[:, :2].numpy()) / found.summary["mcse_mean"]["z"]
    spread = (found.summary["sd"]["z"] - covariance.diagonal()[:2].sqrt().numpy()) / found.summary["mcse_sd"]["z"]
    assert np.abs(error).max() < 4
    assert np.abs(spread).max() < 4
    with pytest.raises(ValueError, match=r"tril: got shape \(2, 3, 3\), expected \(3, 3\) or \(3, 3, 3\)"):
        hmc(model, {"y": SETS}, datasets=True, loc=mean, tril=covariance.expand(2, 3, 3), progress=False)


def gamma_model(y: torch.Tensor | None = None) -> None:
    """Poisson-like counts with a gamma prior: rate | y ~ Gamma(3 + sum y, 2 + n)."""
    rate = pyro.sample("rate", dist.Gamma(torch.tensor(3.0).double(), torch.tensor(2.0).double()))
    pyro.sample("y", dist.Poisson(rate.unsqueeze(-1).expand(*rate.shape, 4)).to_event(1), obs=y)


def test_it_samples_skewed_posteriors_on_their_support() -> None:
    data = {"y": torch.tensor([0.0, 1.0, 0.0, 2.0]).double()}
    whitening = laplace(gamma_model, data)
    found = hmc(gamma_model, data, loc=whitening.loc, tril=whitening.tril, seed=1, progress=False)
    draws = found.draws["rate"].reshape(-1)
    exact = stats.gamma(3 + 3, scale=1 / (2 + 4))
    for level in (0.05, 0.25, 0.5, 0.75, 0.95):
        error = math.sqrt(level * (1 - level) / found.ess)
        assert abs((draws < exact.ppf(level)).mean() - level) < 4 * error
    assert (draws > 0).all()


def cut_model(y: torch.Tensor | None = None) -> None:
    """A standard normal of which the half below zero has no solution."""
    z = pyro.sample("z", dist.Normal(torch.tensor(0.0).double(), 1.0))
    pyro.factor("solved", torch.where(z > 0, 0.0, -math.inf))
    pyro.sample("y", dist.Normal(z, 100.0), obs=y)


def test_regions_without_solution_are_never_entered() -> None:
    data = {"y": torch.tensor(0.0).double()}
    one = torch.ones(1).double()
    found = hmc(cut_model, data, loc=0.8 * one, tril=0.6 * one[None], max_steps=8, seed=2, progress=False)
    draws = found.draws["z"]
    assert (draws > 0).all()
    assert abs(draws.mean() - math.sqrt(2 / math.pi)) < 4 * found.summary["mcse_mean"]["z"]


def test_the_same_seed_gives_the_same_draws_and_leaves_the_generator() -> None:
    animal = get("linear_gaussian")
    model, data = animal.model(), animal.data()
    size = torch.eye(6).double()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (
        hmc(model, data, loc=size[0] * 0, tril=size, draws=4, warmup=20, seed=9, progress=False) for _ in range(2)
    )
    np.testing.assert_array_equal(first.draws["z"], second.draws["z"])
    assert torch.equal(before, torch.get_rng_state())


BAD = (
    {"chains": 1},
    {"draws": 0},
    {"draws": 2**64},
    {"warmup": 3},
    {"loc": torch.zeros(2).double()},
    {"loc": torch.zeros(6) * 1j},
    {"tril": torch.zeros(6, 6).double()},
    {"tril": torch.zeros(6, 6, device="meta")},
)


@pytest.mark.parametrize("changes", BAD)
def test_bad_numbers_are_named(changes: dict) -> None:
    animal = get("linear_gaussian")
    settings = {"loc": torch.zeros(6).double(), "tril": torch.eye(6).double(), **changes}
    with pytest.raises(ValueError, match=next(iter(changes))):
        hmc(animal.model(), animal.data(), progress=False, **settings)


@pytest.mark.parametrize("seed", [0, 1])
def test_chains_that_start_on_a_steep_slope_come_down(seed: int) -> None:
    animal = get("poisson1d")
    model, data = animal.model(), animal.data()
    whitening = laplace(model, data)
    found = hmc(model, data, loc=whitening.loc, tril=whitening.tril, seed=seed, progress=False)
    assert found.stats["acceptance"].mean(1).min() > 0.5
    assert found.trusted()
