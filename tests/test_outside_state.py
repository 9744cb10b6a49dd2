"""What physzoo leaves outside its own objects: Pyro's parameter store as it was, a guide's state that is all of it."""

import pyro
import pytest
import torch
from conjugate import Linear
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam

import physzoo
from physzoo.core.simulate import simulate
from physzoo.inference.density import Latents, log_joint
from physzoo.inference.density.densities import draw
from physzoo.inference.modes import laplace
from physzoo.inference.posterior import posterior, sample


class Shifted(PyroModule):
    """z ~ N(shift, 1), y ~ N(z, s), both numbers learnt."""

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(2))
        self.scale = PyroParam(torch.tensor(0.5), dist.constraints.positive)

    def forward(self, y=None):
        z = pyro.sample("z", dist.Normal(self.shift, 1.0).to_event(1))
        return pyro.sample("y", dist.Normal(z, self.scale).to_event(1), obs=y)


def test_only_stock_pyro_enters_parameters_in_its_store_and_svi_trains_its_own():
    pyro.clear_param_store()
    store, y = pyro.get_param_store(), torch.tensor([1.0, -1.0])
    model, data = Shifted(), {"y": y}
    guide = physzoo.amortize(model, "mlp", "full", example=data, simulations=64)
    drawn = draw(model, guide, data, 40)
    log_joint(model, drawn.values, data)
    posterior(model, guide, data, draws=40)
    sample(guide, data, 5)
    Latents.of(model, data).log_density(model, torch.zeros(3, 2), data)
    laplace(model, data)
    physzoo.calibrate(model, guide, datasets=8, draws=25, progress=False)
    physzoo.fit(model, guide, physzoo.Simulator(8), physzoo.ForwardKL(), steps=2, progress=False)
    simulate(model, 3)
    assert list(store.keys()) == []
    other = Shifted()
    ours = physzoo.amortize(other, "mlp", "full", example=data, simulations=64)
    parts = {"model": other, "guide": ours}
    before = {name: [value.clone() for value in part.parameters()] for name, part in parts.items()}
    SVI(other, ours, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(y=y)
    for name, part in parts.items():
        assert any(bool((old != new).any()) for old, new in zip(before[name], part.parameters(), strict=True)), name
    known = set(store.keys())
    posterior(other, ours, data, draws=40)
    assert set(store.keys()) == known
    pyro.clear_param_store()


def test_a_guides_state_holds_the_shape_of_its_whitening():
    model = Linear()
    data = {"y": simulate(model, 1, seed=3)["y"][0]}
    start = laplace(model, data)
    assert not torch.equal(start.tril, start.tril.diagonal().diag())
    saved, loaded = (
        physzoo.amortize(model, None, "full", example=data, whitening=whitening, simulations=0)
        for whitening in (start, None)
    )
    loaded.load_state_dict(saved.state_dict())
    z = saved.sample(data, 50)
    torch.testing.assert_close(loaded.log_prob(z, data), saved.log_prob(z, data))
    torch.manual_seed(1)
    first = saved.sample(data, 50)["z"]
    torch.manual_seed(1)
    torch.testing.assert_close(loaded.sample(data, 50)["z"], first)


def test_an_animal_cannot_take_a_name_of_the_zoo():
    from dataclasses import replace

    from physzoo.models import registry

    with pytest.raises(ValueError, match="'galaxy', which is taken already"):
        registry.register(replace(physzoo.get("linear_gaussian"), name="galaxy"))
    assert "galaxy" in registry.names()


def test_any_seed_that_is_taken_can_order_minibatches():
    model, data = Shifted(), {"y": torch.randn(20, 2)}
    guide = physzoo.amortize(model, "mlp", "full", example={"y": data["y"][0]}, simulations=64)
    for seed in (20_000_000_000_000, 2**63 - 1):
        found = physzoo.fit(model, guide, physzoo.DataSets(data, batch_size=5), steps=5, seed=seed, progress=False)
        assert found.steps == 5


def test_a_device_without_numbers_is_refused_before_anything_moves():
    model, data = Shifted(), {"y": torch.randn(20, 2)}
    guide = physzoo.amortize(model, "mlp", "full", example={"y": data["y"][0]}, simulations=64)
    for _ in range(2):
        with pytest.raises(ValueError, match="device: got 'meta'"):
            physzoo.fit(model, guide, physzoo.DataSets(data), steps=1, device="meta", progress=False)
        assert {value.device.type for value in (*model.parameters(), *guide.parameters())} == {"cpu"}


def test_values_of_unknown_sites_are_refused():
    model = Shifted()
    guide = physzoo.amortize(model, "mlp", "full", example={"y": torch.zeros(2)}, simulations=64)
    with pytest.raises(ValueError, match="seen: got zz, expected some of z"):
        physzoo.fit(model, guide, physzoo.Simulator(4, seen={"zz": torch.zeros(3, 2)}), steps=1, progress=False)


def test_a_guide_that_is_refined_through_a_model_with_parameters_needs_none_in_the_store():
    pyro.clear_param_store()
    model, data = Shifted(), {"y": torch.tensor([1.0, -1.0])}
    guide = physzoo.amortize(model, "mlp", "full", example=data, simulations=64, refine=1)
    assert guide.sample(data, 3)["z"].shape == (3, 2)
    assert list(pyro.get_param_store().keys()) == []
    assert physzoo.fit(model, guide, physzoo.Simulator(8), physzoo.ForwardKL(), steps=2, progress=False).steps == 2
    before = model.shift.clone()
    SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(**data)
    assert not torch.equal(before, model.shift)
    pyro.clear_param_store()
