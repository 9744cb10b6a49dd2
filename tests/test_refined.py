"""Refined guides: Gauss-Newton steps through the model put the family where the posterior is."""

import copy
import io
import math
import pickle
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO

from physzoo.core.global_state import seeded
from physzoo.core.plates import plain, plated
from physzoo.core.prototype import prototype
from physzoo.core.simulate import simulate
from physzoo.guides import FAMILIES, Whitening, amortize
from physzoo.guides.refine import linearise
from physzoo.inference.fit import Simulator, fit
from physzoo.inference.objectives import ForwardKL
from physzoo.models.linear_gaussian import LinearGaussian
from physzoo.models.lynx_hare import LynxHare, lotka_volterra
from physzoo.models.poisson1d import Poisson1D
from physzoo.physics import ODEProblem, observe

N = 6
LATENTS = ("alpha", "beta", "gamma", "delta", "initial_state", "sigma")
TIMES = torch.linspace(0.2, 2.0, N, dtype=torch.float64)
EXAMPLE = {"y": torch.linspace(1.0, 0.2, N, dtype=torch.float64)}


def decay(y=None, mask=None):
    """Two unknowns of a nonlinear curve, one with a support, under one per cent of noise."""
    rate = pyro.sample("rate", dist.LogNormal(TIMES.new_zeros(()), 0.5))
    level = pyro.sample("level", dist.Normal(TIMES.new_ones(()), 0.5))
    mean = level[..., None] * torch.exp(-rate[..., None] * TIMES)
    fn = dist.Normal(mean, 0.01)
    return pyro.sample("y", (fn if mask is None else fn.mask(mask)).to_event(1), obs=y)


def noisy(y=None):
    """Unknown mean and scale, lognormal data."""
    z = pyro.sample("z", dist.Normal(TIMES.new_zeros(2), 1.0).to_event(1))
    fn = dist.LogNormal(z[..., :1] * TIMES, torch.exp(0.3 * z[..., 1:]))
    return pyro.sample("y", fn.to_event(1), obs=y)


def heavy(y=None):
    z = pyro.sample("z", dist.Normal(TIMES.new_zeros(2), 1.0).to_event(1))
    return pyro.sample("y", dist.StudentT(4.0, torch.sin(z[..., :1] * TIMES), z[..., 1:].exp()).to_event(1), obs=y)


def correlated(y=None):
    z = pyro.sample("z", dist.Normal(TIMES.new_zeros(2), 1.0).to_event(1))
    tril = torch.eye(N, dtype=TIMES.dtype) + 0.3 * torch.ones(N, N, dtype=TIMES.dtype).tril(-1)
    return pyro.sample("y", dist.MultivariateNormal(torch.sin(z.sum(-1, True) * TIMES), scale_tril=tril), obs=y)


def grouped(y=None):
    """A plate of the model's own."""
    level = pyro.sample("level", dist.Normal(TIMES.new_zeros(()), 1.0))
    with pyro.plate("group", N, dim=-1):
        deviation = pyro.sample("deviation", dist.Normal(TIMES.new_zeros(()), 0.5))
        return pyro.sample("y", dist.Normal(level + deviation, 0.1), obs=y)


def brittle(y=None):
    """A model that raises for the whole batch where one data set is negative."""
    z = pyro.sample("z", dist.Normal(TIMES.new_zeros(1), 1.0).to_event(1))
    if y is not None and bool((y < 0).any()):
        raise ArithmeticError("no solution")
    return pyro.sample("y", dist.Normal(z * TIMES, 0.1).to_event(1), obs=y)


def simulated(model, count, seed=0):
    found = simulate(model, count, seed=seed)
    return {"y": found.pop("y")}, found


def refined(guide, data):
    return guide.refinement(guide.inputs(data), data, guide._ndim, guide._unwhiten)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_linear_gaussian_posterior_is_found_exactly_without_any_training(steps):
    model = LinearGaussian()
    data, _ = simulated(model, 5)
    guide = amortize(model, "mlp", "full", example={"y": data["y"][0]}, refine=steps)
    guide.whiten(Whitening(torch.zeros(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64)))
    found = refined(guide, data)
    response = model.problem.observe(model.problem.solve(torch.eye(6, dtype=torch.float64))).T
    precision = torch.eye(6, dtype=torch.float64) + response.T @ response / model.noise**2
    mean = torch.linalg.solve(precision, response.T @ data["y"].T / model.noise**2).T
    torch.testing.assert_close(found.factor @ found.factor.mT, precision.expand(5, 6, 6), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.loc, mean, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("model", [noisy, heavy, correlated])
def test_the_residual_times_the_jacobian_is_the_gradient_of_the_log_likelihood(model):
    data, _ = simulated(model, 4)
    w = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    trace = poutine.trace(poutine.condition(model, data={"z": w})).get_trace(**data)
    site = trace.nodes["y"]
    (gradient,) = torch.autograd.grad(site["fn"].log_prob(site["value"]).sum(), w)
    at = linearise(model, lambda w: {"z": w}, w.detach(), data)
    torch.testing.assert_close((at.jacobian.mT @ at.residual.unsqueeze(-1)).squeeze(-1), gradient)


def test_the_square_of_the_jacobian_is_the_fisher_information():
    w = torch.tensor([[0.3, -0.4]], dtype=torch.float64)
    for model in (noisy, heavy):
        at = linearise(model, lambda w: {"z": w}, w, EXAMPLE)
        with seeded(0):
            many = w.expand(200_000, 2).clone().requires_grad_()
            trace = poutine.trace(poutine.condition(model, data={"z": many})).get_trace()
        site = trace.nodes["y"]
        (score,) = torch.autograd.grad(site["fn"].log_prob(site["value"].detach()).sum(), many)
        products = score.unsqueeze(-1) * score.unsqueeze(-2)
        error = products.std(0) / len(products) ** 0.5
        assert ((products.mean(0) - (at.jacobian.mT @ at.jacobian)[0]).abs() < 4.5 * error).all()


def test_refinement_saves_a_nat_at_equal_steps():
    model = Poisson1D().float()
    held_out, truths = simulated(model, 512, seed=1)
    scores = []
    for refine in (0, 2):
        guide = amortize(model, "mlp", "full", example={"y": held_out["y"][0]}, refine=refine)
        fit(model, guide, Simulator(64), ForwardKL(), steps=60, learning_rate=3e-3, progress=False)
        with torch.no_grad():
            scores.append(guide.log_prob(truths, held_out).mean().item())
    assert scores[1] - scores[0] > 1.0


def test_an_untrained_refined_guide_is_already_near_a_stiff_posterior():
    data, truths = simulated(decay, 256, seed=2)
    guide = amortize(decay, "mlp", "full", example=EXAMPLE, refine=3)
    plain_guide = amortize(decay, "mlp", "full", example=EXAMPLE)
    with torch.no_grad():
        gain = guide.log_prob(truths, data) - plain_guide.log_prob(truths, data)
    assert gain.median() > 3.0  # two unknowns, each located to better than a tenth of its prior


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("model", [decay, grouped])
def test_own_density_equals_the_trace_density(family, model):
    guide = amortize(model, "mlp", family, example=EXAMPLE, refine=1)
    data, _ = simulated(model, 3)
    with seeded(1):
        trace = poutine.trace(plated(guide, guide.sites.nesting, None, 3)).get_trace(**data)
    trace.compute_log_prob()
    total = sum(
        site["log_prob"].reshape(3, -1).sum(-1)
        for site in trace.nodes.values()
        if site["type"] == "sample" and site["name"] not in {"datasets", "group"}
    )
    values = {block.name: plain(trace.nodes[block.name], (3,)) for block in guide.sites.blocks}
    torch.testing.assert_close(guide.log_prob(values, data), total, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_batch_shape_and_precision(shape, dtype):
    model = Poisson1D().to(dtype)
    y = simulate(model, math.prod(shape), seed=1)["y"].reshape(*shape, 8)
    guide = amortize(model, "mlp", "spline", example={"y": y.reshape(-1, 8)[0]}, refine=2, transforms=2)
    with seeded(0):
        draws = guide.sample({"y": y}, 5)["z"]
    assert draws.shape == (5, *shape, 8)
    assert draws.dtype == dtype
    assert torch.isfinite(draws).all()
    with torch.no_grad():
        density = guide.density({"y": y}).log_prob(torch.zeros(8, dtype=dtype))
        alone = guide.density({"y": y.reshape(-1, 8)[-1]}).log_prob(torch.zeros(8, dtype=dtype))
    torch.testing.assert_close(density.reshape(-1)[-1], alone, rtol=1e-3, atol=1e-3)


def test_masked_values_are_not_seen_and_all_masked_gives_the_prior():
    mask = torch.ones(N, dtype=torch.bool)
    guide = amortize(decay, "mlp", "full", example={**EXAMPLE, "mask": mask}, refine=3)
    y = simulated(decay, 3)[0]["y"]
    some = mask.expand(3, N).clone()
    some[1, 2], some[2] = False, False
    hidden = y.clone()
    hidden[1, 2], hidden[2] = torch.nan, torch.nan
    first, second = refined(guide, {"y": y, "mask": some}), refined(guide, {"y": hidden, "mask": some})
    torch.testing.assert_close(first.loc, second.loc)
    torch.testing.assert_close(first.factor, second.factor)
    torch.testing.assert_close(first.factor[2], torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(first.loc[2], torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0)
    full = refined(guide, {"y": y, "mask": mask.expand(3, N)})
    assert not torch.allclose(full.factor[1], first.factor[1])
    assert torch.isfinite(guide.sample({"y": hidden, "mask": some}, 7)["rate"]).all()


def test_a_data_set_on_which_the_model_fails_keeps_its_prior_and_its_neighbours_do_not_notice():
    guide = amortize(brittle, "mlp", "full", example={"y": TIMES}, refine=2)
    y = torch.stack([0.8 * TIMES, -1.5 * TIMES, 1.3 * TIMES])
    found, alone = refined(guide, {"y": y}), refined(guide, {"y": y[::2]})
    torch.testing.assert_close(found.loc[::2], alone.loc)
    torch.testing.assert_close(found.factor[::2], alone.factor)
    assert found.loc[1].item() == 0.0
    assert found.factor[1].item() == 1.0
    assert found.factor[0].item() > 20  # 1 / noise * |times|


class PredatorPrey(torch.nn.Module):
    """Four rates of Lotka-Volterra from ten noisy times; the posterior is a few per cent of the prior's width."""

    def __init__(self):
        super().__init__()
        times = 2.1 * torch.arange(10, dtype=torch.float64)
        self.problem = ODEProblem(lotka_volterra, times, substeps=14, on_failure="reject")
        self.start = torch.tensor([30.0, 1.0], dtype=torch.float64)
        self.location = torch.tensor([-0.125, -3.0, -0.125, -3.0], dtype=torch.float64)

    def forward(self, y=None):
        z = pyro.sample("z", dist.LogNormal(self.location, 0.5).to_event(1))
        unknowns = dict(zip(("alpha", "beta", "gamma", "delta"), z.unbind(-1), strict=True))
        states = self.problem.solve({**unknowns, "initial_state": self.start})
        return observe("y", states, 0.1, obs=y, family="lognormal", event_dim=2)


def test_an_untrained_refined_guide_finds_the_rates_of_an_ode():
    model = PredatorPrey()
    data, truths = simulated(model, 64)
    gains = []
    for refine in (0, 3):
        guide = amortize(model, "mlp", "full", example={"y": data["y"][0]}, refine=refine)
        with torch.no_grad():
            gains.append(guide.log_prob(truths, data))
    assert torch.isfinite(gains[1]).all()
    assert (gains[1] - gains[0]).median() > 8.0


def test_an_unknown_noise_scale_and_rejected_solves_leave_finite_densities():
    model = LynxHare()
    data, truths = simulated(model, 64)
    guide = amortize(model, "mlp", "full", example={"y": data["y"][0]}, refine=2, simulations=512)
    kept = torch.isfinite(data["y"]).flatten(1).all(-1)
    with torch.no_grad():
        log_q = guide.log_prob({name: truths[name][kept] for name in LATENTS}, {"y": data["y"][kept]})
        wild = refined(guide, {"y": torch.full_like(data["y"][:2], 1e30)})
    assert torch.isfinite(log_q).all()
    assert torch.isfinite(wild.loc).all()
    assert torch.isfinite(wild.factor).all()


def test_every_parameter_of_the_guide_learns_and_the_model_gets_no_gradient_through_it():
    class Learnt(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, y=None):
            z = pyro.sample("z", dist.Normal(TIMES.new_zeros(2), 1.0).to_event(1))
            return pyro.sample("y", dist.Normal(self.gain * z.sum(-1, True) * TIMES, 0.1).to_event(1), obs=y)

    model = Learnt()
    data, truths = simulated(model, 8)
    guide = amortize(model, "mlp", "spline", example={"y": data["y"][0]}, refine=1, transforms=2)
    assert not any("gain" in name for name, _ in guide.named_parameters())
    guide.log_prob(truths, data).mean().backward()
    assert model.gain.grad is None
    lacking = [name for name, parameter in guide.named_parameters() if parameter.grad is None]
    assert not lacking


def test_a_guide_survives_copying_pickling_and_its_state():
    guide = amortize(decay, "mlp", "spline", example=EXAMPLE, refine=2, transforms=2)
    data, truths = simulated(decay, 4)
    expected = guide.log_prob(truths, data)
    assert torch.equal(copy.deepcopy(guide).log_prob(truths, data), expected)
    assert torch.equal(pickle.loads(pickle.dumps(guide)).log_prob(truths, data), expected)
    other = amortize(decay, "mlp", "spline", example=EXAMPLE, refine=2, transforms=2, seed=5, simulations=0)
    assert not torch.allclose(other.log_prob(truths, data), expected)
    buffer = io.BytesIO()
    torch.save(guide.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other.log_prob(truths, data), expected)


def test_stock_pyro_takes_the_guide_as_it_is():
    pyro.clear_param_store()
    pyro.set_rng_seed(3)
    guide = amortize(decay, "mlp", "full", example=EXAMPLE, refine=1)
    svi = SVI(decay, guide, pyro.optim.ClippedAdam({"lr": 3e-3}), Trace_ELBO(num_particles=4, vectorize_particles=True))
    losses = [svi.step(**EXAMPLE) for _ in range(60)]
    draws = Predictive(decay, guide=guide, num_samples=7, parallel=True, return_sites=["rate"])(**EXAMPLE)
    pyro.clear_param_store()
    assert all(math.isfinite(loss) for loss in losses)
    assert draws["rate"].shape == (7,)


def test_without_refinement_nothing_changes():
    plain_guide = amortize(decay, "mlp", "full", example=EXAMPLE)
    same = amortize(decay, "mlp", "full", example=EXAMPLE, refine=0)
    assert plain_guide.state_dict().keys() == same.state_dict().keys()
    assert plain_guide.refinement is None


def test_an_argument_that_is_no_tensor_reaches_the_model_wherever_it_is_run():
    def either(y=None, late=False):
        z = pyro.sample("z", dist.Normal(TIMES.new_zeros(1), 1.0).to_event(1))
        return pyro.sample("y", dist.Normal((10.0 if late else 1.0) * z * TIMES, 0.1).to_event(1), obs=y)

    bound = amortize(partial(either, late=True), "mlp", "full", example=EXAMPLE, refine=1)
    passed = amortize(either, "mlp", "full", example={**EXAMPLE, "late": True}, refine=1)
    for name, value in bound.state_dict().items():
        assert torch.equal(passed.state_dict()[name], value), name


def test_building_a_refined_guide_leaves_the_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    amortize(decay, "mlp", "full", example=EXAMPLE, refine=2).sample({"y": EXAMPLE["y"]}, 1)
    torch.manual_seed(5)
    amortize(decay, "mlp", "full", example=EXAMPLE, refine=2)
    assert torch.equal(torch.rand(3), expected)


def test_where_it_cannot_work_it_says_so():
    def counts(y=None):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("y", dist.Poisson(z.exp()).to_event(1), obs=y)

    def rounded(y=None):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mean = torch.as_tensor([float(v) for v in z.detach().reshape(-1)]).reshape(z.shape) + Cube.apply(z)
        return pyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y)

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            return z**3

        @staticmethod
        def backward(ctx, *grads):
            return grads[0]

    one = {"y": torch.ones(2)}
    with pytest.raises(ValueError, match="observed site 'y' of Poisson, expected Normal"):
        amortize(counts, "mlp", "full", example=one, refine=1)
    with pytest.raises(ValueError, match="forward-mode differentiation cannot follow"):
        amortize(rounded, "mlp", "full", example=one, refine=1)
    with pytest.raises(ValueError, match="refine: got 2 with encoder None"):
        amortize(decay, None, "full", example=EXAMPLE, refine=2)
    start = Whitening(torch.zeros(2), torch.eye(2))
    with pytest.raises(ValueError, match="refine: got 1 with a whitening"):
        amortize(decay, "mlp", "full", example=EXAMPLE, refine=1, whitening=start)
    with pytest.raises(ValueError, match="refine: got -1, expected"):
        amortize(decay, "mlp", "full", example=EXAMPLE, refine=-1)
    assert prototype(decay, EXAMPLE)
