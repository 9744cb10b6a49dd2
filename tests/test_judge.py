"""What benchmarks share to judge posteriors by: comparison with draws of a reference, and exact draws by rejection."""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from _exact import rejected
from _judge import against, narrowed

from physzoo.core.simulate import simulate
from physzoo.inference.references import grid
from physzoo.models.poisson1d import Poisson1D


def test_draws_of_the_reference_cannot_be_told_from_it_and_narrow_ones_can() -> None:
    rng = np.random.default_rng(0)
    scale = np.array([1.0, 3.0])
    draws, references = (scale * rng.normal(size=(2, 1000, 2)) for _ in range(2))
    found = against(draws, references)
    assert found["worst_c2st"] < 0.55
    assert found["smallest_c2st_sd_x_0.8"] > 0.53
    assert 0.9 < found["smallest_sd_ratio"] <= found["median_sd_ratio"] <= found["largest_sd_ratio"] < 1.1
    assert found["worst_mean_error_sd"] < 0.15
    shifted = against(draws + 0.5 * scale, references)
    assert abs(shifted["median_mean_error_sd"] - 0.5) < 0.1
    assert shifted["median_c2st"] > 0.57


def test_narrowed_draws_keep_their_mean() -> None:
    draws = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(narrowed(draws).mean(0), draws.mean(0), atol=1e-6)
    assert torch.allclose(narrowed(draws).std(0), 0.8 * draws.std(0))


def test_rejection_draws_from_the_posterior() -> None:
    model = Poisson1D(modes=2, sensors=1, noise=0.10)
    data = {"y": simulate(model, 1, seed=5)["y"][0]}
    exact = grid(model, data, points=161)
    draws = rejected(model, data, 20_000, seed=6)
    mesh = torch.cartesian_prod(*(torch.as_tensor(axis) for axis in exact.axes))
    p = torch.as_tensor(exact.probability).flatten()
    mean = p @ mesh
    sd = (p @ (mesh - mean).square()).sqrt()
    assert ((draws.mean(0) - mean).abs() / sd).max() < 0.03
    assert (draws.std(0) / sd - 1).abs().max() < 0.03


def test_rejection_without_a_sensor_draws_from_the_prior() -> None:
    model = Poisson1D(modes=2, sensors=1, noise=0.10)
    data = {"y": torch.full((1,), 0.5, dtype=torch.float64), "mask": torch.zeros(1, dtype=torch.bool)}
    draws = rejected(model, data, 20_000, seed=6)
    assert draws.mean(0).abs().max() < 0.03
    assert (draws.std(0) - 1).abs().max() < 0.03
