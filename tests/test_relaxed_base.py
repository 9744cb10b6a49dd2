"""The second stage: the base of a frozen amortised flow, fitted to each data set by the physics."""

import copy

import pyro
import pytest
import torch
from conjugate import Linear
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO

from physzoo.core.global_state import seeded
from physzoo.core.plates import plain, plated
from physzoo.core.simulate import simulate
from physzoo.guides import FAMILIES, RelaxedBase, amortize
from physzoo.inference.calibration import calibrate
from physzoo.inference.fit import DataSets, fit
from physzoo.inference.objectives import ELBO

Y = torch.tensor([[0.4, -0.3, 0.9, 0.1], [1.5, 0.2, -0.7, 0.0], [-2.0, 0.6, 0.3, 1.1]], dtype=torch.float64)
FLOWS = [name for name in FAMILIES if name != "low_rank"]


def first_stage(family="full", refine=0, **options):
    guide = amortize(Linear(), "mlp", family, example={"y": Y[0]}, seed=3, refine=refine, simulations=256, **options)
    with seeded(1), torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return guide


def unconstrained(values):
    return torch.cat([values["z"], values["rate"].log().unsqueeze(-1)], -1)


@pytest.mark.parametrize("family", FLOWS)
@pytest.mark.parametrize("refine", [0, 1])
def test_it_starts_as_the_flow_and_scores_what_it_draws(family, refine):
    guide = first_stage(family, refine)
    relaxed = RelaxedBase(guide, {"y": Y}, full=refine == 1)
    values = {name: value[0] for name, value in guide.sample({"y": Y}, 1).items()}
    torch.testing.assert_close(relaxed.log_prob(values, {"y": Y}), guide.log_prob(values, {"y": Y}))
    with seeded(1), torch.no_grad():
        for parameter in (p for p in relaxed.parameters() if p.requires_grad):
            parameter.add_(0.3 * torch.randn_like(parameter))
        trace = poutine.trace(plated(relaxed, 0, None, 3)).get_trace(y=Y)
    trace.compute_log_prob()
    total = sum(site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample")
    drawn = {name: plain(trace.nodes[name], (3,)) for name in ("z", "rate")}
    torch.testing.assert_close(relaxed.log_prob(drawn, {"y": Y}), total, rtol=1e-8, atol=1e-8)
    assert (relaxed.log_prob(drawn, {"y": Y}) - guide.log_prob(drawn, {"y": Y})).abs().min() > 1e-3


@pytest.mark.parametrize("full", [False, True])
def test_it_becomes_the_posterior_of_the_model_it_is_fitted_to_as_far_as_a_base_can(full):
    """A flow that knows nothing, and other noise: a full base finds the posterior, a diagonal one its mean field."""
    model, guide = Linear(noise=0.3), amortize(Linear(), "mlp", "full", example={"y": Y[0]}, simulations=0)
    relaxed = RelaxedBase(guide, {"y": Y}, full=full)
    fit(model, relaxed, DataSets({"y": Y}), ELBO(64), steps=500, learning_rate=3e-2, seed=2, progress=False)
    with seeded(5):
        found = unconstrained(relaxed.sample({"y": Y}, 20_000))
    mean, covariance = model.posterior(Y)
    sd = covariance.diagonal().sqrt() if full else torch.linalg.inv(covariance).diagonal().rsqrt()
    assert float(((found.mean(0) - mean) / sd).abs().max()) < 0.05
    torch.testing.assert_close(found.std(0), sd.expand(3, 3), rtol=0.05, atol=0)


def test_plain_pyro_fits_the_base_and_nothing_else():
    guide, data = first_stage("spline", transforms=2), {"y": Y[1]}
    before = copy.deepcopy(guide.state_dict())
    relaxed = RelaxedBase(guide, data)
    assert {name for name, parameter in relaxed.named_parameters() if parameter.requires_grad} == {
        "location",
        "log_scale",
    }
    frozen = {name: value.clone() for name, value in relaxed.state_dict().items() if name.startswith("family")}
    with pyro.get_param_store().scope(), seeded(0):
        svi = SVI(Linear(0.3), relaxed, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO(16, vectorize_particles=True))
        losses = [svi.step(**data) for _ in range(150)]
    assert sum(losses[-20:]) / 20 < sum(losses[:20]) / 20 - 1.0
    assert all(torch.equal(relaxed.state_dict()[name], value) for name, value in frozen.items())
    assert all(torch.equal(guide.state_dict()[name], value) for name, value in before.items())
    assert relaxed.location.detach().abs().min() > 1e-3


def test_each_data_set_is_known_again_in_any_order_and_others_are_refused():
    relaxed = RelaxedBase(first_stage(), {"y": Y})
    with seeded(2), torch.no_grad():
        relaxed.location.normal_()
    values = {name: value[0] for name, value in relaxed.sample({"y": Y}, 1).items()}
    together, order = relaxed.log_prob(values, {"y": Y}), torch.tensor([2, 0])
    some = {name: value[order] for name, value in values.items()}
    torch.testing.assert_close(relaxed.log_prob(some, {"y": Y[order]}), together[order])
    alone = relaxed.log_prob({name: value[1] for name, value in values.items()}, {"y": Y[1]})
    torch.testing.assert_close(alone, together[1])
    with pytest.raises(ValueError, match="data: got a data set that is none of the 3 that the guide was made for"):
        relaxed.sample({"y": Y + 1.0}, 1)
    with pytest.raises(ValueError, match="expected also the tensor 'y'"):
        relaxed.sample({}, 1)


def test_a_guide_of_one_data_set_is_refused():
    with pytest.raises(ValueError, match="guide: got one of a single data set"):
        RelaxedBase(amortize(Linear(), None, "spline", example={"y": Y[0]}), {"y": Y[0]})


def test_it_keeps_its_state_and_its_precision():
    guide = first_stage("spline", refine=1, transforms=2, tail=8.0)
    relaxed, other = RelaxedBase(guide, {"y": Y}), RelaxedBase(guide, {"y": Y})
    with seeded(2), torch.no_grad():
        relaxed.location.normal_()
    other.load_state_dict(relaxed.state_dict())
    with seeded(3):
        first = relaxed.sample({"y": Y}, 4)["z"]
    with seeded(3):
        assert torch.equal(first, other.sample({"y": Y}, 4)["z"])
    single = copy.deepcopy(relaxed).float().sample({"y": Y.float()}, 4)["z"]
    assert single.dtype == torch.float32


def test_it_is_calibrated_on_data_of_another_noise_where_the_flow_is_not_and_narrow_draws_are_rejected():
    model, guide = Linear(noise=0.3), amortize(Linear(), "mlp", "full", example={"y": Y[0]}, simulations=0)
    pairs = simulate(model, 200, seed=4)
    data = {"y": pairs["y"]}
    relaxed = RelaxedBase(guide, data, full=True)
    fit(model, relaxed, DataSets(data), ELBO(16), steps=300, learning_rate=5e-2, seed=2, progress=False)
    options = {"pairs": pairs, "draws": 100, "seed": 6, "progress": False}
    assert not calibrate(model, guide, **options).passed
    assert calibrate(model, relaxed, **options).passed
    assert calibrate(model, relaxed, widen=0.8, **options).rejected


def test_what_is_no_amortised_flow_is_refused():
    with pytest.raises(TypeError, match="expected a guide from amortize"):
        RelaxedBase(Linear(), {"y": Y})
    with pytest.raises(ValueError, match="guide: got family LowRank, expected a flow"):
        RelaxedBase(first_stage("low_rank"), {"y": Y})
