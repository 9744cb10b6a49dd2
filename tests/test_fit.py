"""The driver: it optimises, resumes to the bit, keeps its hands off global state, and says what went wrong."""

import math
import os
import signal
import subprocess
import sys
import time
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceGraph_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal, AutoNormal
from torch import nn

from physzoo.guides import amortize
from physzoo.inference.density import RejectedError
from physzoo.inference.fit import CheckpointError, DataSets, Simulator, fit, simulated_once
from physzoo.inference.fit.checkpoint import load, save
from physzoo.inference.fit.driver import CheckpointWarning, FitOptions
from physzoo.inference.fit.guard import NonFiniteError
from physzoo.inference.objectives import ELBO, ForwardKL, Mixture, Reweighted

DESIGN = torch.tensor([[1.0, 0.5], [0.2, 1.0], [1.0, 1.0]], dtype=torch.float64)
NOISE = 0.5


class Linear(pyro.nn.PyroModule):
    """z ~ N(0, I), y ~ N(A z, 0.5^2): the posterior is known in closed form."""

    def __init__(self):
        super().__init__()
        self.register_buffer("design", DESIGN.clone())

    def forward(self, y=None, mask=None):
        z = pyro.sample("z", dist.Normal(self.design.new_zeros(2), 1.0).to_event(1))
        likelihood = dist.Normal(z @ self.design.T, NOISE)
        return pyro.sample("y", (likelihood if mask is None else likelihood.mask(mask)).to_event(1), obs=y)


Y = torch.tensor([0.7, -0.3, 1.1], dtype=torch.float64)
QUIET = FitOptions(progress=False)


def exact(y):
    precision = torch.eye(2, dtype=torch.float64) + DESIGN.T @ DESIGN / NOISE**2
    covariance = torch.linalg.inv(precision)
    return y @ DESIGN / NOISE**2 @ covariance, covariance


def evidence(y):
    covariance = DESIGN @ DESIGN.T + NOISE**2 * torch.eye(3, dtype=torch.float64)
    return dist.MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance).log_prob(y)


OBJECTIVES = [
    (ELBO(16), {}),
    (Mixture(((0.5, ELBO(16)), (0.5, Reweighted(64)))), {}),
    (Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=0), {}),
]


@pytest.mark.parametrize(("objective", "changes"), OBJECTIVES)
def test_one_data_set_reaches_the_closed_form(objective, changes):
    model = Linear()
    guide = amortize(model, None, "full", example={"y": Y})
    fit(model, guide, {"y": Y}, objective, QUIET, steps=800, learning_rate=0.05, **changes)
    draws = guide.sample({"y": Y}, 20_000)["z"]
    mean, covariance = exact(Y)
    sd = covariance.diagonal().sqrt()
    assert ((draws.mean(0) - mean).abs() / sd < 0.05).all()
    assert ((draws.std(0) / sd).log().abs() < 0.05).all()


def test_the_elbo_of_the_exact_family_is_the_log_evidence():
    model = Linear()
    guide = amortize(model, None, "full", example={"y": Y})
    result = fit(model, guide, {"y": Y}, ELBO(16), QUIET, steps=800, learning_rate=0.05)
    tail = torch.tensor(result.losses[-100:])
    assert abs(-tail.mean().item() - evidence(Y).item()) < 0.01 + 4 * tail.std().item() / 10


@pytest.mark.parametrize("objective", [ForwardKL(), ELBO(4), Mixture(((0.5, ForwardKL()), (0.5, ELBO(1))))])
def test_an_amortised_guide_learns_the_posterior_of_every_data_set(objective):
    model = Linear()
    guide = amortize(model, "mlp", "full", example={"y": Y})
    fit(model, guide, Simulator(256), objective, QUIET, steps=600, learning_rate=3e-3)
    for y in (Y, -Y, torch.zeros_like(Y)):
        draws = guide.sample({"y": y}, 20_000)["z"]
        mean, covariance = exact(y)
        sd = covariance.diagonal().sqrt()
        assert ((draws.mean(0) - mean).abs() / sd < 0.25).all()
        assert ((draws.std(0) / sd).log().abs() < 0.15).all()


@pytest.mark.parametrize("autoguide", [AutoDiagonalNormal, AutoMultivariateNormal])
def test_pyro_autoguides_are_fitted_as_they_are(autoguide):
    model = Linear()
    guide = autoguide(model)
    result = fit(model, guide, {"y": Y}, ELBO(8), QUIET, steps=400, learning_rate=0.05)
    precision = torch.linalg.inv(exact(Y)[1])
    mean_field_gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()
    gap = mean_field_gap if autoguide is AutoDiagonalNormal else 0.0
    assert abs(-sum(result.losses[-100:]) / 100 - (evidence(Y).item() - gap)) < 0.1


def test_nothing_global_changes():
    pyro.clear_param_store()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    before = (torch.get_default_dtype(), torch.get_num_threads(), torch.distributions.Distribution._validate_args)
    model = Linear()
    fit(model, amortize(model, None, "full", example={"y": Y}), {"y": Y}, options=QUIET, steps=5)
    assert not dict(pyro.get_param_store().items())
    assert torch.equal(torch.rand(2), expected)
    assert before == (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.distributions.Distribution._validate_args,
    )


def test_minibatches_see_every_data_set_once_an_epoch_and_depend_on_the_step_alone():
    from physzoo.inference.fit.batches import Batches

    model = Linear()
    ys = torch.arange(12, dtype=torch.float64).unsqueeze(-1).expand(12, 3)
    batches = Batches(model, DataSets({"y": ys}, 4), seed=1)
    epoch = [batches.at(step).data["y"][:, 0] for step in range(3)]
    assert sorted(torch.cat(epoch).tolist()) == list(range(12))
    other = Batches(model, DataSets({"y": ys}, 4), seed=1)
    assert torch.equal(other.at(7).data["y"], batches.at(7).data["y"])


def test_minibatch_gradients_are_unbiased():
    """The mean over the minibatches of an epoch is the full-batch loss."""
    from physzoo.inference.fit.batches import Batches

    model = Linear()
    guide = amortize(model, "mlp", "full", example={"y": Y})
    ys = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = torch.randn(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    source = DataSets({"y": ys}, 4, latents={"z": z})
    small = Batches(model, source, seed=0)
    whole = Batches(model, DataSets({"y": ys}, latents={"z": z}), seed=0)
    parts = torch.stack([ForwardKL()(model, guide, small.at(step)) for step in range(3)]).mean()
    torch.testing.assert_close(parts, ForwardKL()(model, guide, whole.at(0)))


class Subsampled(pyro.nn.PyroModule):
    def forward(self, y=None, rows=None):
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 10.0))
        with pyro.plate("rows", 100, subsample=rows) as index:
            level = pyro.sample("level", dist.Normal(loc, 1.0))
            pyro.sample("y", dist.Normal(level, 1.0), obs=None if y is None else y[index])


def test_an_autoguide_that_would_swap_the_rows_of_a_subsample_is_refused():
    model, data = Subsampled(), {"y": torch.zeros(100), "rows": torch.arange(10)}
    with pytest.raises(ValueError, match=r"plate 'rows'.*create_plates.*the 10 rows given"):
        fit(model, AutoNormal(model), data, options=QUIET, steps=2)
    guide = AutoNormal(model, create_plates=lambda y=None, rows=None: pyro.plate("rows", 100, subsample=rows))
    fit(model, guide, data, options=QUIET, steps=2)


def test_early_stopping_returns_the_best_state():
    model = Linear()
    guide = amortize(model, None, "diagonal", example={"y": Y})
    options = FitOptions(
        steps=5000, learning_rate=0.1, progress=False, held_out={"y": Y}, evaluate_every=50, patience=5
    )
    result = fit(model, guide, {"y": Y}, ELBO(64), options)
    assert result.stopped == "early"
    assert result.steps < 5000
    best = min(loss for _, loss in result.held_out)
    from physzoo.core.global_state import seeded
    from physzoo.inference.fit.batches import Batches

    with seeded(options.seed + 2), torch.no_grad():
        assert ELBO(64)(model, guide, Batches(model, {"y": Y}, 1).at(0)).item() == best


def test_held_out_data_sets_are_judged_on_all_rows_whatever_their_batch_size():
    model, ys = Linear(), torch.linspace(-2, 2, 24, dtype=torch.float64).reshape(8, 3)
    found = []
    for size in (None, 2):
        guide = amortize(model, "mlp", "diagonal", example={"y": Y})
        held_out = DataSets({"y": ys}, size)
        found.append(fit(model, guide, Simulator(8), options=QUIET, steps=5, held_out=held_out, evaluate_every=2))
    assert [step for step, _ in found[0].held_out] == [2, 4]
    assert found[0].held_out == found[1].held_out


class Autoencoder(pyro.nn.PyroModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.decoder = nn.Linear(2, 3)

    def forward(self, y=None):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("y", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=y)


def autoencoder_fit(**options):
    model = Autoencoder()
    guide = amortize(model, "mlp", "spline", example={"y": torch.zeros(3)}, transforms=2)
    ys = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    fit(model, guide, DataSets({"y": ys}, 8), Mixture(((1.0, ELBO(2)), (0.1, Reweighted(4)))), QUIET, **options)
    return {**model.state_dict(), **guide.state_dict()}


def test_a_fit_in_pieces_equals_the_uninterrupted_one_to_the_bit(tmp_path):
    whole = autoencoder_fit(steps=30)
    path = tmp_path / "fit.pt"

    class Stop(Exception):
        pass

    original, calls = ELBO.__call__, []

    def interrupted(self, *arguments):
        calls.append(None)
        if len(calls) in (13, 30):
            raise Stop
        return original(self, *arguments)

    ELBO.__call__ = interrupted
    try:
        for _ in range(2):
            with pytest.raises(Stop):
                autoencoder_fit(steps=30, checkpoint=path, checkpoint_every=5, resume=True)
    finally:
        ELBO.__call__ = original
    pieces = autoencoder_fit(steps=30, checkpoint=path, checkpoint_every=5, resume=True)
    assert all(torch.equal(value, pieces[name]) for name, value in whole.items())


KILLED = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_fit import autoencoder_fit
print("go", flush=True)
state = autoencoder_fit(steps=300, checkpoint={path!r}, checkpoint_every=7, resume=True)
torch.save(state, {final!r})
"""


def test_kill_at_random_moments_and_resume(tmp_path):
    """The benchmark kill_resume does this twenty times; here three kills keep the tests short."""
    whole = autoencoder_fit(steps=300)
    path, final = str(tmp_path / "fit.pt"), str(tmp_path / "final.pt")
    script = KILLED.format(tests=os.path.dirname(__file__), path=path, final=final)
    generator = torch.Generator().manual_seed(7)
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(0.2 + torch.rand((), generator=generator).item())
            process.send_signal(signal.SIGKILL)
        if os.path.exists(path):
            load(path)
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
    state = torch.load(final, weights_only=True)
    assert all(torch.equal(value, state[name]) for name, value in whole.items())


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "fit.pt"
    autoencoder_fit(steps=5, checkpoint=path)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(CheckpointWarning, match="No space left on device"):
        autoencoder_fit(steps=9, checkpoint=path, resume=True)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["fit.pt"]


def test_a_failing_write_leaves_no_litter(tmp_path):
    class Unsaveable:
        def __reduce__(self):
            raise RuntimeError("no")

    save(tmp_path / "a.pt", {"x": 1})
    with pytest.raises(RuntimeError, match="no"):
        save(tmp_path / "a.pt", {"x": Unsaveable()})
    assert load(tmp_path / "a.pt")["x"] == 1
    assert os.listdir(tmp_path) == ["a.pt"]


def test_a_pickle_is_not_executed(tmp_path):
    import pickle

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "trapped"),))

    plain, archive = tmp_path / "plain.pt", tmp_path / "archive.pt"
    plain.write_bytes(pickle.dumps(Trap()))
    torch.save({"format": "physzoo-checkpoint-1", "x": Trap()}, archive)
    for path in (plain, archive, tmp_path / "absent.pt"):
        with pytest.raises(CheckpointError, match="checkpoint: "):
            load(path)
    assert not (tmp_path / "trapped").exists()


def test_a_checkpoint_of_another_guide_is_refused(tmp_path):
    path = tmp_path / "fit.pt"
    model = Linear()
    fit(model, amortize(model, None, "full", example={"y": Y}), {"y": Y}, options=QUIET, steps=3, checkpoint=path)
    other = amortize(model, None, "diagonal", example={"y": Y})
    with pytest.raises(CheckpointError, match=r"another model or guide \(guide\."):
        fit(model, other, {"y": Y}, options=QUIET, steps=3, checkpoint=path, resume=True)


class Fragile(pyro.nn.PyroModule):
    """Goes wrong in the way asked for."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def forward(self, y=None):
        rate = pyro.sample("rate", dist.Gamma(torch.tensor(2.0), torch.tensor(1.0)))
        state = rate.unsqueeze(-1) * torch.ones(3)
        if self.fault == "physics":
            state = torch.where(state > 2.5, torch.full_like(state, torch.nan), state)
        if self.fault == "support":
            pyro.sample("edge", dist.Uniform(0.0, 1.0), obs=(rate > 2.5).float() * 2.0)
        return pyro.sample("y", dist.Normal(state, 0.5).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("fault", "data", "words"),
    [
        ("physics", {"y": torch.ones(3)}, r"model site 'y' has log density nan at sample \d+ \(rate = "),
        ("support", {"y": torch.ones(3)}, r"model site 'edge' has log density -inf at sample \d+ \(rate = "),
    ],
)
def test_a_number_that_is_not_finite_is_traced_to_its_site_and_sample(fault, data, words, tmp_path):
    path = tmp_path / "fit.pt"
    model = Fragile(fault)
    guide = amortize(model, None, "full", example={"y": torch.ones(3)})
    with pytest.raises(NonFiniteError, match=words) as error:
        fit(model, guide, data, ELBO(64), QUIET, steps=50, checkpoint=path)
    assert str(path) in str(error.value)
    state = load(path)
    assert all(torch.isfinite(v).all() for v in state["modules"]["guide"].values())
    assert all(torch.isfinite(p).all() for p in guide.parameters())


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_data_that_are_no_numbers_are_refused_unless_masked(number):
    model, y = Linear(), Y.clone()
    y[1] = number
    guide = amortize(model, None, "full", example={"y": Y})
    with pytest.raises(ValueError, match=r"data\['y'\]: got (nan|inf) at \(1,\), expected finite numbers"):
        fit(model, guide, {"y": y}, options=QUIET, steps=1)
    with pytest.raises(ValueError, match=r"data set 1: data\['y'\]: got (nan|inf) at \(1,\)"):
        fit(model, guide, DataSets({"y": torch.stack([Y, y])}), options=QUIET, steps=1)


def test_the_diagnosis_sees_the_draws_of_the_device_too(monkeypatch):
    states, put_back = [], []

    def state_of_all():
        states.append(len(states))
        return states[-1:]

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", state_of_all)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", put_back.extend)
    model = Fragile("physics")
    guide = amortize(model, None, "full", example={"y": torch.ones(3)})
    with pytest.raises(NonFiniteError, match="model site 'y' has log density nan"):
        fit(model, guide, {"y": torch.ones(3)}, ELBO(64), QUIET, steps=50)
    assert len(put_back) == 1
    assert put_back == states[-1:]


class Explosive(Fragile):
    """Breaks down at one data set alone: where its first entry is 7."""

    def forward(self, y=None):
        rate = pyro.sample("rate", dist.Gamma(torch.tensor(2.0), torch.tensor(1.0)))
        state = rate.unsqueeze(-1) * torch.ones(3)
        if y is not None and self.fault == "physics":
            bad = (y[..., :1] == 7.0) & (state > 1.0)
            state = torch.where(bad, torch.full_like(state, torch.nan), state)
        return pyro.sample("y", dist.Normal(state, 0.5).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("particles", "fault", "words"),
    [
        (8, "physics", r"model site 'y' has log density nan at particle \d of data set 2 \(rate = "),
        (1, "physics", r"model site 'y' has log density nan at data set 2 \(rate = "),
        (8, "guide", r"guide site 'rate' drew nan at particle 0 of data set 0"),
    ],
)
def test_a_number_that_is_not_finite_is_traced_to_its_data_set_and_particle(particles, fault, words):
    model = Explosive(fault)
    ys = torch.ones(5, 3)
    ys[2, 0] = 7.0
    guide = amortize(model, "mlp", "full", example={"y": ys[0]})
    if fault == "guide":
        guide = NotANumber()
    with pytest.raises(NonFiniteError, match=words):
        fit(model, guide, DataSets({"y": ys}), ELBO(particles), QUIET, steps=50)


class NotANumber(nn.Module):
    """A guide whose draws are not numbers."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(torch.nan))

    def forward(self, y=None):
        shape = y.shape[:-1]
        density = dist.LogNormal(torch.zeros(shape), 1.0) if not shape else dist.LogNormal(self.loc.expand(shape), 1.0)
        return pyro.sample("rate", density)


def test_single_bad_steps_can_be_skipped():
    model = Fragile("physics")
    guide = amortize(model, None, "full", example={"y": torch.ones(3)})
    result = fit(model, guide, {"y": torch.ones(3)}, ELBO(2), QUIET, steps=300, learning_rate=0.02, max_skipped=200)
    assert 0 < sum(math.isnan(loss) for loss in result.losses) < 300


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"steps": 0}, ValueError, "steps: got 0"),
        ({"steps": 1.5}, ValueError, "steps: got 1.5"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate: got -1.0"),
        ({"schedule": "linear"}, ValueError, "schedule: got 'linear'"),
        ({"warmup": 1.0}, ValueError, "warmup: got 1.0"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm: got 0.0"),
        ({"patience": 3}, ValueError, "patience: got 3"),
        ({"resume": True}, ValueError, "resume: got True"),
        ({"stepz": 3}, TypeError, "unknown options stepz"),
    ],
)
def test_wrong_options_are_named(changes, error, words):
    model = Linear()
    guide = amortize(model, None, "full", example={"y": Y})
    with pytest.raises(error, match=words):
        fit(model, guide, {"y": Y}, options=QUIET, **changes)


class Bayesian(pyro.nn.PyroModule):
    """A network whose weight is a PyroSample: it must be called as a module."""

    def __init__(self):
        super().__init__()
        self.layer = pyro.nn.PyroModule[nn.Linear](1, 1)
        self.layer.weight = pyro.nn.PyroSample(dist.Normal(0.0, 1.0).expand([1, 1]).to_event(2))

    def forward(self, y=None):
        x = torch.ones(5, 1)
        mean = self.layer(x).squeeze(-1)
        return pyro.sample("y", dist.Normal(mean, 0.5).to_event(1), obs=y)


def test_models_with_pyro_samples_are_fitted_too():
    model, data = Bayesian(), {"y": torch.full((5,), 2.0)}
    guide = AutoNormal(model)
    result = fit(model, guide, data, options=QUIET, steps=500, learning_rate=0.05)
    assert sum(result.losses[-50:]) < sum(result.losses[:50])
    assert abs(guide.median()["layer.weight"].item() + model.layer.bias.item() - 2.0) < 0.3


def test_wrong_sources_and_guides_are_named():
    model = Linear()
    guide = amortize(model, None, "full", example={"y": Y})
    with pytest.raises(TypeError, match="data: got list"):
        fit(model, guide, [1, 2], options=QUIET)
    with pytest.raises(ValueError, match="objective: got TraceGraph_ELBO"):
        fit(model, guide, {"y": Y}, TraceGraph_ELBO(), QUIET)
    with pytest.raises(ValueError, match="without their unknowns"):
        fit(model, guide, {"y": Y}, ForwardKL(), QUIET)
    with pytest.raises(ValueError, match="batch_size: got 9, expected 1 to 4"):
        DataSets({"y": torch.zeros(4, 3)}, 9)
    with pytest.raises(ValueError, match="same positive number"):
        DataSets({"y": torch.zeros(4, 3), "mask": torch.ones(5, 3)})
    with pytest.raises(ValueError, match="latent sites z"):
        fit(model, lambda **data: None, {"y": Y}, options=QUIET)

    class Stochastic(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.zeros(2, dtype=torch.float64))

        def forward(self, y=None, mask=None):
            from pyro.distributions.testing.fakes import NonreparameterizedNormal

            pyro.sample("z", NonreparameterizedNormal(self.p, torch.ones(2, dtype=torch.float64)).to_event(1))

    with pytest.raises(ValueError, match="site 'z' has no reparameterised draws"):
        fit(model, Stochastic(), {"y": Y}, options=QUIET, steps=1)


def test_simulations_that_all_fail_are_named():
    def broken(y=None):
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
        return pyro.sample("y", dist.Normal(z * torch.nan, 1.0), obs=y)

    with pytest.raises(RejectedError, match=r"site 'y': got (\d+) of \1 simulations rejected or not finite"):
        simulated_once(broken, None, 6)


def test_checkpoint_warning_is_the_only_warning():
    model = Linear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, amortize(model, None, "spline", example={"y": Y}), {"y": Y}, options=QUIET, steps=3)


def test_a_gradient_whose_square_overflows_is_clipped_and_not_called_infinite():
    from physzoo.inference.fit.support import clip

    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([3e30, 4e30, 0.0])
    assert math.isfinite(clip([parameter], 10.0))
    torch.testing.assert_close(parameter.grad[1] / parameter.grad[0], torch.tensor(4 / 3))
    assert parameter.grad.norm() <= 10.0
    parameter.grad = torch.tensor([torch.inf, 0.0, 0.0])
    assert not math.isfinite(clip([parameter], 10.0))
