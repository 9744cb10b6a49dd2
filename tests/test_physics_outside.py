"""What is given to problems, fields and likelihoods: used as it is meant, or refused in one sentence."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from physzoo.core.require import numbers
from physzoo.physics import (
    Collocation,
    Elliptic1D,
    FixedBasis,
    Galerkin,
    KarhunenLoeve,
    LinearProblem,
    ModelError,
    ODEProblem,
    PlanarArm,
    SolveError,
    Surrogate,
    Trunk,
    error_covariance,
    observe,
    virtual_observables,
)
from physzoo.physics.elliptic import Elliptic2D, sines
from physzoo.physics.ode import LinearODE, PeriodicHamiltonian
from physzoo.physics.ode.hamiltonian import CanonicalMap
from physzoo.physics.ode.linear import Banded, exponential
from physzoo.physics.priors import TruncatedNormal

DOUBLE = torch.float64


def ones(*shape):
    return torch.ones(*shape, dtype=DOUBLE)


NO_TENSOR = [
    None, "a", 3, True, math.nan, [1.0], {}, {"a": "b"}, 1j, np.float64(2.0), np.ones(3), object(), lambda *a: None, ones(6).long(),
    ones(6).bool(), ones(6).to(torch.complex128), ones(6).to("meta"), ones(6).to_sparse(), ones(0), ones(5, 7), ones(()), ones(6),
]  # fmt: skip
NO_NUMBER = [
    None,
    "a",
    True,
    math.nan,
    math.inf,
    -2,
    [],
    {},
    1j,
    object(),
    np.ones(3),
    ones(3),
    10**5000,
    lambda *a: None,
]
NO_NUMBERS = [
    None,
    "a",
    [],
    ["a"],
    [True],
    [None],
    [math.nan],
    {},
    1j,
    [1j],
    10**5000,
    object(),
    ones(3).to("meta"),
    ones(3).to_sparse(),
]

BAR = Elliptic1D(lambda z: z, sensors=[0.5], elements=4, dtype=DOUBLE)
ARM, POINTS = PlanarArm([1.0, 1.0], dtype=DOUBLE), Collocation(modes=4, points=5, unknowns=3, dtype=DOUBLE)
SQUARE, FEW = Elliptic2D([0.5], cells=4, blocks=2), Galerkin(BAR, sines(3, 2, DOUBLE))
MATRIX = LinearProblem(2 * torch.eye(3, dtype=DOUBLE), ones(3, 2), ones(1, 3))
X = torch.linspace(-1, 1, 5, dtype=DOUBLE)
DRAWS = torch.randn(20, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
BASIS = FixedBasis.of_states(BAR.solve(DRAWS), 2)
LEARNT = Surrogate(BAR, DRAWS, BASIS, hidden=(4,))
SWING = PeriodicHamiltonian([1, 2], 1.0, depth=2, width=3).double()
Z = {"rate": ones(()), "initial_state": ones(3)}


def rhs(t, u, z):
    return -z["rate"][..., None] * u


def flow(**options):
    return ODEProblem(rhs, [0.0, 1.0, 2.0], dtype=DOUBLE, substeps=2, **options)


LINEAR = LinearODE(lambda z: -z["rate"][..., None, None] * torch.eye(3, dtype=DOUBLE), [0.0, 1.0, 2.0], dtype=DOUBLE)

TENSORS = {
    "arm.solve": ARM.solve,
    "arm.solve residual": lambda bad: ARM.solve(ones(3), bad),
    "arm.logdet": lambda bad: ARM.logdet(bad, ones(3)),
    "arm.observe": ARM.observe,
    "collocation.solve residual": lambda bad: POINTS.solve(ones(3), bad),
    "collocation.logdet": lambda bad: POINTS.logdet(bad, ones(3)),
    "collocation x": lambda bad: POINTS.rows(ones(4), bad),
    "elliptic1d.solve": BAR.solve,
    "elliptic1d.observe": BAR.observe,
    "elliptic2d.solve": SQUARE.solve,
    "elliptic2d.logdet": lambda bad: SQUARE.logdet(bad, ones(4)),
    "galerkin.logdet": lambda bad: FEW.logdet(bad, ones(4)),
    "galerkin.solve": FEW.solve,
    "linear.observe": MATRIX.observe,
    "linear ode.logdet": lambda bad: LINEAR.logdet(bad, Z),
    "ode.residual": lambda bad: flow().residual(bad, Z),
    "surrogate.solve": LEARNT.solve,
    "trunk.at": Trunk(X[:3], ones(3), 4, hidden=(4,)).at,
    "basis like": lambda bad: FixedBasis.of_residual(BAR, ones(4), bad),
    "energy": SWING.energy,
    "equations": lambda bad: SWING.equations(X[0], bad, {}),
    "flow": lambda bad: SWING.flow(bad, X),
    "map": lambda bad: CanonicalMap(2, 2, 2).double()(ones(2), bad),
    "banded": Banded(5, 2).double(),
    "exponential": exponential,
}


@pytest.mark.parametrize("name", list(TENSORS))
def test_what_is_no_state_or_unknown_is_refused(name):
    for bad in NO_TENSOR:
        if bad is None and "residual" in name and name != "ode.residual":
            continue  # leaves the target at zero
        with pytest.raises((ValueError, TypeError), match="got") as caught:
            TENSORS[name](bad)
        assert len(str(caught.value)) < 300


COUNTS = {
    "cells": lambda bad: Elliptic2D([0.5], cells=bad),
    "elements": lambda bad: Elliptic1D(lambda z: z, [0.5], elements=bad),
    "modes": lambda bad: Collocation(modes=bad),
    "multiples": lambda bad: PeriodicHamiltonian([bad], 1.0),
    "depth": lambda bad: CanonicalMap(2, depth=bad),
    "width": lambda bad: CanonicalMap(2, width=bad),
    "nodes": lambda bad: sines(bad, 1),
    "points": lambda bad: Banded(bad),
    "hidden": lambda bad: Trunk(X[:3], ones(3), 4, hidden=[bad]),
    "seed": lambda bad: Surrogate(BAR, DRAWS, BASIS, hidden=(4,), seed=bad),
    "length": lambda bad: KarhunenLoeve(X, 3, bad),
    "period": lambda bad: PeriodicHamiltonian([1], bad),
    "rtol": lambda bad: flow(rtol=bad),
    "max_steps": lambda bad: flow(max_steps=bad),
    "squarings": lambda bad: exponential(ones(2, 2), "two" if bad is None else bad),
    "scale": lambda bad: TruncatedNormal(0.0, bad, validate_args=True),
}


@pytest.mark.parametrize("name", list(COUNTS))
def test_what_is_no_count_or_positive_number_is_refused(name):
    for bad in NO_NUMBER:
        if name == "scale" and isinstance(bad, torch.Tensor):
            continue  # one for each draw
        with pytest.raises((ValueError, TypeError), match=r"got|Expected") as caught:
            COUNTS[name](bad)
        assert name == "scale" or str(caught.value).startswith(name)


@pytest.mark.parametrize("bad", range(len(NO_NUMBERS)))
def test_what_is_no_row_of_numbers_is_refused(bad):
    for call, name in (
        (lambda v: ODEProblem(rhs, v), "times"),
        (lambda v: LinearODE(lambda z: z, v), "times"),
        (lambda v: Elliptic1D(lambda z: z, v), "sensors"),
        (lambda v: Collocation(sensors=v), "sensors"),
        (PlanarArm, "lengths"),
    ):
        with pytest.raises((ValueError, TypeError), match=f"{name}: got"):
            call(NO_NUMBERS[bad])


def test_numbers_come_in_any_container():
    for given in (
        [1, 2],
        (1.0, 2.0),
        np.array([1, 2]),
        np.array([1.0, 2.0], dtype=">f4"),
        torch.tensor([1, 2]),
        range(1, 3),
    ):
        assert torch.equal(numbers("x", given, "numbers"), torch.tensor([1.0, 2.0], dtype=DOUBLE))


def test_options_that_are_arrays_or_words_are_refused():
    for options in (
        {"method": np.ones(3)}, {"gradient": np.ones(3)}, {"compile": ones(3)}, {"compile": 1}, {"on_failure": ones(3)},
        {"event_dims": ones(3)}, {"event_dims": "rate"}, {"dtype": "float64"},
    ):  # fmt: skip
        name = next(iter(options))
        with pytest.raises((ValueError, TypeError), match=f"{name}: got"):
            ODEProblem(rhs, [0.0, 1.0], **options)
    for make in (
        lambda: PlanarArm([1.0], dtype="float64"), lambda: Collocation(dtype=3), lambda: sines(3, 2, torch.int64),
        lambda: Elliptic1D(lambda z: z, [0.5], dtype=int),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="dtype: got"):
            make()


def test_an_empty_batch_has_an_empty_trajectory():
    z = {"rate": ones(0), "initial_state": ones(3)}
    for problem in (flow(), ODEProblem(rhs, [0.0, 1.0, 2.0], method="dopri5", dtype=DOUBLE)):
        assert problem.solve(z).shape == (0, 3, 3)
        assert problem.residual(ones(0, 3, 3), z).shape == (0, 3, 3)


def test_a_rate_beyond_all_steps_is_a_failure_at_once():
    with pytest.raises(SolveError, match="too short"):
        ODEProblem(rhs, [0.0, 1.0], method="dopri5", dtype=DOUBLE).solve(
            {**Z, "rate": torch.tensor(1e300, dtype=DOUBLE)}
        )


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_a_model_error_is_judged_in_the_units_of_each_sensor(unit):
    units = torch.tensor([1.0, unit], dtype=DOUBLE)
    good = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=DOUBLE)
    assert ModelError(ones(2), good * units * units[:, None]).covariance[1, 1] == 2 * unit**2
    for wrong in ([[2.0, 1.0], [0.0, 2.0]], [[2.0, 3.0], [3.0, 2.0]], [[math.nan, 0.0], [0.0, 1.0]]):
        with pytest.raises(ValueError, match="covariance: got"):
            ModelError(ones(2), torch.tensor(wrong, dtype=DOUBLE) * units * units[:, None])
    with pytest.raises(ValueError, match="u: got shape"):
        error_covariance(LEARNT, DRAWS, ones(2, 3))


def site(**changes):
    return lambda: observe(**{"name": "y", "mean": ones(3), "noise": 1.0, "obs": ones(3), **changes})


LIKELIHOODS = {
    "mean 0-dim": (site(mean=ones(())), r"site 'y': mean: got shape \(\), expected at least 1 event"),
    "mean empty": (site(mean=ones(0), obs=None), r"site 'y': mean: got shape \(0,\), expected at least one entry"),
    "mean of whole numbers": (site(mean=ones(3).long()), "site 'y': mean: got torch.int64"),
    "data as an array": (site(obs=np.ones(3)), "site 'y': obs: got ndarray"),
    "data of whole numbers": (site(obs=ones(3).long()), "site 'y': obs: got torch.int64"),
    "data without values": (site(obs=ones(3).to("meta")), "site 'y': obs: got .* without values"),
    "sparse data": (site(obs=ones(3).to_sparse()), "site 'y': obs: got a sparse tensor"),
    "complex data": (site(obs=ones(3).to(torch.complex128)), "site 'y': obs: got torch.complex128"),
    "mask without values": (site(mask=ones(3).bool().to("meta")), "site 'y': mask: got .* without values"),
    "noise without values": (site(noise=ones(3).to("meta")), "site 'y': noise: got .* without values"),
    "noise of whole numbers": (site(noise=ones(3).long()), "site 'y': noise: got torch.int64"),
    "no noise": (site(noise=ones(0)), r"site 'y': noise: got shape \(0,\)"),
    "huge noise": (site(noise=10**5000), "site 'y': noise: got"),
    "corrected": (lambda: virtual_observables("r", BAR, ones(3), ones(4), 0.1, corrected=ones(2)), "corrected: got"),
}


@pytest.mark.parametrize("name", list(LIKELIHOODS))
def test_what_is_no_likelihood_is_refused(name):
    call, words = LIKELIHOODS[name]
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        call()
    assert len(str(caught.value)) < 300


def test_a_site_that_another_has_the_name_of_is_refused():
    def model():
        r = pyro.sample("r", dist.Normal(ones(4), 1.0).to_event(1))
        virtual_observables("r", BAR, ones(3), r, 0.1)

    with pytest.raises(ValueError, match="name: got 'r', which another site of the model has, expected a new name"):
        pyro.poutine.trace(model).get_trace()
