"""Models in float32 where float64 is asked for."""

from __future__ import annotations

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

from physzoo.core.simulate import simulate
from physzoo.inference.density import in_double
from physzoo.inference.modes import laplace, point_estimate
from physzoo.inference.references import grid, hmc, nuts, pcn, smc
from physzoo.models.poisson1d import Poisson1D


def test_a_model_in_float32_has_the_laplace_approximation_and_estimate_of_its_copy_in_float64() -> None:
    single, double = Poisson1D().float(), Poisson1D()
    y = simulate(single, 1, seed=3)["y"][0]
    assert y.dtype == torch.float32
    one, two = (laplace(model, {"y": y.to(kind)}) for model, kind in ((single, torch.float32), (double, torch.float64)))
    assert one.loc.dtype == torch.float64
    torch.testing.assert_close(one.loc, two.loc, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.tril, two.tril, rtol=1e-4, atol=1e-4)
    found = point_estimate(single, {"y": y}, starts=2).objective
    assert abs(found - point_estimate(double, {"y": y.double()}, starts=2).objective) < 1e-4
    assert any(kept.dtype == torch.float32 for kept in single.buffers())


def test_a_model_in_float64_and_a_function_stay_what_they_are() -> None:
    model, data = Poisson1D(), {"y": torch.zeros(8)}
    for same in (model, lambda y: None):
        found, kept = in_double(same, data)
        assert found is same
        assert kept["y"].dtype == torch.float64
        assert in_double(same, kept)[1]["y"] is kept["y"]


DESIGN = torch.tensor([[1.0, 0.5], [0.0, 1.0], [0.3, -0.2]])


def in_single(y=None):
    """A function that holds float32 tensors."""
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    return pyro.sample("y", dist.Normal(z @ DESIGN.T, 0.5).to_event(1), obs=y)


class Held(nn.Module):
    """The same as a module with weights."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.design = nn.Parameter(DESIGN.to(kind), requires_grad=False)

    def forward(self, y=None):
        z = pyro.sample("z", dist.Normal(self.design.new_zeros(2), 1.0).to_event(1))
        return pyro.sample("y", dist.Normal(z @ self.design.T, 0.5).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("model", "kind"),
    [(in_single, torch.float64), (Held(torch.float32), torch.float64), (Held(torch.float64), torch.float32)],
    ids=["function", "weights of 32 bits", "data of 32 bits"],
)
def test_every_sampler_takes_weights_and_data_of_different_precision(model, kind) -> None:
    data = {"y": torch.tensor([1.0, 0.5, 0.2], dtype=kind)}
    precision = torch.eye(2) + DESIGN.T @ DESIGN / 0.25
    mean, covariance = torch.linalg.inv(precision) @ DESIGN.T @ data["y"].float() / 0.25, torch.linalg.inv(precision)
    start = laplace(model, data)
    torch.testing.assert_close(start.loc.float(), mean, atol=1e-3, rtol=0)
    torch.testing.assert_close((start.tril @ start.tril.T).float(), covariance, atol=2e-3, rtol=0)
    quiet = {"progress": False, "seed": 1}
    for found in (
        hmc(model, data, loc=start.loc, tril=start.tril, chains=10, draws=40, warmup=20, max_steps=4, **quiet),
        nuts(model, data, chains=2, draws=30, warmup=30, max_tree_depth=3, **quiet),
        pcn(model, data, chains=10, draws=40, warmup=60, thin=2, **quiet),
        smc(model, data, runs=2, particles=100, moves=3, final=5, **quiet),
    ):
        error = (found.summary["mean"]["z"] - mean.numpy()) / found.summary["mcse_mean"]["z"]
        assert np.abs(error).max() < 4, found.method
    if model is in_single:
        assert abs(grid(model, data, points=61).mean["z[0]"] - float(mean[0])) < 1e-3
