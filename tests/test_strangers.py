"""Models as strangers write them: the right answer, or one sentence that says what to write instead."""

from __future__ import annotations

from typing import Any

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoIAFNormal, AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn

import physzoo
from physzoo.core.global_state import seeded, unregistered
from physzoo.core.prototype import prototype
from physzoo.core.spread import spread
from physzoo.guides.encoders import MLP
from physzoo.inference.density import Latents
from physzoo.inference.warn import TrustWarning

Y = torch.tensor([0.8, 1.0, 1.2])
QUIET: dict[str, Any] = {"progress": False}


def one_scalar(y=None):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3), 0.5).to_event(1), obs=y)


def forgotten(y=None):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(z * torch.ones(3), 0.5), obs=y)


def forgotten_unknown(y=None):
    z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0))
    return pyro.sample("y", dist.Normal(z * torch.ones(3), 0.5).to_event(1), obs=y)


def not_expanded(y=None):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(z, 0.5), obs=y)


def subsampled(y=None):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 3, subsample_size=2) as rows:
        return pyro.sample("y", dist.Normal(z, 0.5), obs=None if y is None else y[rows])


def narrow(y=None):
    pyro.sample("z", dist.Normal(0.9, 0.3))


CALLS = {
    "fit": lambda model: physzoo.fit(model, AutoNormal(model), {"y": Y}, steps=1, **QUIET),
    "fit by Pyro's ELBO": lambda model: physzoo.fit(model, AutoNormal(model), {"y": Y}, Trace_ELBO(), steps=1, **QUIET),
    "amortize": lambda model: physzoo.amortize(model, None, "full", example={"y": Y}),
    "laplace": lambda model: physzoo.laplace(model, {"y": Y}),
    "posterior": lambda model: physzoo.posterior(model, narrow, {"y": Y}, draws=5),
    "hmc": lambda model: physzoo.hmc(model, {"y": Y}, loc=torch.zeros(1), tril=torch.eye(1), **QUIET),
    "nuts": lambda model: physzoo.nuts(model, {"y": Y}, **QUIET),
    "pcn": lambda model: physzoo.pcn(model, {"y": Y}, **QUIET),
    "smc": lambda model: physzoo.smc(model, {"y": Y}, **QUIET),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("model", [forgotten, forgotten_unknown, not_expanded])
def test_a_batch_dimension_that_no_plate_declares_is_refused_by_every_call(model, call) -> None:
    with pytest.raises(ValueError, match=r"\.to_event.*pyro\.plate") as error:
        CALLS[call](model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("call", [name for name in CALLS if not name.startswith("fit")])
def test_a_subsampled_plate_is_refused_by_everything_but_fit(call) -> None:
    with pytest.raises(ValueError, match="plate 'data' with 2 of its 3 rows"):
        CALLS[call](subsampled)


def test_fit_takes_a_subsampled_plate() -> None:
    guide = AutoNormal(one_scalar)
    physzoo.fit(subsampled, guide, {"y": Y}, steps=3, **QUIET)


def stacked_in_front(y=None):
    a, b = pyro.sample("a", dist.Normal(0.0, 1.0)), pyro.sample("b", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(torch.stack([a, b, a]), 0.5).to_event(1), obs=y)


def mean_of_all(y=None):
    z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    return pyro.sample("y", dist.Normal(z - z.mean(), 0.5).to_event(1), obs=y)


@pytest.mark.parametrize("model", [stacked_in_front, mean_of_all])
def test_a_model_that_does_not_broadcast_is_told_so_whatever_the_sizes(model) -> None:
    with pytest.raises(ValueError, match="broadcast over leading dimensions") as error:
        physzoo.amortize(model, None, "full", example={"y": Y})
    assert "\n" not in str(error.value)


def test_a_model_of_random_layers_is_not_taken_for_one_that_does_not_broadcast() -> None:
    class Noisy(PyroModule):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, y: Tensor | None = None):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            return pyro.sample("y", dist.Normal(self.drop(z), 0.5).to_event(1), obs=y)

    assert Latents.of(Noisy(), {"y": Y}).size == 3


REFUSED = {
    "obs_mask": (
        lambda y=None: pyro.sample("y", dist.Normal(one_prior(), 1.0).expand([3]).to_event(1), obs=y, obs_mask=torch.tensor(True)),
        "obs_mask= at site 'y'",
    ),
    "Delta": (
        lambda y=None: pyro.sample("y", dist.Normal(pyro.sample("c", dist.Delta(one_prior())), 1.0).expand([3]).to_event(1), obs=y),
        "pyro.deterministic",
    ),
    "reserved": (lambda y=None: pyro.sample("_datasets", dist.Normal(0.0, 1.0)), "reserved"),
    "covariance": (
        lambda y=None: pyro.sample(
            "y", dist.MultivariateNormal(torch.zeros(3), pyro.sample("c", dist.Wishart(torch.tensor(4.0), torch.eye(3)))), obs=y
        ),
        "no bijection",
    ),
    "moving support": (lambda y=None: moving(y), "depends on other unknowns"),
}  # fmt: skip


def moving(y=None):
    u = pyro.sample("u", dist.Uniform(0.0, 1e-9 * one_prior().exp()))
    return pyro.sample("y", dist.Normal(u, 1.0).expand([3]).to_event(1), obs=y)


def one_prior() -> Tensor:
    return pyro.sample("z", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_served_is_refused_by_a_sentence_that_says_what_to_write(kind) -> None:
    model, words = REFUSED[kind]
    with pytest.raises(ValueError, match=words) as error:
        Latents.of(model, {"y": Y})
    assert "\n" not in str(error.value)
    assert "expected" in str(error.value)


def test_a_masked_unknown_has_no_prior() -> None:
    def model(y=None):
        with poutine.mask(mask=torch.tensor(False)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3), 0.5).to_event(1), obs=y)

    with pytest.raises(ValueError, match="latent site 'z' is masked"):
        physzoo.laplace(model, {"y": Y})


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_data_that_are_no_numbers_are_refused_unless_hidden(bad) -> None:
    data = {"y": torch.tensor([0.8, bad, 1.2])}
    for call in (
        lambda: physzoo.posterior(one_scalar, narrow, data, draws=5),
        lambda: physzoo.laplace(one_scalar, data),
        lambda: physzoo.fit(one_scalar, AutoNormal(one_scalar), data, steps=1, **QUIET),
    ):
        with pytest.raises(ValueError, match=r"data\['y'\]: got (nan|inf) at \(1,\), expected finite numbers"):
            call()


GUIDES = {
    "shape": (lambda y=None: pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1)), "shape"),
    "undeclared": (lambda y=None: pyro.sample("z", dist.Normal(torch.zeros(2), 1.0)), "to_event"),
    "missing": (lambda y=None: pyro.sample("x", dist.Normal(0.0, 1.0)), "without the latent sites z"),
}


@pytest.mark.parametrize("kind", GUIDES)
def test_a_guide_that_draws_other_sites_than_the_model_is_refused(kind) -> None:
    guide, words = GUIDES[kind]
    with pytest.raises(ValueError, match=words):
        physzoo.posterior(one_scalar, guide, {"y": Y}, draws=5)


def test_a_guide_outside_the_support_is_refused() -> None:
    def model(y=None):
        z = pyro.sample("z", dist.Exponential(1.0))
        return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3), 0.5).to_event(1), obs=y)

    with pytest.raises(ValueError, match="draws site 'z' outside the model's support"):
        physzoo.posterior(model, lambda y=None: pyro.sample("z", dist.Normal(0.1, 1.0)), {"y": Y}, draws=5)


def grouped(y=None):
    with pyro.plate("group", 3):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(a, 0.5))
        return pyro.sample("y", dist.Normal(a + b, 0.5), obs=y)


def test_two_unknowns_in_one_plate_are_served_and_right() -> None:
    guide = physzoo.amortize(grouped, None, "full", example={"y": Y}, whitening=physzoo.laplace(grouped, {"y": Y}))
    tree = physzoo.posterior(grouped, guide, {"y": Y}, draws=4000)
    # a, b | y: a + b has prior variance 4.25, a covariance with it of 2; the Laplace approximation is exact
    np.testing.assert_allclose(tree["posterior/a"].values[0].mean(0), 2 / 4.5 * Y.numpy(), atol=0.05)
    np.testing.assert_allclose(tree["posterior/a"].values[0].std(0), (1 - 4 / 4.5) ** 0.5, rtol=0.06)
    stats = tree["sample_stats"]
    assert float((stats["log_p"] - stats["log_q"]).std()) < 1e-3
    assert physzoo.fit(grouped, guide, {"y": Y}, steps=2, **QUIET).steps == 2


@pytest.mark.parametrize("event_dim", [None, 0])
def test_a_derived_quantity_stands_beside_the_unknowns_and_is_no_datum(event_dim) -> None:
    def model(y=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.deterministic("twice", 2 * mu, event_dim=event_dim)
        with pyro.plate("group", 3):
            a = pyro.sample("a", dist.Normal(mu, 1.0))
            pyro.deterministic("square", a**2, event_dim=None if event_dim is None else 0)
            return pyro.sample("y", dist.Normal(a, 0.5), obs=y)

    guide = physzoo.amortize(model, "mlp", "full", example={"y": Y}, simulations=64)
    tree = physzoo.posterior(model, guide, {"y": Y}, draws=7, dims={"square": ["group"]})
    for group in ("posterior", "prior"):
        np.testing.assert_allclose(tree[f"{group}/square"].values, tree[f"{group}/a"].values ** 2, rtol=1e-6)
        np.testing.assert_allclose(tree[f"{group}/twice"].values, 2 * tree[f"{group}/mu"].values, rtol=1e-6)
    assert tree["posterior/square"].dims == ("chain", "draw", "group")
    for group in ("log_likelihood", "posterior_predictive", "observed_data", "prior_predictive"):
        assert set(tree[group].data_vars) == {"y"}
    physzoo.fit(model, guide, physzoo.Simulator(8), physzoo.ForwardKL(), steps=2, **QUIET)


def test_leave_one_out_is_the_same_with_gaps_behind_a_mask() -> None:
    def model(y=None, mask=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        size = 10 if y is None else y.shape[-1]
        return physzoo.observe("y", z[..., None] * torch.ones(size), 0.5, obs=y, mask=mask)

    def exact(y=None, mask=None):
        part = y if mask is None else y[mask]
        precision = 1 + 4 * len(part)
        pyro.sample("z", dist.Normal(4 * part.sum() / precision, precision**-0.5))

    seen = torch.linspace(0.2, 1.8, 10)
    padded = torch.cat([seen, torch.full((5,), torch.nan)])
    found = []
    for data in ({"y": seen}, {"y": padded, "mask": torch.isfinite(padded)}):
        tree = physzoo.posterior(model, exact, data, draws=500, prior=False)
        loo = az.loo(tree)
        found.append((float(loo.elpd), float(loo.se), int(loo.n_data_points)))
        assert az.loo_pit(tree)["y"].shape == (10,)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


class Tied(PyroModule):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight

    def forward(self, y: Tensor | None = None):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        return pyro.sample("y", dist.Normal(self.b(torch.tanh(self.a(z))), 0.5).to_event(1), obs=y)


def test_parameters_that_modules_share_are_served_and_leave_pyros_store_as_it_was() -> None:
    pyro.clear_param_store()
    model = Tied()
    guide = physzoo.amortize(model, None, "full", example={"y": Y})
    physzoo.posterior(model, guide, {"y": Y}, draws=5)
    assert not pyro.get_param_store()
    kept = pyro.param("kept", torch.tensor(1.0)).unconstrained()
    with unregistered():
        model(Y)
    assert list(pyro.get_param_store().keys()) == ["kept"]
    assert pyro.get_param_store().param_name(kept) == "kept"
    pyro.clear_param_store()
    assert SVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(Y) > 0
    pyro.clear_param_store()


def test_an_autoguide_with_shared_parameters_gives_a_posterior() -> None:
    def model(y=None):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        return pyro.sample("y", dist.Normal(z, 0.5).to_event(1), obs=y)

    guide = AutoIAFNormal(model, hidden_dim=[8])
    physzoo.fit(model, guide, {"y": Y}, steps=2, **QUIET)
    assert physzoo.posterior(model, guide, {"y": Y}, draws=5)["posterior/z"].shape == (1, 5, 3)


def test_a_frozen_parameter_stays_frozen() -> None:
    class Frozen(PyroModule):
        def __init__(self):
            super().__init__()
            self.noise = nn.Parameter(torch.tensor(0.5), requires_grad=False)

        def forward(self, y: Tensor | None = None):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3), self.noise).to_event(1), obs=y)

    model = Frozen()
    guide = physzoo.amortize(model, None, "full", example={"y": Y})
    assert not model.noise.requires_grad
    physzoo.fit(model, guide, {"y": Y}, steps=3, **QUIET)
    assert not model.noise.requires_grad
    assert model.noise == 0.5


def test_a_covariance_of_one_unknown_is_a_matrix() -> None:
    guide = physzoo.amortize(
        one_scalar, None, "full", example={"y": Y}, whitening=physzoo.laplace(one_scalar, {"y": Y})
    )
    whitening = guide.whitening({"y": Y}, 20_000)
    assert whitening.tril.shape == (1, 1)
    assert abs(whitening.loc.item() - 12 / 13) < 0.01
    assert abs(whitening.tril.item() - 13**-0.5) < 0.01


def test_an_angle_lives_on_one_turn_of_the_circle() -> None:
    def model(y=None):
        z = pyro.sample("z", dist.VonMises(2.5, 1.0))
        with pyro.plate("data", 3):
            return pyro.sample("y", dist.VonMises(z, 2.0), obs=y)

    latents = Latents.of(model, {"y": Y})
    x = torch.linspace(-9, 9, 4001).unsqueeze(-1)
    density = latents.log_density(model, x, {"y": Y}).exp()
    z = torch.linspace(-np.pi, np.pi, 4001)
    exact = (dist.VonMises(2.5, 1.0).log_prob(z) + dist.VonMises(z[:, None], 2.0).log_prob(Y).sum(-1)).exp()
    evidence = torch.trapezoid(exact, z)
    assert abs(torch.trapezoid(density, x[:, 0]) - evidence) < 1e-3 * evidence


def test_an_entry_that_never_changes_is_no_input_that_saturates() -> None:
    draws = torch.randn(500, 4) + 1.0
    draws[:, 0] = 1.0
    draws[:, 1] = torch.poisson(torch.full((500,), 0.3), generator=torch.Generator().manual_seed(0))
    encoder = MLP({"y": torch.zeros(4)})
    encoder.standardise({"y": draws})
    moved = torch.tensor([1.0 + 1e-6, 0.0, 1.0, 1.0])
    still, changed = (encoder.inputs({"y": row})[0] for row in (torch.tensor([1.0, 0.0, 1.0, 1.0]), moved))
    assert (still - changed).abs().max() < 1e-5
    counts = torch.stack([encoder.inputs({"y": torch.tensor([1.0, k, 1.0, 1.0])})[0][5] for k in range(5)])
    assert (counts.diff() >= 0).all()
    assert counts[0] < counts[1]
    assert encoder.inputs({"y": torch.tensor([1, 2, 3, 4])})[0].isfinite().all()


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_the_unit_of_an_unknown_and_of_the_data_does_not_matter(unit) -> None:
    def make(s: float):
        def model(y=None):
            z = pyro.sample("z", dist.Normal(0.5 * s, s))
            return pyro.sample("y", dist.Normal((z / s)[..., None] * torch.ones(3) / s, 0.5 / s).to_event(1), obs=y)

        return model

    found = []
    for s in (1.0, unit):
        guide = physzoo.amortize(make(s), "mlp", "full", example={"y": Y / s})
        physzoo.fit(make(s), guide, physzoo.Simulator(64), physzoo.ForwardKL(), steps=10, **QUIET)
        with seeded(0):
            found.append(guide.sample({"y": Y / s}, 1000)["z"] / s)
    assert abs(found[1].mean() - found[0].mean()) < 0.01
    assert abs(found[1].std() / found[0].std() - 1) < 0.01


def test_the_spread_of_draws_knows_no_unit_and_no_tails() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(4000, 1, generator=generator)
    cauchy = torch.tan(np.pi * (torch.rand(4000, 1, generator=generator) - 0.5))
    for unit in (1e-30, 1.0, 1e30):
        loc, scale = spread(unit * torch.cat([2 + normal, cauchy, torch.ones_like(normal)], 1))
        np.testing.assert_allclose((loc / unit).numpy(), [2.0, 0.0, 1.0], atol=0.06)
        np.testing.assert_allclose((scale / unit).numpy(), [1.0, 1.84, 1.0], rtol=0.06)


def test_data_in_the_models_closure_are_served() -> None:
    model = poutine.condition(one_scalar, data={"y": Y})
    found = physzoo.laplace(model, {})
    assert abs(found.loc.item() - 12 / 13) < 1e-4
    guide = physzoo.amortize(model, None, "full", example={}, whitening=found)
    assert physzoo.posterior(model, guide, {}, draws=5)["posterior/z"].shape == (1, 5)


def test_site_names_that_a_tree_cannot_hold_are_refused_by_posterior_alone() -> None:
    def model(y=None):
        z = pyro.sample("a/b", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3), 0.5).to_event(1), obs=y)

    found = physzoo.laplace(model, {"y": Y})
    guide = physzoo.amortize(model, None, "full", example={"y": Y}, whitening=found)
    with pytest.raises(ValueError, match="a site named 'a/b'"):
        physzoo.posterior(model, guide, {"y": Y}, draws=5)


def test_prototype_of_a_guide_names_the_guide() -> None:
    with pytest.raises(ValueError, match=r"^guide: site 'z'"):
        prototype(lambda y=None: pyro.sample("z", dist.Normal(torch.zeros(2), 1.0)), {"y": Y}, argument="guide")


@pytest.mark.parametrize(
    "call", [CALLS["fit"], CALLS["laplace"], CALLS["hmc"], CALLS["nuts"]], ids=["fit", "laplace", "hmc", "nuts"]
)
def test_a_likelihood_without_a_gradient_is_refused_by_what_needs_one(call) -> None:
    def model(y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        mean = z.detach()[..., None] * torch.ones(3)  # as a solver outside torch gives it
        return pyro.sample("y", dist.Normal(mean, 0.5).to_event(1), obs=y)

    for _ in range(2):  # not the first time alone
        with pytest.raises(ValueError, match="data that depend on 'z' without a gradient"):
            call(model)
    guide = physzoo.amortize(model, "mlp", "full", example={"y": Y}, simulations=64)
    physzoo.fit(model, guide, physzoo.Simulator(8), physzoo.ForwardKL(), steps=1, **QUIET)


def test_a_derived_quantity_that_mixes_draws_is_refused() -> None:
    def model(y=None):
        b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.deterministic("total", b.sum())
        return pyro.sample("y", dist.Normal(b, 0.5).to_event(1), obs=y)

    with pytest.raises(ValueError, match="derived quantity 'total' has other values in a batch"):
        Latents.of(model, {"y": Y})


def test_a_point_or_a_site_of_the_guide_alone_is_no_posterior() -> None:
    point = AutoDelta(one_scalar)
    physzoo.fit(one_scalar, point, {"y": Y}, steps=2, **QUIET)
    with pytest.raises(ValueError, match="draws points alone"):
        physzoo.posterior(one_scalar, point, {"y": Y}, draws=30)

    def guide(y=None):
        pyro.sample("left_over", dist.Normal(0.0, 1.0))
        pyro.sample("z", dist.Normal(0.9, 0.3))

    with pytest.raises(ValueError, match="site 'left_over', which the model has not"):
        physzoo.posterior(one_scalar, guide, {"y": Y}, draws=5)


def test_a_number_missing_behind_a_mask_of_the_distribution_is_refused() -> None:
    def model(y=None, mask=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        likelihood = dist.Normal(z[..., None] * torch.ones(3), 0.5)
        return pyro.sample("y", (likelihood if mask is None else likelihood.mask(mask)).to_event(1), obs=y)

    data = {"y": torch.tensor([0.8, torch.nan, 1.2]), "mask": torch.tensor([True, False, True])}
    with pytest.raises(ValueError, match="behind a mask of the distribution any number will do"):
        physzoo.laplace(model, data)
    found = physzoo.laplace(model, {**data, "y": data["y"].nan_to_num(99.0)})
    assert abs(found.loc.item() - 8 / 9) < 1e-4


def test_a_guide_that_is_far_too_wide_is_told_though_its_weights_can_be_trusted() -> None:
    def wide(y=None):
        pyro.sample("z", dist.Normal(0.9, 6.0))

    with pytest.warns(TrustWarning, match="effective by their importance weights.*importance_resample"):
        tree = physzoo.posterior(one_scalar, wide, {"y": Y}, draws=1000)
    with pytest.warns(TrustWarning, match="draws worth"):
        physzoo.importance_resample(tree)


def test_whole_numbers_as_data_and_covariates_are_encoded() -> None:
    def model(n=None, y=None):
        p = pyro.sample("p", dist.Beta(2.0, 3.0))
        return pyro.sample("y", dist.Categorical(torch.stack([p, 1 - p], -1)).expand_by([]).mask(n > 0), obs=y)

    data = {"n": torch.tensor(3), "y": torch.tensor(1)}
    guide = physzoo.amortize(model, "mlp", "full", example=data, simulations=64)
    physzoo.fit(model, guide, physzoo.Simulator(8, given={"n": data["n"]}), physzoo.ForwardKL(), steps=2, **QUIET)
    assert physzoo.posterior(model, guide, data, draws=5)["posterior/p"].shape == (1, 5)


def test_a_derived_quantity_whose_entries_cancel_is_served() -> None:
    def model(y=None):
        b = pyro.sample("b", dist.Normal(torch.full((3,), 1e3), 1.0).to_event(1))
        pyro.deterministic("centred", b - b.mean(-1, keepdim=True))
        return pyro.sample("y", dist.Normal(b, 0.5).to_event(1), obs=y)

    assert Latents.of(model, {"y": Y}).size == 3


@pytest.mark.parametrize(
    "call",
    [
        lambda model, data: physzoo.laplace(model, data),
        lambda model, data: physzoo.nuts(model, data, **QUIET),
        lambda model, data: physzoo.posterior(model, lambda context: None, data),
        lambda model, data: physzoo.fit(model, AutoNormal(model), data, steps=1, **QUIET),
    ],
)
def test_a_data_argument_that_pyros_handlers_take_for_themselves_is_refused(call) -> None:
    def model(context=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pyro.sample("context", dist.Normal(z, 1.0), obs=context)

    with pytest.raises(ValueError, match=r"^data: got the name 'context', expected another"):
        call(model, {"context": torch.tensor(1.0)})
