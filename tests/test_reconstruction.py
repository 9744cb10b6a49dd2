"""The evaluation against answers worked out by hand, on a model whose posterior is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn
from toys import Decay

from physzoo.core.global_state import seeded
from physzoo.core.simulate import simulate
from physzoo.guides.cleansing import cleansing_guide
from physzoo.inference.evaluation import Evaluation, evaluate, principal_components, training_mean
from physzoo.inference.evaluation.reconstruction import counterfactual, evaluating, extrapolate, robust_noise
from physzoo.models.baselines import BlackBox, black_box_guide
from physzoo.models.grey_box import GreyBox
from physzoo.physics.grey_box import Decoded

SD = 0.5


class Slope(GreyBox):
    """x_n = slope t_n + noise, slope ~ N(0, 1): the posterior is normal and known."""

    times: Tensor

    def __init__(self) -> None:
        super().__init__({}, scale=SD, noise="fixed")
        self.register_buffer("times", torch.tensor([1.0, 2.0, 3.0]))

    def priors(self) -> Mapping[str, Any]:
        return {"slope": dist.Normal(0.0, torch.ones_like(self.log_scale))}

    def decode(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Decoded:
        line = (z["slope"][..., None] * (self.times if times is None else times))[..., None]
        return Decoded(line, line + 1.0, line, line + 2.0)


class Exact(nn.Module):
    """The exact posterior of ``Slope`` as a guide; ``width`` times as wide."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.width, self.inner = width, nn.Dropout()

    def density(self, x: Tensor) -> dist.Normal:
        assert not self.training, "an evaluation runs in evaluation mode"
        t = torch.tensor([1.0, 2.0, 3.0], dtype=x.dtype)
        precision = 1 + t.square().sum() / SD**2
        return dist.Normal((x[..., 0] * t).sum(-1) / SD**2 / precision, self.width * precision.rsqrt())

    def forward(self, x: Tensor, mask: Tensor | None = None) -> None:
        import pyro

        pyro.sample("slope", self.density(x))

    def sample(self, data: Mapping[str, Tensor], draws: int) -> dict[str, Tensor]:
        return {"slope": self.density(data["x"]).sample(torch.Size((draws,)))}


def example(sets: int = 400) -> tuple[Slope, dict[str, Tensor], Tensor]:
    model = Slope().double()
    drawn = simulate(model, sets, seed=1)
    return model, {"x": drawn["x"]}, drawn["slope"]


def test_numbers_of_a_known_posterior() -> None:
    model, data, slope = example()
    found = evaluate(model, Exact(), data, truths={"slope": slope}, draws=2000)
    mean = Exact().eval().density(data["x"]).mean
    line = mean[:, None, None] * model.times[:, None]
    assert found.mae == pytest.approx(float((line - data["x"]).abs().mean()), rel=0.01)
    assert found.sum_of_squares == pytest.approx(float((line - data["x"]).square().sum((1, 2)).mean()), rel=0.01)
    assert found.errors["slope"] == pytest.approx(float((mean - slope).abs().mean()), rel=0.03)
    assert found.correlation["slope"] == pytest.approx(
        float(torch.corrcoef(torch.stack([mean, slope]))[0, 1]), abs=1e-3
    )


def test_the_bound_is_the_evidence_where_the_posterior_is_exact_and_below_elsewhere() -> None:
    model, data, _ = example(50)
    t = model.times
    covariance = SD**2 * torch.eye(3).double() + torch.outer(t, t)
    evidence = torch.distributions.MultivariateNormal(torch.zeros(3).double(), covariance)
    exact = float(evidence.log_prob(data["x"][..., 0]).mean())
    assert evaluate(model, Exact(), data, bound=3).iwae == pytest.approx(exact, abs=1e-9)
    wide = [evaluate(model, Exact(2.0), data, bound=count).iwae for count in (1, 8, 512)]
    assert wide[0] < wide[1] < wide[2] < exact + 0.02  # type: ignore[operator]
    assert wide[2] == pytest.approx(exact, abs=0.02)
    assert evaluate(model, Exact(), data, bound=0).iwae is None


def test_coverage_is_nominal_for_the_exact_posterior_and_wrong_for_a_narrow_one() -> None:
    model, data, slope = example(1000)
    for width, good in ((1.0, True), (0.5, False)):
        found = evaluate(model, Exact(width), data, truths={"slope": slope}, draws=2, bound=0).coverage["slope"]
        for level, share in found.items():
            error = 4 * math.sqrt(level * (1 - level) / 1000) + 2 / 400
            assert (abs(share - level) < error) == good, (width, level, share)


def test_the_decomposition_tells_the_outputs_apart_and_skips_repetitions() -> None:
    model, data, _ = example(100)
    found = evaluate(model, Exact(), data, draws=50, bound=0).decomposition
    assert set(found) == {"full", "without_correction", "physics"}  # without_dynamics is the full output itself
    assert found["full"] < found["without_correction"] < found["physics"]
    black = BlackBox((3, 1), 2).double()
    guide = black_box_guide(black, {"x": data["x"][0]}, simulations=50)
    judged = evaluate(black, guide, data, draws=4, bound=2, truths={"slope": torch.zeros(100)})
    assert set(judged.decomposition) == {"full"}
    assert judged.errors == {}
    assert judged.iwae is not None


def test_an_angle_is_judged_the_short_way_round() -> None:
    class Around(Exact):
        def sample(self, data: Any, draws: int) -> dict[str, Tensor]:
            noise = 0.1 * torch.randn(draws, len(data["x"]), dtype=torch.float64)
            return {"slope": (3.1 + noise + math.pi).remainder(2 * math.pi) - math.pi}

    model, data, _ = example(300)
    truth = (3.1 + 0.1 * torch.randn(300, generator=torch.Generator().manual_seed(0)) + math.pi).double()
    truth = truth.remainder(2 * math.pi) - math.pi
    options: Any = {"truths": {"slope": truth}, "draws": 2, "bound": 0}
    found = evaluate(model, Around(), data, periods={"slope": 2 * math.pi}, **options)
    assert found.errors["slope"] == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.2)
    assert abs(found.coverage["slope"][0.8] - 0.8) < 0.1
    assert "slope" not in found.correlation
    assert evaluate(model, Around(), data, **options).errors["slope"] > 1.0


def test_masked_entries_count_nowhere() -> None:
    model, data, _ = example(20)
    mask = torch.ones_like(data["x"], dtype=torch.bool)
    mask[:, 2] = False
    guide = black_box_guide(model, {"x": data["x"][0], "mask": mask[0]}, simulations=50)
    results = [
        evaluate(model, guide, {"x": torch.where(mask, data["x"], hidden), "mask": mask}, bound=4)
        for hidden in (0.0, torch.nan)
    ]
    assert results[0] == results[1]
    assert math.isfinite(results[0].mae)


def test_an_evaluation_leaves_generator_and_modes_as_they_were() -> None:
    model, data, _ = example(5)
    guide = Exact()
    guide.inner.eval()
    before = torch.get_rng_state()
    first = evaluate(model, guide, data, bound=2)
    assert torch.equal(before, torch.get_rng_state())
    assert guide.training
    assert model.training
    assert not guide.inner.training
    assert first == evaluate(model, guide, data, bound=2)
    assert first != evaluate(model, guide, data, bound=2, seed=1)
    with pytest.raises(ZeroDivisionError), evaluating(guide):
        raise ZeroDivisionError
    assert guide.training


def test_chunks_do_not_change_the_closed_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, slope = example(30)
    options: Any = {"truths": {"slope": slope}, "draws": 3000, "bound": 3, "intervals": 3000}
    whole = evaluate(model, Exact(), data, **options)
    monkeypatch.setattr("physzoo.inference.evaluation.reconstruction.ENTRIES", 9 * 3000)
    parts = evaluate(model, Exact(), data, **options)
    assert parts.mae == pytest.approx(whole.mae, rel=0.01)
    assert parts.iwae == pytest.approx(whole.iwae, abs=1e-9)
    assert parts.errors["slope"] == pytest.approx(whole.errors["slope"], rel=0.05)


def test_extrapolation_error_grows_with_time_as_the_line_says() -> None:
    model, data, slope = example()
    times = torch.tensor([1.0, 2.0, 50.0, 100.0]).double()
    truth = slope[:, None, None] * times[:, None]
    found = extrapolate(model, Exact(), data, times, truth, [(0, 2), (2, 4)], draws=2000)
    error = float((Exact().eval().density(data["x"]).mean - slope).abs().mean())
    assert found[0, 2] == pytest.approx(1.5 * error, rel=0.03)
    assert found[2, 4] == pytest.approx(75 * error, rel=0.03)
    with pytest.raises(ValueError, match="windows"):
        extrapolate(model, Exact(), data, times, truth, [(2, 5)])
    with pytest.raises(ValueError, match="truth"):
        extrapolate(model, Exact(), data, times, truth[:, :2], [(0, 2)])


def test_a_counterfactual_multiplies_one_unknown() -> None:
    model, data, slope = example()
    truth = {factor: factor * slope[:, None, None] * model.times[:, None] for factor in (0.0, 1.0, 3.0)}
    found = counterfactual(model, Exact(), data, "slope", (0.0, 1.0, 3.0), truth, draws=500)
    assert found[0.0] == pytest.approx(0.0, abs=1e-12)
    assert found[3.0] == pytest.approx(3 * found[1.0], rel=0.02)
    with pytest.raises(ValueError, match="site"):
        counterfactual(model, Exact(), data, "height", (1.0,), truth)
    with pytest.raises(ValueError, match=r"truth\[2"):
        counterfactual(model, Exact(), data, "slope", (2.0,), truth)


def test_principal_components_of_flat_data_are_exact_and_the_mean_is_not() -> None:
    with seeded(0):
        basis = torch.randn(3, 10)
        train, test = torch.randn(40, 3) @ basis + 5.0, torch.randn(20, 3) @ basis + 5.0
    assert principal_components(train[..., None], test[..., None], 3).mae < 1e-6
    errors = [principal_components(train, test, code).sum_of_squares for code in (1, 2)]
    mean = training_mean(train, test)
    assert errors[1] < errors[0] < mean.sum_of_squares
    by_hand = (test - train.mean(0)).square().sum(1).mean()
    assert mean.sum_of_squares == pytest.approx(float(by_hand), rel=1e-5)
    with pytest.raises(ValueError, match="code"):
        principal_components(train, test, 11)


def test_mistakes_are_refused_in_a_sentence() -> None:
    model, data, slope = example(5)
    with pytest.raises(ValueError, match="data"):
        evaluate(model, Exact(), {"y": data["x"]})
    with pytest.raises(ValueError, match="truths"):
        evaluate(model, Exact(), data, truths={"slope": slope[:2]})
    with pytest.raises(ValueError, match="draws"):
        evaluate(model, Exact(), data, draws=0)


def test_a_flat_table_names_every_number() -> None:
    found = Evaluation(
        1.0, 2.0, 3.0, {"a": 4.0}, {"a": {0.5: 5.0, 0.95: 6.0}}, {"a": 7.0}, {"full": 1.0, "physics": 8.0}
    )
    assert found.flat() == {
        "mae": 1.0, "sum_of_squares": 2.0, "iwae": 3.0, "a_mae": 4.0, "a_correlation": 7.0,
        "a_covered_50": 5.0, "a_covered_95": 6.0, "mae_physics": 8.0,
    }  # fmt: skip


def test_a_grey_box_is_evaluated_as_it_comes() -> None:
    with seeded(5):
        model = Decay()
    drawn = simulate(model, 30, seed=6)
    guide = cleansing_guide(model, {"x": drawn["x"][0]}, data=drawn["x"], simulations=100)
    found = evaluate(model, guide, {"x": drawn["x"]}, truths=drawn, draws=4, intervals=20, bound=4)
    assert set(found.errors) == {"rate", "initial_state", "z_A1", "z_A2"}
    assert len(found.decomposition) == 4
    assert all(math.isfinite(value) for value in found.flat().values())


def test_robust_noise_is_the_scale_of_most_residuals() -> None:
    """On clean data it is their sd, three numbers less one slope; a few wild data sets move the sd and hardly move it."""
    model, data, _ = example(2000)
    clean = robust_noise(model, Exact(), data)
    assert clean == pytest.approx(SD * math.sqrt(2 / 3), rel=0.06)
    wild = {"x": data["x"].clone()}
    wild["x"][::50, 0] += 40.0
    evaluation = evaluate(model, Exact(), wild, draws=16)
    assert math.sqrt(evaluation.sum_of_squares / 3) > 5 * SD
    assert robust_noise(model, Exact(), wild) == pytest.approx(clean, rel=0.06)
    assert robust_noise(model, Exact(), wild, sets=1) > 5 * SD
    mask = torch.ones_like(wild["x"], dtype=torch.bool)
    mask[::50] = False
    assert robust_noise(model, Exact(), {**wild, "mask": mask}) == pytest.approx(clean, rel=0.02)
    with pytest.raises(ValueError, match="sets"):
        robust_noise(model, Exact(), data, sets=0)
