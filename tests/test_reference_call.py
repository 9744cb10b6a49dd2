"""One call for all samplers: the same posterior from each, one name for a start, one sentence for what does not fit."""

from __future__ import annotations

import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import physzoo
from physzoo import HMC, NUTS, PCN, SMC, Gaussian, Grid
from physzoo.inference.density import Latents
from physzoo.inference.references import Reference, grid, hmc
from physzoo.inference.warn import TrustWarning

QUIET = {"progress": False}
Y = torch.tensor([0.8, 1.0, 1.2])
MEAN, SD = 12 / 13, 13**-0.5  # of z | y


def model(y=None):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3), 0.5).to_event(1), obs=y)


START = Gaussian(torch.tensor([MEAN]), torch.tensor([[SD]]))
SAMPLERS = {
    "HMC": HMC(chains=10, draws=100, warmup=40),
    "NUTS": NUTS(chains=2, draws=150, warmup=60),
    "PCN": PCN(chains=16, draws=200, warmup=400),
    "SMC": SMC(runs=4, particles=300, moves=6, final=20),
    "Grid": Grid(points=201),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_from_the_same_posterior(name):
    found = physzoo.reference(model, {"y": Y}, SAMPLERS[name], seed=1, **QUIET)
    assert isinstance(found, Reference)
    error = max(float(found.summary["mcse_mean"]["z"]), 0.002)
    assert abs(float(found.summary["mean"]["z"]) - MEAN) < 5 * error
    assert float(found.summary["sd"]["z"]) == pytest.approx(SD, rel=0.1)


@pytest.mark.parametrize("name", ["HMC", "NUTS", "PCN"])
def test_a_start_is_a_gaussian_for_all_that_take_one(name):
    far = Gaussian(torch.tensor([MEAN + 0.5]), torch.tensor([[SD]]))
    found = [physzoo.reference(model, {"y": Y}, SAMPLERS[name], start=s, seed=1, **QUIET) for s in (START, far)]
    assert not (found[0].draws["z"] == found[1].draws["z"]).all()
    for one in found:
        assert abs(float(one.summary["mean"]["z"]) - MEAN) < 5 * float(one.summary["mcse_mean"]["z"])


def test_without_a_sampler_hmc_starts_at_the_laplace_approximation():
    mode = physzoo.laplace(model, {"y": Y}, seed=3)
    options = {"chains": 40, "draws": 250, "warmup": 100, "seed": 3, **QUIET}
    expected = hmc(model, {"y": Y}, loc=mode.loc, tril=mode.tril, **options)
    found = physzoo.reference(model, {"y": Y}, seed=3, **QUIET)
    assert (found.draws["z"] == expected.draws["z"]).all()


def test_many_data_sets_go_together():
    many = {"y": torch.stack([Y, -Y])}
    start = Gaussian(torch.zeros(2, 1), torch.eye(1).expand(2, 1, 1))
    found = physzoo.reference(model, many, SAMPLERS["HMC"], start=start, datasets=True, **QUIET)
    assert found.summary["mean"]["z"] == pytest.approx([MEAN, -MEAN], abs=0.05)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"sampler": HMC}, TypeError, r"sampler: got the class HMC, expected HMC\(\)"),
        ({"sampler": "nuts"}, TypeError, r"sampler: got 'nuts', expected HMC\(\)"),
        ({"start": (0.0, 1.0)}, TypeError, r"start: got \(0.0, 1.0\), expected a Gaussian"),
        ({"sampler": SMC(), "start": START}, ValueError, "start: got a Gaussian for SMC, expected none"),
        ({"sampler": Grid(), "start": START}, ValueError, "start: got a Gaussian for Grid, expected none"),
        ({"sampler": NUTS(), "datasets": True}, ValueError, "datasets: got many data sets for NUTS, expected one"),
        ({"datasets": True}, ValueError, "start: got none for many data sets"),
        ({"sampler": HMC(chains=0)}, ValueError, "chains: got 0"),
        ({"datasets": 1}, TypeError, "datasets: got 1, expected True or False"),
    ],
)
def test_what_does_not_fit_is_refused(options, error, told):
    with pytest.raises(error, match=told):
        physzoo.reference(model, {"y": Y}, **QUIET, **options)


def test_the_old_names_say_what_replaces_them():
    with pytest.warns(DeprecationWarning, match=r"physzoo.nuts: call physzoo.reference\(model, data, physzoo.NUTS"):
        physzoo.nuts(model, {"y": Y}, chains=1, draws=5, warmup=5, **QUIET)
    assert physzoo.Whitening is Gaussian


def square(noise):
    def model(y=None):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0))
        return pyro.sample("y", dist.Normal(z**2, noise), obs=y)

    return model


HEIGHT = {"y": torch.tensor(0.8, dtype=torch.float64)}


@pytest.mark.parametrize("noise", [0.1, 0.01])
def test_a_grid_is_laid_again_until_narrow_modes_far_apart_are_resolved(noise):
    z = np.linspace(-3, 3, 1_000_001)
    weight = np.exp(-0.5 * z**2 - 0.5 * ((0.8 - z**2) / noise) ** 2)
    weight /= weight.sum()
    mean = weight @ np.abs(z)
    sd = np.sqrt(weight @ (np.abs(z) - mean) ** 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = physzoo.reference(square(noise), HEIGHT, Grid(draws=40_000), **QUIET)
    draws = np.abs(found.draws["z"])
    assert draws.std() == pytest.approx(sd, rel=4 / np.sqrt(2 * 40_000) + 0.005)
    assert found.draws["z"].shape == (4, 10_000)
    assert found.trusted()


def test_cells_are_judged_beside_each_mode_and_not_beside_their_distance():
    with pytest.warns(TrustWarning, match="wide beside the posterior"):
        grid(square(0.1), HEIGHT).reference(Latents.of(square(0.1), HEIGHT))
    with pytest.warns(TrustWarning, match="cells wider than the posterior along z"):
        grid(square(0.01), HEIGHT)


def test_laplace_and_the_chains_that_start_there_tell_of_a_second_mode():
    with pytest.warns(TrustWarning, match="a second mode of like height"):
        physzoo.reference(square(0.1), HEIGHT, HMC(chains=2, draws=5, warmup=20), **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        physzoo.laplace(model, {"y": Y})


def test_a_start_of_another_model_is_told_of_by_its_name():
    with pytest.raises(ValueError, match=r"start: loc: got shape \(2,\), expected \(1,\)"):
        physzoo.reference(model, {"y": Y}, HMC(), start=Gaussian(torch.zeros(2), torch.eye(2)), **QUIET)
