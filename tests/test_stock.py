"""Objectives of Pyro in a fit: right on a conjugate model, or refused in one sentence that says what to take."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from conjugate import Plated
from pyro import infer
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.nn import PyroModule
from torch import nn

from physzoo.guides import amortize
from physzoo.inference.fit import DataSets, fit
from physzoo.inference.fit.driver import FitOptions
from physzoo.inference.objectives import ELBO, Batch
from physzoo.inference.objectives.stock import Stock

QUIET = FitOptions(progress=False, learning_rate=0.05)
Y = torch.tensor([0.8, 1.0, 1.2])


def model(y=None):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3), 0.5).to_event(1), obs=y)


def rate(y=None):
    r = pyro.sample("rate", dist.Gamma(1.0, 1.0))
    return pyro.sample("y", dist.Poisson(r[..., None] * torch.ones(3)).to_event(1), obs=y)


class MeanField(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.m, self.log_s = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(0.0))

    def forward(self, y=None):
        pyro.sample("z", dist.Normal(self.m, self.log_s.exp()))


def test_mean_field_guides_of_ones_own_keep_the_analytic_divergence():
    guide = MeanField()
    fit(model, guide, {"y": Y}, infer.TraceMeanField_ELBO(num_particles=4), QUIET, steps=300)
    assert guide.m.item() == pytest.approx(12 / 13 * 1.0, abs=0.03)
    assert guide.log_s.exp().item() == pytest.approx(13**-0.5, rel=0.03)


@pytest.mark.parametrize(
    "build", [lambda: amortize(rate, None, "full", example={"y": Y.round()}), lambda: AutoNormal(rate)]
)
def test_a_divergence_that_would_lose_the_jacobian_is_refused(build):
    data = {"y": torch.tensor([0.0, 1.0, 0.0])}
    with pytest.raises(ValueError, match=r"TraceMeanField_ELBO with the guide's site 'rate'.*expected ELBO\(\)"):
        fit(rate, build(), data, infer.TraceMeanField_ELBO(), QUIET, steps=2)
    fit(rate, AutoDelta(rate), data, infer.TraceMeanField_ELBO(), QUIET, steps=2)


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (infer.TraceGraph_ELBO(), r"Trace_ELBO\(\)"),
        (infer.RenyiELBO(), r"physzoo.Renyi\(\)"),
        (infer.ReweightedWakeSleep(), "Reweighted"),
        (infer.TraceTMC_ELBO(), r"Trace_ELBO\(\)"),
        (infer.TraceTailAdaptive_ELBO(), r"physzoo.Renyi\(\)"),
        (infer.JitTrace_ELBO(), r"Trace_ELBO\(\)"),
        (infer.JitTraceMeanField_ELBO(), "TraceMeanField_ELBO"),
        (infer.EnergyDistance(), r"physzoo.EnergyDistance\(\)"),
    ],
)
def test_what_is_not_served_names_what_is(objective, words):
    with pytest.raises(ValueError, match=rf"objective: got {type(objective).__name__} of Pyro, expected .*{words}"):
        fit(model, MeanField(), {"y": Y}, objective, QUIET, steps=1)


@pytest.mark.parametrize("nesting", [None, 1])
@pytest.mark.parametrize("vectorize", [False, True])
def test_the_loss_of_data_sets_is_a_mean_over_them_whatever_the_plates(vectorize, nesting):
    """At the exact posterior every draw gives -log p(y), so the loss is exactly the mean of these."""
    ys = torch.tensor([[0.5, 0.1, -0.2], [1.0, 0.0, 2.0], [0.3, 0.2, 0.1], [-1.0, 0.0, 0.0]], dtype=torch.float64)
    groups = torch.eye(3, dtype=torch.float64)
    prior = torch.block_diag(torch.ones(1, 1), torch.zeros(3, 3)).double()
    prior[1:, 1:], prior[0, 1:], prior[1:, 0] = 1.0 + groups, 1.0, 1.0
    reads = torch.cat([torch.zeros(3, 1, dtype=torch.float64), groups], 1)
    spread = reads @ prior @ reads.T + 0.25 * groups
    gain = prior @ reads.T @ torch.linalg.inv(spread)
    covariance = prior - gain @ reads @ prior

    def guide(y=None):
        anchor = pyro.param("anchor", torch.tensor(0.0))
        mean = (y @ gain.T)[..., None, :] if y.ndim > 1 else y @ gain.T
        x = pyro.sample("x", dist.MultivariateNormal(mean + 0 * anchor, covariance), infer={"is_auxiliary": True})
        pyro.sample("mu", dist.Delta(x[..., 0]))
        with pyro.plate("groups", 3):
            values = x[..., 1:].squeeze(-2) if x.ndim > 1 else x[1:]
            pyro.sample("a", dist.Delta(values))

    settings = {} if nesting is None else {"max_plate_nesting": nesting}
    elbo = Stock(infer.Trace_ELBO(num_particles=3, vectorize_particles=vectorize, **settings))
    loss = elbo(Plated(), guide, Batch({"y": ys}, 4, nesting=1))
    exact = -dist.MultivariateNormal(torch.zeros(3, dtype=torch.float64), spread).log_prob(ys).mean()
    pyro.clear_param_store()
    torch.testing.assert_close(loss.detach(), exact)


@infer.config_enumerate
def mixture(y=None):
    """p ~ U(0, 1), k | p ~ Bernoulli(p), y ~ N(k, 0.5) three times: p | y is 2 w p + 2 (1 - w) (1 - p)."""
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    k = pyro.sample("k", dist.Bernoulli(p))
    return pyro.sample("y", dist.Normal(k[..., None] * torch.ones(3), 0.5).to_event(1), obs=y)


class Beta(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.log_ab = nn.Parameter(torch.zeros(2))

    def forward(self, y=None):
        pyro.sample("p", dist.Beta(self.log_ab[0].exp(), self.log_ab[1].exp()))


@pytest.mark.parametrize("many", [False, True])
def test_enumerated_sites_are_summed_over(many):
    """At y = 1 the weight of k = 1 is 1 / (1 + e^-6), so p | y is Beta(2, 1), nearly."""
    guide, y = Beta(), torch.ones(3)
    data = DataSets({"y": y.expand(2, 3)}) if many else {"y": y}
    fit(mixture, guide, data, infer.TraceEnum_ELBO(max_plate_nesting=0), QUIET, steps=200, learning_rate=0.1)
    a, b = guide.log_ab.exp().tolist()
    assert a / (a + b) == pytest.approx(2 / 3, abs=0.03)
    batch = Batch({"y": y.expand(2, 3)}, 2) if many else Batch({"y": y})
    losses = torch.stack([Stock(infer.TraceEnum_ELBO(max_plate_nesting=0))(mixture, guide, batch) for _ in range(20)])
    log_evidence = float(torch.logaddexp(*(dist.Normal(k, 0.5).log_prob(y).sum() for k in (0.0, 1.0)))) + math.log(0.5)
    assert float(losses.detach().mean()) == pytest.approx(-log_evidence, abs=0.05)


def test_discrete_unknowns_are_refused_elsewhere_with_what_to_write():
    for objective in (ELBO(), infer.Trace_ELBO()):
        with pytest.raises(ValueError, match=r"latent site 'k' is discrete.*TraceEnum_ELBO"):
            fit(mixture, Beta(), {"y": Y}, objective, QUIET, steps=1)
