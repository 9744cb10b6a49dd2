"""The aquifer: its simulator, its two likelihoods and its data."""

import copy
import pickle
import subprocess
import sys

import pyro
import pytest
import torch
from pyro import poutine

from physzoo.physics.fem.problem import require_dolfinx

try:
    require_dolfinx()
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)

from physzoo.models.darcy2d import LARGEST_AT_PRIOR_MEAN, Darcy2D, heads, truth
from physzoo.models.nonlinear_poisson1d import NonlinearPoisson1D
from physzoo.physics import SolverWarning


@pytest.fixture(scope="module")
def forward():
    return Darcy2D()


@pytest.fixture(scope="module")
def data():
    return heads()


def log_joint(model, data, **values):
    conditioned = poutine.condition(model, data=values)
    return poutine.trace(conditioned).get_trace(**data).log_prob_sum()


def test_the_field_keeps_the_stated_variance_and_the_head_its_stated_maximum(forward):
    assert forward.field.variance_kept == pytest.approx(0.64, abs=0.005)
    assert Darcy2D(modes=16).field.variance_kept == pytest.approx(0.75, abs=0.005)
    u = forward.problem.solve(forward.field(forward.origin))
    assert u.max().item() == pytest.approx(LARGEST_AT_PRIOR_MEAN, abs=5e-5)


def test_data_are_reproducible_and_noisy_at_two_percent(forward, data):
    assert torch.equal(data["y"], heads()["y"])
    clean = forward.problem.observe(forward.problem.solve(forward.field(truth())))
    chi_squared = ((data["y"] - clean) / forward.noise).square().sum().item()
    assert 25 - 3 * 50**0.5 < chi_squared < 25 + 3 * 50**0.5


@pytest.mark.parametrize("model", [Darcy2D, NonlinearPoisson1D])
def test_where_nothing_can_be_solved_a_draw_has_no_density_and_its_neighbour_keeps_his(model):
    model, data = model(), {"y": 0.1 * torch.ones(25 if model is Darcy2D else 8, dtype=torch.float64)}
    z = 0.3 * torch.ones(2, len(model.origin), dtype=torch.float64)
    z[1] = 1000.0 * (-1.0) ** torch.arange(z.shape[-1])
    with pyro.plate("particles", 2), pytest.warns(SolverWarning):
        trace = poutine.trace(poutine.condition(model, {"z": z.requires_grad_()})).get_trace(**data)
    trace.compute_log_prob()
    found = trace.nodes["y"]["log_prob"] + trace.nodes["y_rejected"]["log_prob"]
    assert found[1] == -torch.inf
    assert found[0].item() == pytest.approx(
        poutine.trace(poutine.condition(model, {"z": z[0]}))
        .get_trace(**data)
        .nodes["y"]["fn"]
        .log_prob(data["y"])
        .item()
    )
    (gradient,) = torch.autograd.grad(found[0], z)
    assert gradient[0].abs().min() > 0
    assert not gradient[1].any()


def test_simulates_batches_of_data_sets(forward):
    pyro.set_rng_seed(0)
    with pyro.plate("particles", 2, dim=-2), pyro.plate("datasets", 3, dim=-1):
        trace = poutine.trace(forward).get_trace()
    assert trace.nodes["z"]["value"].shape == (2, 3, 8)
    assert trace.nodes["y"]["value"].shape == (2, 3, 25)
    trace.compute_log_prob()
    assert trace.nodes["y"]["log_prob"].shape == (2, 3)


def test_log_joint_is_differentiable_in_the_unknowns(forward, data):
    z = torch.full((8,), 0.3, dtype=torch.float64, requires_grad=True)
    # Pyro's hook on log-probabilities does not take undefined gradients.
    assert torch.autograd.gradcheck(
        lambda z: log_joint(forward, data, z=z), (z,), rtol=1e-4, check_undefined_grad=False
    )


def test_a_masked_well_has_no_say(forward, data):
    z = truth().requires_grad_()
    mask = torch.ones(25, dtype=torch.bool)
    mask[7] = False
    spoilt = data["y"].clone()
    spoilt[7] = float("nan")
    (with_spoilt,) = torch.autograd.grad(log_joint(forward, {"y": spoilt, "mask": mask}, z=z), z)
    (with_clean,) = torch.autograd.grad(log_joint(forward, {"y": data["y"], "mask": mask}, z=z), z)
    assert torch.equal(with_spoilt, with_clean)


def test_the_corrected_residual_likelihood_is_the_forward_one_once_the_state_is_integrated_out():
    """r is linear in u, so that Laplace's integral over u is exact; one constant is left for all z."""
    model = Darcy2D(likelihood="residual", cells=6, wells=3, residual_scale=1e-3)
    solver = Darcy2D(cells=6, wells=3)
    generator = torch.Generator().manual_seed(4)
    shifts = []
    for _ in range(3):
        z = torch.randn(8, generator=generator, dtype=torch.float64)
        kappa = model.field(z)
        mean = model.problem.solve(kappa)
        reading = model.problem.observe(mean)
        y = reading + model.noise * torch.randn(9, generator=generator, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda u, k=kappa: model.problem.residual(u, k), mean)
        sensors = torch.autograd.functional.jacobian(model.problem.observe, mean)
        precision = jacobian.T @ jacobian / model.residual_scale**2 + sensors.T @ sensors / model.noise**2
        best = mean + torch.linalg.solve(precision, sensors.T @ (y - reading) / model.noise**2)
        marginal = log_joint(model, {"y": y}, z=z, u=best) - 0.5 * torch.linalg.slogdet(precision)[1]
        shifts.append((marginal - log_joint(solver, {"y": y}, z=z)).item())
    assert max(shifts) - min(shifts) < 0.02


def test_survives_copies_and_processes(forward):
    z = truth()
    for other in (copy.deepcopy(forward), pickle.loads(pickle.dumps(forward))):
        assert torch.equal(other.problem.solve(other.field(z)), forward.problem.solve(forward.field(z)))


def test_without_dolfinx_the_zoo_imports_and_the_model_says_what_to_install():
    script = """
import sys
sys.modules["dolfinx"] = sys.modules["dolfinx_solver"] = None
import physzoo.physics
from physzoo.models.darcy2d import Darcy2D
try:
    Darcy2D()
except ImportError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "physzoo[fem]" in out
    assert "fenics-dolfinx" in out


def test_an_unknown_likelihood_is_named():
    with pytest.raises(ValueError, match="likelihood: got 'backward', expected 'forward' or 'residual'"):
        Darcy2D(likelihood="backward")
    with pytest.raises(ValueError, match="wells: got 0"):
        Darcy2D(wells=0)
