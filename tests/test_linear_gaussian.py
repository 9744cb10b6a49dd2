"""Linear source inversion: the closed form against quadrature, conditioning and optimisation."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from physzoo.models.linear_gaussian import (
    ELEMENTS,
    NOISE,
    LinearGaussian,
    closed_form,
    exact_posterior,
    rod,
    thermometers,
)
from physzoo.physics import LinearProblem


def joint_density(model, data, **latents):
    trace = pyro.poutine.trace(pyro.condition(model, latents)).get_trace(**data)
    return trace.log_prob_sum()


def test_nodes_carry_the_analytic_temperature():
    """-u'' = sqrt(2) sin(k pi x) has u = sqrt(2) sin(k pi x) / (k pi)^2, exact at the nodes."""
    problem = rod()
    x = torch.arange(1, ELEMENTS, dtype=torch.float64) / ELEMENTS
    w = torch.pi * torch.arange(1, 7, dtype=torch.float64)[:, None]
    exact = 2**0.5 * torch.sin(w * x) / w**2
    torch.testing.assert_close(problem.solve(torch.eye(6, dtype=torch.float64)), exact, rtol=1e-10, atol=1e-12)


def test_posterior_and_evidence_factor_the_joint():
    """log p(z, y) = log N(z; mean, covariance) + log p(y), at any z."""
    model, data = LinearGaussian(), thermometers()
    exact = exact_posterior(model, **data)
    for seed in range(3):
        z = torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        posterior = dist.MultivariateNormal(exact.mean, exact.covariance).log_prob(z)
        torch.testing.assert_close(joint_density(model, data, z=z), posterior + exact.log_evidence)


def test_masked_posterior_factors_the_masked_joint_and_no_data_leave_the_prior():
    model, data = LinearGaussian(), thermometers()
    for mask in (torch.tensor([True, False, True, True, False, False]), torch.zeros(6, dtype=torch.bool)):
        exact = exact_posterior(model, data["y"], mask)
        z = torch.linspace(-1, 1, 6, dtype=torch.float64)
        posterior = dist.MultivariateNormal(exact.mean, exact.covariance).log_prob(z)
        joint = joint_density(model, {**data, "mask": mask}, z=z)
        torch.testing.assert_close(joint, posterior + exact.log_evidence)
    torch.testing.assert_close(exact.covariance, torch.eye(6, dtype=torch.float64))


def test_the_posterior_is_far_from_independent():
    """A test case for mean field has to have something that mean field gets wrong."""
    exact = exact_posterior(LinearGaussian(), **thermometers())
    ratio = exact.reverse_variances / exact.forward_variances
    assert ratio.min() < 0.2
    assert (ratio < 0.9).all()


def test_mean_field_variances_minimise_their_kl():
    """Neither KL falls when any variance of its optimum is changed by a hundredth."""
    exact = exact_posterior(LinearGaussian(), **thermometers())
    p = torch.distributions.MultivariateNormal(exact.mean, exact.covariance)
    kl = torch.distributions.kl_divergence

    def gaussian(variances):
        return torch.distributions.MultivariateNormal(exact.mean, torch.diag(variances))

    for k in range(6):
        for factor in (0.99, 1.01):
            change = torch.ones(6, dtype=torch.float64)
            change[k] = factor
            reverse, forward = exact.reverse_variances, exact.forward_variances
            assert kl(gaussian(reverse * change), p) > kl(gaussian(reverse), p)
            assert kl(p, gaussian(forward * change)) > kl(p, gaussian(forward))


def test_residual_likelihood_integrates_to_the_forward_one():
    """p(y, r=0 | z) with u integrated out in closed form: the forward likelihood up to the residual noise."""
    model, data = LinearGaussian(likelihood="residual", residual_scale=1e-2), thermometers()
    problem, s_r = model.problem, model.residual_scale
    spread = problem.sensors @ problem.inverse
    covariance = NOISE**2 * torch.eye(6, dtype=torch.float64) + s_r**2 * spread @ spread.T
    z = closed_form(data)[0]
    mean = problem.observe(problem.solve(z))
    closed = dist.MultivariateNormal(mean, covariance).log_prob(data["y"])
    # Laplace's integral over u is exact: the joint is Gaussian in u.
    u = problem.solve(z).requires_grad_()
    hessian = torch.autograd.functional.hessian(lambda u: joint_density(model, data, z=z, u=u), u)
    gradient = torch.autograd.grad(joint_density(model, data, z=z, u=u), u)[0]
    step = -torch.linalg.solve(hessian, gradient)
    peak = joint_density(model, data, z=z, u=(u + step).detach())
    volume = 0.5 * (u.numel() * torch.log(torch.tensor(2 * torch.pi)) - torch.linalg.slogdet(-hessian).logabsdet)
    flat = dist.Normal(u.new_zeros(()), 100.0).log_prob(u).sum()
    prior = dist.Normal(torch.zeros_like(z), 1.0).log_prob(z).sum()
    torch.testing.assert_close((peak + volume - flat - prior).detach(), closed, rtol=0, atol=1e-4)
    torch.testing.assert_close(dist.Normal(mean, NOISE).log_prob(data["y"]).sum(), closed, rtol=0, atol=0.05)


def test_linear_problem_keeps_the_contract():
    problem = rod()
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    e = torch.randn(3, ELEMENTS - 1, generator=generator, dtype=torch.float64)
    assert problem.residual(problem.solve(z), z).abs().max() < 1e-12
    torch.testing.assert_close(problem.residual(problem.solve(z, residual=e), z), e)
    jacobian = torch.func.jacrev(problem.residual)(problem.solve(z[0]), z[0])
    torch.testing.assert_close(problem.logdet(e, z)[1], torch.linalg.slogdet(jacobian).logabsdet)


def test_closed_form_is_the_registered_models():
    exact = exact_posterior(LinearGaussian(), **thermometers())
    torch.testing.assert_close(closed_form(thermometers()), (exact.mean, exact.covariance))


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("stiffness: got shape", (torch.ones(2, 3), torch.ones(3, 1), torch.ones(1, 3))),
        ("load: got shape", (torch.eye(3), torch.ones(2, 1), torch.ones(1, 3))),
        ("sensors: got shape", (torch.eye(3), torch.ones(3, 1), torch.ones(1, 2))),
        ("singular", (torch.zeros(3, 3), torch.ones(3, 1), torch.ones(1, 3))),
    ],
)
def test_a_mistake_names_the_argument(words, arguments):
    with pytest.raises(ValueError, match=words):
        LinearProblem(*arguments)


def test_unknown_likelihood_is_refused():
    with pytest.raises(ValueError, match="likelihood: got 'implicit'"):
        LinearGaussian(likelihood="implicit")
