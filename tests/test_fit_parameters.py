"""What a fit trains, and how fast: parameters of functions as under SVI, frozen and shared ones, groups of an optimiser."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn

from physzoo.guides import amortize
from physzoo.inference.fit import Simulator, fit
from physzoo.inference.fit.driver import FitOptions
from physzoo.inference.objectives import ELBO, ForwardKL, Reweighted
from physzoo.inference.warn import TrustWarning

QUIET = FitOptions(progress=False, learning_rate=0.05)
Y = torch.tensor([0.8, 1.0, 1.2])
DATA = {"y": Y}


@pytest.fixture(autouse=True)
def _empty_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def function_model(y=None):
    """z ~ N(0, 1), y ~ N(z, 0.5^2) three times: z | y ~ N(12/13 mean(y), 1/13)."""
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3), 0.5).to_event(1), obs=y)


def function_guide(y=None):
    m = pyro.param("m", torch.tensor(0.0))
    s = pyro.param("s", lambda: torch.tensor(1.0), constraint=constraints.positive)
    pyro.sample("z", dist.Normal(m, s))


def stored() -> dict[str, float]:
    return {name: float(value.detach()) for name, value in pyro.get_param_store().items()}


def test_a_guide_that_is_a_function_is_trained_and_its_parameters_are_left_in_the_store():
    fit(function_model, function_guide, DATA, ELBO(8), QUIET, steps=250)
    assert stored().keys() == {"m", "s"}
    assert stored()["m"] == pytest.approx(12 / 13, abs=0.02)
    assert stored()["s"] == pytest.approx(13**-0.5, rel=0.08)


def test_training_starts_from_what_the_store_holds_and_leaves_other_parameters_alone():
    pyro.param("m", torch.tensor(12 / 13))
    pyro.param("s", torch.tensor(13**-0.5), constraint=constraints.positive)
    pyro.param("of something else", torch.tensor(5.0))
    losses = fit(function_model, function_guide, DATA, ELBO(64), QUIET, steps=3, learning_rate=1e-6).losses
    assert stored() == pytest.approx({"m": 12 / 13, "s": 13**-0.5, "of something else": 5.0}, abs=1e-4)
    evidence = dist.MultivariateNormal(torch.zeros(3), torch.ones(3, 3) + 0.25 * torch.eye(3)).log_prob(Y)
    assert losses == pytest.approx([-float(evidence)] * 3, abs=1e-3)


def test_a_model_that_is_a_function_is_trained_beside_a_guide_that_is_a_module():
    """y ~ N(c, s) with z alone of no matter: the maximum of the evidence is known."""

    def model(y=None):
        c = pyro.param("c", torch.tensor(0.0))
        s = pyro.param("noise", torch.tensor(1.0), constraint=constraints.positive)
        pyro.sample("z", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(c * torch.ones(3), s).to_event(1), obs=y)

    guide = AutoNormal(model)
    fit(model, guide, DATA, ELBO(4), QUIET, steps=250)
    assert stored().keys() == {"c", "noise"}
    assert stored()["c"] == pytest.approx(1.0, abs=0.02)
    assert stored()["noise"] == pytest.approx(float(Y.std(unbiased=False)), rel=0.05)
    assert all(not value.grad_fn for value in guide.parameters())


def test_modules_stay_out_of_the_store_wherever_they_are_announced():
    net, nested = nn.Linear(1, 1), PyroModule[nn.Linear](1, 1)

    def model(y=None):
        decoder = pyro.module("decoder", net)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        mean = decoder(z[..., None]) + nested(torch.ones(1)) + pyro.param("shift", torch.tensor(0.0))
        return pyro.sample("y", dist.Normal(mean.expand(*mean.shape[:-1], 3), 0.5).to_event(1), obs=y)

    before = [value.detach().clone() for value in (*net.parameters(), *nested.parameters())]
    fit(model, AutoNormal(model), DATA, options=QUIET, steps=5)
    assert stored().keys() == {"shift"}
    after = [*net.parameters(), *nested.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True) if b.requires_grad and b.numel())


def test_parameters_that_appear_late_are_trained_and_resumed_to_the_bit(tmp_path):
    calls = []

    def run(steps, **options):
        pyro.clear_param_store()
        calls.clear()

        def model(y=None):
            calls.append(None)
            late = pyro.param("late", torch.tensor(0.0)) if seen() else 0.0
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3) + late, 0.5).to_event(1), obs=y)

        def seen():
            return torch.is_grad_enabled() and (counted() > 3 or options.get("resume"))

        def counted():
            model.steps = getattr(model, "steps", 0) + 1
            return model.steps

        fit(model, function_guide, DATA, ELBO(), QUIET, steps=steps, schedule="constant", **options)
        return stored()

    whole = run(12, checkpoint=tmp_path / "a.pt")
    assert whole["late"] != 0.0
    run(8, checkpoint=tmp_path / "b.pt")
    assert run(12, checkpoint=tmp_path / "b.pt", resume=True) == whole


class Parts(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Parameter(torch.tensor(0.5), requires_grad=False)
        self.free = nn.Parameter(torch.tensor(0.0))
        self.scale = PyroParam(torch.tensor(0.5), constraints.positive)
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight

    def forward(self, y=None):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        mean = self.two(torch.tanh(self.one(z))) + self.free + self.frozen
        return pyro.sample("y", dist.Normal(mean, self.scale).to_event(1), obs=y)


def test_frozen_parameters_stay_and_shared_ones_move_together():
    torch.manual_seed(0)
    model = Parts()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    fit(model, AutoNormal(model), DATA, options=QUIET, steps=5)
    after = dict(model.named_parameters())
    assert not model.frozen.requires_grad
    assert torch.equal(before.pop("frozen"), model.frozen)
    assert all(not torch.equal(value, after[name]) for name, value in before.items())
    assert model.one.weight is model.two.weight
    assert not stored()


class Shifted(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.bias, self.other = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(0.0))

    def forward(self, y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        mean = (z + self.bias + self.other)[..., None] * torch.ones(3)
        return pyro.sample("y", dist.Normal(mean, 0.5).to_event(1), obs=y)


def test_the_schedule_scales_the_rate_that_each_group_has(tmp_path):
    model = Shifted()
    guide = AutoNormal(model)
    rates = []

    def groups(parameters, rate):
        named = ("bias", "other")
        rest = [p for p in parameters if all(p is not getattr(model, name) for name in named)]
        found = torch.optim.SGD(
            [
                {"params": rest, "lr": rate},
                {"params": [model.bias], "lr": 0.0},
                {"params": [model.other], "lr": 10 * rate},
            ],
            momentum=0.9,
        )
        found.register_step_pre_hook(lambda optimizer, *_: rates.append([g["lr"] for g in optimizer.param_groups]))
        return found

    options = {"optimizer": groups, "learning_rate": 1e-3, "checkpoint": tmp_path / "fit.pt"}
    fit(model, guide, DATA, options=QUIET, steps=4, **options)
    fit(model, guide, DATA, options=QUIET, steps=8, resume=True, **options)
    assert model.bias.item() == 0.0
    assert model.other.item() != 0.0
    factors = [FitOptions(steps=4).factor(step) for step in range(4)]
    factors += [FitOptions(steps=8).factor(step) for step in range(4, 8)]
    expected = [[1e-3 * f, 0.0, 1e-2 * f] for f in factors]
    assert torch.allclose(torch.tensor(rates), torch.tensor(expected))


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (lambda p, lr: torch.optim.LBFGS(p, lr=lr), "got LBFGS, which asks for the loss several times a step"),
        (lambda p, lr: None, "got a function that returns None"),
        (lambda p: torch.optim.SGD(p, lr=0.1), "which fails"),
        (lambda p, lr: torch.optim.Adam(p, lr=lr, capturable=True), "got Adam, which fails on these parameters"),
        (lambda p, lr: pyro.optim.Adam({"lr": lr}), "returns <pyro.optim.optim.PyroOptim"),
    ],
)
def test_an_optimiser_that_cannot_do_it_is_refused_in_one_sentence(optimizer, words):
    model = Shifted()
    with pytest.raises((ValueError, TypeError), match=f"optimizer: .*{words}") as error:
        fit(model, AutoNormal(model), DATA, options=QUIET, steps=2, optimizer=optimizer)
    assert "expected" in str(error.value)


class WithGain(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal((self.gain * z)[..., None] * torch.ones(3), 0.5).to_event(1), obs=y)


def with_gain(y=None):
    gain = pyro.param("gain", torch.tensor(1.0))
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal((gain * z)[..., None] * torch.ones(3), 0.5).to_event(1), obs=y)


@pytest.mark.parametrize("make", [WithGain, lambda: with_gain], ids=["module", "function"])
def test_parameters_of_a_model_that_an_objective_does_not_train_are_named(make):
    with pytest.warns(TrustWarning, match="ForwardKL, from which no gradient reaches 'gain' of the model"):
        fit(model := make(), amortize(model, "mlp", example=DATA), Simulator(4), ForwardKL(), QUIET, steps=2)
    with pytest.warns(TrustWarning, match="Reweighted, from which"):
        fit(model := make(), amortize(model, None, example=DATA), DATA, Reweighted(8), QUIET, steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model := make(), amortize(model, None, example=DATA), DATA, ELBO(8), QUIET, steps=2)
        frozen = WithGain().requires_grad_(False)
        fit(frozen, amortize(frozen, "mlp", example=DATA), Simulator(4), ForwardKL(), QUIET, steps=2)
