"""Every animal keeps the contract, and a model that breaks it is caught."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from physzoo.models import registry
from physzoo.models.contract import ContractError, check_model

ANIMALS = registry.names()


def build(name):
    animal = registry.get(name)
    if animal.requires == "fem":
        pytest.importorskip("dolfinx_solver")
    return animal


@pytest.mark.parametrize("name", ANIMALS)
def test_every_animal_keeps_every_rule(name):
    animal = build(name)
    checks = check_model(animal.model(), animal.data())
    assert len(checks) >= 9
    assert all(check.passed for check in checks)


@pytest.mark.parametrize("name", ANIMALS)
def test_every_site_has_a_label_a_unit_and_a_prior(name):
    from physzoo.guides.sites import latent_sites, observed_sites, prototype

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
    """Ignores its mask, has a parameter without a gradient, and fixes the batch shape."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def forward(self, y=None, mask=None):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        return pyro.sample("y", dist.Normal(z.sum() * torch.ones(3, dtype=torch.float64), 1.0).to_event(1), obs=y)


def test_broken_rules_are_named():
    with pytest.raises(ContractError) as error:
        check_model(Leaky(), {"y": torch.zeros(3, dtype=torch.float64)})
    message = str(error.value)
    assert "unused" in message
    assert "a mask hides data" in message
    assert "float32" in message


def test_every_broken_rule_can_be_listed_without_raising():
    checks = check_model(Leaky(), {"y": torch.zeros(3, dtype=torch.float64)}, raises=False)
    assert sum(not check.passed for check in checks) >= 3
