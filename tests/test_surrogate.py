"""A network in the place of a solver: the contract of a problem, training, and an error that the likelihood knows."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from physzoo.guides import amortize
from physzoo.guides.refine import linearise
from physzoo.inference.fit import fit
from physzoo.inference.surrogate import fit_surrogate
from physzoo.models.poisson1d import Poisson1D
from physzoo.physics import (
    Elliptic1D,
    FixedBasis,
    KarhunenLoeve,
    LinearProblem,
    ModelError,
    ODEProblem,
    Surrogate,
    Trunk,
    error_covariance,
    observe,
    unit_cube_cutoff,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def bar():
    return Poisson1D(modes=2).problem


@pytest.fixture(scope="module")
def by_solves(bar):
    """Trained on 512 solves."""
    z = normal(512, 2)
    u = bar.solve(z)
    surrogate = Surrogate(bar, z, FixedBasis.of_states(u, 16), (64, 64))
    fit_surrogate(surrogate, z, u, steps=1000, learning_rate=5e-3, progress=False)
    return surrogate


def untrained(problem, *hidden, trunk=False, modes=2):
    z = normal(40, modes)
    basis = FixedBasis.of_residual(problem, 0 * z[0], problem.load, 8)
    if trunk:
        basis = Trunk(problem.nodes[1:-1], basis.centre, 8, unit_cube_cutoff, (16,))
    return Surrogate(problem, z, basis, hidden or (16,))


def indefinite():
    """A surrogate of diag(1, -1, 2) u = z."""
    problem = LinearProblem(torch.diag(torch.tensor([1.0, -1.0, 2.0])).double(), *2 * [torch.eye(3).double()])
    basis = FixedBasis.of_residual(problem, torch.ones(3).double(), torch.zeros(3).double())
    return Surrogate(problem, normal(9, 3).double(), basis, (8,))


def sensor_error(surrogate, z, noise=0.0025):
    """Root mean square over draws and sensors, in units of the noise."""
    exact = surrogate.observe(surrogate.problem.solve(z))
    away = surrogate.observe(surrogate.solve(z)) - exact
    return float(away.detach().square().mean().sqrt()) / noise


def log_density(fn):
    trace = pyro.poutine.trace(fn).get_trace()
    trace.compute_log_prob()
    return sum(site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample" and site["is_observed"])


@pytest.mark.parametrize("trunk", [False, True])
def test_a_surrogate_is_a_problem_whose_solve_broadcasts(bar, trunk):
    surrogate, z = untrained(bar, trunk=trunk), normal(5, 3, 2, seed=1)
    u = surrogate.solve(z)
    assert u.shape == (5, 3, 63)
    torch.testing.assert_close(surrogate.solve(z[4, 2]), u[4, 2])
    assert torch.equal(surrogate.observe(u), bar.observe(u))
    assert torch.equal(surrogate.residual(u, z), bar.residual(u, z))
    assert torch.equal(surrogate.logdet(u, z), bar.logdet(u, z))


@pytest.mark.parametrize("trunk", [False, True])
def test_its_solve_passes_gradcheck_in_unknowns_and_has_a_gradient_for_every_weight(bar, trunk):
    surrogate = untrained(bar, trunk=trunk)
    z = normal(2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(surrogate.solve, z)
    surrogate.solve(z).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in surrogate.parameters())


def test_the_seed_decides_the_weights_and_the_generator_is_left_alone(bar):
    before = torch.get_rng_state()
    first, second = untrained(bar, trunk=True), untrained(bar, trunk=True)
    assert torch.equal(before, torch.get_rng_state())
    z = normal(3, 2)
    assert torch.equal(first.solve(z), second.solve(z))
    second.load_state_dict(first.state_dict())
    single = copy.deepcopy(second).float().solve(z.float())
    torch.testing.assert_close(single.double(), first.solve(z), rtol=1e-4, atol=1e-6)
    assert single.dtype == torch.float32


def test_a_trunk_holds_the_boundary_at_every_point(bar):
    trunk = untrained(bar, trunk=True).basis
    ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    assert (trunk.at(ends) == 0).all()
    torch.testing.assert_close(trunk.at(bar.nodes[1:-1, None]), trunk())


def test_the_residuals_basis_is_centred_at_the_solution_and_orthogonal_in_the_energy(bar):
    z0 = normal(2, seed=3)
    basis = FixedBasis.of_residual(bar, z0, bar.load)
    torch.testing.assert_close(basis.centre, bar.solve(z0))
    gram = basis() @ (bar.residual(basis(), z0) + bar.load).T
    torch.testing.assert_close(gram, gram[0, 0] * torch.eye(63, dtype=torch.float64), rtol=0, atol=1e-6)


def test_components_of_states_reproduce_the_states():
    u = normal(30, 4) @ normal(4, 20, seed=1) + 3.0
    basis = FixedBasis.of_states(u)
    coefficients = (u - basis.centre) @ torch.linalg.pinv(basis())
    torch.testing.assert_close(basis.centre + coefficients @ basis(), u)
    torch.testing.assert_close(coefficients.T.cov(), torch.eye(4, dtype=torch.float64))


def test_a_field_of_few_modes_becomes_few_inputs():
    """The network of a nodal field sees its modes, however many nodes."""
    field = KarhunenLoeve((torch.arange(64, dtype=torch.float64) + 0.5) / 64, 3, 0.3)
    problem = Elliptic1D(lambda kappa: kappa, [0.5], dtype=torch.float64)
    kappa = field(normal(200, 3))
    surrogate = Surrogate(problem, kappa, FixedBasis.of_states(problem.solve(kappa), 4))
    assert surrogate.net[0].in_features == 3
    inputs = (kappa - surrogate.shift) @ surrogate.whiten
    torch.testing.assert_close(inputs.T.cov(), torch.eye(3, dtype=torch.float64))


def test_training_on_solves_brings_the_error_of_the_sensors_below_the_noise(by_solves):
    assert sensor_error(by_solves, normal(1000, 2, seed=9)) < 0.6


def test_training_on_residuals_alone_does_the_same_without_a_solve(bar, monkeypatch):
    z = normal(4096, 2)
    surrogate = Surrogate(bar, z, FixedBasis.of_residual(bar, 0 * z[0], bar.load, 16), (64, 64))
    held_out = normal(1000, 2, seed=9)
    before = sensor_error(surrogate, held_out)
    with monkeypatch.context() as patch:
        patch.setattr(Elliptic1D, "solve", None)
        fit_surrogate(surrogate, z, steps=600, learning_rate=5e-3, progress=False)
    assert sensor_error(surrogate, held_out) < 0.6 < before


def test_a_fit_freezes_the_surrogate_so_that_a_guide_is_trained_alone(by_solves):
    model = Poisson1D(modes=2)
    model.problem = by_solves
    y = {"y": by_solves.observe(by_solves.problem.solve(normal(2, seed=5)))}
    guide = amortize(model, None, "full", example=y)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, guide, y, steps=3, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_unknowns_by_name_and_a_state_of_times_and_components():
    """A damped spring: the residual of a step is neither symmetric nor the energy of anything."""

    def spring(t, state, z):
        x, v = state.unbind(-1)
        return torch.stack([v, -z["stiffness"] * x], -1)

    times = torch.linspace(0.2, 2.0, 8, dtype=torch.float64)
    problem = ODEProblem(spring, times, t0=0.0, substeps=4, observation=lambda u: u[..., 0])
    z = {"stiffness": 1 + 3 * torch.rand(256, dtype=torch.float64), "initial_state": normal(256, 2)}
    u = problem.solve(z)
    surrogate = Surrogate(problem, z, FixedBasis.of_states(u), (64, 64))
    assert surrogate.solve(z).shape == u.shape == (256, 8, 2)
    with pytest.raises(ValueError, match="'energy' for a dr/du that is not symmetric"):
        fit_surrogate(surrogate, z, steps=1, progress=False)

    def error():
        return float((surrogate.solve(z) - u).detach().square().mean())

    start = error()
    fit_surrogate(surrogate, z, weight="preconditioned", steps=200, learning_rate=5e-3, progress=False)
    between = error()
    fit_surrogate(surrogate, z, u, steps=200, learning_rate=5e-3, progress=False)
    assert error() < 0.05 * start
    assert between < 0.2 * start


def test_the_error_is_that_of_the_sensors_on_held_out_unknowns(by_solves):
    z = normal(50, 2, seed=11)
    error = error_covariance(by_solves, z)
    e = by_solves.observe(by_solves.problem.solve(z) - by_solves.solve(z))
    torch.testing.assert_close(error.mean, e.mean(0))
    torch.testing.assert_close(error.covariance, (e - e.mean(0)).T @ (e - e.mean(0)) / 49)


def covariance(n, seed=0):
    half = normal(n, n, seed=seed)
    return half @ half.T / n


def test_the_models_density_with_an_error_is_a_multivariate_normal_to_the_last_digit(by_solves):
    model, z, y = Poisson1D(modes=2), normal(2, seed=5), normal(8, seed=6)
    model.problem, model.error = by_solves, ModelError(0.01 * normal(8), 1e-5 * covariance(8))
    trace = pyro.poutine.trace(pyro.condition(model, {"z": z})).get_trace(y=y)
    full = model.error.covariance + 0.0025**2 * torch.eye(8, dtype=torch.float64)
    away = y - by_solves.observe(by_solves.solve(z)) - model.error.mean
    by_hand = -0.5 * (away @ torch.linalg.solve(full, away) + torch.logdet(2 * math.pi * full))
    prior = dist.Normal(torch.zeros_like(z), 1.0).log_prob(z).sum()
    torch.testing.assert_close(trace.log_prob_sum(), prior + by_hand, rtol=1e-10, atol=0)


def test_masked_sensors_leave_the_marginal_density_of_the_others_and_no_gradient():
    error, y = ModelError(0.1 * normal(5), covariance(5)), normal(4, 5, seed=1)
    mean = normal(4, 5, seed=2).requires_grad_()
    mask = normal(4, 5, seed=3) > -0.3
    noise = 0.2 + normal(5, seed=4).abs()
    lost = torch.where(mask, y, torch.nan)
    got = log_density(lambda: observe("y", mean, noise, obs=lost, mask=mask, error=error))
    got.sum().backward()
    for i, seen in enumerate(mask):
        part = (error.covariance + torch.diag(noise**2))[seen][:, seen]
        expected = dist.MultivariateNormal((mean[i] + error.mean)[seen].detach(), part).log_prob(y[i][seen])
        torch.testing.assert_close(got[i].detach(), expected)
    assert not mask.all()
    assert (mean.grad[~mask] == 0).all()
    assert (mean.grad[mask] != 0).all()


def test_plates_and_simulations_take_the_error_along():
    error = ModelError(torch.tensor([1.0, -1.0]), torch.tensor([[0.5, 0.4], [0.4, 0.5]]))
    with pyro.plate("many", 40_000), torch.random.fork_rng([]):
        torch.manual_seed(0)
        y = observe("y", torch.zeros(2), 0.3, error=error)
    expected = error.covariance + 0.09 * torch.eye(2)
    torch.testing.assert_close(y.mean(0), error.mean, rtol=0, atol=4 * 0.77 / 200)
    torch.testing.assert_close(y.T.cov(), expected, rtol=0, atol=4 * 0.59 * math.sqrt(2) / 200)


def test_a_masked_likelihood_with_an_error_is_linearised_by_its_seen_sensors(by_solves):
    """A Gauss-Newton step of a guide reads the same density as the model's trace."""
    model, z = Poisson1D(modes=2), normal(1, 2, seed=5)
    model.problem, model.error = by_solves, ModelError(0.01 * normal(8), 1e-5 * covariance(8))
    mask = torch.arange(8)[None] < 5
    data = {"y": torch.where(mask, by_solves.observe(by_solves.solve(z)) + 0.002 * normal(1, 8, seed=7), torch.nan)}
    data["mask"] = mask
    found = linearise(model, lambda w: {"z": w}, z, data)
    at = z.clone().requires_grad_()
    seen = {name: value[0] for name, value in data.items()}
    trace = pyro.poutine.trace(pyro.condition(model, {"z": at[0]})).get_trace(**seen)
    trace.compute_log_prob()
    (gradient,) = torch.autograd.grad(trace.nodes["y"]["log_prob"].sum(), at)
    torch.testing.assert_close((found.jacobian.mT @ found.residual[..., None])[..., 0], gradient)
    assert not found.residual[:, 5:].any()  # what is not seen is no misfit


def test_masked_simulations_are_of_all_sensors():
    error, mask = ModelError(torch.full((2,), 5.0), torch.eye(2)), torch.tensor([True, False])
    with pyro.plate("many", 100), torch.random.fork_rng([]):
        torch.manual_seed(0)
        y = observe("y", torch.zeros(2), 0.1, mask=mask, error=error)
    assert (y.mean(0) - 5).abs().max() < 0.5


def test_a_rejected_sample_keeps_its_minus_infinity():
    mean = torch.zeros(3, 2, dtype=torch.float64)
    mean[1, 0] = math.nan
    error = ModelError(mean[0], covariance(2))
    with pytest.warns(RuntimeWarning, match="'y'"):
        got = log_density(lambda: observe("y", mean, 0.3, obs=normal(2), error=error))
    assert torch.isfinite(got).tolist() == [True, False, True]


MISTAKES = {
    "problem: got": lambda bar: Surrogate(torch.nn.Identity(), normal(9, 2), FixedBasis.of_states(normal(9, 63))),
    "basis: got": lambda bar: Surrogate(bar, normal(9, 2), 16),
    "leading dimension of at least 2": lambda bar: Surrogate(bar, normal(1, 2), FixedBasis.of_states(normal(9, 63))),
    "draws that vary": lambda bar: Surrogate(bar, torch.ones(9, 2), FixedBasis.of_states(normal(9, 63))),
    "not finite": lambda bar: Surrogate(bar, normal(9, 2) / 0, FixedBasis.of_states(normal(9, 63))),
    "hidden: got 0": lambda bar: untrained(bar, 0),
    "residual: got": lambda bar: untrained(bar).solve(normal(2), residual=normal(63)),
    r"z: got shape \(3,\), expected \(..., 2\)": lambda bar: untrained(bar).solve(normal(3)),
    "expected a tensor, as in the draws": lambda bar: untrained(bar).solve({"z": normal(2)}),
    "modes: got 9, expected at most 8": lambda bar: FixedBasis.of_states(normal(9, 63), 9),
    "modes: got 64, expected at most 63": lambda bar: FixedBasis.of_residual(bar, normal(2), bar.load, 64),
    "whose state is zero": lambda bar: FixedBasis.of_residual(
        LinearProblem(torch.eye(3), torch.eye(3), torch.eye(3)), torch.zeros(3), torch.zeros(3)
    ),
    "coordinates: got shape": lambda bar: Trunk(bar.nodes, bar.load),
    "expected more than the 8 sensors": lambda bar: error_covariance(untrained(bar), normal(8, 2)),
    "got 1 of 20 draws without a finite solve": lambda bar: error_covariance(
        untrained(bar), normal(20, 2), torch.cat([bar.solve(normal(19, 2)), torch.full((1, 63), torch.nan)])
    ),
    "eigenvalues from -1 to 2, whose energy has no minimum": lambda bar: fit_surrogate(
        indefinite(), normal(9, 3), steps=1, progress=False
    ),
    "covariance: got": lambda bar: ModelError(normal(2), -covariance(2)),
    "error: got 3 sensors": lambda bar: observe("y", normal(2), 0.1, error=ModelError(normal(3), covariance(3))),
    "error: got family": lambda bar: observe(
        "y", normal(2).exp(), 0.1, family="lognormal", error=ModelError(normal(2), covariance(2))
    ),
    "weight: got": lambda bar: fit_surrogate(untrained(bar), normal(9, 2), weight="strong", steps=1, progress=False),
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_told_in_one_sentence(bar, words):
    with pytest.raises((ValueError, TypeError), match=words) as told:
        MISTAKES[words](bar)
    assert "\n" not in str(told.value)
