"""Channels under a learnt prior: the generator, the stored decoder, the operator, the point estimate."""

import json
import math
from importlib.resources import files

import pyro
import pyro.distributions as dist
import pytest
import torch

from physzoo.core.simulate import simulate
from physzoo.guides import amortize
from physzoo.inference.modes import point_estimate
from physzoo.inference.modes.point import mean_length
from physzoo.models import channels_prior
from physzoo.models.channel_darcy import CONTRAST, TYPICAL_HEAD, ChannelDarcy, aquifer, heads, truth
from physzoo.models.channels_prior import ChannelVAE, GenerativeField, trained_decoder
from physzoo.models.datasets.channels import RANGES, SWING, SWINGS, channel_map, draw_geometry, generate
from physzoo.physics import observe


@pytest.fixture(scope="module")
def model():
    return ChannelDarcy()


@pytest.fixture(scope="module")
def maps():
    return generate(3, (400, 5, 5)).train


def codes(*shape, seed=0):
    return torch.randn(*shape, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_maps_are_shares_and_their_numbers_are_of_the_stated_laws(maps):
    assert maps.x.shape == (400, 1, 16, 16)
    assert maps.x.min() == 0
    assert maps.x.max() == 1
    for name, (low, high) in RANGES.items():
        assert low <= maps.truths[name].min() < maps.truths[name].max() <= high
    for name in SWINGS:
        assert float(maps.truths[name].std()) == pytest.approx(SWING, abs=3 * SWING / 800**0.5)  # three standard errors


def test_each_channel_is_as_thick_as_it_says(maps):
    z = maps.truths
    swing = [torch.hypot(z[f"sine_{c}"], z[f"cosine_{c}"]) + z["half_width"] for c in ("1", "2")]
    clear = (z["centre_1"] - swing[0] > 0) & (z["centre_2"] + swing[1] < 1)  # of the border
    clear &= z["centre_1"] + swing[0] + 1 / 16 < z["centre_2"] - swing[1]  # and of each other
    assert clear.sum() > 50
    thick = maps.x[clear, 0].mean(-2)  # of both
    torch.testing.assert_close(thick, (4 * z["half_width"][clear, None]).expand_as(thick), rtol=1e-5, atol=0)


def test_a_map_is_the_share_of_fine_points_that_lie_in_a_channel(maps):
    """The formula at 400 points on the vertical through the middle of a cell."""
    z = {name: value[:100, None].double() for name, value in maps.truths.items()}
    x, y = 5.5 / 16, (11 + (torch.arange(400, dtype=torch.float64) + 0.5) / 400) / 16
    inside = torch.zeros(100, 400, dtype=torch.bool)
    for channel in ("1", "2"):
        swing = z[f"sine_{channel}"] * math.sin(2 * math.pi * x) + z[f"cosine_{channel}"] * math.cos(2 * math.pi * x)
        inside |= (y - z[f"centre_{channel}"] - swing).abs() < z["half_width"]
    share = inside.double().mean(-1)
    assert share.min() == 0 < ((share > 0.1) & (share < 0.9)).sum()
    torch.testing.assert_close(maps.x[:100, 0, 11, 5].double(), share, rtol=0, atol=3 / 400)


def test_the_same_seed_gives_the_same_maps_whatever_the_sizes():
    one, other = generate(3, (50, 5, 5)), generate(3, (20, 9, 5))
    assert torch.equal(one.train.x[:5], generate(3, (50, 5, 5)).train.x[:5])
    assert torch.equal(one.test.x, other.test.x)
    assert not torch.equal(one.train.x, generate(4, (50, 5, 5)).train.x)
    with pytest.raises(ValueError, match="cells: got 0"):
        channel_map(draw_geometry(2, torch.Generator()), 0)


def test_the_operator_is_that_of_another_finite_element_code(maps):
    skfem = pytest.importorskip("skfem")
    from skfem.helpers import dot, grad

    kappa = CONTRAST * maps.x[:3].double().flatten(1)
    problem = aquifer()
    line = torch.linspace(0, 1, 17).numpy()
    mesh = skfem.MeshQuad.init_tensor(line, line)
    basis = skfem.Basis(mesh, skfem.ElementQuad1())
    load = skfem.LinearForm(lambda v, _: v).assemble(basis)
    middle = mesh.p[:, mesh.t].mean(1)
    cell = (middle * 16).astype(int)
    for field, found in zip(kappa, problem.observe(problem.solve(kappa)), strict=True):
        value = field.exp().numpy()[cell[0] + 16 * cell[1]]
        by_element = value[:, None].repeat(basis.X.shape[1], 1)
        form = skfem.BilinearForm(lambda u, v, w: w["k"] * dot(grad(u), grad(v)))
        stiffness = form.assemble(basis, k=by_element)
        u = skfem.solve(*skfem.condense(stiffness, load, D=basis.get_dofs()))
        wells = torch.cartesian_prod(*2 * [torch.arange(1, 6, dtype=torch.float64) / 6]).T.numpy()
        expected = torch.from_numpy(basis.probes(wells) @ u)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_water_stands_lower_over_a_channel():
    """Rows of a map are y, columns x, and the wells count y fastest."""
    kappa = torch.zeros(16, 16, dtype=torch.float64)
    kappa[2:6] = CONTRAST
    problem = aquifer()
    found = problem.observe(problem.solve(kappa.flatten())).reshape(5, 5)
    assert found[2, 1] < 0.6 * found[2, 3]
    torch.testing.assert_close(found, found.flip(0))


def test_the_typical_head_is_the_median_of_the_largest(maps):
    problem = aquifer()
    largest = problem.observe(problem.solve(CONTRAST * maps.x.double().flatten(1))).amax(-1)
    error = 1.2533 * largest.std() / len(largest) ** 0.5  # of a median, about
    assert abs(largest.median() - TYPICAL_HEAD) < 3 * error


def test_tangents_and_adjoints_of_the_code_agree_with_each_other_and_with_differences(model):
    w, v, g = codes(3), codes(3, seed=1), torch.randn(3, 25, generator=torch.Generator().manual_seed(2)).double()

    def reading(w):
        return model.problem.observe(model.problem.solve(model.field(w)))

    _, tangent = torch.func.jvp(reading, (w,), (v,))
    (adjoint,) = torch.autograd.grad(reading(w.requires_grad_()), w, g)
    torch.testing.assert_close((tangent * g).sum(-1), (v * adjoint).sum(-1), rtol=1e-10, atol=0)
    w = w.detach()
    difference = (reading(w + 1e-6 * v) - reading(w - 1e-6 * v)) / 2e-6
    torch.testing.assert_close(tangent, difference, rtol=1e-5, atol=1e-9)
    several = torch.stack([v, -2 * v, codes(3, seed=3)])
    batched = torch.func.vmap(lambda d: torch.func.jvp(reading, (w,), (d,))[1])(several)
    torch.testing.assert_close(batched[1], -2 * tangent, rtol=1e-10, atol=0)


def test_tangents_pass_a_sample_without_a_solution_by():
    problem = aquifer()
    kappa = torch.zeros(2, 256, dtype=torch.float64)
    kappa[1, 3] = math.inf
    rise = torch.ones(2, 256, dtype=torch.float64)
    u, du = torch.func.jvp(problem.solve, (kappa,), (rise,))
    assert u.isnan().all(-1).tolist() == [False, True]
    torch.testing.assert_close(du[0], -u[0])  # u ~ exp(-kappa)
    with pytest.raises(RuntimeError, match="batch them in front"):
        torch.func.vmap(lambda z: problem.solve(z))(kappa)


def test_the_stored_decoder_has_the_figures_that_stand_beside_it(model):
    stored = files(channels_prior.__package__)
    facts = json.loads(stored.joinpath(channels_prior.WEIGHTS).with_suffix(".json").read_text())
    assert stored.joinpath(channels_prior.WEIGHTS).stat().st_size < 2e6
    found, seed = facts["metrics"], facts["seed"]
    x = generate(seed).test.x.flatten(1)
    w = torch.randn(len(x), 8, generator=torch.Generator().manual_seed(seed)).double()
    assert float(model.field(w).mean()) / CONTRAST == pytest.approx(found["channel_share_prior"], rel=1e-4)
    sd = model.problem.observe(model.problem.solve(model.field(w))).std(0).mean()
    assert float(sd) == pytest.approx(found["sd_head_prior"], rel=1e-4)
    # eight codes hold what a map is, and none of the seven numbers behind it is lost
    assert found["mean_absolute_error_of_a_cell"] < 0.04
    assert found["active_latents"] >= 7


def test_the_field_lies_between_ground_and_channel_and_nothing_trains_it(model):
    z = model.field(3 * codes(200))
    assert z.min() >= 0
    assert z.max() <= CONTRAST
    assert z.min() < 0.01 < CONTRAST - 0.01 < z.max()  # it reaches both
    assert not list(model.parameters())
    autoencoder = ChannelVAE()
    GenerativeField(autoencoder.decoder, 1.0)
    assert all(parameter.requires_grad for parameter in autoencoder.parameters())
    assert len(list(autoencoder.parameters())) == 6


def test_a_file_that_is_not_the_decoder_is_named(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(ValueError, match="expected the weights of the channels' decoder"):
        trained_decoder(tmp_path / "none.safetensors")
    save_file({"0.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors', expected the weights"):
        trained_decoder(tmp_path / "other.safetensors")


def test_the_data_set_is_the_truths(model):
    error = heads()["y"] - model.problem.observe(model.problem.solve(model.field(truth())))
    assert 0.5 < float((error / model.noise).square().mean()) < 1.6  # 25 squares: three standard errors
    with pytest.raises(ValueError, match="sensors: got 0"):
        ChannelDarcy(sensors=0)
    with pytest.raises(ValueError, match="likelihood: got 'weak'"):
        ChannelDarcy("weak")


def test_residual_joint_at_a_solved_state_is_the_forward_joint_and_the_noise_of_the_residual(model):
    """At u = solve(z, residual=e): p(w, u, y) = p(w) N(e; 0, s_r^2) |det dr/du| p(y | u) flat."""
    weak, w, y = ChannelDarcy("residual"), codes(), heads()
    kappa = model.field(w)
    e = weak.residual_scale * torch.randn(225, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u = weak.problem.solve(kappa, residual=e)
    found = pyro.poutine.trace(pyro.condition(weak, {"w": w, "u": u})).get_trace(**y).log_prob_sum()
    expected = dist.Normal(0.0, 1.0).log_prob(w).sum() + dist.Normal(0.0, weak.residual_scale).log_prob(e).sum()
    expected = expected + weak.problem.logdet(u, kappa) + dist.Normal(0.0, 100.0).log_prob(u).sum()
    expected = expected + dist.Normal(weak.problem.observe(u), weak.noise).log_prob(y["y"]).sum()
    torch.testing.assert_close(found, expected)


def test_gauss_newton_steps_through_solver_and_decoder_reach_the_data(model):
    guide = amortize(model, "mlp", "spline", example=heads(), simulations=512, refine=4)
    y = simulate(model, 24, seed=5)["y"]
    found = guide.refined({"y": y})
    w = guide.loc + guide.tril.diagonal() * found.loc
    misfit = ((model.problem.observe(model.problem.solve(model.field(w))) - y) / model.noise).square().mean(-1)
    assert float(misfit.median()) < 1.5
    at_prior_mean = model.problem.observe(model.problem.solve(model.field(torch.zeros_like(w))))
    assert float(((at_prior_mean - y) / model.noise).square().mean(-1).median()) > 10


def test_the_point_estimate_lowers_its_objective_and_is_the_sum_of_its_terms(model):
    data, mu = heads(), mean_length(8)
    found = point_estimate(model, data, beta=2.0, starts=3, climbers=16, candidates=64)

    def objective(w):
        error = (model.problem.observe(model.problem.solve(model.field(w))) - data["y"]) / model.noise
        return error.square().sum(-1), 2.0 * (w.norm(dim=-1) - mu).square()

    misfit, penalty = objective(found.values["w"])
    assert found.misfit == pytest.approx(float(misfit))
    assert found.penalty == pytest.approx(float(penalty))
    assert found.objective == found.ends[0] == pytest.approx(found.misfit + found.penalty)
    assert len(found.ends) == 3
    at_truth = sum(objective(truth()))
    assert found.objective < float(at_truth)
    assert (found.objective < sum(objective(found.values["w"] + 0.05 * codes(50)))).all()


def test_the_length_of_the_code_follows_the_weight_of_the_penalty(model):
    mask = torch.zeros(25, dtype=torch.bool)
    data = {"y": torch.full((25,), torch.nan, dtype=torch.float64), "mask": mask}
    found = point_estimate(model, data, starts=1, climbers=2, candidates=4)
    assert float(found.values["w"].norm()) == pytest.approx(mean_length(8), abs=1e-3)
    assert found.misfit == 0
    free = point_estimate(model, heads(), beta=0, starts=1, climbers=8, candidates=64)
    assert free.penalty == 0


def test_the_mean_length_is_that_of_a_chi_law():
    assert mean_length(1) == pytest.approx(math.sqrt(2 / math.pi))
    length = codes(100_000).norm(dim=-1)
    assert float(length.mean()) == pytest.approx(mean_length(8), abs=4 * float(length.std()) / 100_000**0.5)


class Wide(pyro.nn.PyroModule):
    """Unknowns of sd 2, or counts instead of Gaussian data."""

    def __init__(self, sd=2.0, counts=False):
        super().__init__()
        self.sd, self.counts = sd, counts

    def forward(self, y=None, mask=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(2, dtype=torch.float64), self.sd).to_event(1))
        law = dist.Poisson(w.exp()) if self.counts else dist.Normal(w, 1.0)
        return pyro.sample("y", law.to_event(1), obs=y)


def test_a_mistake_names_the_argument(model):
    data, plain = heads(), {"y": torch.ones(2, dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"beta: got -1.0, expected a number of at least 0"):
        point_estimate(model, data, beta=-1.0)
    with pytest.raises(ValueError, match="starts: got 0"):
        point_estimate(model, data, starts=0)
    with pytest.raises(TypeError, match="data: got"):
        point_estimate(model, data["y"])
    with pytest.raises(ValueError, match=r"expected N\(0, I\)"):
        point_estimate(Wide(), plain)

    def skewed(y=None):
        z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        observe("y", (z + 10).exp(), 0.1, obs=y, family="lognormal")

    with pytest.raises(ValueError, match="expected a Gaussian likelihood"):
        point_estimate(skewed, plain, starts=1, climbers=2, candidates=4)
    with pytest.raises(ValueError, match="got observed site 'y' of Poisson, expected a Gaussian likelihood"):
        point_estimate(Wide(1.0, counts=True), plain)
    with pytest.raises(ValueError, match="size: got 0"):
        mean_length(0)
