"""The bar: its two likelihoods share one problem and, corrected, one posterior."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from physzoo.models.poisson1d import LARGEST_AT_PRIOR_MEAN, Poisson1D, temperatures, truth


def joint_density(model, data, **latents):
    return pyro.poutine.trace(pyro.condition(model, latents)).get_trace(**data).log_prob_sum()


def unknowns(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_noise_is_two_percent_of_the_largest_temperature_at_the_prior_mean():
    model = Poisson1D()
    largest = model.problem.solve(torch.zeros(8, dtype=torch.float64)).max()
    torch.testing.assert_close(largest, torch.tensor(LARGEST_AT_PRIOR_MEAN, dtype=torch.float64))
    assert model.noise == 0.0025


def test_forward_joint_is_prior_times_gaussian_noise():
    model, data, z = Poisson1D(), temperatures(), unknowns(8)
    reading = model.problem.observe(model.problem.solve(z))
    expected = dist.Normal(torch.zeros_like(z), 1.0).log_prob(z).sum()
    expected = expected + dist.Normal(reading, 0.0025).log_prob(data["y"]).sum()
    torch.testing.assert_close(joint_density(model, data, z=z), expected)


def test_synthetic_data_scatter_about_the_truth_by_the_noise():
    model = Poisson1D()
    error = (temperatures()["y"] - model.problem.observe(model.problem.solve(truth()))) / model.noise
    assert 0.3 < error.square().mean() < 2.5
    assert torch.equal(temperatures()["y"], temperatures()["y"])


def test_corrected_residual_joint_minus_flat_prior_is_the_density_of_the_residual_noise():
    """At u = solve(z, residual=e): p(z, u, y) = p(z) N(e; 0, s_r^2) |det dr/du| p(y | u) flat."""
    model, data, z = Poisson1D("residual"), temperatures(), unknowns(8)
    e = model.residual_scale * unknowns(63, seed=1)
    u = model.problem.solve(z, residual=e)
    expected = (
        dist.Normal(torch.zeros_like(z), 1.0).log_prob(z).sum()
        + dist.Normal(torch.zeros_like(e), model.residual_scale).log_prob(e).sum()
        + model.problem.logdet(u, z)
        + dist.Normal(model.problem.observe(u), model.noise).log_prob(data["y"]).sum()
    )
    flat = joint_density(model, data, z=z, u=u) - expected
    level = dist.Normal(torch.zeros_like(u), 100.0).log_prob(torch.zeros_like(u)).sum()
    torch.testing.assert_close(flat, level, rtol=0, atol=1e-3)
    uncorrected = joint_density(Poisson1D("residual", corrected=False), data, z=z, u=u)
    torch.testing.assert_close(joint_density(model, data, z=z, u=u) - uncorrected, model.problem.logdet(u, z))


@pytest.mark.parametrize("likelihood", ["forward", "residual"])
def test_batches_of_particles_and_data_sets_are_plates_around_the_model(likelihood):
    model = Poisson1D(likelihood)
    y = temperatures()["y"] + 0.01 * unknowns(3, 8)
    latents = {"z": unknowns(5, 3, 8)}
    if likelihood == "residual":
        latents["u"] = model.problem.solve(latents["z"], residual=model.residual_scale * unknowns(5, 3, 63))

    def batched():
        with pyro.plate("particles", 5, dim=-2), pyro.plate("datasets", 3, dim=-1):
            model(y=y)

    trace = pyro.poutine.trace(pyro.condition(batched, latents)).get_trace()
    trace.compute_log_prob()
    sites = [site for site in trace.nodes.values() if site["type"] == "sample" and "plate" not in str(site["fn"])]
    total = sum(site["log_prob"] for site in sites if site["log_prob"].shape == (5, 3))
    alone = joint_density(model, {"y": y[2]}, **{name: value[4, 2] for name, value in latents.items()})
    torch.testing.assert_close(total[4, 2], alone)


def test_float32_gives_the_float64_density_to_single_precision():
    data, z = temperatures(), unknowns(8)
    double = joint_density(Poisson1D(), data, z=z)
    single = joint_density(Poisson1D().float(), {"y": data["y"].float()}, z=z.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("likelihood", ["forward", "residual"])
def test_missing_sensors_leave_the_density_of_the_others(likelihood):
    model, z = Poisson1D(likelihood), unknowns(8)
    latents = {"z": z} if likelihood == "forward" else {"z": z, "u": model.problem.solve(z)}
    y, mask = temperatures()["y"].clone(), torch.arange(8) < 5
    u = model.problem.solve(z)
    lost = dist.Normal(model.problem.observe(u), model.noise).log_prob(y)[5:].sum()
    full = joint_density(model, {"y": y}, **latents)
    y[5:] = torch.nan
    torch.testing.assert_close(full - joint_density(model, {"y": y, "mask": mask}, **latents), lost)


@pytest.mark.parametrize(("words", "options"), [("likelihood", {"likelihood": "weak"}), ("sensors", {"sensors": 0})])
def test_a_mistake_names_the_argument(words, options):
    with pytest.raises(ValueError, match=f"{words}: got"):
        Poisson1D(**options)
