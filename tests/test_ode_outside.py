"""Right-hand sides as strangers write them: right in every batch, unit and layout, or refused in one sentence."""

import math
import warnings
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch

from physzoo.inference.density import log_joint
from physzoo.physics import ODEProblem, SolveError, observe
from physzoo.physics.grey_box import GreyBoxODE
from physzoo.physics.ode import ADAPTIVE, FIXED_STEP, StepSizeWarning


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def spring(t, u, z):
    return torch.stack([u[..., 1], -(z["w"] ** 2) * u[..., 0]], -1)


def test_an_adaptive_solver_keeps_its_tolerance_in_every_sample_of_every_batch():
    times = torch.linspace(0, 5, 11, dtype=torch.float64)
    problem = ODEProblem(spring, times, method="dopri5")
    y = torch.cos(12 * times)

    def model(y=None):
        w = pyro.sample("w", dist.LogNormal(tensor(0.0)[0], 1.0))
        u = problem.solve({"w": w, "initial_state": tensor(1.0, 0.0)})[..., 0]
        return observe("y", u, 1e-3, obs=y)

    exact = dist.LogNormal(0.0, 1.0).log_prob(tensor(12.0)[0]) + dist.Normal(y, 1e-3).log_prob(y).sum()
    for batch in (1, 1000, 8192):
        w = torch.linspace(0.5, 2.0, batch, dtype=torch.float64)
        w[0] = 12.0
        z = {"w": w, "initial_state": tensor(1.0, 0.0)}
        u = problem.solve(z)
        assert (u[0, :, 0] - y).abs().max() < 3e-5  # some hundred steps of 1e-6 each, which partly cancel
        assert log_joint(model, {"w": w}, {"y": y})[0] == pytest.approx(float(exact), abs=0.05)
        assert problem.residual(u, z).abs().max() < 12e-5  # the velocity is twelve times as large


@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_gradient_of_an_adaptive_solver_is_the_closed_forms_beside_slow_samples(method):
    problem = ODEProblem(spring, [0.0, 1.0, 2.5], method=method, dtype=torch.float64)
    w = torch.cat([tensor(6.0), torch.full((50,), 0.3, dtype=torch.float64)]).requires_grad_()
    u = problem.solve({"w": w, "initial_state": tensor(1.0, 0.0)})
    (slope,) = torch.autograd.grad(u[0, 2, 0], w)
    assert slope[0] == pytest.approx(-2.5 * math.sin(15.0), rel=1e-4)
    assert (slope[1:] == 0).all()


@pytest.mark.parametrize("unit", [1e-12, 1e12])
@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_a_solution_is_the_same_in_any_unit_of_state_and_time(unit, method):
    """Predator and prey: the prey in one unit, the predator in another, then the time in another."""

    def change(t, u, z):
        growth = z["a"] - z["b"] * u[..., 1]
        return torch.stack([growth * u[..., 0], (z["c"] * u[..., 0] - z["a"]) * u[..., 1]], -1)

    def solve(prey, time):
        times = torch.linspace(0, 4, 5, dtype=torch.float64) * time
        problem = ODEProblem(change, times, method=method, substeps=10 if method == "rk4" else None)
        z = {"a": tensor(1.0) / time, "b": tensor(0.5) / time, "c": tensor(0.3) / time / prey}
        u = problem.solve({**z, "initial_state": tensor(2.0 * prey, 1.0)})
        residual = problem.residual(1.1 * u, {**z, "initial_state": tensor(2.0 * prey, 1.0)})
        return torch.stack([u, residual]) / tensor(prey, 1.0)

    for scaled in (solve(unit, 1.0), solve(1.0, unit)):
        torch.testing.assert_close(scaled, solve(1.0, 1.0), rtol=1e-7, atol=0)


def test_a_number_given_as_tolerance_is_absolute_and_the_default_follows_the_size_so_far():
    """u' = -u, of which 1e-9 is left: relative to its largest an error of 1e-8, with a large atol a coarse one."""
    z = {"initial_state": tensor(1.0)}
    errors = []
    for atol in (None, 1e-2):
        problem = ODEProblem(lambda t, u, z: -u, [0.0, 1.0, 20.0], method="dopri5", atol=atol, dtype=torch.float64)
        errors.append(float((problem.solve(z)[:, 0] - torch.exp(-tensor(0.0, 1.0, 20.0))).abs().max()))
    assert errors[0] < 1e-6
    assert 1e-4 < errors[1] < 1e-1


def test_a_component_that_is_only_rounding_does_not_stop_an_adaptive_solver():
    """A <-> B in equilibrium and beside it the difference of the rates, 1e-16 where it should be zero."""

    def change(t, u, z):
        net = 0.3 * u[..., 0] - 0.2 * u[..., 1] + 1e-3 * torch.sin(5 * t)
        return torch.stack([-net, net, (0.1 * u[..., 0] + 0.1 * u[..., 1]) - 0.5], -1)

    problem = ODEProblem(change, [0.0, 3.0], method="dopri5", dtype=torch.float64)
    u = problem.solve({"initial_state": tensor(2.0, 3.0, 0.0)})
    assert u[-1, :2].sum() == pytest.approx(5.0, abs=1e-9)
    assert u[-1, 2].abs() < 1e-12


def dose(t, u, z):
    """Ten a second in [2.05, 2.15): one in all."""
    return z["k"][..., None] * torch.where((t >= 2.05) & (t < 2.15), 10.0, 0.0).to(u) * torch.ones_like(u)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", FIXED_STEP + ADAPTIVE)
def test_a_right_hand_side_may_jump_at_the_times(method, dtype):
    options = {} if method in ADAPTIVE else {"substeps": 3}
    z = {"k": torch.ones(2, dtype=dtype, requires_grad=True), "initial_state": torch.zeros(1, dtype=dtype)}
    for gradient in ("unrolled", "parallel")[: 1 if method in ADAPTIVE else 2]:
        for times in ([0.0, 2.05, 2.15, 10.0], [2.05, 2.15, 10.0]):  # the second starts on the jump
            problem = ODEProblem(dose, times, method=method, dtype=dtype, gradient=gradient, **options)
            u = problem.solve(z)
            torch.testing.assert_close(u[:, -1], torch.ones_like(u[:, -1]), rtol=1e-5, atol=1e-5)
            (slope,) = torch.autograd.grad(u[0, -1, 0], z["k"])
            torch.testing.assert_close(slope, torch.tensor([1.0, 0.0], dtype=dtype), rtol=1e-5, atol=1e-5)
            assert problem.residual(u.detach(), z).abs().max() < 1e-5


def test_a_switch_keeps_the_order_of_the_method():
    """u' = -k(t) u with k = 1 before t = 1 and 3 after: u(2) = exp(-4)."""

    def decay(t, u, z):
        return -torch.where(t > 1.0, 3.0, 1.0) * u

    errors = []
    for substeps in (4, 8, 16):
        problem = ODEProblem(decay, [0.0, 1.0, 2.0], substeps=substeps, dtype=torch.float64)
        errors.append(abs(float(problem.solve({"initial_state": tensor(1.0)})[-1, 0]) - math.exp(-4)))
    assert all(3.7 < math.log2(a / b) < 4.6 for a, b in pairwise(errors)), errors


def _state(u, z):
    return torch.stack([u[..., 1], -z["k"] * u[..., 0]], -1)


def _branching(t, u, z):
    return _state(u, z) + (1.0 if float(t) > 0.7 else 0.0)


def _differentiating(t, u, z):
    """The force as a derivative, as a learnt Hamiltonian has it; it asks for the time."""
    with torch.enable_grad():
        x = u if u.requires_grad else u.detach().requires_grad_()
        (force,) = torch.autograd.grad((torch.cos(t) * x[..., 0].cos()).sum(), x, create_graph=True)
    return _state(u, z) + force


TIMED = {
    "cosine": lambda t, u, z: _state(u, z) + torch.cos(3 * t) * torch.ones_like(u),
    "switch": lambda t, u, z: _state(u, z) + torch.where(t >= 0.5, 1.0, 0.0),
    "vector": lambda t, u, z: _state(u, z) + torch.stack([torch.cos(t), t * t]),
    "unknown": lambda t, u, z: _state(u, z) + z["k"][..., None] * torch.sin(t) * u,
    "scalars": lambda t, u, z: _state(u, z) + (z["k"] * torch.sin(2 * t))[..., None],
    "expanded": lambda t, u, z: _state(u, z) + t.expand(u.shape[:-1]).unsqueeze(-1),
    "branch": _branching,
    "derivative": _differentiating,
    "none": lambda t, u, z: _state(u, z),
}


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("name", list(TIMED))
def test_time_is_a_scalar_everywhere_also_with_as_many_states_as_intervals(name, batch):
    found = []
    z = {"k": torch.full(batch, 2.0, dtype=torch.float64), "initial_state": tensor(1.0, 0.2)}
    if batch:
        z["k"] = tensor(2.0, 1.5)
    z["k"].requires_grad_()
    for gradient in ("unrolled", "parallel"):
        problem = ODEProblem(TIMED[name], [0.0, 0.5, 1.0], substeps=4, gradient=gradient, dtype=torch.float64)
        u = problem.solve(z)
        found.append(torch.cat([u.flatten(), torch.autograd.grad(u[..., -1, 0].sum(), z["k"])[0].reshape(-1)]).detach())
        assert problem.residual(u.detach(), z).abs().max() < 1e-14
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)
    adaptive = ODEProblem(TIMED[name], [0.0, 0.5, 1.0], method="dopri5", rtol=1e-9, dtype=torch.float64)
    assert adaptive.residual(adaptive.solve(z), z).abs().max() < (1e-3 if name == "branch" else 1e-7)


GOOD = {"k": tensor(1.0, 2.0, 3.0), "initial_state": tensor(1.0, 0.5, 0.2).repeat(3, 1)}
REFUSED = {
    "no [..., None]": (lambda t, u, z: -z["k"] * u, "sample"),
    "no [..., None] in a layout that fits not": (lambda t, u, z: -z["k"] * u[..., :2], "rhs: got"),
    "stacked in front": (lambda t, u, z: torch.stack([u[..., 0], u[..., 1], -z["k"]], 0), "sample"),
    "item": (lambda t, u, z: -z["k"].item() * u, "rhs: got an error"),
    "sum over the batch": (lambda t, u, z: -z["k"].sum() * u, "sample"),
    "mean field": (lambda t, u, z: u.mean(0, keepdim=True) - u, "sample"),
    "fewer states": (lambda t, u, z: u[..., :2], r"rhs: got shape \(3, 2\), expected \(3, 3\), that of the state"),
    "no batch": (lambda t, u, z: torch.ones(3, dtype=torch.float64), r"rhs: got shape \(3,\), expected \(3, 3\)"),
    "a list": (lambda t, u, z: [0.0, 0.0, 0.0], r"rhs: got \[0.0, 0.0, 0.0\], expected a tensor"),
    "another dtype": (lambda t, u, z: u.float(), "rhs: got torch.float32, expected torch.float64"),
    "an index too far": (lambda t, u, z: u * u[..., 5:6] * u[7], "rhs: got an error"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_a_right_hand_side_that_is_none_is_refused(name):
    rhs, words = REFUSED[name]
    for options in ({"substeps": 2}, {"method": "dopri5"}, {"substeps": 2, "gradient": "parallel"}):
        problem = ODEProblem(rhs, [0.0, 0.5, 1.0, 1.5], dtype=torch.float64, **options)
        with pytest.raises((ValueError, TypeError), match=words) as caught:
            problem.solve(GOOD)
        assert len(str(caught.value)) < 320
        with pytest.raises((ValueError, TypeError), match=words):
            problem.residual(torch.ones(3, 4, 3, dtype=torch.float64), GOOD)


def test_both_equations_of_a_grey_box_are_held_to_it():
    def physics(t, u, z):
        return -z["k"] * u

    equation = GreyBoxODE(physics, lambda t, u, z: 0.1 * u, [0.0, 0.5, 1.0], substeps=2, dtype=torch.float64)
    with pytest.raises(ValueError, match="sample"):
        equation.branches(GOOD)


def test_one_substep_that_is_too_long_warns_once_and_a_good_one_does_not():
    z = {"w": tensor(1.0)[0], "initial_state": tensor(1.0, 0.0)}
    problem = ODEProblem(spring, [0.0, 10.0], dtype=torch.float64)
    with pytest.warns(StepSizeWarning, match=r"substeps=1 is off by at least .*substeps=, or method='dopri5'"):
        problem.solve(z)
    with pytest.warns(StepSizeWarning, match="substeps=2"):  # chosen, but the state grows four hundredfold
        ODEProblem(spring, [0.0, 10.0], substeps=2, dtype=torch.float64).solve(z)
    with pytest.warns(StepSizeWarning):
        problem.solve(z)  # the second use, which is looked at again
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem.solve(z)
        ODEProblem(spring, torch.linspace(0, 10, 21, dtype=torch.float64)).solve(z)
        ODEProblem(spring, [0.0, 10.0], method="dopri5", dtype=torch.float64).solve(z)


def test_a_failed_residual_tells_intervals_from_samples():
    problem = ODEProblem(lambda t, u, z: u.square() * 1e300, [0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    u = tensor(0.0, 1e10, 1e10, 0.0).reshape(1, 4, 1).expand(2, 4, 1).clone()
    u[0] = 0.0
    with pytest.raises(SolveError, match=r"1 of 2 samples \(non-finite state in 2 of its 3 intervals\).*sample \(1,\)"):
        problem.residual(u, {"initial_state": tensor(0.0)})
