"""The same posteriors in units that make the unknowns very small and the data very large, and the other way round."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats

from .case import Case, gaussian, on_grid

UNITS = ((1e-12, 1e12), (1e-5, 1e-5), (1e6, 1e3), (1e12, 1e-12))
ROW = np.array([0.8, 1.0, 1.2])


def normal(unit: float, datum: float) -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.Normal(0.5 * unit, unit))
        return pyro.sample(
            "y", dist.Normal(datum * (z / unit)[..., None] * torch.ones(3), 0.5 * datum).to_event(1), obs=y
        )

    def exact(number, rng):
        draws = gaussian(np.full(1, 0.5), np.eye(1), np.ones((3, 1)), np.full(3, 0.5), ROW)(number, rng)
        return {"z": unit * draws[:, 0]}

    return Case("a normal unknown", model, {"y": torch.tensor(datum * ROW).float()}, exact)


def mixed(unit: float, datum: float) -> Case:
    """One unknown in a small unit beside one in a large one, correlated by the data."""

    def model(y=None):
        a = pyro.sample("a", dist.Normal(0.0, unit))
        b = pyro.sample("b", dist.Normal(0.0, 1 / unit))
        mean = datum * torch.stack([a / unit + b * unit, a / unit - 0.9 * b * unit], -1)
        return pyro.sample("y", dist.Normal(mean, 0.3 * datum).to_event(1), obs=y)

    y = np.array([0.7, 0.2])

    def exact(number, rng):
        draws = gaussian(np.zeros(2), np.eye(2), np.array([[1.0, 1.0], [1.0, -0.9]]), np.full(2, 0.3), y)(number, rng)
        return {"a": draws[:, 0] * unit, "b": draws[:, 1] / unit}

    return Case("two unknowns in units far apart", model, {"y": torch.tensor(datum * y).float()}, exact)


def interval(unit: float, datum: float) -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.Uniform(2.0 * unit, 5.0 * unit))
        return pyro.sample("y", dist.Normal(datum * (z / unit)[..., None] * torch.ones(3), datum).to_event(1), obs=y)

    def exact(number, rng):
        (z,) = on_grid(lambda z: stats.norm.logpdf(z, 2.2, 1 / 3**0.5), (2.0, 5.0))(number, rng)
        return {"z": unit * z}

    return Case("an interval", model, {"y": torch.tensor([1.5, 2.5, 2.6]) * datum}, exact)


def half_line(unit: float, datum: float) -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.HalfNormal(unit))
        return pyro.sample("y", dist.Normal(datum * (z / unit)[..., None] * torch.ones(3), datum).to_event(1), obs=y)

    def exact(number, rng):
        (z,) = on_grid(lambda z: stats.norm.logpdf(z) + sum(stats.norm.logpdf(y, z) for y in ROW), (0.0, 6.0))(
            number, rng
        )
        return {"z": unit * z}

    return Case("a half-line", model, {"y": torch.tensor(datum * ROW).float()}, exact)


def groups(unit: float, datum: float) -> Case:
    def model(y=None):
        mu = pyro.sample("mu", dist.Normal(0.0, unit))
        with pyro.plate("group", 3):
            a = pyro.sample("a", dist.Normal(mu, unit))
            return pyro.sample("y", dist.Normal(a / unit * datum, 0.5 * datum), obs=y)

    def exact(number, rng):
        prior = np.ones((4, 4)) + np.diag([0.0, 1.0, 1.0, 1.0])
        draws = unit * gaussian(np.zeros(4), prior, np.eye(4)[1:], np.full(3, 0.5), ROW)(number, rng)
        return {"mu": draws[:, 0], "a": draws[:, 1:]}

    return Case("groups", model, {"y": torch.tensor(datum * ROW).float()}, exact)


CASES = [
    replace(case, name=f"{case.name}, unknown x {unit:g}, data x {datum:g}")
    for unit, datum in UNITS
    for case in (make(unit, datum) for make in (normal, mixed, interval, half_line, groups))
]
