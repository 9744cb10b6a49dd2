"""Calibration near one data set: refits to it and a second one like it."""

import pyro
import pytest
import torch
from conjugate import Exact, Linear
from pyro import distributions as dist
from torch import Tensor

from physzoo.core.model_spec import UnconstrainedSites
from physzoo.core.simulate import simulate
from physzoo.inference.calibration import posterior_sbc
from physzoo.inference.calibration.around_data import Augmented
from physzoo.inference.density import log_joint
from physzoo.physics import observe, virtual_observables
from physzoo.physics.problem import Problem

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


class Spring(Problem):
    """r = e^z u - 1, so that log|det dr/du| = z."""

    def residual(self, u: Tensor, z: Tensor) -> Tensor:
        return z.exp() * u - 1

    def logdet(self, u: Tensor, z: Tensor) -> Tensor:
        return z.sum(-1).expand(u.shape[:-1])


def virtual(y: Tensor | None = None) -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
    u = pyro.sample("u", dist.Normal(zero, 9.0).to_event(1))
    virtual_observables("r", Spring(), u, z, 0.1)
    observe("y", u, 1.0, obs=y)


def plated(a: Tensor | None = None, b: Tensor | None = None) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
    pyro.sample("a", dist.Normal(z, 1.0), obs=a)
    with pyro.plate("entries", 5):
        pyro.sample("b", dist.Normal(z, 1.0), obs=b)


@pytest.mark.parametrize(
    ("model", "names", "data"),
    [(virtual, "zu", {"y": torch.ones(1).double()}), (plated, "z", {"a": torch.ones(()), "b": torch.zeros(5)})],
)
def test_the_second_data_set_adds_its_likelihood_and_nothing_else(model, names, data) -> None:
    """Virtual observables, their determinant and the prior count once, a site outside a plate once."""
    sites = UnconstrainedSites(model, data)
    at = {name: torch.linspace(-1, 2, 3, dtype=torch.float64)[:, None] for name in names}
    likelihood = {
        "y": lambda: dist.Normal(at["u"], 1.0).log_prob(data["y"]),
        "a": lambda: dist.Normal(at["z"], 1.0).log_prob(data["a"]),
        "b": lambda: dist.Normal(at["z"], 1.0).log_prob(data["b"]),
    }
    added = log_joint(Augmented(model, data, sites), at, data) - log_joint(model, at, data)
    torch.testing.assert_close(added, torch.stack([likelihood[name]().sum(-1) for name in data]).sum(0))


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

    with pytest.warns(UserWarning, match="k-hat"), pytest.raises(ValueError, match="too far from the posterior"):
        posterior_sbc(MODEL, Elsewhere(), DATA, datasets=40, steps=5, family="full", progress=False)


def scalar(y: Tensor | None = None) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3), 0.5).to_event(1), obs=y)


def test_one_scalar_unknown_has_a_covariance_too() -> None:
    """z | y, y' ~ N(., 1 / 25) and z | y ~ N(., 1 / 13): the second data set takes 12 / 25 of the variance."""

    def guide(y: Tensor) -> None:
        pyro.sample("z", dist.Normal(4 * y.sum(-1) / 13, 13**-0.5))

    data = {"y": torch.ones(3)}
    found = posterior_sbc(scalar, guide, data, datasets=100, draws=50, steps=150, family="full", progress=False)
    assert found.passed, found.verdict
    assert abs(found.contraction["z"] - 12 / 25) < 0.25
