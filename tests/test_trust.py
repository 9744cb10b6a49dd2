"""What cannot be trusted warns once, in a category of its own, and says what to do; what can be trusted is silent."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from conjugate import Exact, Linear
from pyro import distributions as dist
from torch import Tensor

from physzoo.core.simulate import simulate
from physzoo.inference.calibration import calibrate_draws, data_checks
from physzoo.inference.importance import importance_resample, k_hat, smoothed, weights_of
from physzoo.inference.posterior import posterior
from physzoo.inference.references import Reference, grid, hmc, nuts, pcn, smc
from physzoo.inference.references.result import warn_of
from physzoo.inference.warn import TrustWarning

MODEL = Linear()
DATA = {"y": simulate(MODEL, 1, seed=3)["y"][0]}
FINE = {"r_hat": 1.0, "ess_bulk": 1000.0, "ess_tail": 1000.0}


def told(call: Callable[[], Any]) -> list[warnings.WarningMessage]:
    """The warnings of trust that a call gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [warning for warning in caught if issubclass(warning.category, TrustWarning)]


def one(call: Callable[[], Any], *words: str) -> None:
    """Check that a call warns once, of these words, at the line that called."""
    (warning,) = told(call)
    assert all(word in str(warning.message) for word in words), str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize(
    ("changes", "stats", "words"),
    [
        ({"r_hat": 1.02}, {}, ("R-hat 1.020", "expected below 1.01", "smc where there may be several modes")),
        ({"ess_tail": 399.0}, {}, ("399 effective draws", "expected over 400", "more warmup= and draws=")),
        ({}, {"diverging": np.array([[True, False]])}, ("1 divergences", "target_accept=")),
        ({"r_hat": np.nan}, {}, ("R-hat nan",)),
    ],
)
def test_each_diagnostic_of_a_sampler_is_told_with_advice(changes, stats, words) -> None:
    summary = {key: {"z": np.array(value)} for key, value in {**FINE, **changes}.items()}
    one(lambda: (lambda: warn_of(Reference("nuts", {}, summary, stats)))(), *words)
    assert not told(lambda: warn_of(Reference("nuts", {}, {k: {"z": np.array(v)} for k, v in FINE.items()})))


def test_every_sampler_tells_of_draws_that_are_too_few() -> None:
    quiet: dict[str, Any] = {"progress": False}
    start = {"loc": torch.zeros(3).double(), "tril": torch.eye(3).double()}
    one(lambda: hmc(MODEL, DATA, chains=2, draws=4, warmup=20, max_steps=2, **start, **quiet), "hmc: got", "effective")
    one(lambda: nuts(MODEL, DATA, chains=2, draws=4, warmup=4, max_tree_depth=2, **quiet), "nuts: got", "effective")
    one(lambda: pcn(MODEL, DATA, chains=2, draws=4, warmup=8, **quiet), "pcn: got", "thin=")
    one(lambda: smc(MODEL, DATA, runs=2, particles=16, moves=1, final=1, **quiet), "smc: got", "particles=")


def test_weights_that_cannot_be_trusted_are_told_wherever_they_are_used() -> None:
    right, wrong = (posterior(MODEL, Exact(MODEL, width=width), DATA, draws=200, seed=1) for width in (1.0, 0.2))
    one(lambda: weights_of(wrong), "k-hat", "below 0.7", "hmc, nuts or smc")
    one(lambda: importance_resample(wrong), "k-hat", "below 0.7")
    one(lambda: data_checks_of(0.1), "guide: got k-hat")
    for call in (weights_of, importance_resample):
        assert not told(lambda call=call: call(right))
    assert not told(lambda: data_checks_of(1.0))


def data_checks_of(width: float) -> None:
    def model(y: Tensor | None = None) -> None:
        level = pyro.sample("level", dist.Normal(torch.zeros(()).double(), 1.0))
        pyro.sample("y", dist.Normal(level[..., None].expand(*level.shape, 20), 1.0).to_event(1), obs=y)

    def guide(y: Tensor) -> None:
        pyro.sample("level", dist.Normal(y.sum(-1) / 21, width * 21**-0.5))

    data_checks(model, guide, {"y": torch.linspace(-1, 1, 20).double()}, draws=100)


def test_few_data_sets_and_dropped_ones_are_told_once() -> None:
    rng = np.random.default_rng(0)

    def check(sets: int, lost: int = 0) -> None:
        truths, draws = rng.normal(size=sets), rng.normal(size=(20, sets))
        draws[:, :lost] = np.nan
        calibrate_draws({"z": truths}, {"z": draws})

    one(lambda: check(99), "datasets: got 99, expected at least 100", "raise datasets=")
    one(lambda: check(50, 10), "dropped 10 of 50 data sets", "got 40, expected at least 100")
    one(lambda: check(120, 3), "dropped 3 of 120 data sets")
    assert not told(lambda: check(100))


def heavy(y: Tensor | None = None) -> None:
    z = pyro.sample("z", dist.Cauchy(torch.zeros(()).double(), 1.0))
    pyro.sample("y", dist.Normal(z, 0.1), obs=y)


def test_a_grid_that_misses_the_posterior_is_told() -> None:
    data = {"y": torch.tensor(0.3).double()}
    one(lambda: grid(heavy, data), "cells wider than the posterior along z", "bounds=")
    one(lambda: grid(heavy, data, bounds=[(0.28, 2.0)]), "mass at its edge")
    assert not told(lambda: grid(heavy, data, bounds=[(-0.5, 1.1)]))


@pytest.mark.parametrize("size", [1e2, 1e5, 1e7])
def test_equal_weights_in_float32_have_no_tail_whatever_the_size_of_the_densities(size: float) -> None:
    rng = np.random.default_rng(1)
    log_q = -size * (1 + 0.1 * rng.uniform(size=2000))
    single = (log_q + 3).astype(np.float32), log_q.astype(np.float32)
    log_weights, shape = smoothed(*single)
    assert shape == 0
    assert np.isclose(np.exp(log_weights).sum(), 1)
    assert smoothed(*(torch.tensor(part) for part in single))[1] == 0
    # the same noise in float64 is no rounding, and real tails show at any size
    tail = rng.exponential(size=2000).astype(np.float32)  # weights e^x: Pareto of shape 1
    assert k_hat(tail - 100, np.full(2000, -100.0, np.float32)) > 0.7
    assert abs(k_hat(0.5 * np.log(1 / rng.uniform(size=2000)), np.zeros(2000)) - 0.5) < 0.2
