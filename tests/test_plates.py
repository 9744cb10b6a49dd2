"""A model's own plates: given unknowns are scored right by guides that are plain Pyro, without a ``log_prob``."""

import pyro
import pytest
import torch
from conjugate import Plated
from pyro import distributions as dist

from physzoo.inference.calibration import calibrate
from physzoo.inference.calibration.blocks import guide_log_prob as scored_in_checks
from physzoo.inference.fit import Simulator
from physzoo.inference.fit.batches import Batches
from physzoo.inference.objectives import Batch, DrawsKL, ForwardKL, Reweighted, guide_log_prob

MODEL = Plated()
Y = torch.tensor([0.1, 0.5, -0.3], dtype=torch.float64)


def guide(y=None):
    """The exact posterior: mu given y, then each a given mu and its y."""
    sd = (1 + 3 / 1.25) ** -0.5
    mu = pyro.sample("mu", dist.Normal(Plated.mean_of_mu(y)[..., None] if y.ndim > 1 else Plated.mean_of_mu(y), sd))
    with pyro.plate("groups", 3):
        pyro.sample("a", dist.Normal((mu + 4 * y) / 5, 0.2**0.5))


def by_hand(z, y):
    sd = (1 + 3 / 1.25) ** -0.5
    mu = dist.Normal(Plated.mean_of_mu(y), sd).log_prob(z["mu"])
    return mu + dist.Normal((z["mu"][..., None] + 4 * y) / 5, 0.2**0.5).log_prob(z["a"]).sum(-1)


@pytest.fixture(scope="module")
def batch():
    return Batches(MODEL, Simulator(6), seed=0).at(0)


def test_many_data_sets(batch):
    expected = by_hand(batch.latents, batch.data["y"])
    assert expected.shape == (6,)
    torch.testing.assert_close(guide_log_prob(guide, batch), expected)
    torch.testing.assert_close(scored_in_checks(guide, batch.latents, batch.data, batch.nesting), expected)
    torch.testing.assert_close(ForwardKL()(MODEL, guide, batch), -expected.mean())


def test_draws_of_one_data_set(batch):
    torch.manual_seed(0)
    one = Batch({"y": Y}, nesting=1)
    draws = {name: value[:1] for name, value in batch.latents.items()}
    expected = -by_hand(draws, Y).mean()
    torch.testing.assert_close(DrawsKL(draws, batch=4)(MODEL, guide, one), expected)


def test_weighted_draws_of_the_exact_posterior_have_its_entropy(batch):
    """Equal weights: the loss is the entropy of q, by hand from its two normals."""
    sd = torch.tensor([(1 + 3 / 1.25) ** -0.5] + 3 * [0.2**0.5], dtype=torch.float64)
    entropy = float(dist.Normal(0.0, sd).entropy().sum())
    torch.manual_seed(1)
    for what in (Batch({"y": Y}, nesting=1), Batch(batch.data, 6, {}, 1)):
        assert float(Reweighted(4000)(MODEL, guide, what)) == pytest.approx(entropy, abs=0.1)


def test_seen_unknowns_outside_the_plate_stand_where_they_belong():
    seen = {"mu": torch.tensor([30.0, 40.0], dtype=torch.float64)}
    found = Batches(MODEL, Simulator(9, seen=seen), seed=0).at(0).latents
    assert set(found["mu"][:4].tolist()) <= {30.0, 40.0}
    assert bool(((found["a"][:4] - found["mu"][:4, None]).abs() < 6).all())
    assert float(found["mu"][4:].abs().max()) < 6


def test_the_exact_posterior_is_calibrated():
    found = calibrate(MODEL, guide, datasets=128, draws=50, seed=2, progress=False)
    assert found.passed
    assert found.nlpd is not None
