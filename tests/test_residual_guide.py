"""The state drawn through its residual."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule
from torch import nn

from physzoo.guides.state import ResidualGuide
from physzoo.models.linear_gaussian import LinearGaussian, exact_posterior, thermometers
from physzoo.models.poisson1d import Poisson1D, temperatures


class GaussianGuide(PyroModule):
    """A fixed Gaussian q(z), with the scorer that a forward KL needs."""

    def __init__(self, mean, covariance):
        super().__init__()
        self.mean = nn.Parameter(mean)
        self.covariance = covariance

    def density(self):
        return dist.MultivariateNormal(self.mean, self.covariance)

    def forward(self, y=None, mask=None):
        return {"z": pyro.sample("z", self.density())}

    def log_prob(self, values, data):
        return self.density().log_prob(values["z"])


def wide(problem, dimension=8):
    eye = torch.eye(dimension, dtype=torch.float64)
    return ResidualGuide(GaussianGuide(torch.zeros(dimension, dtype=torch.float64), eye), problem, (63,), 1e-3)


def traced(model, guide, data, *batch):
    def inside(fn):
        def run():
            with pyro.plate_stack("batch", batch):
                fn(**data)

        return run

    guide_trace = pyro.poutine.trace(inside(guide)).get_trace()
    model_trace = pyro.poutine.trace(pyro.poutine.replay(inside(model), guide_trace)).get_trace()
    for trace in (guide_trace, model_trace):
        trace.compute_log_prob()
    return model_trace, guide_trace


def log_prob(trace):
    sites = [site for site in trace.nodes.values() if site["type"] == "sample" and site["name"][:5] != "batch"]
    return sum(site["log_prob"] for site in sites)


def test_samples_every_latent_site_and_scores_what_it_drew():
    pyro.set_rng_seed(0)
    model = Poisson1D("residual")
    guide = wide(model.problem)
    with torch.no_grad():
        guide.location.copy_(torch.linspace(-1, 1, 63))
        guide.log_scale.copy_(torch.linspace(-0.5, 0.5, 63))
    model_trace, guide_trace = traced(model, guide, temperatures(), 5, 3)
    latent = {name: model_trace.nodes[name]["value"] for name in model_trace.stochastic_nodes if name[:5] != "batch"}
    assert set(latent) == {"z", "u"}
    assert latent["u"].shape == (5, 3, 63)
    torch.testing.assert_close(log_prob(guide_trace), guide.log_prob(latent, {}), rtol=1e-9, atol=1e-6)


def test_the_states_density_is_normalised_whatever_the_unknowns():
    """log q(u | z) of the linear map e -> u against the multivariate normal that it is."""
    model = Poisson1D("residual")
    guide, z = wide(model.problem), torch.linspace(-1, 1, 8, dtype=torch.float64)
    jacobian = torch.func.jacrev(model.problem.residual)(model.problem.solve(z), z)
    inverse = torch.linalg.inv(jacobian)
    u = model.problem.solve(z, residual=1e-3 * torch.linspace(-1, 1, 63, dtype=torch.float64))
    exact = dist.MultivariateNormal(model.problem.solve(z), 1e-6 * inverse @ inverse.T).log_prob(u)
    q_z = guide.guide_z.log_prob({"z": z}, {})
    torch.testing.assert_close(guide.log_prob({"z": z, "u": u}, {}) - q_z, exact, rtol=0, atol=1e-4)


def test_with_the_exact_posterior_of_z_the_elbo_is_the_log_evidence():
    """The gap that is left is what the data tell of the residual: O(s_r^2)."""
    pyro.set_rng_seed(0)
    data, scale = thermometers(), 1e-2
    exact = exact_posterior(LinearGaussian(), **data)
    model = LinearGaussian("residual", residual_scale=scale)
    guide = ResidualGuide(GaussianGuide(exact.mean, exact.covariance), model.problem, (63,), scale / 64)
    with torch.no_grad():
        model_trace, guide_trace = traced(model, guide, data, 2000)
    weights = log_prob(model_trace) - log_prob(guide_trace) + 63 * (math.log(100.0) + 0.5 * math.log(2 * math.pi))
    error = float(weights.std()) / math.sqrt(2000)
    assert abs(float(weights.mean() - exact.log_evidence)) < 0.02 + 4 * error
    assert error < 0.01


def test_stock_svi_trains_it():
    pyro.set_rng_seed(0)
    data, model = temperatures(), Poisson1D("residual")
    guide = wide(model.problem)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO(num_particles=4))
    before = [value.detach().clone() for value in guide.parameters()]
    with pyro.get_param_store().scope():
        losses = [svi.step(**data) for _ in range(3)]
    assert all(math.isfinite(loss) for loss in losses)
    assert all((old != new).all() for old, new in zip(before, guide.parameters(), strict=True))


def test_a_guide_that_cannot_score_says_so():
    problem = Poisson1D("residual").problem
    with pytest.raises(TypeError, match="guide_z: got function without log_prob"):
        ResidualGuide(lambda **data: {}, problem, (63,), 1e-3).log_prob({"z": torch.zeros(8), "u": torch.zeros(63)}, {})


def test_scale_has_to_be_positive():
    with pytest.raises(ValueError, match="scale: got 0"):
        ResidualGuide(lambda **data: {}, Poisson1D("residual").problem, (63,), 0.0)
