"""The state learnt from weighted residuals: no solve, and held against the closed form."""

import math
import sys
from importlib import import_module
from pathlib import Path

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO

from physzoo.guides import PreconditionedGuide
from physzoo.models.poisson1d import Poisson1D, bar, temperatures
from physzoo.physics import Collocation, Elliptic1D, Galerkin
from physzoo.physics.elliptic import sines

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
weighted = import_module("_weighted")
benchmark = import_module("weighted_residual")


def draws(count, dimension, seed=0):
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def standard_normal(**data):
    return {"z": pyro.sample("z", dist.Normal(torch.zeros(8, dtype=torch.float64), 1.0).to_event(1))}


def few_sines(modes=6):
    return Galerkin(bar(), sines(63, modes, torch.float64))


def guide_of(problem, size, **options):
    """A guide whose network is not at its start."""
    guide = PreconditionedGuide(standard_normal, problem, size, torch.zeros(8, dtype=torch.float64), 1e-3, **options)
    with torch.no_grad():
        for parameter in guide.net[-1].parameters():
            parameter.mul_(30.0)
    return guide


CASES = {
    "hats": (bar, 63, {}),
    "sines": (few_sines, 6, {}),
    "energy": (lambda: Collocation(8, unknowns=8, dtype=torch.float64), 8, {"energy": True, "modes": 5}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_density_is_the_gaussian_of_mean_and_factor(name):
    make, size, options = CASES[name]
    guide, z = guide_of(make(), size, **options), 0.5 * draws(3, 8)
    mean, factor = guide.mean(z), guide.factor(z)
    u = mean + (factor @ draws(3, size, 1)[..., None])[..., 0]
    guide.guide_z = type("Scored", (), {"log_prob": staticmethod(lambda values, data: 0.0)})()
    got = guide.log_prob({"z": z, "u": u}, {})
    white = torch.linalg.solve(factor, (u - mean)[..., None])[..., 0]
    exact = dist.Normal(0.0, 1.0).log_prob(white).sum(-1) - torch.linalg.slogdet(factor)[1]
    torch.testing.assert_close(got, exact, rtol=0, atol=1e-5)


def test_a_draw_is_scored_as_it_was_drawn():
    pyro.set_rng_seed(0)
    guide = guide_of(bar(), 63)

    def run():
        with pyro.plate_stack("batch", (4, 2)):
            guide()

    trace = pyro.poutine.trace(run).get_trace()
    trace.compute_log_prob()
    sites = trace.nodes
    guide.guide_z = type("Scored", (), {"log_prob": staticmethod(lambda values, data: 0.0)})()
    drawn = sites["u"]["log_prob"] + sites["_u_residual"]["log_prob"]
    scored = guide.log_prob({"z": sites["z"]["value"], "u": sites["u"]["value"]}, {})
    torch.testing.assert_close(drawn, scored, rtol=1e-9, atol=1e-5)


def test_two_sums_of_columns_give_the_diagonal_of_a_tridiagonal_operator():
    guide, z = guide_of(bar(), 63), draws(5, 8)
    assert len(guide.probes) == 2
    scaling = guide._operator(z).scaling
    exact = (
        guide.matrix(torch.zeros(8, dtype=torch.float64)).diagonal() / guide.matrix(z).diagonal(dim1=1, dim2=2)
    ).sqrt()
    torch.testing.assert_close(scaling, exact)


def test_the_diagonal_of_any_sparse_operator_takes_few_sums():
    """Seven neighbours on a 6 x 6 grid, as of linear triangles: as many sums as colours."""
    cell = torch.arange(36)
    x, y = cell % 6, cell // 6
    dx, dy = x[:, None] - x, y[:, None] - y
    near = ((dx.abs() + dy.abs() <= 1) | ((dx == dy) & (dx.abs() == 1))).double()
    values = draws(36, 36)
    matrix = near * (values + values.T) + 20 * torch.eye(36, dtype=torch.float64)
    problem = type("Sparse", (), {"residual": staticmethod(lambda u, z: z[..., :1].exp() * (u @ matrix) - 1)})()
    guide = guide_of(problem, 36)
    assert 3 <= len(guide.probes) <= 7
    torch.testing.assert_close(guide.probes.sum(0), torch.ones(36, dtype=torch.float64))
    z = draws(4, 8)
    torch.testing.assert_close(guide._operator(z).scaling, (-0.5 * z[:, :1]).exp().expand(4, 36))


def test_steps_after_the_solution_change_nothing_in_single_precision():
    diagonal = torch.tensor([5.0, 5.0, 5.0])
    problem = type("Diagonal", (), {"residual": staticmethod(lambda u, z: u * diagonal - 1.0)})()
    guide = PreconditionedGuide(standard_normal, problem, 3, torch.zeros(8), 1e-3, steps=6)
    torch.testing.assert_close(guide.mean(draws(4, 8).float()), torch.full((4, 3), 0.2))


@pytest.mark.parametrize("name", CASES)
def test_every_step_brings_the_mean_closer_and_as_many_as_entries_solve(name):
    make, size, options = CASES[name]
    problem = make()
    guide, z = guide_of(problem, size, **options), 0.5 * draws(20, 8)
    matrix = guide.matrix(z)
    worse = []
    last = torch.full((20,), math.inf, dtype=torch.float64)
    for steps in (1, 2, 3, 4):
        guide.steps = steps
        gap = guide.mean(z) - problem.solve(z)
        r = (matrix @ gap[..., None])[..., 0]
        size_of = (r * gap).sum(-1) if guide.energy else r.square().sum(-1)
        worse.append(bool((size_of > last).any()))
        last = size_of
    assert not any(worse)
    if size < 10:
        guide.steps = size
        torch.testing.assert_close(guide.mean(z), problem.solve(z), rtol=1e-6, atol=1e-9)


def test_training_finds_the_closed_form_without_a_solve(monkeypatch):
    target = benchmark.hats(2)
    z = target.draw(512, 1)
    exact = target.exact(z, target.scale)

    def refuse(*_, **__):
        raise RuntimeError("a solve in the training loop")

    with monkeypatch.context() as patched:
        patched.setattr(Elliptic1D, "solve", refuse)
        patched.setattr(Elliptic1D, "logdet", refuse)
        start, guide = weighted.trained_under_prior(target, 3, 250, 0, particles=64, modes=16, hidden=(64,))
    before, after = (weighted.judged(target, weighted.conditional(one, z), z, 2) for one in (start, guide))
    assert after["kl_per_dof"] < 0.05 < before["kl_per_dof"]
    assert after["relative_l2"] < 0.01
    assert after["sd_x_0.8_smallest_holm_p"] < 1e-6
    assert exact[0].shape == (512, 63)


def test_the_whiteness_test_accepts_the_closed_form_and_rejects_a_shift_and_a_width():
    target = benchmark.of_sines()
    z = target.draw(512, 3)
    mean, root = target.exact(z, target.scale)
    factor = torch.linalg.inv(root)
    wrong = {"wide": weighted.Gaussian(mean, 1.2 * factor), "narrow": weighted.Gaussian(mean, 0.8 * factor)}
    wrong["shifted"] = weighted.Gaussian(mean + 0.5 * factor.sum(-1), factor)
    assert weighted.whiteness(weighted.Gaussian(mean, factor), mean, root, 4) > 0.01
    assert all(weighted.whiteness(q, mean, root, 4) < 1e-4 for q in wrong.values())


def test_the_kl_is_that_of_two_gaussians():
    target = benchmark.random_points()
    z = target.draw(3, 3)
    mean, root = target.exact(z, target.scale)
    q = weighted.Gaussian(mean + 1e-3 * draws(3, 16), 0.8 * torch.linalg.inv(root) @ torch.diag(draws(1, 16)[0].exp()))
    p = dist.MultivariateNormal(mean, precision_matrix=root.mT @ root)
    own = dist.MultivariateNormal(q.mean, q.factor @ q.factor.mT)
    spread, shift = weighted.kl_per_dof(q, mean, root)
    torch.testing.assert_close(16 * (spread + shift), torch.distributions.kl_divergence(own, p), rtol=1e-5, atol=1e-6)


def test_stock_svi_trains_it_as_the_state_of_an_inverse_problem():
    pyro.set_rng_seed(0)
    model = Poisson1D("residual")
    guide = PreconditionedGuide(standard_normal, model.problem, 63, model.origin, model.residual_scale, steps=2)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO(num_particles=2))
    before = [value.detach().clone() for value in guide.parameters()]
    with pyro.get_param_store().scope():
        losses = [svi.step(**temperatures()) for _ in range(3)]
    assert all(math.isfinite(loss) for loss in losses)
    assert all((old != new).any() for old, new in zip(before, guide.parameters(), strict=True))


def test_virtual_pairs_put_the_head_in_the_place_of_the_prior():
    inverse = import_module("_weighted_inverse")
    target = benchmark.hats(2)
    model, z = inverse.VirtualPairs(target, 0), draws(1, 2)[0]
    u = bar(2).solve(z) + 1e-6 * draws(1, 63, 1)[0]
    trace = pyro.poutine.trace(pyro.poutine.condition(model, {"z": z, "u": u})).get_trace()
    flat = dist.Normal(torch.zeros_like(u), weighted.STATE_SCALE).log_prob(u).sum()
    expected = flat - target.energy(u, z, target.scale) + model.head_log_prob(z, u)
    torch.testing.assert_close(trace.log_prob_sum(), expected, rtol=1e-9, atol=1e-6)


def test_the_heads_estimate_finds_the_unknowns_behind_a_state():
    inverse = import_module("_weighted_inverse")
    target, z = benchmark.hats(2), 1.2 * draws(200, 2)
    found, tril = inverse.estimated(target, bar(2).solve(z))
    sd = torch.linalg.inv(tril).square().sum(-2).sqrt()
    assert float(((found - z).abs() / sd).max()) < 0.1


def test_what_does_not_fit_is_refused():
    origin = torch.zeros(8, dtype=torch.float64)
    problem = bar()
    negative = type("Negative", (), {"residual": staticmethod(lambda u, z: -problem.residual(u, z))})()
    with pytest.raises(ValueError, match="expected a symmetric positive definite one"):
        PreconditionedGuide(standard_normal, negative, 63, origin, 1e-3)
    bent = type("Bent", (), {"residual": staticmethod(lambda u, z: problem.residual(u, z) + u**3)})()
    with pytest.raises(ValueError, match="problem: got a residual that bends"):
        PreconditionedGuide(standard_normal, bent, 63, origin, 1e-3)
    with pytest.raises(ValueError, match="scale: got 0"):
        PreconditionedGuide(standard_normal, problem, 63, origin, 0)
    with pytest.raises(ValueError, match="steps: got 0"):
        PreconditionedGuide(standard_normal, problem, 63, origin, 1e-3, steps=0)
    with pytest.raises(TypeError, match="reference: got"):
        PreconditionedGuide(standard_normal, problem, 63, 0.0, 1e-3)
    with pytest.raises(ValueError, match="modes: got 64, expected 1 to 63"):
        sines(63, 64)
    bar_that_bends = bar()
    few = Galerkin(bar_that_bends, sines(63, 6, torch.float64))
    bar_that_bends.residual = bent.residual
    with pytest.raises(ValueError, match="problem: got a residual that bends"):
        few.solve(origin)
    with pytest.raises(ValueError, match="expected independent columns"):
        Galerkin(problem, torch.ones(63, 2, dtype=torch.float64))


def test_states_and_unknowns_of_another_dtype_are_refused_by_name_where_they_cannot_be_promoted():
    sine, points = few_sines(), Collocation(8, unknowns=8)
    single, double = torch.zeros(2, 8), torch.zeros(2, 8, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"u: got torch\.float32, expected torch\.float64"):
        sine.observe(single[:, :6])
    with pytest.raises(
        TypeError, match=r"z: got a residual of torch\.float64 from it, expected torch\.float32 as the basis"
    ):
        Galerkin(bar(), sines(63, 6, torch.float32)).solve(double)
    with pytest.raises(TypeError, match=r"z: got torch\.float64, expected torch\.float32"):
        points.solve(double)
    with pytest.raises(TypeError, match=r"u: got torch\.float64, expected torch\.float32"):
        points.residual(double, single)
    assert points.rows(double, torch.zeros(3, dtype=torch.float64)).dtype == torch.float64
    guide = PreconditionedGuide(standard_normal, points, 8, torch.zeros(8), 1e-3, energy=True, modes=5)
    with pytest.raises(TypeError, match=r"z: got torch\.float64, expected torch\.float32 as the reference's"):
        guide.mean(double)


def test_all_sines_are_all_hats_and_few_of_them_are_the_best_in_energy():
    problem, z = bar(), draws(4, 8)
    everything = few_sines(63)
    torch.testing.assert_close(everything.state(everything.solve(z)), problem.solve(z))
    torch.testing.assert_close(
        everything.logdet(everything.solve(z), z), problem.logdet(problem.solve(z), z), rtol=1e-9, atol=1e-9
    )
    few = few_sines()
    c = few.solve(z)

    def energy(c):
        gap = few.state(c) - problem.solve(z)
        return (gap * (problem.residual(few.state(c), z) - problem.residual(problem.solve(z), z))).sum(-1)

    assert all((energy(c + 1e-3 * move) > energy(c)).all() for move in draws(5, 6))
    torch.testing.assert_close(few.residual(few.solve(z, residual=c), z), c)
    z, c = z[0].requires_grad_(), c[0].detach().requires_grad_()
    assert torch.autograd.gradcheck(few.residual, (c, z))
    assert torch.autograd.gradcheck(few.solve, (z,))


def test_random_points_converge_to_the_finite_elements_and_hold_the_boundary():
    z = torch.linspace(-0.8, 0.8, 5, dtype=torch.float64)
    errors = []
    middle = -1 + (torch.arange(2048, dtype=torch.float64) + 0.5) / 1024
    for modes in (6, 10, 16):
        problem = Collocation(modes, dtype=torch.float64)
        field = lambda z, p=problem: p.conductivity(z, middle).log()  # noqa: E731
        elements = Elliptic1D(field, [0.0], 2048, domain=(-1.0, 1.0), dtype=torch.float64)
        fine, c = elements.solve(z), problem.solve(z)
        errors.append(float((problem.state(c, elements.nodes[1:-1]) - fine).norm() / fine.norm()))
        ends = torch.tensor([-1.0, 1.0], dtype=torch.float64)
        torch.testing.assert_close(problem.state(c, ends), 0 * ends)
    assert errors[0] > 50 * errors[1] > 500 * errors[2]
    assert errors[2] < 1e-3


def test_the_residual_of_marginalised_points_is_the_gradient_of_their_mean_energy():
    problem = Collocation(6, points=30, dtype=torch.float64)
    z, c = draws(1, 5)[0], draws(1, 6, 1)[0].requires_grad_()
    x = -1 + (torch.arange(20000, dtype=torch.float64) + 0.5) / 10000
    energy = 30 * 0.5 * problem.at_points(c, z, x).square().mean()
    (slope,) = torch.autograd.grad(energy, c)
    torch.testing.assert_close(problem.residual(c, z), slope, rtol=1e-5, atol=1e-5)
    assert torch.autograd.gradcheck(problem.residual, (c, z.requires_grad_()))
    assert torch.autograd.gradcheck(problem.solve, (z,))


@pytest.mark.parametrize(
    "options", [{"sensors": [2.0]}, {"sensors": 0.3}, {"sensors": []}, {"floor": -1.0}, {"floor": 0.0}]
)
def test_sensors_outside_the_bar_and_a_conductivity_below_zero_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}: got .*, expected"):
        Collocation(**options)
