"""Models in float32 where float64 is asked for."""

from __future__ import annotations

import torch

from physzoo.guides.sites import simulate
from physzoo.inference.laplace import laplace
from physzoo.inference.point_estimate import point_estimate
from physzoo.inference.precision import in_double
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
        assert kept["y"] is data["y"]
