"""Karhunen-Loeve fields."""

import math

import pytest
import torch

from physzoo.physics import KarhunenLoeve
from physzoo.physics.fields import COVARIANCES

MIDPOINTS = (torch.arange(64, dtype=torch.float64) + 0.5) / 64


@pytest.mark.parametrize(("modes", "kept"), [(2, 0.65), (8, 0.91), (16, 0.96)])
def test_poisson_field_keeps_the_stated_variance(modes, kept):
    assert abs(KarhunenLoeve(MIDPOINTS, modes, 0.3).variance_kept - kept) < 0.006


def test_eigenvalues_converge_to_the_continuous_operators():
    """Exponential covariance on (0, 1): l = 2c / (w^2 + c^2), c = 1/length, (w^2 - c^2) tan w = 2 c w."""
    c = 1 / 0.3
    low, high = 1e-6, math.pi - 1e-6

    def mismatch(w):
        return (w * w - c * c) * math.sin(w) - 2 * c * w * math.cos(w)

    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if mismatch(low) * mismatch(middle) > 0 else (low, middle)
    exact = 2 * c / (low * low + c * c)
    errors = []
    for n in (32, 64, 128):
        points = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        errors.append(abs(float(KarhunenLoeve(points, 1, 0.3).eigenvalues[0]) - exact))
    order = math.log2(errors[1] / errors[2])
    assert errors[-1] < 1e-4 * exact
    assert 1.8 < order < 2.2


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_all_modes_reproduce_the_covariance(covariance):
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(20, 2, generator=generator, dtype=torch.float64)
    weights = torch.rand(20, generator=generator, dtype=torch.float64) + 0.5
    field = KarhunenLoeve(points, 20, 0.4, covariance, weights=weights, standard_deviation=1.5)
    expected = 1.5**2 * COVARIANCES[covariance](torch.cdist(points, points) / 0.4)
    torch.testing.assert_close(field.basis.T @ field.basis, expected, rtol=1e-8, atol=1e-8)
    assert abs(field.variance_kept - 1) < 1e-12


def test_modes_are_orthonormal_under_the_weights():
    weights = torch.linspace(0.5, 1.5, 64, dtype=torch.float64) / 64
    field = KarhunenLoeve(MIDPOINTS, 6, 0.3, "matern32", weights=weights)
    gram = (field.eigenfunctions * weights) @ field.eigenfunctions.T
    torch.testing.assert_close(gram, torch.eye(6, dtype=torch.float64))
    assert (field.eigenvalues.diff() < 0).all()


def test_field_is_the_mean_plus_the_modes_batched():
    mean = torch.linspace(0, 1, 64, dtype=torch.float64)
    field = KarhunenLoeve(MIDPOINTS, 3, 0.3, mean=mean)
    z = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    sum_of_modes = sum(field.eigenvalues[k].sqrt() * field.eigenfunctions[k] * z[k] for k in range(3))
    torch.testing.assert_close(field(z), mean + sum_of_modes)
    torch.testing.assert_close(field(z.expand(2, 5, 3)), field(z).expand(2, 5, 64))


def test_signs_do_not_depend_on_rounding():
    field = KarhunenLoeve(MIDPOINTS, 8, 0.3)
    jittered = KarhunenLoeve(MIDPOINTS * (1 + 1e-12), 8, 0.3)
    torch.testing.assert_close(field.basis, jittered.basis, rtol=1e-6, atol=1e-8)
    assert (field.eigenfunctions[:, 0] > 0).all()


def test_float32_points_give_the_float64_field_rounded():
    assert KarhunenLoeve(MIDPOINTS.float(), 4, 0.3).basis.dtype == torch.float32
    torch.testing.assert_close(
        KarhunenLoeve(MIDPOINTS.float(), 4, 0.3).basis.double(),
        KarhunenLoeve(MIDPOINTS, 4, 0.3).basis,
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("covariance: got 'cubic'", {"covariance": "cubic"}),
        ("modes: got 65", {"modes": 65}),
        ("length", {"length": 0.0}),
        ("weights: got shape", {"weights": torch.ones(3)}),
        ("mean: got shape", {"mean": torch.ones(3)}),
        ("points: got torch.int64", {"points": torch.arange(4)}),
    ],
)
def test_a_mistake_names_the_argument(words, arguments):
    with pytest.raises(ValueError, match=words):
        KarhunenLoeve(**{"points": MIDPOINTS, "modes": 3, "length": 0.3, **arguments})


def test_wrong_number_of_unknowns_is_refused():
    with pytest.raises(ValueError, match=r"z: got shape \(4,\), expected \(\.\.\., 3\)"):
        KarhunenLoeve(MIDPOINTS, 3, 0.3)(torch.zeros(4, dtype=torch.float64))
