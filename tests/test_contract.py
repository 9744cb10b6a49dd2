"""Every animal keeps the contract, and a model that breaks it is caught."""

from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch

import physzoo
from physzoo.models import parametrize_with_checks, registry
from physzoo.models.contract import RULES, ContractError, check_model, checks
from physzoo.physics import ODEProblem

ANIMALS = registry.names()


def build(name):
    animal = registry.get(name)
    if animal.requires == "fem":
        pytest.importorskip("dolfinx_solver")
    return animal


@pytest.mark.parametrize("name", ANIMALS)
def test_every_animal_keeps_every_rule(name):
    animal = build(name)
    found = check_model(animal.model(), animal.data())
    assert len(found) == len(RULES)
    assert all(check.passed for check in found)


@pytest.mark.parametrize("name", ANIMALS)
def test_every_site_has_a_label_a_unit_and_a_prior(name):
    from physzoo.core.prototype import prototype
    from physzoo.core.sites import latent_sites, observed_sites

    animal = build(name)
    trace = prototype(animal.model(), animal.data())
    latent, observed = set(latent_sites(trace)), set(observed_sites(trace)) & set(animal.data())
    assert latent | observed <= set(animal.quantities)
    assert latent <= set(animal.priors)
    for quantity in animal.quantities.values():
        assert quantity.label
        assert quantity.unit
        assert set(quantity.coords) <= set(quantity.dims)


class Leaky(pyro.nn.PyroModule):
    """Ignores its mask, has a precision of its own, and mixes the draws of a batch."""

    def forward(self, y=None, mask=None):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        return pyro.sample("y", dist.Normal(z.sum() * torch.ones(3, dtype=torch.float64), 1.0).to_event(1), obs=y)


def test_broken_rules_are_named():
    with pytest.raises(ContractError) as error:
        check_model(Leaky(), {"y": torch.zeros(3, dtype=torch.float64)})
    message = str(error.value)
    assert "broadcast over leading dimensions" in message
    assert "a mask hides data (must)" in message
    assert "float32 and float64 (should)" in message


class Idle(pyro.nn.PyroModule):
    """Has a parameter without a gradient."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def forward(self, y=None):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3), 1.0).to_event(1), obs=y)


def test_a_parameter_without_a_gradient_is_named():
    with pytest.raises(ContractError, match="no gradient reaches unused"):
        check_model(Idle(), {"y": torch.zeros(3)})


def test_every_broken_rule_can_be_listed_without_raising():
    found = check_model(Leaky(), {"y": torch.zeros(3, dtype=torch.float64)}, raises=False)
    assert sum(not check.passed for check in found) >= 3


def cooling():
    """The model of README, its code taken from there."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n", 1)[1].split("model, data =", 1)[0]
    scope = {}
    exec(code, scope)
    return scope["Cooling"](), {"y": torch.tensor([79.2, 71.5, 61.1, 47.9, 33.0, 22.9])}


def counts(x, y=None):
    """log rate = a + b x, as a function, with a deterministic site and whole numbers for data."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    rate = pyro.deterministic("rate", torch.exp(a[..., None] + b[..., None] * x))
    return pyro.sample("y", dist.Poisson(rate).to_event(1), obs=y)


def schools(y=None, mask=None):
    """One unknown a group in a plate, and stock Pyro's mask."""
    centre = pyro.sample("centre", dist.Normal(0.0, 5.0))
    with pyro.plate("school", 4):
        effect = pyro.sample("effect", dist.Normal(centre, 1.0))
        with pyro.poutine.mask(mask=torch.tensor(True) if mask is None else mask):
            return pyro.sample("y", dist.Normal(effect, 1.0), obs=y)


COUNTS = {"x": torch.linspace(0, 1, 5), "y": torch.tensor([1, 2, 0, 3, 4])}
SCHOOLS = {"y": torch.tensor([1.0, 2.0, 0.5, -1.0])}


def lesser(model, data):
    """Rules that are broken without raising, with their levels."""
    return {check.rule: check.level for check in check_model(model, data) if not check.passed}


def test_what_other_people_write_passes_with_advice():
    assert lesser(*cooling()) == {"float32 and float64": "should", "a mask is taken": "advice"}
    assert lesser(counts, COUNTS) == {"a mask is taken": "advice"}
    assert lesser(schools, SCHOOLS) == {}


def test_levels_say_what_raises():
    with pytest.raises(ContractError, match=r"counts breaks 1 rule\(s\): a mask is taken \(advice\)"):
        check_model(counts, COUNTS, raises="advice")
    check_model(counts, COUNTS, raises="advice", skip=["a mask is taken"])
    check_model(counts, COUNTS, raises="should")
    with pytest.raises(ContractError, match="float32"):
        check_model(*cooling(), raises="should")
    for wrong in ({"raises": "loudly"}, {"skip": "a mask is taken"}, {"skip": ["a rule of mine"]}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: got"):
            check_model(counts, COUNTS, **wrong)


class Silent(Exception):
    """Cannot even say what is wrong."""

    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), SystemExit(3), StopIteration(), Silent(), RecursionError(), KeyError()]
)
def test_nothing_that_a_model_raises_gets_through(error):
    def model(y=None):
        raise error

    checks = {check.rule: check for check in check_model(model, SCHOOLS, raises=False)}
    assert list(checks) == list(RULES)
    assert not checks["the model runs"].passed
    assert checks["the model runs"].level == "must"
    assert checks["any batch shape"].found == "not checked: the model does not run"
    with pytest.raises(ContractError, match="the model runs"):
        check_model(model, SCHOOLS)


def test_parameters_of_functions_are_looked_at_and_the_store_is_left_alone():
    def model(y=None):
        scale = pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
        pyro.param("idle", torch.tensor(1.0))
        z = pyro.sample("z", dist.Normal(0.0, scale))
        return pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    data = {"y": torch.tensor(0.3)}
    with pyro.get_param_store().scope():
        found = {check.rule: check.found for check in check_model(model, data, raises=False)}
        assert found["a gradient for every parameter"] == "no gradient reaches idle"
        assert list(pyro.get_param_store().keys()) == []
        pyro.param("scale", torch.tensor(7.0), constraint=dist.constraints.positive)
        check_model(model, data, raises=False)
        assert dict(pyro.get_param_store().items()).keys() == {"scale"}
        assert float(pyro.param("scale").detach()) == pytest.approx(7.0)
        before = pyro.get_param_store().get_state()
        guide = physzoo.amortize(schools, "mlp", "diagonal", example=SCHOOLS)
        check_model(schools, SCHOOLS, guide, raises=False)
        assert pyro.get_param_store().get_state()["params"].keys() == before["params"].keys()


class Decay(pyro.nn.PyroModule):
    """du/dt = -k u in some unit of u; ``fault`` is a share of u that the residual is off by."""

    def __init__(self, unit, fault=0.0):
        super().__init__()
        self.unit = unit
        self.problem = Faulty([0.0, 1.0, 2.0, 3.0], fault)

    def forward(self, y=None):
        one = torch.ones((), dtype=torch.float64)
        k = pyro.sample("k", dist.LogNormal(-one, 0.3))
        start = pyro.sample("start", dist.LogNormal((one * self.unit).log()[None], 0.3).to_event(1))
        u = self.problem.solve({"k": k, "initial_state": start})[..., 0]
        return physzoo.observe("y", self.problem.observe(u), 0.1 * self.unit, obs=y)


class Faulty(ODEProblem):
    def __init__(self, times, fault):
        super().__init__(lambda t, u, z: -z["k"][..., None] * u, times, substeps=8)
        self.fault = fault

    def residual(self, u, z):
        return super().residual(u, z) + self.fault * u.abs().amax()


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_a_residual_is_judged_in_its_own_unit(unit):
    data = {"y": unit * torch.tensor([1.0, 0.7, 0.5, 0.3], dtype=torch.float64)}
    rule = "operators are differentiable and residuals vanish"
    others = [name for name in RULES if name != rule]
    assert check_model(Decay(unit), data, skip=others)[0].passed
    with pytest.raises(ContractError, match="the residual at the solution is"):
        check_model(Decay(unit, 1e-4), data, skip=others)


@parametrize_with_checks([(counts, COUNTS), (schools, SCHOOLS)], skip=["a mask is taken"], raises="advice")
def test_the_contract_as_a_parametrisation(check):
    check()


def test_a_parametrised_rule_fails_where_the_rule_is_broken():
    named = dict(checks([(Idle(), {"y": torch.zeros(3)})]))
    assert len(named) == len(RULES)
    named["Idle0: the same seed gives the same draws"]()
    with pytest.raises(ContractError, match="unused"):
        named["Idle0: a gradient for every parameter"]()
    with pytest.raises(ValueError, match="models: got Leaky"):
        checks([Leaky()])
