"""Sequential Monte Carlo against closed forms and a grid, and where chains that agree are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pytest
import torch
from conjugate import Linear, Plated
from pyro import distributions as dist
from scipy.stats import t
from torch import Tensor

from physzoo.guides.sites import simulate
from physzoo.inference.laplace import laplace
from physzoo.inference.reference_grid import grid
from physzoo.inference.reference_hmc import hmc
from physzoo.inference.reference_pcn import pcn
from physzoo.inference.reference_smc import smc

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
