"""Alpha-divergences and distances between draws: least at the exact posterior, ordered, and with gradients."""

import math

import pytest
import torch
from conjugate import Linear

from physzoo.core.global_state import seeded
from physzoo.core.simulate import simulate
from physzoo.guides import amortize
from physzoo.guides.encoders import Encoder
from physzoo.inference.fit import DataSets, fit
from physzoo.inference.fit.driver import FitOptions
from physzoo.inference.objectives import ELBO, MMD, AlphaJS, Batch, EnergyDistance, ForwardKL, Renyi, SlicedWasserstein
from physzoo.inference.objectives.divergences import paired_draws

MODEL = Linear()
EXAMPLE = {"y": torch.zeros(4, dtype=torch.float64)}
Y = torch.tensor([0.7, -0.3, 1.1, 0.2], dtype=torch.float64)
OBJECTIVES = [
    Renyi(0.0, 8), Renyi(0.5, 8), Renyi(2.0, 8), AlphaJS(0.2), AlphaJS(0.9), MMD(), EnergyDistance(), SlicedWasserstein(),
]  # fmt: skip
DISTANCES = [MMD(), EnergyDistance()]


class Passing(Encoder):
    """The standardised data themselves."""

    def forward(self, **data):
        return self.inputs(data)[0].chunk(2, -1)[0]


def amortised(width=1.0, shift=0.0):
    """A guide that is the exact posterior of every data set, or one with its sd multiplied and its mean moved by sd."""
    guide = amortize(MODEL, Passing(EXAMPLE, width=4), "full", example=EXAMPLE, simulations=4096)
    mean, covariance = MODEL.posterior(torch.eye(4, dtype=torch.float64))
    scale, centre = guide.encoder.y_scale, guide.encoder.y_mean
    inverse = 1 / guide.tril.diagonal()
    factor = torch.linalg.cholesky(covariance) * inverse[:, None] * width
    head = guide.family.affine.head
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:3] = mean.T * inverse[:, None] * scale
        moved = shift * covariance.diagonal().sqrt()
        head.bias[:3] = (centre @ mean - guide.loc + moved) * inverse
        head.bias[3:6] = factor.diagonal().log()
        rows = torch.tril_indices(3, 3, -1)
        head.bias[6:] = factor[rows[0], rows[1]]
    return guide


def batch(count, seed=0):
    drawn = simulate(MODEL, count, seed=seed)
    return Batch({"y": drawn["y"]}, count, {name: drawn[name] for name in ("z", "rate")})


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_the_exact_posterior_has_the_smallest_loss(objective):
    def loss(**wrong):
        with seeded(3), torch.no_grad():
            return objective(MODEL, amortised(**wrong), batch(1500)).item()

    exact = loss()
    for wrong in ({"width": 0.6}, {"width": 1.6}, {"shift": 0.6}):
        assert loss(**wrong) > exact


@pytest.mark.parametrize("objective", DISTANCES, ids=str)
def test_an_unbiased_distance_is_zero_at_the_exact_posterior_on_average(objective):
    guide = amortised()
    with seeded(0), torch.no_grad():
        values = torch.stack([objective(MODEL, guide, batch(64, seed)) for seed in range(300)])
        wrong = torch.stack([objective(MODEL, amortised(width=0.5), batch(64, seed)) for seed in range(100)])
    assert abs(values.mean()) < 4 * values.std() / 300**0.5
    assert wrong.mean() > 6 * wrong.std() / 100**0.5


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 1.0, 1.5])
def test_at_the_exact_posterior_every_alpha_bound_is_the_log_evidence(alpha):
    loss = Renyi(alpha, 4)(MODEL, amortised(), batch(50))
    assert loss.item() == pytest.approx(-MODEL.log_evidence(batch(50).data["y"]).mean().item(), abs=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_the_alpha_bound_is_the_evidence_less_the_divergence_in_closed_form(alpha):
    width, shift, particles = 1.3, 0.5, 400_000
    guide, (_, p) = amortised(width, shift), MODEL.posterior(Y)
    q = p * width**2
    mixed = alpha * p + (1 - alpha) * q
    gap = shift * p.diagonal().sqrt()
    divergence = 0.5 * alpha * gap @ torch.linalg.solve(mixed, gap)
    divergence -= (mixed.logdet() - (1 - alpha) * q.logdet() - alpha * p.logdet()) / (2 * (alpha - 1))
    with seeded(1), torch.no_grad():
        loss = Renyi(alpha, particles)(MODEL, guide, Batch({"y": Y}))
    # for a wide guide the weights are bounded: their sd is of order one
    expected = divergence - MODEL.log_evidence(Y)
    assert loss.item() == pytest.approx(expected.item(), abs=5 / (1 - alpha) / particles**0.5)


@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.7, 0.95])
def test_the_weights_of_the_uq_vae_bound_its_divergence(alpha):
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.rand(2000, 5, generator=generator, dtype=torch.float64).pow(4) + 1e-9 for _ in range(2))
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)

    def kl(a, b):
        return (a * (a / b).log()).sum(-1)

    middle = (1 - alpha) * q + alpha * p
    divergence = kl(q, middle) + (1 - alpha) / alpha * kl(p, middle) + kl(q, p)
    weighted = AlphaJS(alpha).forward_weight * kl(p, q) + kl(q, p)
    assert (divergence <= weighted - math.log(1 - alpha) / alpha).all()
    assert (divergence <= kl(q, p) * (1 + alpha) + (1 - alpha) ** 2 / alpha * kl(p, q)).all()


def test_the_uq_vae_loss_is_the_weighted_sum_of_its_terms():
    guide, pairs = amortised(1.3, 0.2), batch(20)
    with seeded(5):
        loss = AlphaJS(0.2, 4)(MODEL, guide, pairs)
    with seeded(5):
        reverse = ELBO(4)(MODEL, guide, pairs)
    torch.testing.assert_close(loss, 4 * ForwardKL()(MODEL, guide, pairs) + reverse)


@pytest.mark.parametrize("family", ["diagonal", "low_rank", "spline"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_gradients_are_finite_and_reach_every_parameter(objective, family):
    guide = amortize(MODEL, "mlp", family, example=EXAMPLE, simulations=256)
    objective(MODEL, guide, batch(16)).backward()
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert any(parameter.grad.abs().sum() > 0 for parameter in guide.parameters())


def test_mean_field_variances_grow_from_the_reverse_to_the_forward_kl():
    """Known for the two ends: 1 / precision_kk and covariance_kk."""
    _, covariance = MODEL.posterior(Y)

    def variances(objective):
        guide = amortize(MODEL, None, "diagonal", example={"y": Y}, simulations=0)
        fit(MODEL, guide, {"y": Y}, objective, FitOptions(steps=400, learning_rate=0.05, progress=False))
        return guide.density({"y": Y}).rsample((100_000,)).var(0).detach()

    reverse, middle, free = (variances(objective) for objective in (ELBO(32), Renyi(0.5, 64), Renyi(0.0, 64)))
    torch.testing.assert_close(reverse, 1 / torch.linalg.inv(covariance).diagonal(), rtol=0.05, atol=0)
    assert (middle > 1.03 * reverse).all()
    assert (middle < 0.98 * covariance.diagonal()).all()
    assert (free > 1.5 * covariance.diagonal()).all()  # with 64 draws nothing holds the importance-weighted ELBO back


@pytest.mark.parametrize("objective", [MMD(), EnergyDistance(), SlicedWasserstein()], ids=str)
def test_one_data_set_is_fitted_from_draws_of_its_posterior(objective):
    mean, covariance = MODEL.posterior(Y)
    x = torch.distributions.MultivariateNormal(mean, covariance).sample((4000,))
    pairs = DataSets({"y": Y.expand(4000, 4)}, 256, {"z": x[:, :2], "rate": x[:, 2].exp()})
    guide = amortize(MODEL, None, "full", example={"y": Y})
    fit(MODEL, guide, pairs, objective, FitOptions(steps=150, learning_rate=0.05, progress=False))
    found = guide.density({"y": Y}).rsample((50_000,)).detach() * guide.tril.diagonal() + guide.loc
    assert ((found.mean(0) - mean).abs() / covariance.diagonal().sqrt() < 0.15).all()
    assert ((found.std(0) / covariance.diagonal().sqrt()).log().abs() < 0.15).all()


def test_both_sides_of_a_pair_share_their_data_and_the_model_side_its_unknowns():
    guide, pairs = amortised(), batch(10)
    theirs, own = paired_draws(guide, pairs)
    assert torch.equal(theirs[:, 3:], own[:, 3:])
    values, _ = guide.sites.constrain(guide.loc + guide.tril.diagonal() * theirs[:, :3])
    torch.testing.assert_close(values["rate"], pairs.latents["rate"])
    torch.testing.assert_close(theirs[:, 3:] * guide.encoder.y_scale + guide.encoder.y_mean, pairs.data["y"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Renyi(math.inf), "alpha: got inf"),
        (lambda: Renyi(0.5, 1), "particles: got 1"),
        (lambda: AlphaJS(1.0), "alpha: got 1.0"),
        (lambda: MMD(()), "scales: got"),
        (lambda: MMD((1.0, -1.0)), "scales: got -1.0"),
        (lambda: SlicedWasserstein(0), "projections: got 0"),
        (lambda: MMD()(MODEL, amortised(), Batch({"y": Y})), "data: got 1 data sets without their unknowns"),
        (lambda: EnergyDistance()(MODEL, MODEL, batch(4)), "guide: got"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
