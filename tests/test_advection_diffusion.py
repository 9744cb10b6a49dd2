"""Heat that diffuses and drifts: the exact propagator, the projection that keeps the diffusivity identifiable, the model."""

import math

import pytest
import torch

from physzoo.inference.evaluation import evaluate
from physzoo.inference.evaluation.reconstruction import extrapolate
from physzoo.models.advection_diffusion import DT, POINTS, SPACING, AdvectionDiffusion, refined_guide
from physzoo.models.contract import check_model
from physzoo.models.datasets import advection_diffusion as data
from physzoo.physics import ODEProblem, SolveError
from physzoo.physics.ode import LinearODE
from physzoo.physics.ode.linear import Banded, exponential

double = torch.float64


def rotation(z):
    zero = torch.zeros_like(z["rate"])
    return torch.stack([torch.stack([-0.1 + zero, z["rate"]], -1), torch.stack([-z["rate"], zero], -1)], -2)


@pytest.fixture
def unknowns():
    return {"rate": torch.tensor([0.7, 2.0], dtype=double), "initial_state": torch.tensor([1.0, -0.5], dtype=double)}


def model_of(**options) -> AdvectionDiffusion:
    torch.manual_seed(0)
    return AdvectionDiffusion(**options)


@pytest.mark.parametrize("times", [[0.0, 0.5, 1.0, 1.5, 2.0, 2.5], [0.0, 0.3, 1.0, 1.1], [0.4, 0.9], [0.6]])
@pytest.mark.parametrize("squarings", [None, 6])
def test_powers_of_the_propagator_are_what_a_runge_kutta_solver_converges_to(unknowns, times, squarings) -> None:
    exact = LinearODE(rotation, times, t0=0.0, squarings=squarings, dtype=double).solve(unknowns)
    rhs = lambda t, u, z: (rotation(z) @ u.unsqueeze(-1)).squeeze(-1)  # noqa: E731
    solver = ODEProblem(rhs, times, t0=0.0, substeps=200, dtype=double)
    assert exact.shape == (2, len(times), 2)
    assert torch.allclose(exact, solver.solve(unknowns), rtol=0, atol=1e-7)


@pytest.mark.parametrize("times", [[0.0, 0.5, 1.0, 1.5], [0.3, 0.4, 1.0]])
def test_the_residual_is_the_inverse_of_the_driven_solve_with_unit_determinant(unknowns, times) -> None:
    problem = LinearODE(rotation, times, t0=0.0, dtype=double)
    assert float(problem.residual(problem.solve(unknowns), unknowns).abs().max()) < 1e-12
    generator = torch.Generator().manual_seed(1)
    defects = torch.randn(2, len(times), 2, generator=generator, dtype=double)
    path = problem.solve(unknowns, residual=defects)
    assert torch.allclose(problem.residual(path, unknowns), defects, atol=1e-12)
    one = {name: value[0] if name == "rate" else value for name, value in unknowns.items()}
    slopes = torch.autograd.functional.jacobian(lambda u: problem.residual(u, one), path[0])
    assert torch.linalg.slogdet(slopes.reshape(path[0].numel(), -1)).logabsdet.abs() < 1e-12
    assert float(problem.logdet(path, unknowns).abs().max()) == 0.0


def test_times_far_from_zero_are_no_reason_to_take_unequal_steps_as_equal() -> None:
    decay = LinearODE(lambda z: -z["rate"][..., None, None] * torch.eye(1, dtype=double), [0.0, 1.0, 3.0], dtype=double)
    far = LinearODE(decay.generator, [2_450_000.0, 2_450_001.0, 2_450_003.0], dtype=double)
    z = {"rate": torch.tensor(1.0, dtype=double), "initial_state": torch.ones(1, dtype=double)}
    torch.testing.assert_close(far.solve(z), decay.solve(z))
    with pytest.raises(ValueError, match="expected also 'rate'"):
        decay.solve({"initial_state": z["initial_state"]})


def test_defects_broadcast_one_path_against_many_initial_states() -> None:
    problem = LinearODE(rotation, [0.0, 0.5, 1.0], dtype=double)
    starts = torch.randn(5, 2, dtype=double, generator=torch.Generator().manual_seed(3))
    z = {"rate": torch.tensor(1.0, dtype=double), "initial_state": starts}
    path = problem.solve({**z, "initial_state": starts[0]})
    expected = torch.stack([problem.residual(path, {**z, "initial_state": start}) for start in starts])
    torch.testing.assert_close(problem.residual(path, z), expected)


def test_gradients_of_trajectories_and_of_defects(unknowns) -> None:
    for squarings in (None, 1):
        problem = LinearODE(rotation, [0.0, 0.5, 1.0, 1.5, 2.0], squarings=squarings, dtype=double)
        points = [value.clone().requires_grad_() for value in unknowns.values()]
        named = lambda *z: dict(zip(unknowns, z, strict=True))  # noqa: E731
        assert torch.autograd.gradcheck(lambda *z: problem.solve(named(*z)), points)  # noqa: B023
        path = problem.solve(unknowns).detach()
        assert torch.autograd.gradcheck(lambda *z: problem.residual(path, named(*z)), points)  # noqa: B023


def test_the_taylor_exponential_has_the_error_that_its_docstring_states() -> None:
    rates = torch.tensor([-0.25, -0.5, -1.0], dtype=double)
    for squarings in (1, 2, 3):
        found = exponential(torch.diag(rates), squarings).diagonal()
        error = (found / rates.exp() - 1).abs()
        stated = 2**squarings * (rates.abs() / 2**squarings) ** 7 / 5040
        assert bool((error < 2.0 * stated).all())
        assert bool((error > 0.8 * stated)[-1])


def test_bad_arguments_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="times: got"):
        LinearODE(rotation, [0.0, 0.0])
    with pytest.raises(ValueError, match="t0: got 2"):
        LinearODE(rotation, [1.0], t0=2.0)
    with pytest.raises(ValueError, match="initial_state"):
        LinearODE(rotation, [1.0]).solve({"rate": torch.tensor(1.0)})
    with pytest.raises(ValueError, match="reach: got 4"):
        Banded(4, 4)
    with pytest.raises(ValueError, match="learnt: got 'nothing'"):
        AdvectionDiffusion(learnt="nothing")  # type: ignore[arg-type]
    growing = LinearODE(lambda z: torch.full((1, 1), 1e4), torch.arange(60.0))
    with pytest.raises(SolveError, match="1 of 1"):
        growing.solve({"initial_state": torch.ones(1)})


def test_the_modes_of_the_physics_decay_at_the_eigenvalues_of_the_second_difference() -> None:
    model = model_of().double()
    mode, a = 3, torch.tensor(0.05, dtype=double)
    rate = -4.0 / SPACING**2 * math.sin(mode * math.pi / (2 * (POINTS + 1))) ** 2
    shape = torch.sin(mode * math.pi * torch.arange(1, POINTS + 1, dtype=double) / (POINTS + 1))
    # The grid's own sine is outside of the model's initial profiles, so it is put in as one.
    model.profiles = shape.expand_as(model.profiles)
    z = {"a": a, "modes": torch.tensor([1.0, 0, 0, 0, 0, 0], dtype=double)}
    path = model.physics(z)
    expected = shape * torch.exp(a * rate * DT * torch.arange(50, dtype=double)).unsqueeze(-1)
    assert torch.allclose(path, expected, rtol=0, atol=1e-6)
    operator = {"operator": a * model.diffusion, "initial_state": shape}
    assert torch.allclose(model.problem.solve(operator), expected, rtol=0, atol=1e-6)


def test_with_the_true_stencil_the_model_is_the_system_and_its_extrapolation_the_exact_propagator() -> None:
    model = model_of().double()
    truths = {"a": torch.tensor([0.02, 0.09]), "b": torch.tensor([0.08, 0.03]), "c": torch.tensor([0.7, 1.3])}
    truths = {name: value.double() for name, value in truths.items()}
    drift = truths["b"][:, None] / (2 * SPACING) * torch.tensor([1.0, 0.0, -1.0], dtype=double)
    reachable = drift @ model.basis.mT @ model.basis
    assert torch.allclose(reachable, drift, atol=1e-6)  # advection survives the projection whole
    model.stencil = lambda z: drift  # type: ignore[method-assign]
    modes = torch.zeros(2, 6, dtype=double)
    modes[:, 0] = truths["c"]
    z = {"a": truths["a"], "modes": modes, "z_A1": torch.zeros(2, 4, dtype=double)}
    far = model.decode(z, torch.arange(1000, dtype=double) * DT).full
    assert float((far - data.trajectories(truths, 1000)).abs().max()) < 2e-6


def test_no_learnt_operator_has_a_part_along_the_diffusion() -> None:
    for reach in (1, 2):
        model = model_of(reach=reach).double()
        codes = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=double)
        learnt = model.banded(model.stencil({"z_A1": codes}))
        along = (learnt * model.diffusion).sum((-2, -1)) / (learnt.norm(dim=(-2, -1)) * model.diffusion.norm())
        assert float(along.abs().max()) < 1e-6
    free = model_of(learnt="free").double()
    codes = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=double)
    learnt = free.banded(free.stencil({"z_A1": codes}))
    assert float((learnt * free.diffusion).sum((-2, -1)).abs().max()) > 1e-2


def test_an_antisymmetric_stencil_moves_heat_and_neither_makes_nor_destroys_energy() -> None:
    model = model_of(learnt="antisymmetric", reach=2).double()
    operator = model.banded(model.stencil({"z_A1": torch.randn(4, dtype=double)}))
    assert torch.allclose(operator, -operator.mT, atol=1e-7)


def test_gauss_newton_steps_through_a_true_model_find_the_diffusivity_with_the_right_width() -> None:
    model = model_of()
    advection = model.basis @ torch.tensor([1.0, 0.0, -1.0]) / (2 * SPACING)
    linear = model.stencil_net[0]
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[:, 0] = 0.026 * advection  # mean and sd of b ~ U(0.01, 0.1)
        linear.bias.copy_(0.055 * advection)
        model.log_scale.fill_(math.log(data.NOISE))
    test = data.generate(3, (2, 2, 150)).test
    guide = refined_guide(model, {"x": test.x[0]}, refine=8, simulations=512)
    found = evaluate(model, guide, test.data, truths={"a": test.truths["a"]}, bound=0)
    assert found.mae < 1.01 * data.NOISE * math.sqrt(2 / math.pi)
    assert found.errors["a"] < 3e-4
    for level, share in found.coverage["a"].items():
        assert share == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / 150))
    far = extrapolate(
        model, guide, test.data, torch.arange(300) * DT, data.trajectories(test.truths, 300).float(), [(200, 300)]
    )
    assert far[200, 300] < 1e-3


@pytest.mark.parametrize("options", [{}, {"learnt": "free", "reach": 2}, {"dynamics_code": 0}])
def test_it_keeps_the_contract_of_the_zoo(options) -> None:
    model = model_of(**options).double()
    truths = {"a": torch.tensor([0.05]), "b": torch.tensor([0.05]), "c": torch.tensor([1.0])}
    check_model(model, {"x": data.trajectories(truths)[0]})
