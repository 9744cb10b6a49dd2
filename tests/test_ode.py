"""Trajectories against closed forms, and defects as residuals."""

import math
import warnings
from itertools import pairwise

import pyro
import pytest
import torch
from torch.func import jacrev

from physzoo.physics import ODEProblem, SolveError, SolverWarning, observe, virtual_observables
from physzoo.physics.ode import ADAPTIVE, FIXED_STEP

IRREGULAR = [0.1, 0.15, 0.9, 1.0, 2.3]


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def rotation(t, state, z):
    """d(x, v)/dt = (v, -w^2 x - 2 c v): a damped oscillator."""
    x, v = state.unbind(-1)
    return torch.stack([v, -z["frequency"].square() * x - 2 * z["damping"] * v], -1)


def oscillator(times=IRREGULAR, **options):
    return ODEProblem(rotation, times, **{"t0": 0.0, "substeps": 4, "dtype": torch.float64, **options})


def unknowns(*batch, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return 0.5 + torch.rand((*batch, *shape), generator=generator, dtype=torch.float64)

    return {"frequency": 2 * uniform(), "damping": 0.3 * uniform(), "initial_state": uniform(2)}


def closed_form(z, times):
    """x = e^(-ct) (x0 cos(wd t) + (v0 + c x0)/wd sin(wd t)), v = dx/dt, as (..., T, 2)."""
    t = torch.as_tensor(times, dtype=torch.float64)
    w, c = z["frequency"][..., None], z["damping"][..., None]
    x0, v0 = z["initial_state"][..., :1], z["initial_state"][..., 1:]
    wd = (w.square() - c.square()).sqrt()
    b = (v0 + c * x0) / wd
    cosine, sine, decay = torch.cos(wd * t), torch.sin(wd * t), torch.exp(-c * t)
    x = decay * (x0 * cosine + b * sine)
    return torch.stack([x, decay * wd * (b * cosine - x0 * sine) - c * x], -1)


def blow_up(t, state, z):
    """u' = r u^2: infinite at t = 1 / (r u0)."""
    return z["rate"][..., None] * state.square()


@pytest.mark.parametrize(("method", "order"), list(zip(FIXED_STEP, (1, 2, 2, 3, 4), strict=True)))
def test_fixed_step_converges_at_its_order_on_irregular_times(method, order):
    z = unknowns(3)
    exact = closed_form(z, IRREGULAR)
    errors = [float((oscillator(method=method, substeps=steps).solve(z) - exact).abs().max()) for steps in (20, 40, 80)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(abs(got - order) < 0.2 for got in orders), orders


@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_keeps_its_tolerance(method):
    z = unknowns(3)
    got = oscillator(method=method, rtol=1e-7, atol=1e-9).solve(z)
    torch.testing.assert_close(got, closed_form(z, IRREGULAR), rtol=1e-5, atol=1e-6)


def test_gradient_of_the_solution_is_the_closed_forms():
    z = {name: value.requires_grad_() for name, value in unknowns().items()}
    weights = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = torch.autograd.grad((weights * oscillator(substeps=100).solve(z)).sum(), list(z.values()))
    exact = torch.autograd.grad((weights * closed_form(z, IRREGULAR)).sum(), list(z.values()))
    torch.testing.assert_close(got, exact, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("t0", [0.0, 0.1])
def test_gradcheck_of_solve_and_residual(t0):
    problem, names = oscillator(t0=t0, substeps=2), ("frequency", "damping", "initial_state")
    z = tuple(unknowns(2)[name].requires_grad_() for name in names)
    u = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    r = (0.1 * u).detach().requires_grad_()

    def named(*values):
        return dict(zip(names, values, strict=True))

    assert torch.autograd.gradcheck(lambda *v: problem.solve(named(*v)), z)
    assert torch.autograd.gradcheck(lambda r, *v: problem.solve(named(*v), residual=r), (r, *z))
    assert torch.autograd.gradcheck(lambda u, *v: problem.residual(u, named(*v)), (u, *z))


def test_adjoint_dot_product():
    problem, z = oscillator(), unknowns()
    generator = torch.Generator().manual_seed(1)
    v = torch.randn(2, generator=generator, dtype=torch.float64)
    w = torch.randn(5, 2, generator=generator, dtype=torch.float64)

    def solve(initial):
        return problem.solve({**z, "initial_state": initial})

    _, forward = torch.autograd.functional.jvp(solve, z["initial_state"], v)
    _, adjoint = torch.autograd.functional.vjp(solve, z["initial_state"], w)
    torch.testing.assert_close((forward * w).sum(), v @ adjoint, rtol=1e-11, atol=0)


def test_a_batch_is_the_loop_over_its_samples():
    problem, z = oscillator(), unknowns(3, 4)
    u = problem.solve(z)
    assert u.shape == (3, 4, 5, 2)
    for index in ((0, 0), (2, 3)):
        torch.testing.assert_close(u[index], problem.solve({name: value[index] for name, value in z.items()}))


def test_batch_shapes_of_the_unknowns_broadcast():
    problem, z = oscillator(), unknowns(3, 4)
    z["frequency"], z["damping"] = tensor(1.0, 2.0, 3.0)[:, None], torch.tensor(0.1, dtype=torch.float64)
    z["initial_state"] = tensor(1.0, 0.0)
    u = problem.solve(z)
    assert u.shape == (3, 1, 5, 2)
    assert problem.residual(u[0], z).shape == (3, 1, 5, 2)


@pytest.mark.parametrize("t0", [0.0, 0.1])
@pytest.mark.parametrize(("method", "tolerance"), [("rk4", 1e-13), ("dopri5", 1e-6)])
def test_defects_vanish_at_the_solution(t0, method, tolerance):
    problem, z = oscillator(t0=t0, method=method, rtol=1e-9, atol=1e-9), unknowns(2, 3)
    defects = problem.residual(problem.solve(z), z)
    assert defects.shape == (2, 3, 5, 2)
    assert defects.abs().max() < tolerance


def test_defects_of_the_exact_solution_shrink_at_the_methods_order():
    z = unknowns(3)
    exact = closed_form(z, IRREGULAR)
    errors = [float(oscillator(substeps=steps).residual(exact, z).abs().max()) for steps in (4, 8, 16)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(3.7 < order < 4.4 for order in orders), orders


@pytest.mark.parametrize("t0", [0.0, 0.1])
def test_solve_inverts_the_residual(t0):
    problem, z = oscillator(t0=t0), unknowns(2, 3)
    r = torch.randn(2, 3, 5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(problem.residual(problem.solve(z, residual=r), z), r)
    torch.testing.assert_close(problem.solve(z, residual=torch.zeros_like(r)), problem.solve(z))


def test_logdet_is_that_of_the_jacobian_of_a_nonlinear_equation():
    problem = ODEProblem(blow_up, [0.0, 0.1, 0.3], t0=-0.1, substeps=2, dtype=torch.float64)
    z = {"rate": torch.tensor(0.7, dtype=torch.float64), "initial_state": tensor(1.0, 0.5)}
    u = problem.solve(z)
    jacobian = jacrev(problem.residual)(u, z).reshape(6, 6)
    torch.testing.assert_close(problem.logdet(u, z), torch.linalg.slogdet(jacobian).logabsdet)


def test_virtual_observables_of_a_trajectory_are_one_event_and_need_no_correction():
    problem, z = oscillator(), unknowns(3)
    u = problem.solve(z) + 0.01

    def model():
        with pyro.plate("datasets", 3, dim=-1):
            virtual_observables("r", problem, u, z, scale=0.1)

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    r = problem.residual(u, z)
    expected = torch.distributions.Normal(r, 0.1).log_prob(torch.zeros_like(r)).sum((-2, -1))
    torch.testing.assert_close(trace.nodes["r"]["log_prob"], expected)
    assert (trace.nodes["r_logdet"]["log_prob"] == 0).all()


def test_time_enters_the_right_hand_side_in_solve_and_residual():
    """u' = t: u = u0 + t^2 / 2."""
    problem = ODEProblem(lambda t, u, z: (t + 0 * u[..., 0])[..., None], [1.0, 2.0, 4.0], t0=0.0, dtype=torch.float64)
    z = {"initial_state": torch.ones(3, 1, dtype=torch.float64)}
    u = problem.solve(z)
    torch.testing.assert_close(u[..., 0], (1 + tensor(1.0, 2.0, 4.0).square() / 2).expand(3, 3))
    assert problem.residual(u, z).abs().max() < 1e-12


def test_vector_unknowns_and_observation():
    def linear(t, state, z):
        return (z["matrix"] @ state[..., None])[..., 0]

    problem = ODEProblem(
        linear, [0.5, 1.0], t0=0.0, substeps=50, event_dims={"matrix": 2}, observation=lambda u: u[..., 0]
    )
    matrix = 0.5 * torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = {"matrix": matrix, "initial_state": tensor(1.0, 2.0)}
    exact = torch.stack([torch.linalg.matrix_exp(t * matrix) @ tensor(1.0, 2.0) for t in (0.5, 1.0)], -2)
    torch.testing.assert_close(problem.observe(problem.solve(z)), exact[..., 0])
    assert problem.residual(exact, z).abs().max() < 1e-8


def test_float32_stays_float32():
    z = {name: value.float() for name, value in unknowns(3).items()}
    problem = oscillator(dtype=torch.float32)
    u = problem.solve(z)
    assert u.dtype == problem.residual(u, z).dtype == torch.float32
    torch.testing.assert_close(u.double(), oscillator().solve(unknowns(3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_a_failure_names_the_sample_and_its_unknowns(method):
    problem = ODEProblem(blow_up, [0.0, 2.0], method=method, substeps=30, dtype=torch.float64)
    z = {"rate": tensor(0.1, 0.2, 50.0, 0.3), "initial_state": torch.ones(4, 1, dtype=torch.float64)}
    with pytest.raises(SolveError, match=r"1 of 4 samples.*sample \(2,\).*rate=50.*initial_state=\[1\.0\]"):
        problem.solve(z)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_rejection_is_nan_for_the_failed_samples_only(method):
    problem = ODEProblem(blow_up, [0.0, 0.3, 2.0], method=method, substeps=40, on_failure="reject", dtype=torch.float64)
    rate = torch.full((3, 4), 0.2, dtype=torch.float64)
    rate[0, 1], rate[2, 3], rate[2, 0] = 50.0, 80.0, math.nan
    failed = rate.nan_to_num(1e9) > 1
    rate.requires_grad_()
    z = {"rate": rate, "initial_state": torch.ones(3, 4, 1, dtype=torch.float64)}
    u = problem.solve(z)
    assert torch.isnan(u[failed]).all()
    survivor = problem.solve({name: value[1, 1] for name, value in z.items()})
    torch.testing.assert_close(u[~failed], survivor.expand(9, 3, 1), rtol=1e-6, atol=1e-6)

    def model():
        with pyro.plate_stack("batch", (3, 4)):
            observe("y", u, 0.1, obs=torch.ones(3, 1, dtype=torch.float64), event_dim=2)

    with pytest.warns(SolverWarning):
        trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    total = trace.nodes["y"]["log_prob"] + trace.nodes["y_rejected"]["log_prob"]
    assert (total[failed] == -math.inf).all()
    assert torch.isfinite(total[~failed]).all()
    total.sum().backward()
    assert torch.isfinite(rate.grad).all()
    assert (rate.grad[failed] == 0).all()
    assert (rate.grad[~failed] != 0).all()


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_when_all_fail_all_are_rejected(method):
    problem = ODEProblem(blow_up, [0.0, 2.0], method=method, substeps=30, on_failure="reject", dtype=torch.float64)
    z = {"rate": tensor(50.0, 60.0), "initial_state": torch.ones(1, dtype=torch.float64)}
    assert torch.isnan(problem.solve(z)[:, 1]).all()


def test_too_many_steps_is_a_failure_not_a_hang():
    problem = ODEProblem(
        lambda t, u, z: -1e6 * (u - torch.cos(t)),
        [0.0, 10.0],
        method="dopri5",
        max_steps=50,
        dtype=torch.float64,
    )
    with pytest.raises(SolveError, match="more than max_steps=50 steps"):
        problem.solve({"initial_state": tensor(1.0)})


def test_an_assertion_of_the_equations_own_is_not_swallowed():
    def strict(t, u, z):
        raise AssertionError("prey must be positive")

    with pytest.raises(AssertionError, match="prey"):
        ODEProblem(strict, [0.0, 1.0], method="dopri5", on_failure="reject").solve({"initial_state": tensor(1.0)})


def test_success_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        oscillator().solve(unknowns(3))


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("times: got", {"times": [1.0, 0.5]}),
        ("t0: got 0.5", {"t0": 0.5}),
        ("method: got 'rk5'", {"method": "rk5"}),
        ("substeps", {"substeps": 0}),
        ("on_failure: got 'ignore'", {"on_failure": "ignore"}),
    ],
)
def test_a_mistake_names_the_argument(words, options):
    with pytest.raises(ValueError, match=words):
        oscillator(**options)


def test_unknowns_without_an_initial_state_are_refused():
    with pytest.raises(ValueError, match=r"z: got \['frequency'\], expected .*'initial_state'"):
        oscillator().solve({"frequency": tensor(1.0)})
