"""What cannot be used is refused in one sentence that names it, before anything is run, executed or overwritten."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
import pickle
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyro.nn import PyroModule

from physzoo.cli import main
from physzoo.guides import MLP, Attention, Convolution, MaskedSet, Table, Whitening, amortize
from physzoo.inference.calibration import calibrate
from physzoo.inference.compare import compare
from physzoo.inference.fit import CheckpointError, DataSets, FitOptions, Simulator, fit
from physzoo.inference.fit.checkpoint import load, save
from physzoo.inference.modes import laplace
from physzoo.inference.objectives import ELBO, ForwardKL, Mixture, Reweighted
from physzoo.inference.posterior import posterior
from physzoo.inference.references import Reference, hmc, nuts, pcn, smc, summarise
from physzoo.models.recipe import Recipe
from physzoo.models.registry import get, register
from physzoo.physics import Elliptic1D, KarhunenLoeve, LinearProblem, ODEProblem, observe, virtual_observables

DOUBLE = torch.float64
DESIGN = torch.tensor([[1.0, 0.5], [0.2, 1.0], [1.0, 1.0]], dtype=DOUBLE)
Y = torch.tensor([0.7, -0.3, 1.1], dtype=DOUBLE)
MASK = torch.tensor([True, False, True])
REFUSED: Counter[str] = Counter()


def examples(number: int) -> Callable[[Any], Any]:
    """The same examples in every run."""
    return settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


def assert_clear(error: BaseException, *names: str) -> None:
    """One line of less than 400 characters that names the argument, or what came and what was expected."""
    text = str(error)
    assert isinstance(error, (ValueError, TypeError)), f"{type(error).__name__}: {text}"
    assert "\n" not in text, text
    assert 0 < len(text) < 400, text
    assert ("got" in text and "expected" in text) or any(name in text for name in names), text
    assert all(name in text for name in names), (names, text)


def refused(call: Callable[[], Any], *names: str) -> None:
    """Check that ``call`` is refused clearly, and count it."""
    try:
        call()
    except Exception as error:  # whatever comes is judged by assert_clear
        assert_clear(error, *names)
    else:
        pytest.fail(f"accepted; expected a refusal that names {names}")
    REFUSED[os.environ.get("PYTEST_CURRENT_TEST", "")] += 1


class Ours(PyroModule):
    """z ~ N(0, I), y ~ N(A z, 0.25 I) by ``observe``."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("design", DESIGN.clone())

    def forward(self, y=None, mask=None):
        z = pyro.sample("z", dist.Normal(self.design.new_zeros(2), 1.0).to_event(1))
        return observe("y", z @ self.design.T, 0.5, obs=y, mask=mask)


class Plain(Ours):
    """The same model without a line of physzoo in it: Pyro alone broadcasts and says nothing."""

    def forward(self, y=None, mask=None):
        z = pyro.sample("z", dist.Normal(self.design.new_zeros(2), 1.0).to_event(1))
        likelihood = dist.Normal(z @ self.design.T, 0.5)
        likelihood = likelihood if mask is None else likelihood.mask(mask)
        return pyro.sample("y", likelihood.to_event(1), obs=y)


MODELS = (Ours(), Plain())
GUIDES = [amortize(MODELS[1], encoder, "full", example={"y": Y}, simulations=16) for encoder in (None, "mlp")]
QUIET = FitOptions(steps=2, progress=False)

models, guides = st.sampled_from(MODELS), st.sampled_from(GUIDES)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
wrong_shapes = shapes.filter(lambda shape: shape != (3,))
wrong_batches = shapes.filter(lambda shape: (len(shape) > 0 and shape[1:] != (3,)) or 0 in shape)
not_floats = st.sampled_from([torch.int64, torch.int32, torch.bool, torch.complex64])
not_tensors = st.one_of(
    st.floats(0, 1), st.text(max_size=3), st.lists(st.floats(0, 1), max_size=3), st.just(np.zeros(3))
)
not_whole = st.one_of(
    st.integers(max_value=0), st.floats().filter(lambda x: x != int(x) if math.isfinite(x) else True),
    st.text(max_size=3), st.none(), st.booleans(), st.just([1]),
)  # fmt: skip
not_positive = st.one_of(
    st.floats(max_value=0.0), st.just(math.nan), st.just(math.inf), st.text(max_size=3), st.none(), st.just([1.0])
)
not_mappings = st.one_of(st.integers(), st.text(max_size=4), st.lists(st.integers(), max_size=2), st.just(Y), st.none())
names = st.text(st.characters(codec="ascii", categories=["Ll"]), min_size=1, max_size=6)


def entry_points(data: Any) -> list[Callable[[], Any]]:
    """Everything that takes one data set."""
    model = MODELS[1]
    return [
        lambda: amortize(model, None, "full", example=data, simulations=8),
        lambda: amortize(model, "mlp", "full", example=data, simulations=8),
        lambda: laplace(model, data, starts=1, candidates=8),
        lambda: posterior(model, GUIDES[1], data, draws=3),
        lambda: nuts(model, data, chains=1, draws=4, warmup=2, progress=False),
        lambda: pcn(model, data, chains=1, draws=2, warmup=8, thin=1, progress=False),
    ]


@examples(30)
@given(models, guides, wrong_shapes)
def test_data_of_the_wrong_shape(model, guide, shape):
    refused(lambda: fit(model, guide, {"y": torch.zeros(shape, dtype=DOUBLE)}, options=QUIET), "y", str(shape))


@examples(12)
@given(models, guides, not_floats)
def test_data_of_the_wrong_dtype(model, guide, dtype):
    refused(lambda: fit(model, guide, {"y": torch.zeros(3, dtype=dtype)}, options=QUIET), "y", str(dtype))


@examples(12)
@given(models, guides, not_tensors)
def test_data_that_are_no_tensors(model, guide, value):
    refused(lambda: fit(model, guide, {"y": value}, options=QUIET), "y")


@examples(12)
@given(models, guides, not_mappings)
def test_data_that_are_no_arguments(model, guide, data):
    refused(lambda: fit(model, guide, data, options=QUIET), "data")


@examples(12)
@given(models, guides, names.filter(lambda name: name not in ("y", "mask")))
def test_arguments_that_the_model_does_not_know(model, guide, name):
    refused(lambda: fit(model, guide, {"y": Y, name: Y}, options=QUIET), name)


@examples(20)
@given(models, guides, wrong_shapes.filter(lambda shape: shape not in ((), (1,))))
def test_masks_of_the_wrong_size(model, guide, shape):
    data = {"y": Y, "mask": torch.ones(shape, dtype=torch.bool)}
    refused(lambda: fit(model, guide, data, options=QUIET), "mask", str(shape))


@examples(12)
@given(
    models,
    guides,
    st.sampled_from([torch.ones(3), torch.ones(3, dtype=torch.int64), [True] * 3, "yes", np.ones(3, bool)]),
)
def test_masks_that_are_not_boolean(model, guide, mask):
    refused(lambda: fit(model, guide, {"y": Y, "mask": mask}, options=QUIET), "mask")


@examples(24)
@given(st.integers(0, 5), st.one_of(wrong_shapes.map(lambda s: {"y": torch.zeros(s, dtype=DOUBLE)}), not_mappings))
def test_every_entry_point_refuses_bad_data(which, data):
    refused(entry_points(data)[which])


@examples(30)
@given(models, wrong_batches)
def test_batches_of_the_wrong_shape(model, shape):
    refused(lambda: fit(model, GUIDES[1], DataSets({"y": torch.zeros(shape, dtype=DOUBLE)}), options=QUIET), "y")


@examples(10)
@given(models, st.integers(1, 6), st.integers(1, 6).filter(lambda n: n > 0))
def test_data_sets_of_unequal_number(model, sets, more):
    data = {"y": torch.zeros(sets, 3, dtype=DOUBLE), "mask": torch.ones(sets + more, 3, dtype=torch.bool)}
    refused(lambda: fit(model, GUIDES[1], DataSets(data), options=QUIET), "y", "mask", str(sets + more))


@examples(16)
@given(st.one_of(not_whole, st.integers(5, 100)))
def test_batch_sizes(size):
    refused(lambda: DataSets({"y": torch.zeros(4, 3)}, size if size is not None else 0), "batch_size")
    if not isinstance(size, int) or size < 1 or isinstance(size, bool):
        refused(lambda: Simulator(size), "batch_size")


LATENTS = {
    "few": {"z": torch.zeros(3, 2)},
    "wide": {"z": torch.zeros(4, 3)},
    "other": {"x": torch.zeros(4, 2)},
    "list": {"z": [0.0]},
    "no mapping": [1],
}


@examples(8)
@given(st.sampled_from(sorted(LATENTS)))
def test_unknowns_that_do_not_belong_to_the_data(kind):
    data = {"y": torch.zeros(4, 3, dtype=DOUBLE)}
    refused(lambda: fit(MODELS[1], GUIDES[1], DataSets(data, latents=LATENTS[kind]), ForwardKL(), QUIET), "latents")


CORRUPT: list[Any] = [
    3,
    lambda data: None,
    lambda data: {},
    lambda data: {"y": data["y"][:, :2]},
    lambda data: {**data, "mask": Y},
]


@examples(5)
@given(st.sampled_from(range(len(CORRUPT))))
def test_what_corrupts_simulations_must_keep_their_shape(which):
    refused(lambda: fit(MODELS[1], GUIDES[1], Simulator(4, corrupt=CORRUPT[which]), options=QUIET), "corrupt")


OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "steps": not_whole,
    "checkpoint_every": not_whole,
    "evaluate_every": not_whole,
    "patience": st.one_of(not_whole.filter(lambda x: x is not None), st.just(3)),
    "max_skipped": not_whole.filter(lambda x: type(x) is not int or x < 0),
    "learning_rate": not_positive,
    "clip_norm": not_positive.filter(lambda x: x is not None and x != math.inf),
    "warmup": st.one_of(st.floats(1.0, 9.0), st.floats(-9.0, -0.1), st.just(math.nan), st.text(max_size=2), st.none()),
    "schedule": st.one_of(st.text(max_size=4), st.integers(), st.none(), st.just([])),
    "seed": st.one_of(st.integers(max_value=-1), st.integers(2**63), st.floats(), st.text(max_size=2), st.none()),
    "optimizer": st.one_of(st.integers(), st.text(max_size=4)),
    "checkpoint": st.one_of(st.integers(), st.binary(max_size=3), st.just("."), st.just([])),
    "device": st.sampled_from(["abacus", "cuda:99", 3.5, [], "meta:x"]),
    "held_out": st.sampled_from([3, [1], {"x": Y}, {"y": Y[:2]}, DataSets({"y": torch.zeros(2, 4)})]),
    "resume": st.just(True),
}


@examples(70)
@given(st.sampled_from(sorted(OPTIONS)).flatmap(lambda name: st.tuples(st.just(name), OPTIONS[name])))
def test_options_of_a_fit(option):
    name, value = option
    refused(
        lambda: fit(MODELS[1], GUIDES[0], {"y": Y}, ELBO(), QUIET, **{name: value}),
        *([] if name == "held_out" else [name]),
    )


@examples(8)
@given(names.filter(lambda name: name not in FitOptions.__dataclass_fields__))
def test_options_that_do_not_exist(name):
    refused(lambda: fit(MODELS[1], GUIDES[0], {"y": Y}, ELBO(), QUIET, **{name: 1}), name)


@examples(12)
@given(not_whole)
def test_objectives(particles):
    refused(lambda: ELBO(particles), "particles")
    refused(lambda: Reweighted(particles), "particles")
    refused(lambda: Mixture(((particles if isinstance(particles, str) else 1.0, particles),)), "terms")


@examples(12)
@given(names, st.one_of(st.integers(), st.lists(st.integers(), max_size=2)))
def test_encoders_and_families_by_name(name, thing):
    refused(lambda: amortize(MODELS[1], name, "full", example={"y": Y}), "encoder", name)
    refused(lambda: amortize(MODELS[1], None, name, example={"y": Y}), "family", name)
    refused(lambda: amortize(MODELS[1], thing, "full", example={"y": Y}), "encoder")
    refused(lambda: amortize(MODELS[1], None, thing, example={"y": Y}), "family")


FAMILY_OPTIONS = [
    ("full", "rank"), ("diagonal", "bins"), ("low_rank", "rank"), ("planar", "layers"), ("spline", "transforms"),
    ("spline", "bins"), ("spline", "tail"), ("spline", "hidden"), ("spline", "layers"), ("spline", "features"),
    ("coupling", "transforms"), ("coupling", "hidden"), ("iaf", "transforms"), ("iaf", "hidden"), ("iaf", "bins"),
]  # fmt: skip


@examples(25)
@given(
    st.sampled_from(FAMILY_OPTIONS), not_whole.filter(lambda x: x is not None and not (isinstance(x, float) and x > 0))
)
def test_options_of_a_family(option, value):
    family, name = option
    value = (0,) if (name, value) == ("hidden", [1]) else value
    refused(lambda: amortize(MODELS[1], None, family, example={"y": Y}, simulations=0, **{name: value}), name)


@examples(12)
@given(st.sampled_from([3, "x", Whitening([0, 0], [1]), Whitening(torch.zeros(3), torch.eye(3)),  # type: ignore[arg-type]
                        Whitening(torch.zeros(2), -torch.eye(2)), Whitening(torch.zeros(2) * math.nan, torch.eye(2))]))  # fmt: skip
def test_whitenings(whitening):
    refused(lambda: amortize(MODELS[1], None, "full", example={"y": Y}, whitening=whitening), "whitening")


ENCODERS = (MLP, Convolution, Attention, MaskedSet, Table)


@examples(25)
@given(st.sampled_from(ENCODERS), wrong_shapes.filter(lambda s: not s or s[-1] != 3 or 0 in s), not_whole)
def test_encoders_called_or_built_with_the_wrong_arguments(encoder, shape, width):
    built = encoder({"y": Y})
    refused(lambda: built(y=torch.zeros(shape)), "y")
    refused(lambda: built(x=Y), "y")
    refused(lambda: encoder({"y": Y}, width=width), "width")
    refused(lambda: encoder({"mask": MASK}), "example")


@examples(10)
@given(st.sampled_from(ENCODERS[:4]), wrong_shapes.filter(lambda s: s not in ((), (1,))))
def test_encoders_called_with_the_wrong_mask(encoder, shape):
    built = encoder({"y": Y, "mask": MASK})
    refused(lambda: built(y=Y, mask=torch.ones(shape, dtype=torch.bool)), "mask", str(shape))
    refused(lambda: built(y=Y, mask=torch.ones(3)), "mask")
    refused(lambda: encoder({"y": Y})(y=Y, mask=MASK), "mask")


@examples(15)
@given(
    guides,
    st.one_of(shapes.filter(lambda s: s[-1:] != (2,)).map(torch.zeros), st.none(), st.just([0.0, 0.0])),
    not_whole,
)
def test_guides_asked_for_other_densities_or_draws(guide, value, draws):
    refused(lambda: guide.log_prob({"z": value}, {"y": Y}), "z")
    refused(lambda: guide.log_prob({"x": Y}, {"y": Y}), "z")
    refused(lambda: guide.sample({"y": Y}, draws), "draws")


MEAN = torch.ones(4, 3, dtype=DOUBLE)
OBSERVE: dict[str, st.SearchStrategy[Any]] = {
    "noise": st.one_of(
        not_positive,
        st.sampled_from([-torch.ones(3), torch.zeros(3), torch.full((3,), math.nan), torch.ones(2), torch.ones(3).long()]),
    ),
    "obs": st.one_of(
        shapes.filter(lambda s: s[-1:] != (3,) or 0 in s).map(torch.zeros),
        not_floats.map(lambda dtype: torch.zeros(3, dtype=dtype)),
        not_tensors,
        st.just(torch.full((3,), math.nan)),
    ),
    "mask": st.one_of(
        shapes.filter(lambda s: s[-1:] not in ((3,), (1,), ())).map(lambda s: torch.ones(s).bool()),
        st.just(torch.ones(3)), not_tensors,
    ),
    "family": st.one_of(names.filter(lambda n: n not in ("normal", "lognormal")), st.integers(), st.just([])),
    "df": st.just(3.0),
    "event_dim": not_whole.filter(lambda x: type(x) is not int or x != 0),
    "name": st.one_of(st.just(""), st.integers(), st.none()),
    "mean": st.one_of(not_tensors, not_floats.map(lambda dtype: torch.ones(3, dtype=dtype)), st.none()),
}  # fmt: skip


@examples(60)
@given(st.sampled_from(sorted(OBSERVE)).flatmap(lambda name: st.tuples(st.just(name), OBSERVE[name])))
def test_likelihoods(argument):
    name, value = argument
    arguments = {"name": "height", "mean": MEAN, "noise": 0.5, "obs": MEAN, name: value}
    refused(lambda: observe(**arguments), name, *([] if name == "name" else ["height"]))


@examples(8)
@given(st.one_of(not_positive, st.sampled_from([-torch.ones(3), torch.ones(2)])))
def test_degrees_of_freedom(df):
    refused(lambda: observe("height", MEAN, 0.5, family="student_t", df=df), "height", "df")


BAR = Elliptic1D(lambda z: z, [0.5], 4, dtype=DOUBLE)


@examples(16)
@given(not_positive, shapes.filter(lambda s: s[-1:] != (3,)), st.sampled_from([3, None, "bar", BAR.solve]))
def test_virtual_observables(scale, shape, problem):
    u, z = torch.zeros(3, dtype=DOUBLE), torch.zeros(4, dtype=DOUBLE)
    refused(lambda: virtual_observables("r", BAR, u, z, scale), "noise")
    refused(lambda: virtual_observables("r", BAR, torch.zeros(shape, dtype=DOUBLE), z, 1.0), "u")
    refused(lambda: virtual_observables("r", problem, u, z, 1.0), "problem")


numberless = st.one_of(st.text(max_size=3), st.none(), st.just(math.nan))
ODE: dict[str, st.SearchStrategy[Any]] = {
    "times": st.one_of(
        st.lists(st.floats(-5, 5), min_size=2, max_size=5).filter(lambda t: any(b <= a for a, b in itertools.pairwise(t))),
        numberless, st.just([]), st.just([[0.0, 1.0]]), st.just([0.0, math.inf]),
    ),
    "t0": st.one_of(st.floats(0.1, 9.0), st.just(math.nan), st.just(-math.inf), st.text(max_size=2)),
    "method": st.one_of(names.filter(lambda n: n not in ("euler", "rk4")), st.integers(), st.none()),
    "max_steps": not_whole, "rtol": not_positive,  # None is taken by the other two
    "substeps": not_whole.filter(lambda n: n is not None), "atol": not_positive.filter(lambda x: x is not None),
    "rhs": st.one_of(st.integers(), st.none()), "observation": st.integers(),
    "event_dims": st.sampled_from([3, {"rate": -1}, {"rate": "a"}, {"rate": 1.5}]),
    "on_failure": st.one_of(names, st.none()), "dtype": st.sampled_from([torch.int64, "float"]),
}  # fmt: skip


def decay(t, state, z):
    return -z["rate"][..., None] * state


@examples(50)
@given(st.sampled_from(sorted(ODE)).flatmap(lambda name: st.tuples(st.just(name), ODE[name])))
def test_ode_problems(argument):
    name, value = argument
    refused(lambda: ODEProblem(**{"rhs": decay, "times": [0.0, 1.0, 2.0], name: value}), name)


TRAJECTORY = ODEProblem(decay, [0.0, 1.0, 2.0], dtype=DOUBLE)
RATE, START = torch.tensor(1.0, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE)
UNKNOWNS = [
    3, {}, START, {"rate": RATE}, {"initial_state": START}, {"rate": "a", "initial_state": START},
    {"rate": 1.0, "initial_state": START}, {"rate": RATE, "initial_state": RATE},
    {"rate": torch.ones(3), "initial_state": torch.ones(4, 2)}, {"rate": RATE, "initial_state": torch.ones(2).long()},
    {"rate": RATE, "initial_state": torch.ones(0)},
]  # fmt: skip


@examples(20)
@given(st.sampled_from(range(len(UNKNOWNS))), shapes.filter(lambda s: s[-2:] != (3, 2)))
def test_trajectories_of_other_unknowns_or_shapes(which, shape):
    good = {"rate": RATE, "initial_state": START}
    refused(lambda: TRAJECTORY.solve(UNKNOWNS[which]), "z")
    refused(lambda: TRAJECTORY.residual(torch.zeros(3, 2, dtype=DOUBLE), UNKNOWNS[which]), "z")
    refused(lambda: TRAJECTORY.residual(torch.zeros(shape, dtype=DOUBLE), good))


ELLIPTIC: dict[str, st.SearchStrategy[Any]] = {
    "elements": st.one_of(not_whole, st.just(1)),
    "sensors": st.one_of(
        st.lists(st.floats(1.1, 9.0), max_size=3), numberless, st.just([[0.5]]), st.just([math.nan])
    ),
    "domain": st.sampled_from([(1, 0), (0, 0), 3, (0, 1, 2), (0, math.inf), ("a", "b"), None]),
    "boundary": st.sampled_from([3, (0,), (0, 1, 2), (math.nan, 0), ("a", 0), None]),
    "source": st.one_of(numberless, st.integers(1, 9).filter(lambda n: n != 4).map(torch.ones)),
    "log_conductivity": st.one_of(st.integers(), st.none()), "dtype": st.sampled_from([torch.int64, "float"]),
}  # fmt: skip


@examples(40)
@given(st.sampled_from(sorted(ELLIPTIC)).flatmap(lambda name: st.tuples(st.just(name), ELLIPTIC[name])))
def test_elliptic_problems(argument):
    name, value = argument
    refused(lambda: Elliptic1D(**{"log_conductivity": lambda z: z, "sensors": [0.5], "elements": 4, name: value}), name)


@examples(12)
@given(
    shapes.filter(lambda s: s[-1:] != (4,)),
    shapes.filter(lambda s: s[-1:] != (3,)),
    st.sampled_from(["a", None, 3, [0.0]]),
)
def test_elliptic_problems_called_with_the_wrong_arguments(of_z, of_u, thing):
    z = torch.zeros(4, dtype=DOUBLE)
    refused(lambda: BAR.solve(torch.zeros(of_z)), "log_conductivity")
    refused(lambda: BAR.solve(thing), "z")
    refused(lambda: BAR.solve(z, torch.zeros(of_u)), "residual")
    refused(lambda: BAR.observe(torch.zeros(of_u)), "u")
    refused(lambda: BAR.observe(thing), "u")


POINTS = torch.linspace(0, 1, 6, dtype=DOUBLE)
FIELD: dict[str, st.SearchStrategy[Any]] = {
    "points": st.sampled_from([torch.zeros(2, 2, 2), torch.zeros(3).long(), [1.0], "a", torch.zeros(()), POINTS * math.nan]),
    "modes": st.one_of(not_whole, st.integers(7)), "length": not_positive, "standard_deviation": not_positive,
    "covariance": st.one_of(names, st.integers(), st.just([])),
    "weights": st.sampled_from([torch.ones(3), -torch.ones(6), torch.full((6,), math.nan), "a"]),
    "mean": st.one_of(numberless, st.just(torch.zeros(3))),
}  # fmt: skip


@examples(30)
@given(st.sampled_from(sorted(FIELD)).flatmap(lambda name: st.tuples(st.just(name), FIELD[name])))
def test_random_fields(argument):
    name, value = argument
    refused(lambda: KarhunenLoeve(**{"points": POINTS, "modes": 2, "length": 0.3, name: value}), name)


@examples(10)
@given(
    shapes.filter(lambda s: s[-1:] != (2,)), st.sampled_from(["a", None, [0.0], torch.zeros(2), torch.zeros(2).long()])
)
def test_fields_and_linear_problems_called_with_the_wrong_arguments(shape, thing):
    field = KarhunenLoeve(POINTS, 2, 0.3)
    problem = LinearProblem(torch.eye(2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE))
    for value in (torch.zeros(shape, dtype=DOUBLE), thing):
        refused(lambda value=value: field(value), "z")
        refused(lambda value=value: problem.solve(value), "z")
        refused(lambda value=value: problem.observe(value), "u")


SAMPLERS: list[tuple[Any, dict[str, Any], dict[str, st.SearchStrategy[Any]]]] = [
    (
        nuts,
        {"chains": 1, "draws": 4, "warmup": 2},
        {
            "chains": not_whole, "draws": not_whole, "warmup": not_whole, "workers": not_whole, "max_tree_depth": not_whole,
            "target_accept": st.sampled_from([0, 1, -1.0, 2.0, math.nan, "a", None]),
            "inverse_mass": st.sampled_from([torch.eye(3), -torch.eye(2), torch.zeros(2, 2), "a", torch.eye(2) * math.nan]),
            "initial": st.sampled_from([3, {"x": START}, {"z": torch.zeros(3)}, {"z": [0, 0]}, [], [{"z": START * math.nan}]]),
        },
    ),
    (
        pcn,
        {"chains": 1, "draws": 2, "warmup": 8, "thin": 1},
        {
            "chains": not_whole, "draws": not_whole, "warmup": not_whole, "thin": not_whole,
            "acceptance": st.sampled_from([0, 1, math.nan, "a"]),
            "loc": st.sampled_from([torch.zeros(3), "a", START * math.nan]),
            "tril": st.sampled_from([torch.eye(3), "a", torch.zeros(2, 2)]),
        },
    ),
    (
        hmc,
        {"chains": 2, "draws": 4, "warmup": 20, "loc": torch.zeros(2, dtype=DOUBLE), "tril": torch.eye(2, dtype=DOUBLE)},
        {
            "chains": not_whole, "draws": not_whole, "max_steps": not_whole,
            "target_accept": st.sampled_from([0, 1, 2.0, math.nan, "a"]),
            "loc": st.sampled_from([torch.zeros(3), "a", START * math.nan]), "tril": st.sampled_from([torch.eye(3), "a"]),
        },
    ),
    (
        smc,
        {"runs": 2, "particles": 12, "moves": 1, "final": 1},
        {
            "runs": not_whole, "particles": not_whole, "moves": not_whole, "final": not_whole,
            "ess": st.sampled_from([0, 1, -1.0, math.nan, "a", None]), "seed": st.sampled_from(["a", 1.5, -1, None]),
        },
    ),
    (
        laplace,
        {"starts": 1, "candidates": 4},
        {"starts": not_whole, "candidates": not_whole, "floor": not_positive, "seed": st.sampled_from(["a", 1.5, -1, None])},
    ),
]  # fmt: skip


def sampler_mistake(index: int) -> st.SearchStrategy[Any]:
    wrong = SAMPLERS[index][2]
    return st.sampled_from(sorted(wrong)).flatmap(lambda name: st.tuples(st.just(index), st.just(name), wrong[name]))


@examples(60)
@given(st.sampled_from(range(len(SAMPLERS))).flatmap(sampler_mistake))
def test_reference_samplers(mistake):
    index, name, value = mistake
    sampler, usual, _ = SAMPLERS[index]
    quiet = {} if sampler is laplace else {"progress": False}
    refused(lambda: sampler(MODELS[1], {"y": Y}, **{**usual, **quiet, name: value}), name)


POSTERIOR: dict[str, st.SearchStrategy[Any]] = {
    "draws": not_whole, "chunk": not_whole, "seed": st.sampled_from(["a", 1.5, -1]),
    "dims": st.sampled_from([{"x": ["a"]}, {"z": ["a", "b"]}, {"z": 3}, 3]), "units": st.sampled_from([{"x": "m"}, 3]),
    "coords": st.just(3), "guide": st.sampled_from([3, None, lambda **data: None]),
}  # fmt: skip


@examples(25)
@given(st.sampled_from(sorted(POSTERIOR)).flatmap(lambda name: st.tuples(st.just(name), POSTERIOR[name])))
def test_posteriors(argument):
    name, value = argument
    arguments = {"model": MODELS[1], "guide": GUIDES[0], "data": {"y": Y}, "draws": 3, name: value}
    refused(lambda: posterior(**arguments), name)


CALIBRATE: dict[str, st.SearchStrategy[Any]] = {
    "datasets": st.one_of(not_whole, st.just(1)), "draws": not_whole, "chunk": not_whole, "widen": not_positive,
    "alpha": st.sampled_from([-1, 0, 1, 2, math.nan, "a", None]), "seed": st.sampled_from(["a", 1.5, -1]),
    "given": st.sampled_from([3, {"mask": torch.ones(5).bool()}, {"mask": [True]}]),
    "guide": st.sampled_from([3, None]), "fit": st.just(lambda data: None),
    "pairs": st.sampled_from(
        [3, {"y": [1]}, {"y": torch.zeros(4, 3), "z": torch.zeros(5, 2)}, {"y": torch.zeros(4, 3), "z": torch.zeros(4, 3)}]
    ),
}  # fmt: skip


@examples(30)
@given(st.sampled_from(sorted(CALIBRATE)).flatmap(lambda name: st.tuples(st.just(name), CALIBRATE[name])))
def test_calibration(argument):
    name, value = argument
    usual = {"guide": GUIDES[1], "datasets": 4, "draws": 4, "progress": False}
    named = {"given": "mask"} if isinstance(value, dict) else {}
    refused(lambda: calibrate(MODELS[1], **{**usual, name: value}), named.get(name, name))


DRAWS = {"z": np.random.default_rng(0).normal(size=(50, 2))}
COMPARE: dict[str, st.SearchStrategy[Any]] = {
    "draws": st.sampled_from(
        [None, 3, [1], {}, {"x": DRAWS["z"]}, {"z": DRAWS["z"][:, :1]}, {"z": DRAWS["z"][:5]}, {"z": DRAWS["z"] * np.nan},
         {"z": "abc"}, {"z": [None]}, {"z": 3.0}, {"z": np.zeros((0, 2))}, {"z": DRAWS["z"], "w": np.zeros(3)}, {"z": DRAWS["z"] * 1j}]
    ),
    "weights": st.sampled_from([np.ones(3), -np.ones(50), np.zeros(50), np.full(50, np.nan), "a", np.ones((50, 1))]),
    "positive": st.sampled_from([["x"], ["z"], 3, "z"]), "limit": not_whole, "seed": st.sampled_from(["a", -1, 1.5]),
}  # fmt: skip


@examples(40)
@given(st.sampled_from(sorted(COMPARE)).flatmap(lambda name: st.tuples(st.just(name), COMPARE[name])))
def test_comparisons(argument):
    name, value = argument
    refused(lambda: compare(**{"draws": DRAWS, "reference": DRAWS, name: value}), name)


@examples(12)
@given(st.one_of(names, st.none(), st.integers(), st.just([]), st.just("../lynx_hare")))
def test_animals_that_do_not_exist(name):
    refused(lambda: get(name), "name", "lynx_hare")
    refused(lambda: register(name), "animal")


@examples(8)
@given(st.one_of(st.sampled_from(["lynx_hare", "", "9 lives", "a-b", None, 3]), names.map(lambda name: f"{name}!")))
def test_animals_that_cannot_be_registered(name):
    refused(lambda: register(dataclasses.replace(get("poisson1d"), name=name)), "name")


RECIPE: dict[str, st.SearchStrategy[Any]] = {
    "objective": st.sampled_from(["", "ELBO", "kl", None, 3]), "reference": st.sampled_from(["", "nuts", "SMC", None, 3]),
    "steps": not_whole, "batch_size": not_whole, "particles": not_whole, "simulations": st.sampled_from([-1, 0.5, "a", None]),
    "learning_rate": not_positive,
}  # fmt: skip


@examples(25)
@given(st.sampled_from(sorted(RECIPE)).flatmap(lambda name: st.tuples(st.just(name), RECIPE[name])))
def test_recipes(argument):
    name, value = argument
    refused(lambda: Recipe(**{name: value}), name)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


def hashes(folder: Path) -> dict[str, str]:
    """What stands in a folder, file by file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


STATE = {"modules": {"guide": {"weight": torch.linspace(0, 1, 300)}}, "step": 3}
KINDS = ("random", "truncated", "flipped", "zip", "empty", "folder", "pickle", "torch pickle", "npz", "other format")


def spoil(path: Path, kind: str, good: bytes, noise: bytes, place: float, trap: Path) -> None:
    """Put something at ``path`` that is not what was written there."""
    if kind == "random":
        path.write_bytes(noise)
    elif kind == "truncated":
        path.write_bytes(good[: int(place * (len(good) - 1))])
    elif kind == "flipped":
        at = good.index(b"PK", 64) if place < 0.1 else int(place * (len(good) - 1))
        path.write_bytes(good[:at] + bytes([good[at] ^ 255]) + good[at + 1 :])
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("thesis.txt", noise)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"format": "physzoo-checkpoint-1", "meta": Trap(trap)}))
    elif kind == "torch pickle":
        torch.save({"format": "physzoo-checkpoint-1", "modules": Trap(trap)}, path)
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, meta=np.array([Trap(trap)], dtype=object))
    else:
        torch.save({"format": "another", "modules": {}}, path)


@examples(60)
@given(st.sampled_from(KINDS), st.binary(min_size=1, max_size=300), st.floats(0, 1))
def test_files_that_are_no_checkpoints(kind, noise, place):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, trap = folder / "fit.pt", folder / "sprung"
        save(path, STATE)
        good = path.read_bytes()
        path.unlink()
        spoil(path, kind, good, noise, place, trap)
        before = hashes(folder)
        if kind == "flipped":
            try:
                found = load(path)  # the archive's padding means nothing
            except CheckpointError as error:
                assert_clear(error, "checkpoint", "fit.pt")
            else:
                assert torch.equal(found["modules"]["guide"]["weight"], STATE["modules"]["guide"]["weight"])
        else:
            refused(lambda: load(path), "checkpoint", "fit.pt")
            model = MODELS[1]
            again = lambda: fit(model, GUIDES[0], {"y": Y}, ELBO(), QUIET, checkpoint=path, resume=True)  # noqa: E731
            refused(again, "checkpoint", "fit.pt")
        assert hashes(folder) == before
        assert not trap.exists()


INCOMPLETE = [
    {},
    {"modules": 3},
    {"modules": {"guide": 3}},
    {"modules": {}},
    {"step": "a"},
    {"optimizer": 3},
    {"generator": 1},
    {"losses": 1},
]


@pytest.mark.parametrize("change", INCOMPLETE)
def test_checkpoints_that_are_incomplete(tmp_path, change):
    path = tmp_path / "fit.pt"
    model, guide = MODELS[1], amortize(MODELS[1], None, "full", example={"y": Y}, simulations=16)
    fit(model, guide, {"y": Y}, ELBO(), QUIET, checkpoint=path)
    state = load(path)
    save(path, {**state, **change} if change else {})
    before = hashes(tmp_path)
    refused(lambda: fit(model, guide, {"y": Y}, ELBO(), QUIET, checkpoint=path, resume=True), "checkpoint")
    assert hashes(tmp_path) == before


REFERENCE = {"z": np.random.default_rng(1).normal(size=(2, 50, 2))}


@examples(30)
@given(
    st.sampled_from([kind for kind in KINDS if kind != "flipped"]), st.binary(min_size=1, max_size=300), st.floats(0, 1)
)
def test_files_that_are_no_references(kind, noise, place):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, trap = folder / "reference.npz", folder / "sprung"
        Reference("nuts", REFERENCE, summarise(REFERENCE)).save(path)
        good = path.read_bytes()
        path.unlink()
        spoil(path, kind, good, noise, place, trap)
        before = hashes(folder)
        refused(lambda: Reference.load(path), "path", "reference.npz")
        assert hashes(folder) == before
        assert not trap.exists()


META = {"format": "physzoo reference 1", "method": "nuts", "datasets": None, "settings": {}}
ARRAYS = [
    {"draws/z": np.zeros((2, 3)), "thesis": np.zeros(3)}, {}, {"draws": np.zeros(3)}, {"summary/mean": np.zeros(3)},
    {"other/z": np.zeros(3), "draws/z": np.zeros((2, 3))},
]  # fmt: skip


@pytest.mark.parametrize("arrays", ARRAYS)
@pytest.mark.parametrize("lacking", ["", "method", "settings"])
def test_references_that_are_incomplete(tmp_path, arrays, lacking):
    path = tmp_path / "reference.npz"
    meta = {key: value for key, value in META.items() if key != lacking}
    with path.open("wb") as file:
        np.savez(file, meta=np.array(json.dumps(meta)), **arrays)
    refused(lambda: Reference.load(path), "path", "reference.npz")


def command(*arguments: str, cwd: Path) -> tuple[int, str]:
    """Run the command line in this process; its exit status and what it says on stderr."""
    out, err = io.StringIO(), io.StringIO()
    line = patch.object(sys, "argv", ["physzoo", *arguments])
    with redirect_stdout(out), redirect_stderr(err), line, chdir(cwd), pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), err.getvalue()


def told(*arguments: str, cwd: Path) -> None:
    """Check for exit status 2, one sentence, and a folder in which nothing has changed."""
    before = hashes(cwd)
    status, said = command(*arguments, cwd=cwd)
    assert status == 2, (arguments, said)
    assert said.startswith("physzoo: "), said
    assert said.count("\n") == 1, said
    assert len(said) < 500, said
    assert "Traceback" not in said
    assert hashes(cwd) == before
    REFUSED[os.environ.get("PYTEST_CURRENT_TEST", "")] += 1


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files of the user's own and the folder of a fit."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "thesis.txt").write_text("mine")
    (folder / "full").mkdir()
    (folder / "full" / "report.json").write_text('{"name": "lynx_hare"}')
    status, said = command("fit", "linear_gaussian", "--out", "fitted", "--quick", "--steps", "10", cwd=folder)
    assert status == 0, said
    return folder


words = st.text(st.characters(codec="ascii", categories=["Ll", "Nd"]), min_size=1, max_size=8)
lines = st.one_of(
    words.map(lambda w: ("show", w)),
    words.map(lambda w: ("run", w, "--out", "new")),
    words.map(lambda w: ("check", w)),
    words.map(lambda w: ("x" + w,)),
    words.map(lambda w: ("fit", "lynx_hare", "--out", "new", "--guide", w)),
    words.map(lambda w: ("fit", "lynx_hare", "--out", "new", "--device", w)),
    words.map(lambda w: ("fit", "lynx_hare", "--out", "new", "--" + w, "1")),
    words.map(lambda w: ("fit", "lynx_hare", "--out", "thesis.txt/" + w)),
    words.map(lambda w: ("compare", w, "fitted")),
    st.integers(max_value=0).map(lambda n: ("run", "lynx_hare", "--out", "new", "--steps", str(n))),
    st.floats().filter(lambda x: not x.is_integer()).map(lambda x: ("run", "lynx_hare", "--out", "new", "--steps", repr(x))),
    st.integers(max_value=-1).map(lambda n: ("fit", "lynx_hare", "--out", "new", "--seed", str(n))),
    st.sampled_from(["thesis.txt", "full", ".", "fitted"]).map(lambda out: ("run", "lynx_hare", "--out", out)),
    st.integers(1).filter(lambda n: n < 2**31).map(
        lambda n: ("fit", "linear_gaussian", "--out", "fitted", "--quick", "--steps", "10", "--resume", "--seed", str(n))
    ),
    st.sampled_from(["thesis.txt", "full", "full/report.json", "fitted/checkpoint.pt", "absent"]).map(lambda a: ("compare", a, "fitted")),
    st.just(("run",)), st.just(("fit", "lynx_hare")), st.just(("compare", "fitted")),
)  # fmt: skip


@examples(70)
@given(lines)
def test_the_command_line(desk, line):
    told(*line, cwd=desk)


@examples(24)
@given(
    st.sampled_from([kind for kind in KINDS if kind != "flipped"]), st.binary(min_size=1, max_size=200), st.floats(0, 1)
)
def test_the_command_line_on_a_damaged_checkpoint(desk, kind, noise, place):
    with tempfile.TemporaryDirectory() as name:
        folder, trap = Path(name) / "fitted", Path(name) / "sprung"
        folder.mkdir()
        for path in (desk / "fitted").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        good = (folder / "checkpoint.pt").read_bytes()
        (folder / "checkpoint.pt").unlink()
        spoil(folder / "checkpoint.pt", kind, good, noise, place, trap)
        settings = ("--quick", "--steps", "10", "--resume")
        told("fit", "linear_gaussian", "--out", "fitted", *settings, cwd=Path(name))
        told("check", "fitted", "--quick", cwd=Path(name))
        assert not trap.exists()


FOREIGN = [
    "", "not json", "[]", '{"name": "linear_gaussian"}', '{"format": "physzoo-run-1"}',
    '{"format": "physzoo-run-1", "name": "linear_gaussian"}', '{"format": "physzoo-run-1", "name": "unicorn"}',
    '{"format": "physzoo-run-1", "name": "linear_gaussian", "guide": 3, "steps": 10, "seed": 0, "quick": true}',
    '{"format": "physzoo-run-1", "name": "linear_gaussian", "guide": "full", "steps": "a", "seed": 0, "quick": true}',
]  # fmt: skip


@pytest.mark.parametrize("text", FOREIGN)
def test_the_command_line_on_foreign_settings(desk, tmp_path, text):
    folder = tmp_path / "fitted"
    folder.mkdir()
    (folder / "checkpoint.pt").write_bytes((desk / "fitted" / "checkpoint.pt").read_bytes())
    (folder / "settings.json").write_text(text)
    told("check", "fitted", cwd=tmp_path)
    told("fit", "linear_gaussian", "--out", "fitted", "--quick", "--steps", "10", "--resume", cwd=tmp_path)


@pytest.mark.parametrize("content", [b"", b"noise", pickle.dumps(Trap(Path("sprung")))])
def test_the_command_line_on_a_damaged_reference(desk, tmp_path, content):
    folder = tmp_path / "fitted"
    folder.mkdir()
    for path in (desk / "fitted").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "reference.npz").write_bytes(content)
    told("run", "linear_gaussian", "--out", "fitted", "--quick", "--steps", "10", "--resume", cwd=tmp_path)
    told("compare", "fitted", "fitted/reference.npz", cwd=tmp_path)


def test_at_least_two_hundred_bad_inputs_were_refused(request):
    """The number that the acceptance text asks for, counted as they were refused."""
    of_this_file = [item for item in request.session.items if item.path == request.path]
    if os.environ.get("PYTEST_XDIST_WORKER") or len(of_this_file) < 50:
        pytest.skip("only a part of this file runs in this process")
    assert sum(REFUSED.values()) >= 200
