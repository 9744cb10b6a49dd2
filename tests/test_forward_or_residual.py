"""The base of models with both likelihoods."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor

from physzoo.models.likelihood import ForwardOrResidual, at_least_one
from physzoo.physics import Elliptic1D, ModelError

SCALE = 1e-3


class TwoLayers(ForwardOrResidual):
    """A bar of two layers whose unknowns come by name, or as one tensor."""

    def __init__(self, likelihood, named=False):
        def layers(z):
            left, right = (z["left"], z["right"]) if named else z.unbind(-1)
            return torch.stack([left, right], -1).repeat_interleave(4, -1)

        problem = Elliptic1D(layers, [0.3, 0.6], 8, dtype=torch.float64)
        super().__init__(problem, likelihood, (7,), noise=0.01, residual_scale=SCALE)
        self.named = named

    def forward(self, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
        return self.observed({"left": z[..., 0], "right": z[..., 1]} if self.named else z, y, mask)


def log_joint(model, y, **values):
    return poutine.trace(poutine.condition(model, values)).get_trace(y=y).log_prob_sum()


Z, Y = torch.tensor([0.4, -0.7], dtype=torch.float64), torch.tensor([0.1, 0.12], dtype=torch.float64)


def test_the_forward_likelihood_solves_and_the_residual_one_holds_a_free_state():
    forward, residual = TwoLayers("forward"), TwoLayers("residual")
    u = forward.problem.solve(Z)
    error = (forward.problem.observe(u) - Y) / 0.01
    prior = dist.Normal(0.0, 1.0).log_prob(Z).sum()
    fit = prior + dist.Normal(0.0, 0.01).log_prob(0.01 * error).sum()
    torch.testing.assert_close(log_joint(forward, Y, z=Z), fit)
    e = SCALE * torch.linspace(-1, 1, 7, dtype=torch.float64)
    free = residual.problem.solve(Z, residual=e)
    jacobian = torch.autograd.functional.jacobian(lambda u: residual.problem.residual(u, Z), free)
    expected = (
        prior
        + dist.Normal(0.0, 0.01).log_prob(residual.problem.observe(free) - Y).sum()
        + dist.Normal(0.0, 100.0).log_prob(free).sum()
        + dist.Normal(0.0, SCALE).log_prob(e).sum()
        + jacobian.slogdet().logabsdet
    )
    torch.testing.assert_close(log_joint(residual, Y, z=Z, u=free), expected)


@pytest.mark.parametrize("likelihood", ["forward", "residual"])
def test_unknowns_by_name_are_the_same_unknowns(likelihood):
    values = {"z": Z} if likelihood == "forward" else {"z": Z, "u": 0.1 * torch.ones(7, dtype=torch.float64)}
    named, plain = TwoLayers(likelihood, named=True), TwoLayers(likelihood)
    assert log_joint(named, Y, **values) == log_joint(plain, Y, **values)
    assert named(None).shape == (7,)


def test_the_error_of_a_solver_counts_where_the_state_is_solved_for():
    error = ModelError(0.02 * torch.ones(2, dtype=torch.float64), 1e-4 * torch.eye(2, dtype=torch.float64))
    forward, residual, u = TwoLayers("forward"), TwoLayers("residual"), 0.1 * torch.ones(7, dtype=torch.float64)
    before = log_joint(forward, Y, z=Z), log_joint(residual, Y, z=Z, u=u)
    forward.error = residual.error = error
    after = log_joint(forward, Y, z=Z), log_joint(residual, Y, z=Z, u=u)
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_other_likelihoods_and_no_sensor_are_refused():
    with pytest.raises(ValueError, match="likelihood: got 'both', expected 'forward' or 'residual'"):
        TwoLayers("both")
    assert at_least_one("wells", 1) == 1
    with pytest.raises(ValueError, match="wells: got 0, expected at least 1"):
        at_least_one("wells", 0)
