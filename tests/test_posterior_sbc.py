"""Calibration near one data set: refits to it and a second one like it."""

import pytest
import torch
from conjugate import Exact, Linear

from physzoo.guides.sites import simulate
from physzoo.inference.posterior_sbc import posterior_sbc

MODEL = Linear()
DATA = {"y": simulate(MODEL, 1, seed=3)["y"][0]}


def test_refits_of_the_right_family_pass_and_narrower_ones_do_not() -> None:
    options = {"datasets": 128, "family": "full", "progress": False}
    found = posterior_sbc(MODEL, Exact(MODEL), DATA, **options)
    assert found.passed
    assert set(found.effects) == {"z[0]", "z[1]", "rate"}
    assert found.information is None  # its prior is known up to a factor
    # the first data set holds as much as the second one adds
    assert all(0.2 < value < 0.8 for value in found.contraction.values())
    assert not posterior_sbc(MODEL, Exact(MODEL), DATA, widen=0.6, **options).passed


def test_wake_sleep_fits_what_the_elbo_has_not() -> None:
    options = {"datasets": 128, "family": "full", "steps": 1, "progress": False}
    assert not posterior_sbc(MODEL, Exact(MODEL), DATA, **options).passed
    assert posterior_sbc(MODEL, Exact(MODEL), DATA, wake=400, **options).passed


def test_a_guide_that_is_too_far_away_is_told() -> None:
    far = Exact(MODEL)
    shifted = {"y": DATA["y"] + torch.tensor([9.0, -9.0, 9.0, -9.0], dtype=torch.float64)}

    class Elsewhere:
        """The posterior of other data."""

        def __call__(self, y):
            return far(shifted["y"])

        def log_prob(self, values, data):
            return far.log_prob(values, shifted)

    with pytest.warns(UserWarning, match="k-hat"):
        posterior_sbc(MODEL, Elsewhere(), DATA, datasets=4, steps=5, family="full", progress=False)
