"""Walking as a Hamiltonian system: the physics, the start at PCA, the codes, the flows, the contract."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pyro import poutine

from physzoo.core.prototype import prototype
from physzoo.core.sites import latent_sites
from physzoo.guides.families import PlanarFlow
from physzoo.inference.evaluation import principal_components
from physzoo.inference.fit import DataSets, fit
from physzoo.inference.objectives import GreyBoxELBO
from physzoo.models.contract import check_model
from physzoo.models.datasets.locomotion import generate
from physzoo.models.locomotion import Locomotion
from physzoo.models.locomotion_attentive_flow import ABLATION, AttentiveFlowLocomotion, guide_options
from physzoo.models.locomotion_guide import locomotion_guide
from physzoo.models.stride_augmentation import augmented
from physzoo.physics.ode import ODEProblem, PeriodicHamiltonian
from physzoo.physics.ode.hamiltonian import CanonicalMap


@pytest.fixture(scope="module")
def strides() -> torch.Tensor:
    return generate(seed=3, sizes=(120, 8, 8)).train.x.double()


@pytest.fixture
def hamiltonian() -> PeriodicHamiltonian:
    torch.manual_seed(0)
    system = PeriodicHamiltonian([1, 1, 2], period=1.0, depth=4, width=8).double()
    with torch.no_grad():
        for name, parameter in system.named_parameters():
            if name.endswith(("weights", "quadratic")):
                parameter.normal_(0.0, 0.1)
    return system


def state(n: int = 5) -> torch.Tensor:
    return 0.5 * torch.randn(n, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def model_and_guide(kind: Any, strides: torch.Tensor, **options: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = kind().double()
    return model, locomotion_guide(model, {"x": strides[0]}, data=strides, simulations=256, **options)


def test_energy_is_conserved_along_the_motion_and_the_motion_is_periodic(hamiltonian):
    times = torch.linspace(0, 1, 41, dtype=torch.float64)
    path = hamiltonian.flow(state(), times)
    energy = hamiltonian.energy(path).detach()
    assert float((energy - energy[..., :1]).abs().max()) < 1e-12 * float(energy.max())
    torch.testing.assert_close(path[..., -1, :].detach(), state(), rtol=0, atol=1e-12)
    torch.testing.assert_close(path[..., 0, :].detach(), state(), rtol=0, atol=1e-12)


def test_runge_kutta_on_hamiltons_equations_converges_to_the_motion_at_order_four(hamiltonian):
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    exact = hamiltonian.flow(state(), times).detach()
    gaps, drifts = [], []
    for substeps in (8, 16):
        problem = ODEProblem(hamiltonian.equations, times, method="rk4", substeps=substeps)
        path = problem.solve({"initial_state": state()}).detach()
        energy = hamiltonian.energy(path).detach()
        gaps.append(float((path - exact).abs().max()))
        drifts.append(float((energy - energy[..., :1]).abs().max()))
    assert 3.5 < math.log2(gaps[0] / gaps[1]) < 4.7
    assert drifts[0] / drifts[1] > 2**3.5  # at least the solver's order


def test_the_map_is_canonical():
    torch.manual_seed(0)
    change = CanonicalMap(3, depth=5, width=8).double()
    for parameter in change.parameters():
        parameter.data.normal_(0.0, 0.3)
    point = state(1)[0]
    jacobian = torch.autograd.functional.jacobian(lambda s: torch.cat(change(*s.chunk(2))), point)
    unit = torch.zeros(6, 6, dtype=torch.float64)
    unit[:3, 3:], unit[3:, :3] = torch.eye(3), -torch.eye(3)
    torch.testing.assert_close(jacobian.T @ unit @ jacobian, unit, rtol=0, atol=1e-12)
    assert float((jacobian - torch.eye(6)).abs().max()) > 0.1
    torch.testing.assert_close(torch.cat(change.inverse(*change(*point.chunk(2)))), point, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [Locomotion, AttentiveFlowLocomotion])
def test_the_start_reproduces_pca(kind, strides):
    model, guide = model_and_guide(kind, strides[:100])
    test = strides[100:]
    code = model.start_at_pca(strides[:100])
    with torch.no_grad():
        z = model._split(code.bias + test.flatten(1) @ code.weight.T)
        full = model.decode(z).full
    expected = principal_components(strides[:100], test, model.code_size)
    assert float((full - test).square().sum((1, 2)).mean()) == pytest.approx(expected.sum_of_squares, rel=1e-4)
    # the guide's location is that encoder: with its width taken to zero it draws the same codes
    for part in (guide.codes, guide.physics):
        size = part.sites.size
        part.family.affine.head.bias.data[size : 2 * size] = -30.0
    drawn = guide.sample({"x": test}, 1)
    torch.testing.assert_close(model.decode(drawn).full[0].detach(), full, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [Locomotion, AttentiveFlowLocomotion])
def test_no_more_than_21_numbers_describe_a_stride(kind):
    sites = latent_sites(prototype(kind(), {"x": torch.zeros(101, 3)}))
    assert sum(site["value"].numel() for site in sites.values()) == kind().code_size <= 21


@pytest.mark.parametrize("member", ABLATION)
def test_the_code_of_a_stride_does_not_depend_on_its_neighbours(member, strides):
    _, guide = model_and_guide(AttentiveFlowLocomotion, strides, **guide_options(member))
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    batch, order = strides[:6], torch.tensor([3, 5, 0, 1, 4, 2])
    for part in (guide.codes, guide.physics):
        context = part.encoder(x=batch)
        torch.testing.assert_close(part.encoder(x=batch[order]), context[order], rtol=0, atol=1e-10)
        torch.testing.assert_close(part.encoder(x=batch[2]), context[2], rtol=0, atol=1e-10)
        assert float((context[0] - context[1]).detach().abs().max()) > 1e-3


def test_log_determinant_of_the_planar_flow_is_that_of_autograd():
    torch.manual_seed(0)
    family = PlanarFlow(3, 4, layers=6).double()
    for parameter in family.parameters():
        parameter.data.normal_(0.0, 0.4)
    density = family(torch.randn(4, dtype=torch.float64))

    def push(noise: torch.Tensor) -> torch.Tensor:
        for step in density.to_value:
            noise = step(noise)
        return noise

    with torch.random.fork_rng():
        torch.manual_seed(2)
        drawn = density.rsample()
        torch.manual_seed(2)
        start = torch.randn(3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(push, start)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(start).sum() - torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(density.log_prob(drawn), expected, rtol=0, atol=1e-10)


def test_gradients_reach_the_physics_code_through_the_motion(strides):
    model, _ = model_and_guide(AttentiveFlowLocomotion, strides)
    z_p = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(model.physics({"z_P": z_p}).square().sum(), z_p)
    assert float(slope.abs().min()) > 0


@torch.no_grad()
def physics_gap(model: Any, guide: Any, x: torch.Tensor) -> float:
    return float((model.decode(guide.sample({"x": x}, 4)).physics - x).square().sum((-1, -2)).mean())


def test_training_lowers_the_loss_and_the_physics_takes_over(strides):
    model, guide = model_and_guide(Locomotion, strides)
    before = physics_gap(model, guide, strides)
    weights = GreyBoxELBO(predictive=0.02, cleansing=0.01, sleep=0.05)
    data = DataSets({"x": augmented(strides, 500)}, batch_size=32)
    record = fit(model, guide, data, weights, steps=60, learning_rate=3e-3, progress=False)
    assert sum(record.losses[-10:]) < sum(record.losses[:10])
    assert physics_gap(model, guide, strides) < 0.97 * before


def test_other_times_and_refusals(strides):
    model, _ = model_and_guide(Locomotion, strides)
    z = model._split(torch.zeros(2, 21, dtype=torch.float64))
    both = model.decode(z), model.decode(z, model.times[::10])
    torch.testing.assert_close(both[1].full, both[0].full[:, ::10])
    torch.testing.assert_close(model.physics(z, model.times + 1.0), model.physics(z), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="times: got"):
        model.decode(z, torch.tensor([1.5]))
    with pytest.raises(ValueError, match="x: got"):
        model.start_at_pca(strides[:, :50])
    with pytest.raises(ValueError, match="multiples: got"):
        PeriodicHamiltonian([0], 1.0)
    with pytest.raises(ValueError, match="member: got"):
        guide_options("all")


@pytest.mark.parametrize("kind", [Locomotion, AttentiveFlowLocomotion])
def test_contract(kind, strides):
    model, guide = model_and_guide(kind, strides)
    with torch.no_grad():
        traced = poutine.trace(guide).get_trace(x=strides[0])
    assert set(model.codes) <= set(traced.nodes)
    check_model(model, {"x": strides[0]})


def test_model_and_guide_start_from_the_seed_whatever_the_global_generator_is_at(strides):
    found = []
    for seed in (1, 2):
        torch.manual_seed(0)
        model = Locomotion().double()
        torch.manual_seed(seed)
        guide = locomotion_guide(model, {"x": strides[0]}, data=strides, simulations=64, physics_steps=2)
        found.append([*model.state_dict().values(), *guide.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
