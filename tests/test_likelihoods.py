"""Data seen through noise, and residuals seen as zero."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from physzoo.physics import Elliptic1D, KarhunenLoeve, SolverWarning, observe, virtual_observables

FAMILY_OPTIONS = [("normal", None), ("lognormal", None), ("student_t", 4.0)]


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def log_density(fn):
    """log p of everything observed in ``fn``, keeping the batch."""
    trace = pyro.poutine.trace(fn).get_trace()
    trace.compute_log_prob()
    return sum(site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample" and site["is_observed"])


def closed_form(family, mean, noise, df, y):
    if family == "lognormal":
        return dist.LogNormal(mean.log(), noise).log_prob(y)
    if family == "student_t":
        return dist.StudentT(df, mean, noise).log_prob(y)
    return dist.Normal(mean, noise).log_prob(y)


@pytest.mark.parametrize(("family", "df"), FAMILY_OPTIONS)
def test_density_is_the_familys_sum_over_the_sensors(family, df):
    mean, y = tensor(1.0, 2.0, 3.0), tensor(1.1, 1.7, 3.2)
    got = log_density(lambda: observe("y", mean, 0.3, obs=y, family=family, df=df))
    assert got.shape == ()
    torch.testing.assert_close(got, closed_form(family, mean, 0.3, df, y).sum())


@pytest.mark.parametrize(("family", "df"), FAMILY_OPTIONS)
def test_masked_entry_counts_for_nothing_even_where_the_data_are_nan(family, df):
    mean = tensor(1.0, 2.0, 3.0).requires_grad_()
    y, mask = tensor(1.1, math.nan, 3.2), torch.tensor([True, False, True])
    got = log_density(lambda: observe("y", mean, 0.3, obs=y, mask=mask, family=family, df=df))
    got.backward()
    torch.testing.assert_close(got, closed_form(family, mean, 0.3, df, y.nan_to_num(1.0))[mask].sum())
    assert mean.grad[1] == 0
    assert torch.isfinite(mean.grad).all()
    assert (mean.grad[mask] != 0).all()


def test_all_masked_leaves_no_information():
    mean = tensor(1.0, 2.0).requires_grad_()
    y, mask = tensor(math.nan, math.nan), torch.zeros(2, dtype=torch.bool)
    assert log_density(lambda: observe("y", mean, 0.3, obs=y, mask=mask)) == 0


def test_fixed_learnt_and_sampled_noise_are_the_same_likelihood():
    mean, y = torch.zeros(4, 3, dtype=torch.float64), torch.ones(4, 3, dtype=torch.float64)
    sampled = torch.full((4,), 0.3, dtype=torch.float64, requires_grad=True)
    fixed = log_density(lambda: observe("y", mean, 0.3, obs=y))
    of_tensor = log_density(lambda: observe("y", mean, sampled[..., None], obs=y))
    torch.testing.assert_close(fixed, of_tensor)
    of_tensor.sum().backward()
    assert (sampled.grad != 0).all()


@pytest.mark.parametrize(("family", "df"), FAMILY_OPTIONS)
def test_rejected_sample_gets_minus_infinity_and_leaves_its_neighbours_alone(family, df):
    mean = torch.ones(4, 3, dtype=torch.float64)
    mean[1, 2], mean[3, 0] = math.nan, math.inf
    mean.requires_grad_()
    noise = torch.full((4, 1), 0.3, dtype=torch.float64, requires_grad=True)
    y = tensor(1.2, 0.8, 1.1)
    with pytest.warns(SolverWarning, match="'y'"):
        got = log_density(lambda: observe("y", mean, noise, obs=y, family=family, df=df))
    expected = closed_form(family, tensor(1.0, 1.0, 1.0), 0.3, df, y).sum()
    assert got[1] == got[3] == -math.inf
    torch.testing.assert_close(got[[0, 2]], expected.expand(2))
    got[torch.isfinite(got)].sum().backward()
    assert (mean.grad[[1, 3]] == 0).all()
    assert (noise.grad[[1, 3]] == 0).all()
    assert (mean.grad[[0, 2]] != 0).all()


def test_rejection_leaves_no_nan_in_a_gradient_of_the_whole_batch():
    mean = tensor(1.0, 1.0)[:, None] * torch.ones(2, 3, dtype=torch.float64)
    mean[1] = math.nan
    mean.requires_grad_()
    with pytest.warns(SolverWarning):
        got = log_density(lambda: observe("y", mean, 0.3, obs=tensor(1.2, 0.8, 1.1)))
    got.sum().backward()
    assert torch.isfinite(mean.grad).all()


def test_a_negative_median_is_no_lognormal():
    with pytest.warns(SolverWarning):
        got = log_density(lambda: observe("y", tensor(1.0, -1.0), 0.3, obs=tensor(1.0, 1.0), family="lognormal"))
    assert got == -math.inf


def test_a_rejected_sample_simulates_nan_and_the_others_data():
    mean = torch.ones(3, 2)
    mean[1] = math.nan
    with pytest.warns(SolverWarning):
        trace = pyro.poutine.trace(lambda: observe("y", mean, 0.3)).get_trace()
    y = trace.nodes["y"]["value"]
    assert torch.isnan(y[1]).all()
    assert torch.isfinite(y[[0, 2]]).all()


def test_simulated_data_scatter_by_the_noise():
    pyro.set_rng_seed(0)
    y = observe("y", torch.full((40_000, 1), 2.0, dtype=torch.float64), 0.5)
    assert abs(y.mean() - 2.0) < 4 * 0.5 / 200
    assert abs(y.std() / 0.5 - 1) < 4 / math.sqrt(2 * 40_000)


def test_masks_and_data_of_a_batch_of_data_sets_lie_in_a_plate():
    y, mask = torch.randn(5, 3).double(), torch.rand(5, 3) > 0.5

    def model():
        with pyro.plate("datasets", 5, dim=-1):
            observe("y", tensor(0.0, 0.0, 0.0), 1.0, obs=y, mask=mask)

    expected = torch.where(mask, dist.Normal(0.0, 1.0).log_prob(y), 0.0).sum(-1)
    torch.testing.assert_close(log_density(model), expected)


@pytest.mark.parametrize(
    ("error", "words", "change"),
    [
        (ValueError, "noise: got 0", {"noise": 0.0}),
        (ValueError, "noise: got -0.1", {"noise": -0.1}),
        (ValueError, "noise: got -1 as", {"noise": tensor(1.0, -1.0, 1.0)}),
        (ValueError, r"noise\[\.\.\., None\]", {"noise": tensor(1.0, 1.0)}),
        (
            ValueError,
            r"noise\[\.\.\., None, None\]",
            {"noise": torch.ones(7), "mean": torch.ones(7, 5, 2), "obs": torch.ones(5, 2), "event_dim": 2},
        ),
        (ValueError, "noise: got shape", {"noise": torch.ones(4), "mean": torch.ones(4, 1), "obs": torch.ones(1)}),
        (ValueError, "mask: got shape", {"mask": torch.ones(2, dtype=torch.bool)}),
        (ValueError, "mask: got shape", {"mask": torch.ones(8) > 0, "mean": torch.ones(1), "obs": torch.ones(1)}),
        (TypeError, "mask: got torch.float64", {"mask": tensor(1.0, 1.0, 1.0)}),
        (TypeError, "obs: got torch.int64", {"obs": torch.ones(3, dtype=torch.int64)}),
        (ValueError, "obs: got shape", {"obs": tensor(1.0)}),
        (ValueError, "mask what is missing", {"obs": tensor(1.0, math.nan, 1.0)}),
        (ValueError, "positive", {"obs": tensor(1.0, -1.0, 1.0), "family": "lognormal"}),
        (ValueError, "normal, lognormal, student_t", {"family": "cauchy"}),
        (ValueError, "df: got None", {"family": "student_t"}),
        (ValueError, "df: got 3", {"df": 3.0}),
        (ValueError, "mean: got shape", {"event_dim": 2}),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_site(error, words, change):
    arguments = {"mean": tensor(1.0, 2.0, 3.0), "noise": 0.1, "obs": tensor(1.0, 2.0, 3.0), **change}
    with pytest.raises(error, match=rf"site 'height':.*{words}") as caught:
        observe("height", **arguments)
    assert "\n" not in str(caught.value)


class Conductor(Elliptic1D):
    def __init__(self):
        midpoints = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
        super().__init__(KarhunenLoeve(midpoints, 3, 0.3), [0.3, 0.7], elements=16, dtype=torch.float64)


def test_virtual_observables_are_the_residuals_density_times_the_determinant():
    generator = torch.Generator().manual_seed(0)
    problem = Conductor()
    z = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    u = problem.solve(z) + 0.01 * torch.randn(4, 15, generator=generator, dtype=torch.float64)
    plain = log_density(lambda: virtual_observables("r", problem, u, z, 0.05, corrected=False))
    corrected = log_density(lambda: virtual_observables("r", problem, u, z, 0.05))
    r = problem.residual(u, z)
    torch.testing.assert_close(plain, dist.Normal(r, 0.05).log_prob(torch.zeros_like(r)).sum(-1))
    torch.testing.assert_close(corrected - plain, problem.logdet(u, z))


def test_corrected_virtual_observables_integrate_to_one_over_the_state():
    """exp(corrected density) is a normalised density of u for every z: so the posterior of z is exact."""

    class Cubic(nn.Module):
        def residual(self, u, z):
            return z * (u + u**3)

        def logdet(self, u, z):
            return (z * (1 + 3 * u**2)).log().sum(-1)

    u = torch.linspace(-3, 3, 20_001, dtype=torch.float64)[:, None]
    for stiffness in (0.5, 2.0, 8.0):
        z = tensor(stiffness)
        density = log_density(lambda z=z: virtual_observables("r", Cubic(), u, z, 0.1)).exp()
        mass = torch.trapezoid(density, u[:, 0])
        torch.testing.assert_close(mass, torch.ones_like(mass), rtol=1e-6, atol=0)
