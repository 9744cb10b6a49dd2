"""Draws that the physics rejects have no weight, whatever the objective and the guide, and end no fit by themselves."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule
from torch import nn

from physzoo.core.global_state import seeded
from physzoo.guides import amortize
from physzoo.guides.state import ResidualGuide
from physzoo.inference.density import RejectedError, RejectedWarning
from physzoo.inference.density.shares import Loss, Share, accepted_pairs
from physzoo.inference.fit import DataSets, Simulator, fit, simulated_once
from physzoo.inference.fit.batches import Batches
from physzoo.inference.fit.checkpoint import load
from physzoo.inference.fit.driver import FitOptions
from physzoo.inference.fit.guard import NonFiniteError
from physzoo.inference.objectives import (
    ELBO,
    MMD,
    AlphaJS,
    Batch,
    EnergyDistance,
    ForwardKL,
    Mixture,
    Renyi,
    Reweighted,
    SlicedWasserstein,
)
from physzoo.inference.objectives.stock import Stock
from physzoo.physics import observe, virtual_observables
from physzoo.physics.likelihoods import SolverWarning

QUIET = FitOptions(progress=False)
Y = torch.tensor([0.2, 0.4, 0.3])
NOISE = 0.5

pytestmark = pytest.mark.filterwarnings("ignore::physzoo.inference.shares.RejectedWarning", "ignore:site ")


class Edge(PyroModule):
    """z ~ N(0, 1), y ~ N(z, 0.5^2); no state above an edge. NaN times z and a parameter would spoil every gradient."""

    def __init__(self, edge: float = 0.3, broken: bool = False) -> None:
        super().__init__()
        self.edge, self.broken = edge, broken
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        state = torch.where(z > self.edge, torch.full_like(z, torch.nan), z)
        if self.broken:
            pyro.factor("broken", torch.where(z < -0.5, torch.full_like(z, torch.nan), torch.zeros_like(z)))
        reads = self.gain * (state * z.exp()) * z.neg().exp()
        return observe("y", reads[..., None] * torch.ones(3), NOISE, obs=y)


class Gaussian(PyroModule):
    """q(z) = N(m, s^2), which scores given values too."""

    def __init__(self) -> None:
        super().__init__()
        self.m, self.log_s = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor(-0.2))

    def density(self):
        return dist.Normal(self.m, self.log_s.exp())

    def forward(self, y=None):
        pyro.sample("z", self.density())

    def log_prob(self, values, data):
        return self.density().log_prob(values["z"])


def drawn(guide: Gaussian, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    with seeded(seed):
        return guide.density().rsample(torch.Size(shape))


def log_ratio(z: torch.Tensor, guide: Gaussian, y: torch.Tensor) -> torch.Tensor:
    likelihood = dist.Normal(z[..., None], NOISE).log_prob(y).sum(-1)
    return dist.Normal(0.0, 1.0).log_prob(z) + likelihood - guide.density().log_prob(z)


SETS = torch.linspace(-1, 1, 12).reshape(4, 3)
EXACT = [
    (ELBO(16), lambda w: -w.mean()),
    (Renyi(0.5, 16), lambda w: -2 * (0.5 * w).exp().mean().log()),
    (Renyi(2.0, 16), lambda w: (-w).exp().mean().log()),
]


@pytest.mark.parametrize(("objective", "value"), EXACT)
@pytest.mark.parametrize("many", [False, True])
def test_an_objective_is_that_of_the_guide_restricted_to_what_is_accepted(objective, value, many):
    """Draw by draw, of q / Q: what is left after those above the edge are taken out; of every data set, then over data sets."""
    model, guide = Edge(), Gaussian()
    batch = Batch({"y": SETS if many else Y}, 4 if many else None)
    with seeded(3):
        loss = objective(model, guide, batch)
    z = drawn(guide, (16, 4) if many else (16, 1), 3)
    w, score = log_ratio(z, guide, SETS if many else Y), guide.density().log_prob(z.detach())
    kept = z <= model.edge
    expected = torch.tensor(0.0)
    for j in range(z.shape[1]):
        mine = kept[:, j]
        mean_score = score[mine, j].mean()
        log_share = mine.float().mean().log() + mean_score - mean_score.detach()
        expected = expected + (value(w[mine, j]) - log_share) / z.shape[1]
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    gradient = torch.autograd.grad(loss, list(guide.parameters()))
    for got, right in zip(gradient, torch.autograd.grad(expected, list(guide.parameters())), strict=True):
        torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-5)


def test_reweighted_draws_have_the_weights_of_the_accepted_ones():
    model, guide, particles = Edge(), Gaussian(), 16
    with seeded(5):
        loss = Reweighted(particles)(model, guide, Batch({"y": Y}))
    with torch.no_grad():
        z = drawn(guide, (particles,), 5)
        w = log_ratio(z, guide, Y).masked_fill(z > model.edge, -torch.inf)
        w = torch.minimum(w, w.logsumexp(0) - 0.5 * torch.tensor(float(particles)).log()).softmax(0)
    torch.testing.assert_close(loss, -(w * guide.density().log_prob(z)).sum())


def test_a_data_set_without_an_accepted_draw_is_left_out():
    """One draw a data set: the mean over those whose draw is accepted."""
    model, guide = Edge(), Gaussian()
    with seeded(1):
        loss = ELBO()(model, guide, Batch({"y": SETS}, 4))
    z = drawn(guide, (4,), 1)
    kept = z <= model.edge
    assert 0 < kept.sum() < 4
    torch.testing.assert_close(loss, -log_ratio(z, guide, SETS)[kept].mean())
    with seeded(1):
        stock = Stock(Trace_ELBO())(model, guide, Batch({"y": SETS}, 4))
    torch.testing.assert_close(stock, loss)


@pytest.mark.parametrize("vectorize", [False, True])
def test_a_stock_elbo_has_accepted_draws_in_the_place_of_rejected_ones(vectorize):
    model, guide = Edge(), Gaussian()
    elbo = Stock(Trace_ELBO(num_particles=8, vectorize_particles=vectorize))
    with seeded(2):
        loss = elbo(model, guide, Batch({"y": Y}))
    with seeded(2):
        z = guide.density().rsample((8,)) if vectorize else torch.stack([guide.density().rsample() for _ in range(8)])
    w, kept = -log_ratio(z, guide, Y), z <= model.edge
    turns = torch.arange(int((~kept).sum())) % int(kept.sum())
    torch.testing.assert_close(loss, torch.cat([w[kept], w[kept][turns]]).mean() - kept.float().mean().log())
    assert all(bool(g.isfinite()) for g in torch.autograd.grad(loss, list(guide.parameters())))


ONE = {"y": Y}
OBJECTIVES = [
    *((objective, ONE) for objective in (ELBO(), ELBO(4), Renyi(0.0, 4), Reweighted(8), Trace_ELBO())),
    *((objective, DataSets({"y": SETS}, 2)) for objective in (ELBO(), Mixture(((1.0, ELBO(2)), (1.0, Reweighted(4)))))),
    *((o, Simulator(8)) for o in (ForwardKL(), AlphaJS(0.5, 2), MMD(), EnergyDistance(), SlicedWasserstein(4))),
]


@pytest.mark.parametrize(("objective", "source"), OBJECTIVES)
def test_no_objective_stops_at_a_rejected_draw(objective, source):
    model = Edge()
    guide = amortize(model, "mlp", "full", example=ONE, simulations=64)
    result = fit(model, guide, source, objective, QUIET, steps=10)
    assert result.steps == 10
    assert sum(loss == loss for loss in result.losses) >= 3
    assert all(bool(p.isfinite().all()) for p in (*guide.parameters(), *model.parameters()))


@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal, "spline", "diagonal"])
def test_no_guide_stops_at_a_rejected_draw(guide):
    model = Edge(-0.2)
    guide = amortize(model, None, guide, example=ONE) if isinstance(guide, str) else guide(model, init_scale=1.0)
    assert fit(model, guide, ONE, ELBO(4), QUIET, steps=10).steps == 10


@pytest.mark.parametrize(
    ("objective", "edge"),
    [
        (ELBO(16), 0.6),
        (ELBO(), 0.6),
        (Renyi(0.5, 16), 0.6),
        (Trace_ELBO(8, vectorize_particles=True), 0.6),
    ],
)
def test_the_guide_is_right_where_draws_are_accepted(objective, edge):
    """It starts far over the edge; the posterior is N(12/13 mean(y), 1/13) below the edge, whatever is cut off."""
    model, guide = Edge(edge), Gaussian()
    model.gain.requires_grad_(False)
    with torch.no_grad():
        guide.m.fill_(0.0), guide.log_s.fill_(-0.5)
    fit(model, guide, ONE, objective, QUIET, steps=400, learning_rate=0.05)
    assert guide.m.item() == pytest.approx(12 / 13 * Y.mean().item(), abs=0.05)
    assert guide.log_s.exp().item() == pytest.approx(13**-0.5, rel=0.1)


@pytest.mark.parametrize(("objective", "steps"), [(ELBO(), 400), (ELBO(64), 400), (ELBO(), 5), (Trace_ELBO(), 400)])
def test_more_than_half_of_the_draws_end_the_fit_with_one_sentence(objective, steps, tmp_path):
    model = Edge(-2.5 if steps == 5 else -0.7)
    guide, path = amortize(model, None, "diagonal", example=ONE), tmp_path / "fit.pt"
    with pytest.raises(RejectedError, match=r"step \d+: site 'y': got \d+% of the draws .*tighten the prior") as error:
        fit(model, guide, ONE, objective, QUIET, steps=steps, learning_rate=1e-6, checkpoint=path)
    assert "\n" not in str(error.value)
    assert len(str(error.value).replace(str(path), "")) < 300
    assert load(path)["step"] <= steps
    assert all(bool(p.isfinite().all()) for p in guide.parameters())


def test_a_fit_of_one_draw_is_not_ended_by_bad_luck():
    share = Share()

    def steps(share, rejected):
        for gone in rejected.tolist():
            share.count(Loss("y" if gone else "", int(gone), 1), used=not gone)
            share.check()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RejectedWarning)
        steps(share, torch.rand(3000, generator=torch.Generator().manual_seed(0)) < 0.45)
        bad = torch.rand(3000, generator=torch.Generator().manual_seed(0)) < 0.65
        with pytest.raises(RejectedError, match="last 200 steps"):
            steps(share, bad)


def test_a_density_that_is_no_rejection_stays_an_error():
    model = Edge(broken=True)
    guide = amortize(model, None, "diagonal", example=ONE)
    with pytest.raises(NonFiniteError, match="model site 'broken' has log density nan") as error:
        fit(model, guide, ONE, ELBO(16), QUIET, steps=20)
    assert not isinstance(error.value, RejectedError)


def test_the_share_is_told_once_and_single_rejections_are_not():
    model = Edge(1.0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        guide = amortize(model, None, "diagonal", example=ONE)
        del told[:]
        fit(model, guide, ONE, ELBO(8), QUIET, steps=20, learning_rate=1e-6)
    assert [entry.category for entry in told] == [RejectedWarning]
    assert not any(issubclass(entry.category, SolverWarning) for entry in told)


@pytest.mark.parametrize("edge", [1.5, 0.3])
def test_rejected_pairs_are_drawn_again(edge):
    """What is left is the prior below the edge, in whole batches."""
    pairs, loss = accepted_pairs(Edge(edge), 4000, seed=0)
    assert pairs["z"].shape == (4000,)
    assert pairs["y"].isfinite().all()
    assert float(pairs["z"].max()) <= edge
    normal = torch.distributions.Normal(0.0, 1.0)
    below = float(normal.cdf(torch.tensor(edge)))
    mean = -float(normal.log_prob(torch.tensor(edge)).exp()) / below
    assert float(pairs["z"].mean()) == pytest.approx(mean, abs=0.05)
    assert 1 - loss.share == pytest.approx(below, abs=0.03)
    data = simulated_once(Edge(edge), None, 50)
    assert data.data["y"].shape == (50, 3)


def test_a_simulator_goes_on_at_any_share_below_one_half_and_says_so_above():
    model = Edge(0.3)
    guide = amortize(model, "mlp", "diagonal", example=ONE, simulations=64)
    seen = {"z": torch.linspace(-2, 0, 20)}
    source = Simulator(8, corrupt=lambda data: {"y": data["y"] + 1.0}, seen=seen)
    batch = Batches(model, source, seed=0).at(0)
    assert batch.datasets == 8
    assert batch.data["y"].isfinite().all()
    assert fit(model, guide, source, ForwardKL(), QUIET, steps=5).steps == 5
    with pytest.raises(RejectedError, match=r"site 'y': got \d+% of the draws of the last 20. steps rejected"):
        fit(Edge(-0.6), guide, Simulator(8), ForwardKL(), QUIET, steps=300)
    with pytest.raises(RejectedError, match=r"site 'y': got (\d+) of \1 simulations rejected"):
        fit(Edge(-99.0), guide, Simulator(8), ForwardKL(), QUIET, steps=3)


class Cooling:
    """r(u, z) = u - 1 / z, of which nothing is solved for z below a limit."""

    state_event_dim = 1

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def solve(self, z, residual=0.0):
        u = 1 / z[..., None] + residual
        return torch.where(z[..., None] < self.limit, torch.full_like(u, torch.nan), u)

    def residual(self, u, z):
        return u - 1 / z[..., None]

    def logdet(self, u, z):
        return torch.where(u.isnan().any(-1), torch.nan, torch.zeros_like(u[..., 0])) + 0 * z.log() * u[..., 0]


def test_a_residual_guide_leaves_out_states_that_are_not_to_be_had():
    problem = Cooling(1.0)

    def model(y=None):
        z = pyro.sample("z", dist.LogNormal(0.0, 0.3))
        u = pyro.sample("u", dist.Normal(torch.zeros(1), 5.0).to_event(1))
        virtual_observables("r", problem, u, z, 0.1)
        pyro.sample("y", dist.Normal(u, 0.5).to_event(1), obs=y)

    def forward(y=None):
        z = pyro.sample("z", dist.LogNormal(0.0, 0.3))
        pyro.sample("y", dist.Normal(1 / z[..., None], 0.5).to_event(1), obs=y)

    data = {"y": torch.tensor([0.8])}
    guide = ResidualGuide(amortize(forward, None, "diagonal", example=data), problem, (1,), 0.1)
    result = fit(model, guide, data, ELBO(8), QUIET, steps=30, learning_rate=0.01)
    assert result.steps == 30
    assert all(loss == loss for loss in result.losses)
    assert all(bool(p.isfinite().all()) for p in guide.parameters())
