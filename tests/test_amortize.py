"""Amortised guides: the right sites, supports and densities, for any model, family and encoder."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO

from physzoo.core.global_state import seeded
from physzoo.core.plates import plain, plated
from physzoo.core.simulate import simulate
from physzoo.guides import FAMILIES, Table, Whitening, amortize
from physzoo.guides.encoders import ENCODERS
from physzoo.guides.families.flows import Planar

N = 6


def model(y=None, mask=None):
    """Latent sites with many supports, one of them inside a plate of the model's own."""
    scale = pyro.sample("scale", dist.LogNormal(torch.tensor(0.0), 0.5))
    share = pyro.sample("share", dist.Dirichlet(2.0 * torch.ones(3)))
    angle = pyro.sample("angle", dist.Uniform(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 4.0])).to_event(1))
    mean = scale[..., None] * angle.sum(-1, keepdim=True) + share[..., :1]
    fn = dist.Normal(mean.expand(*mean.shape[:-1], N), 0.3)
    if mask is not None:
        fn = fn.mask(mask)
    return pyro.sample("y", fn.to_event(1), obs=y)


def grouped(y=None):
    """A model with its own plate: a level and one deviation for each of N groups."""
    level = pyro.sample("level", dist.Normal(torch.tensor(0.0), 1.0))
    with pyro.plate("group", N, dim=-1):
        deviation = pyro.sample("deviation", dist.Normal(torch.tensor(0.0), 0.5))
        return pyro.sample("y", dist.Normal(level + deviation, 0.2), obs=y)


EXAMPLE = {"y": torch.linspace(-1, 1, N)}
PAIRS = [(model, EXAMPLE), (grouped, EXAMPLE)]


def traced(guide, data, particles=None, datasets=None, seed=0):
    with seeded(seed):
        return poutine.trace(plated(guide, guide.sites.nesting, particles, datasets)).get_trace(**data)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("model", "example"), PAIRS)
@pytest.mark.parametrize("sizes", [(None, None), (5, None), (None, 3), (5, 3)])
def test_sites_have_the_models_shapes_and_supports(family, model, example, sizes):
    particles, datasets = sizes
    guide = amortize(model, "mlp", family, example=example)
    data = example if datasets is None else {"y": torch.randn(datasets, N)}
    guide_trace = traced(guide, data, particles, datasets)
    inside = plated(model, guide.sites.nesting, particles, datasets)
    model_trace = poutine.trace(poutine.replay(inside, trace=guide_trace)).get_trace(**data)
    for name, site in model_trace.nodes.items():
        if name in {block.name for block in guide.sites.blocks}:
            value = guide_trace.nodes[name]["value"]
            assert site["fn"].batch_shape + site["fn"].event_shape == value.shape
            assert site["fn"].support.check(value).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("model", "example"), PAIRS)
def test_own_density_equals_the_trace_density(family, model, example):
    guide = amortize(model, "mlp", family, example=example).double()
    data = {"y": torch.randn(3, N, dtype=torch.float64)}
    trace = traced(guide, data, datasets=3)
    trace.compute_log_prob()
    total = sum(
        site["log_prob"].reshape(3, -1).sum(-1)
        for site in trace.nodes.values()
        if site["type"] == "sample" and site["name"] not in {"datasets", "group"}
    )
    values = {block.name: plain(trace.nodes[block.name], (3,)) for block in guide.sites.blocks}
    torch.testing.assert_close(guide.log_prob(values, data), total, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_density_integrates_to_one(family):
    def one(y=None):
        a = pyro.sample("a", dist.Normal(torch.tensor(0.0), 1.0))
        b = pyro.sample("b", dist.Normal(torch.tensor(0.0), 1.0))
        return pyro.sample("y", dist.Normal(a * b, 0.1), obs=y)

    data = {"y": torch.tensor(0.3)}
    options = {"tail": 7.0} if family == "spline" else {}
    guide = amortize(one, None, family, example=data, **options).double()
    with seeded(3), torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    axis = torch.linspace(-12, 12, 481, dtype=torch.float64)
    a, b = torch.meshgrid(axis, axis, indexing="ij")
    with torch.no_grad():
        density = guide.log_prob({"a": a.reshape(-1), "b": b.reshape(-1)}, data).exp()
    with seeded(4):
        inside = (
            torch.stack([value.abs() < 12 for value in guide.sample(data, 100_000).values()]).all(0).double().mean()
        )
    assert inside > 0.5
    assert abs(density.sum().item() * (24 / 480) ** 2 - inside.item()) < 5e-3


def planar(steep: float, *batch: int, layers: int = 5) -> Planar:
    """A chain of planar maps with random parameters; steep ones bend until they are barely invertible."""
    draw = torch.Generator().manual_seed(0)
    a, u = (steep * torch.randn(*batch, layers, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    return Planar(a, u, torch.randn(*batch, layers, generator=draw, dtype=torch.float64))


@pytest.mark.parametrize("steep", [0.3, 1.0, 6.0])
def test_planar_maps_are_inverted(steep):
    maps = planar(steep, 500)
    x = 3.0 * torch.randn(500, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y, ladj = maps.call_and_ladj(x)
    back, back_ladj = maps.inverse_and_ladj(y)
    again, _ = maps.call_and_ladj(back)
    torch.testing.assert_close(again, y, rtol=0, atol=1e-9)
    gentle = ladj > -15.0  # where a map is nearly flat, many x have the same y to rounding
    assert float(gentle.double().mean()) > (0.5 if steep > 2 else 0.99)
    torch.testing.assert_close(back[gentle], x[gentle], rtol=0, atol=1e-7)
    torch.testing.assert_close(back_ladj[gentle], -ladj[gentle], rtol=0, atol=1e-6)


def test_the_inverse_of_planar_maps_has_its_gradients():
    maps = planar(0.8)
    y = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    a, u, b = (value.clone().requires_grad_() for value in (maps.a, maps.u, maps.b))
    assert torch.autograd.gradcheck(lambda y, a, u, b: Planar(a, u, b).inverse_and_ladj(y), (y, a, u, b))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_guide_starts_at_the_prior_moments(family):
    def shifted(y=None):
        z = pyro.sample("z", dist.Normal(torch.tensor([5.0, -3.0]), torch.tensor([2.0, 0.1])).to_event(1))
        return pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)

    guide = amortize(shifted, None, family, example={"y": torch.zeros(2)})
    draws = guide.sample({"y": torch.zeros(2)}, 4000)["z"]
    torch.testing.assert_close(draws.mean(0), torch.tensor([5.0, -3.0]), rtol=0, atol=0.5)
    if family != "planar":  # its maps bend from the start, so that they differ
        assert ((draws.std(0) / torch.tensor([2.0, 0.1])).log().abs() < 0.3).all()


def test_whitening_is_an_affine_map_with_its_determinant():
    tril = torch.tensor([[2.0, 0.0], [0.5, 0.3]], dtype=torch.float64)
    loc = torch.tensor([1.0, -1.0], dtype=torch.float64)

    def plain(y=None):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
        return pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)

    data = {"y": torch.zeros(2, dtype=torch.float64)}
    guide = amortize(plain, None, "full", example=data, whitening=Whitening(loc, tril))
    z = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = dist.MultivariateNormal(loc, scale_tril=tril).log_prob(z)
    torch.testing.assert_close(guide.log_prob({"z": z}, data), expected)
    with pytest.raises(ValueError, match="whitening: got shapes"):
        guide.whiten(Whitening(loc[:1], tril))
    with pytest.raises(ValueError, match="Cholesky"):
        guide.whiten(Whitening(loc, -tril))


@pytest.mark.parametrize("encoder", [name for name in ENCODERS if name != "table"])
@pytest.mark.parametrize("masked", [False, True])
def test_encoders_keep_data_sets_apart_and_hide_masked_values(encoder, masked):
    example = {**EXAMPLE, **({"mask": torch.ones(N, dtype=torch.bool)} if masked else {})}
    net = amortize(model, encoder, "diagonal", example=example).encoder.eval()
    y = torch.randn(4, N, generator=torch.Generator().manual_seed(1))
    data = {"y": y}
    if masked:
        mask = torch.ones(4, N, dtype=torch.bool)
        mask[2, 3] = False
        data["mask"] = mask
    with torch.no_grad():
        context = net(**data)
        assert context.shape == (4, net.width)
        alone = net(**{name: value[2:3] for name, value in data.items()})
        torch.testing.assert_close(alone, context[2:3], rtol=1e-4, atol=1e-5)
        other = y.clone()
        other[0] += 1.0
        assert torch.equal(net(**{**data, "y": other})[1:], context[1:])
        if masked:
            hidden = y.clone()
            hidden[2, 3] = torch.nan
            torch.testing.assert_close(net(**{**data, "y": hidden}), context)
            shown = net(**{**data, "mask": torch.ones_like(data["mask"])})
            assert not torch.allclose(shown[2], context[2])


def test_a_set_encoder_does_not_care_for_the_order_of_its_sensors():
    from physzoo.guides import MaskedSet

    positions = torch.rand(N, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    net = MaskedSet(EXAMPLE, positions=positions)
    moved = MaskedSet(EXAMPLE, positions=positions[order])
    moved.load_state_dict({**net.state_dict(), "positions": positions[order].unsqueeze(-1)})
    y = torch.randn(2, N)
    torch.testing.assert_close(net(y=y), moved(y=y[:, order]), rtol=1e-4, atol=1e-5)


def test_a_table_fits_many_guides_at_once():
    guide = amortize(model, Table(EXAMPLE, 16, sets=5), "full", example=EXAMPLE)
    assert traced(guide, {"y": torch.randn(5, N)}, particles=2, datasets=5).nodes["share"]["value"].shape == (2, 5, 3)
    with pytest.raises(ValueError, match=r"y: got leading shape \(4,\), expected \(5,\)"):
        guide(y=torch.randn(4, N))


def test_stock_pyro_takes_the_guide_as_it_is():
    pyro.clear_param_store()
    pyro.set_rng_seed(3)
    guide = amortize(model, "mlp", "full", example=EXAMPLE)
    before = [p.detach().clone() for p in guide.parameters()]
    svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 3e-3}), Trace_ELBO(num_particles=4, vectorize_particles=True))
    first = sum(svi.step(**EXAMPLE) for _ in range(20))
    last = [svi.step(**EXAMPLE) for _ in range(200)][-20:]
    assert sum(last) < first
    assert any(not torch.equal(a, b) for a, b in zip(before, guide.parameters(), strict=True))
    draws = Predictive(model, guide=guide, num_samples=7, parallel=True, return_sites=["scale"])(**EXAMPLE)
    pyro.clear_param_store()
    assert draws["scale"].shape == (7,)


def test_building_a_guide_leaves_the_random_numbers_and_checks_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    validate = torch.distributions.Distribution._validate_args
    amortize(model, "mlp", "spline", example=EXAMPLE)
    assert torch.equal(torch.rand(3), expected)
    assert torch.distributions.Distribution._validate_args == validate


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("rnn", "full"), ValueError, "encoder: got 'rnn'"),
        (("mlp", "vine"), ValueError, "family: got 'vine'"),
        ((3, "full"), TypeError, "encoder: got int"),
        (("mlp", 3), TypeError, "family: got int"),
    ],
)
def test_unknown_parts_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        amortize(model, *arguments, example=EXAMPLE)


def test_models_without_continuous_latents_are_refused():
    def nothing(y=None):
        return pyro.sample("y", dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=y)

    def discrete(y=None):
        k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.5)))
        return pyro.sample("y", dist.Normal(k * torch.ones(3), 1.0).to_event(1), obs=y)

    with pytest.raises(ValueError, match="without latent sites"):
        amortize(nothing, "mlp", "full", example={"y": torch.zeros(3)})
    with pytest.raises(ValueError, match="'k' is discrete"):
        amortize(discrete, "mlp", "full", example={"y": torch.zeros(3)})


def test_wrong_data_shapes_are_named():
    guide = amortize(model, "mlp", "full", example=EXAMPLE)
    with pytest.raises(ValueError, match=r"y: got \(4,\), expected a tensor of shape \(\.\.\., 6\)"):
        guide(y=torch.zeros(4))


def test_a_support_that_depends_on_another_unknown_is_refused():
    def nested(y=None):
        a = pyro.sample("a", dist.LogNormal(torch.tensor(0.0), 1.0))
        b = pyro.sample("b", dist.Uniform(torch.zeros_like(a), a))
        return pyro.sample("y", dist.Normal(b, 0.1), obs=y)

    with pytest.raises(ValueError, match="support of latent site 'b' depends on other unknowns"):
        amortize(nested, "mlp", "full", example={"y": torch.tensor(0.3)})


def test_a_single_number_can_be_encoded():
    def single(y=None):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        return pyro.sample("y", dist.Normal(z, 0.1), obs=y)

    guide = amortize(single, "mlp", "full", example={"y": torch.tensor(0.3)})
    assert guide.sample({"y": torch.randn(4)}, 5)["z"].shape == (5, 4)


def test_a_covariate_is_scored_linearly_around_the_one_value_that_is_known():
    def driven(y=None, x=None):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        return pyro.sample("y", dist.Normal(z[..., None] * x, 0.1).to_event(1), obs=y)

    x = torch.tensor([2.0, 0.0, -4.0])
    guide = amortize(driven, "mlp", "full", example={"y": torch.zeros(3), "x": x})
    for shift in (0.0, 0.5, -1.5):
        inputs, _ = guide.encoder.inputs({"y": torch.zeros(3), "x": x + shift})
        for half in inputs.chunk(2):
            torch.testing.assert_close(half[3:], shift / torch.tensor([2.0, 1.0, 4.0]))


@pytest.mark.parametrize("name", ["particles", "datasets"])
def test_a_plate_of_the_models_own_may_have_any_name(name):
    def named(y=None):
        level = pyro.sample("level", dist.Normal(torch.tensor(0.0), 1.0))
        with pyro.plate(name, N, dim=-1):
            deviation = pyro.sample("deviation", dist.Normal(torch.tensor(0.0), 0.5))
            return pyro.sample("y", dist.Normal(level + deviation, 0.2), obs=y)

    expected, found = simulate(grouped, 3, seed=0), simulate(named, 3, seed=0)
    assert all(torch.equal(found[site], value) for site, value in expected.items())
    guide = amortize(named, "mlp", "full", example=EXAMPLE)
    trace = traced(guide, {"y": found["y"]}, 5, 3)
    assert plain(trace.nodes["deviation"], (5, 3)).shape == (5, 3, N)
