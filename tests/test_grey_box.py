"""Grey-box models: exact gradients, four consistent outputs, honest densities, regularisers as their formulas say."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import Tensor, nn
from toys import Decay, Supply, decay

import physzoo
from physzoo.core.global_state import seeded
from physzoo.core.simulate import simulate
from physzoo.core.traces import nodes
from physzoo.guides.cleansing import CleansingGuide, cleansing_guide
from physzoo.guides.families import LearntPrior
from physzoo.inference.calibration import calibrate
from physzoo.inference.fit import DataSets, fit
from physzoo.inference.objectives import Batch, DrawnCodesKL, GreyBoxELBO
from physzoo.models.baselines import BlackBox, NeuralODE, black_box_guide
from physzoo.models.contract import check_model
from physzoo.models.pendulum import Pendulum
from physzoo.physics import ODEProblem
from physzoo.physics.grey_box import Decoded, GreyBoxODE

IRREGULAR = [0.0, 0.2, 0.25, 0.9, 1.4]
SMALL = {"simulations": 200, "physics_options": {"transforms": 2}}


def problem(**options: Any) -> GreyBoxODE:
    with seeded(3):
        dynamics = Supply(2).double()
    times = torch.tensor(options.pop("times", IRREGULAR), dtype=torch.float64)
    return GreyBoxODE(decay, dynamics, times, event_dims={"code": 1}, **options)


def unknowns(*shape: int) -> dict[str, Tensor]:
    with seeded(4):
        z = {"rate": torch.rand(*shape), "initial_state": torch.randn(*shape, 2), "code": torch.randn(*shape, 1)}
    return {name: value.double().requires_grad_() for name, value in z.items()}


def grey(dtype: torch.dtype = torch.float64, **options: Any) -> Decay:
    with seeded(5):
        return Decay(**options).to(dtype)


def guided(model: Any, masked: bool = False, **options: Any) -> tuple[CleansingGuide, Tensor]:
    x = simulate(model, 8, seed=6)["x"]
    example = {"x": x[0], "mask": torch.ones_like(x[0], dtype=torch.bool)} if masked else {"x": x[0]}
    guide = cleansing_guide(model, example, data=x, **{**SMALL, **options})
    with seeded(7), torch.no_grad():
        for parameter in guide.parameters():  # away from the start, where h is the identity
            parameter.add_(0.05 * torch.randn_like(parameter))
    return guide, x


# the gradient


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun3", "rk4"])
@pytest.mark.parametrize(("t0", "substeps"), [(None, 1), (-0.3, 1), (None, 3), (-0.3, 2)])
def test_the_parallel_gradient_is_that_of_the_unrolled_solver(method: str, t0: float | None, substeps: int) -> None:
    results = []
    for gradient in ("unrolled", "parallel"):
        equation, z = problem(method=method, t0=t0, substeps=substeps, gradient=gradient), unknowns(3)
        completed, incomplete = equation.branches(z)
        loss = (completed.sin() * incomplete).sum()
        results.append([loss, *torch.autograd.grad(loss, [*z.values(), *equation.parameters()])])
    for unrolled, parallel in zip(*results, strict=True):
        assert torch.allclose(unrolled, parallel, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("t0", [None, -0.3])
def test_the_parallel_gradient_passes_gradcheck(t0: float | None) -> None:
    equation, z = problem(t0=t0, gradient="parallel"), unknowns(2)
    assert torch.autograd.gradcheck(lambda *values: equation.solve(dict(zip(z, values, strict=True))), list(z.values()))


def test_a_parallel_gradient_of_one_time_that_is_the_start_is_the_identity() -> None:
    equation, z = problem(times=[0.5], gradient="parallel"), unknowns(2)
    (gradient,) = torch.autograd.grad(equation.solve(z).sum(), z["initial_state"])
    assert torch.equal(gradient, torch.ones(2, 2, dtype=torch.float64))


def test_the_parallel_gradient_refuses_a_second_derivative_and_adaptive_steps() -> None:
    equation, z = problem(gradient="parallel"), unknowns(2)
    with pytest.raises(RuntimeError, match="unrolled"):
        torch.autograd.grad(equation.solve(z).square().sum(), z["rate"], create_graph=True)
    with pytest.raises(ValueError, match="parallel"):
        problem(method="dopri5", gradient="parallel")


# the two branches


@pytest.mark.parametrize("options", [{}, {"gradient": "parallel", "t0": -1.0}, {"method": "dopri5", "rtol": 1e-10}])
def test_branches_are_the_two_separate_solves(options: dict[str, Any]) -> None:
    equation, z = problem(**options), unknowns(4, 3)
    completed, incomplete = equation.branches(z)
    times, kept = equation.times, {k: v for k, v in options.items() if k != "gradient"}
    both = ODEProblem(lambda *a: decay(*a) + equation.dynamics(*a), times, event_dims={"code": 1}, **kept)
    alone = ODEProblem(decay, times, event_dims={"code": 1}, **kept)
    assert torch.allclose(completed, both.solve(z), atol=1e-8)
    assert torch.allclose(incomplete, alone.solve(z), atol=1e-8)
    assert torch.allclose(equation.incomplete(z), alone.solve(z), atol=1e-8)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_a_rejected_sample_leaves_the_others_and_the_incomplete_branch_alone(method: str) -> None:
    class Burst(nn.Module):
        def forward(self, t: Tensor, state: Tensor, z: Any) -> Tensor:
            return z["code"] * state.square()

    times = torch.linspace(0, 2, 30, dtype=torch.float64)
    z = {"rate": torch.ones(3), "initial_state": torch.ones(3, 2), "code": torch.tensor([[0.1], [1e5], [0.2]])}
    z = {name: value.double() for name, value in z.items()}
    equation = GreyBoxODE(decay, Burst(), times, event_dims={"code": 1}, on_failure="reject", method=method)
    completed, incomplete = equation.branches(z)
    assert torch.isnan(completed[1]).any()
    assert torch.isfinite(completed[[0, 2]]).all()
    assert torch.isfinite(incomplete).all()
    fine = {name: value[[0, 2]] for name, value in z.items()}
    assert torch.allclose(completed[[0, 2]], equation.branches(fine)[0])
    with pytest.raises(ValueError, match="expected also 'code'"):
        equation.branches({name: z[name] for name in ("rate", "initial_state")})


def test_without_learnt_parts_the_four_outputs_agree() -> None:
    with seeded(1):
        model = Pendulum().double()
    for net in (model.dynamics_net, model.correction_net):
        assert net is not None
        with torch.no_grad():
            for parameter in net[-1].parameters():
                parameter.zero_()
    z = simulate(model, 3, seed=2)
    decoded = model.decode(z)
    for output in (decoded.full, decoded.without_correction, decoded.without_dynamics):
        assert torch.allclose(output, decoded.physics, atol=1e-12)
    assert torch.allclose(decoded.physics, model.physics(z), atol=1e-12)


def test_other_times_keep_the_start_and_agree_where_they_meet() -> None:
    equation, z = problem(gradient="parallel", substeps=200), unknowns(2)
    later = equation.at(torch.tensor([0.9, 2.0, 3.0], dtype=torch.float64))
    assert torch.allclose(later.solve(z)[:, 0], equation.solve(z)[:, 3], atol=1e-8)
    assert later.dynamics is equation.dynamics


# copies


def test_a_copy_solves_with_its_own_networks() -> None:
    for model in (grey(), Pendulum().double()):
        z = simulate(model, 2, seed=1)
        before = model.decode(z)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            with torch.no_grad():
                for parameter in twin.parameters():
                    parameter.add_(0.5)
            assert torch.equal(model.decode(z).full, before.full)  # the original is untouched
            assert not torch.allclose(twin.decode(z).without_correction, before.without_correction)
            assert torch.allclose(twin.decode(z).physics, before.physics)


def test_helper_problems_follow_the_module_in_dtype_and_state() -> None:
    equation, z = problem(), unknowns(2)
    single = copy.deepcopy(equation).float()
    assert single.branches({name: value.float() for name, value in z.items()})[1].dtype == torch.float32
    other = problem(times=[0.0, 0.1, 0.2, 0.3, 0.4])
    other.load_state_dict(equation.state_dict())
    assert torch.equal(other.incomplete(z), equation.incomplete(z))
    assert torch.equal(other.branches(z)[0], equation.branches(z)[0])


def test_a_copied_guide_draws_the_same_and_trains_apart() -> None:
    guide, x = guided(grey())
    for twin in (copy.deepcopy(guide), pickle.loads(pickle.dumps(guide))):
        with seeded(1):
            first = guide.sample({"x": x}, 2)
        with seeded(1):
            second = twin.sample({"x": x}, 2)
        assert all(torch.equal(first[name], second[name]) for name in first)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(1.0)
        assert torch.equal(guide.log_prob(first, {"x": x}), guide.log_prob(second, {"x": x}))


# the guide


@pytest.mark.parametrize("noise", ["learnt", "inferred"])
@pytest.mark.parametrize("code", [True, False])
def test_the_guides_density_is_that_of_its_trace(noise: str, code: bool) -> None:
    guide, x = guided(grey(noise=noise, code=code))
    with seeded(2):
        trace = poutine.trace(guide).get_trace(x=x[0])
    values = {name: site["value"] for name, site in nodes(trace).items() if site["type"] == "sample"}
    trace.compute_log_prob()
    assert torch.allclose(guide.log_prob(values, {"x": x[0]}), trace.log_prob_sum(), atol=1e-8)


@pytest.mark.parametrize("noise", ["learnt", "inferred"])
@pytest.mark.parametrize("code", [True, False])
def test_draws_have_a_shape_for_every_draw_and_data_set(noise: str, code: bool) -> None:
    model = grey(noise=noise, code=code)
    guide, x = guided(model)
    sample = guide.sample({"x": x}, 5)
    assert sample["rate"].shape == (5, 8)
    assert sample["initial_state"].shape == (5, 8, 1)
    assert guide.log_prob(sample, {"x": x}).shape == (5, 8)
    assert model.decode(sample).full.shape == (5, 8, 5, 1)
    assert not torch.allclose(sample["rate"][0], sample["rate"][1])


def test_masked_data_have_no_influence_on_q() -> None:
    guide, x = guided(grey(), masked=True)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[:, 1:3] = False
    values = guide.sample({"x": x, "mask": mask}, 1)
    densities = []
    for hidden in (0.0, 1e6, torch.nan):
        data = {"x": torch.where(mask, x, hidden), "mask": mask}
        densities.append(guide.log_prob(values, data))
    assert torch.isfinite(densities[0]).all()
    assert torch.equal(densities[0], densities[1])
    assert torch.equal(densities[0], densities[2])
    seen = guide.log_prob(values, {"x": x, "mask": torch.ones_like(mask)})
    assert not torch.allclose(seen, densities[0])


def test_masked_data_leave_the_loss_and_its_gradient_alone() -> None:
    model = grey()
    guide, x = guided(model, masked=True)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[:, 3:] = False
    objective = GreyBoxELBO(predictive=0.5, cleansing=0.5, sleep=1.0, whole_sleep=1.0)
    results = []
    for hidden in (0.0, torch.nan):
        data = {"x": torch.where(mask, x, hidden), "mask": mask}
        with seeded(9):
            loss = objective(model, guide, Batch(data, 8))
        parts = [*model.parameters(), *guide.parameters()]
        results.append([loss, *torch.autograd.grad(loss, parts, allow_unused=True)])
    for a, b in zip(*results, strict=True):
        assert a is b is None or torch.equal(a, b)


def test_whole_sleep_takes_one_masked_data_set() -> None:
    model = grey()
    guide, x = guided(model, masked=True)
    mask = torch.tensor([[True], [True], [False], [True], [False]])
    loss = GreyBoxELBO(whole_sleep=1.0, sleepers=3)(model, guide, Batch({"x": x[0], "mask": mask}))
    assert torch.isfinite(loss)


def test_sleep_alone_calibrates_the_physics_guide() -> None:
    model = grey(torch.float32, code=False, noise="fixed")
    guide, _ = guided(model, simulations=2000)
    nn.init.zeros_(guide.cleanse.net[-1].weight)  # type: ignore[index]
    nn.init.zeros_(guide.cleanse.net[-1].bias)  # type: ignore[index]

    def sleep(model: Any, guide: Any, batch: Batch) -> Tensor:
        drawn = simulate(grey_model.physics_alone, 128, nesting=0)
        return -grey_guide.physics.log_prob(drawn, {"x": drawn["x"]}).mean()

    grey_model, grey_guide = model, guide
    data = simulate(model, 4, seed=1)["x"]
    fit(model, guide.physics, DataSets({"x": data}), sleep, steps=450, learning_rate=5e-3, progress=False)
    check = calibrate(model.physics_alone, guide.physics, datasets=250, draws=100, progress=False)
    assert check.passed, check.verdict
    wide = calibrate(model.physics_alone, guide.physics, datasets=250, draws=100, widen=0.7, progress=False)
    assert not wide.passed


# the objective


def replayed(model: Any, guide: Any, x: Tensor, seed: int) -> tuple[dict[str, Tensor], Tensor, Decoded]:
    """The guide's draw that the objective makes with this seed."""
    with seeded(seed), pyro.plate("datasets", len(x)):
        trace = poutine.trace(guide).get_trace(x=x)
    returned = nodes(trace)["_RETURN"]["value"]
    values = {name: returned[name] for name in returned if name != "cleansed"}
    return values, returned["cleansed"], model.decode(values)


def test_each_regulariser_is_its_formula() -> None:
    model = grey()
    guide, x = guided(model)
    objective = GreyBoxELBO(predictive=0.3, cleansing=0.7, sleep=1.1, whole_sleep=0.9, sleepers=6)
    with seeded(11):
        terms = objective.terms(model, guide, Batch({"x": x}, 8))
    values, cleansed, out = replayed(model, guide, x, 11)
    s2 = model.log_scale.exp() ** 2
    gaps = [
        (out.without_correction - out.physics) ** 2,
        (out.without_dynamics - out.physics) ** 2,
        (out.full - out.without_correction) ** 2,
        (out.full - out.without_dynamics) ** 2,
    ]
    predictive = sum(gap.sum() for gap in gaps) / 8 / (4 * s2)
    assert torch.allclose(terms["predictive"], 0.3 * predictive)
    assert torch.allclose(terms["cleansing"], 0.7 * ((cleansed - out.physics) ** 2).sum() / 8 / s2)
    data = nn.functional.gaussian_nll_loss(out.full, x, s2.expand_as(x), full=True, reduction="none").sum((1, 2))
    rate, start = values["rate"], values["initial_state"][:, 0]
    prior = torch.distributions.LogNormal(0.0, 0.5).log_prob(rate) + torch.distributions.Normal(2.0, 0.5).log_prob(
        start
    )
    codes = torch.cat([values["z_A1"], values["z_A2"]], -1)
    prior = prior + torch.distributions.Normal(0.0, 1.0).log_prob(codes).sum(-1)
    q = guide.log_prob(values, {"x": x})
    assert torch.allclose(terms["elbo"], (data - prior + q).mean(), atol=1e-6)


def test_the_sleep_terms_are_densities_of_simulated_unknowns() -> None:
    model = grey()
    guide, x = guided(model)
    batch = Batch({"x": x}, 8)
    for name, source in (("sleep", model.physics_alone), ("whole_sleep", model)):
        objective = GreyBoxELBO(**{name: 2.0}, sleepers=6)
        with seeded(12):
            GreyBoxELBO()(model, guide, batch)  # as many random numbers as the ELBO takes
            drawn = simulate(source, 6, nesting=0)
        part = guide.physics if name == "sleep" else guide
        expected = -2.0 * part.log_prob(drawn, {"x": drawn["x"]}).mean()
        with seeded(12):
            assert torch.allclose(objective.terms(model, guide, batch)[name], expected)


def test_a_weight_of_zero_leaves_its_term_out_and_a_negative_one_is_refused() -> None:
    model = grey()
    guide, x = guided(model)
    batch = Batch({"x": x}, 8)
    assert set(GreyBoxELBO().terms(model, guide, batch)) == {"elbo"}
    for name in ("predictive", "cleansing", "sleep", "whole_sleep"):
        assert set(GreyBoxELBO(**{name: 1.0}).terms(model, guide, batch)) == {"elbo", name}
        with pytest.raises(ValueError, match=name):
            GreyBoxELBO(**{name: -1.0})
    with pytest.raises(TypeError, match="cleansed"):
        GreyBoxELBO()(model, guide.physics, batch)


def test_codes_that_the_guide_does_not_have_cannot_be_drawn() -> None:
    model = grey(code=False)
    guide, x = guided(model)
    assert guide.codes is None
    with pytest.raises(TypeError, match="guide: got CleansingGuide without codes"):
        DrawnCodesKL()(model, guide, Batch({"x": x}, 8, simulate(model, 8, seed=1)))


def test_the_terms_are_pure_numbers() -> None:
    """Units: data, states and noise in another unit leave every regulariser as it is."""
    z = {"rate": torch.ones(1), "initial_state": torch.ones(1, 1), "z_A1": torch.ones(1, 1), "z_A2": torch.ones(1, 2)}
    values = []
    for unit in (1.0, 1000.0):
        model = grey(torch.float32)
        with torch.no_grad():
            model.log_scale += torch.tensor(unit).log()
            model.correct.weight *= unit  # type: ignore[union-attr]
        out = model.decode(z)
        values.append(((out.full - out.without_correction).square().sum() / model.sd.square()).item())
    assert values[0] == pytest.approx(values[1], rel=1e-4)


# the model


def test_intervene_changes_one_unknown_and_refuses_unknown_names() -> None:
    model = grey()
    z = simulate(model, 3, seed=1)
    z.pop("x")
    changed = model.intervene(z, rate=2 * z["rate"])
    assert torch.allclose(changed.full, model.decode({**z, "rate": 2 * z["rate"]}).full)
    assert torch.allclose(model.intervene(z, rate=torch.tensor(0.7)).physics[0, :, 0], expected(z, 0.7), atol=1e-3)
    assert model.intervene(z, torch.tensor([0.2, 5.0]), rate=z["rate"]).full.shape == (3, 2, 1)
    with pytest.raises(ValueError, match="speed"):
        model.intervene(z, speed=torch.tensor(1.0))


def expected(z: dict[str, Tensor], rate: float) -> Tensor:
    times = torch.tensor([0.1, 0.3, 0.4, 1.0, 1.5], dtype=torch.float64)
    return z["initial_state"][0, 0] * (-rate * times).exp()


@pytest.mark.parametrize("options", [{}, {"learnt_prior": True}, {"noise": "inferred"}, {"dynamics_code": 0}])
def test_the_pendulum_keeps_the_contract(options: dict[str, Any]) -> None:
    with seeded(0):
        model = Pendulum(**options).double()
    x = simulate(model, 1, seed=0)["x"][0]
    check_model(model, {"x": x})


def test_the_toy_and_the_baselines_keep_the_contract() -> None:
    with seeded(0):
        models = [grey(), BlackBox((5, 1), 2).double(), NeuralODE([0.0, 0.1, 0.4], code=2).double()]
    for model in models:
        x = simulate(model, 1, seed=0)["x"][0]
        check_model(model, {"x": x})


def test_stock_pyro_trains_and_predicts() -> None:
    model = grey(torch.float32)
    guide, x = guided(model)
    pyro.clear_param_store()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 3e-3}), Trace_ELBO())  # type: ignore[attr-defined]
    with seeded(3):
        losses = [svi.step(x=x[0]) for _ in range(60)]
    assert sum(losses[-20:]) < sum(losses[:20])
    with seeded(3):
        predicted = Predictive(model, guide=guide, num_samples=7, return_sites=("x", "rate"))(x=x[0])
    assert predicted["rate"].shape[0] == 7
    free = Predictive(model, num_samples=6)()
    assert free["x"].shape[-2:] == (5, 1)
    pyro.clear_param_store()


def test_the_driver_lowers_the_loss_of_the_grey_box() -> None:
    model = grey(torch.float32)
    guide, _ = guided(model)
    x = simulate(model, 64, seed=20)["x"]
    objective = GreyBoxELBO(particles=2, predictive=0.01, cleansing=0.01, sleep=1.0, whole_sleep=1.0)
    losses = fit(
        model, guide, DataSets({"x": x}, batch_size=32), objective, steps=60, learning_rate=3e-3, progress=False
    )
    assert sum(losses.losses[-15:]) < sum(losses.losses[:15])


# the learnt prior


@pytest.mark.parametrize("features", [1, 3])
def test_a_learnt_prior_starts_as_the_standard_normal(features: int) -> None:
    prior = LearntPrior(features).double()
    values = 2.0 * torch.randn(50, features, dtype=torch.float64)
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(values).sum(-1)
    assert torch.allclose(prior().log_prob(values), standard, atol=1e-6)
    assert prior().event_shape == (features,)
    assert prior().sample((4,)).shape == (4, features)


def test_a_learnt_prior_learns_two_modes() -> None:
    with seeded(0):
        prior = LearntPrior(1)
        data = torch.where(torch.rand(500, 1) < 0.5, -2.0, 2.0) + 0.3 * torch.randn(500, 1)
        optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
        for _ in range(200):
            optimizer.zero_grad()
            (-prior().log_prob(data).mean()).backward()
            optimizer.step()
        log_prob = prior().log_prob(data).mean()
    mixture = (
        torch.logaddexp(*(torch.distributions.Normal(m, 0.3).log_prob(data) for m in (-2.0, 2.0)))
        - torch.tensor(2.0).log()
    )
    normal = torch.distributions.Normal(data.mean(), data.std()).log_prob(data).mean()
    assert log_prob > normal + 0.6 * (mixture.mean() - normal)


def test_a_black_box_trains_under_the_elbo() -> None:
    model = grey(torch.float32)
    x = simulate(model, 64, seed=20)["x"]
    for black in (BlackBox((5, 1), 2), NeuralODE([0.1, 0.3, 0.4, 1.0, 1.5], t0=0.0, code=2, gradient="parallel")):
        guide = black_box_guide(black, {"x": x[0]}, data=x, simulations=100)
        done = fit(black, guide, DataSets({"x": x}, batch_size=32), steps=40, learning_rate=3e-3, progress=False)
        assert sum(done.losses[-10:]) < sum(done.losses[:10])
        decoded = black.decode(guide.sample({"x": x}, 2))
        assert decoded.full is decoded.physics


def test_a_counterfactual_without_gravity_and_one_of_a_wrong_shape() -> None:
    model = physzoo.get("pendulum").model()
    z = {name: value[:3] for name, value in simulate(model, 3).items() if name != "x"}
    assert torch.isfinite(model.intervene(z, omega=torch.tensor(0.0)).full).all()
    with pytest.raises(ValueError, match=r"omega: got shape \(2,\), expected one that broadcasts to \(3,\)"):
        model.intervene(z, omega=torch.ones(2))
