"""Unknowns on every support, and quantities derived from unknowns."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats

from .case import Case, gaussian, on_grid

ROW = np.array([0.8, 1.0, 1.2])


def one_scalar() -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3), 0.5).to_event(1), obs=y)

    def exact(number, rng):
        return {"z": gaussian(np.zeros(1), np.eye(1), np.ones((3, 1)), np.full(3, 0.5), ROW)(number, rng)[:, 0]}

    return Case("one scalar", model, {"y": torch.tensor(ROW).float()}, exact)


def one_vector_of_one() -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        return pyro.sample("y", dist.Normal(z * torch.ones(3), 0.5).to_event(1), obs=y)

    def exact(number, rng):
        return {"z": gaussian(np.zeros(1), np.eye(1), np.ones((3, 1)), np.full(3, 0.5), ROW)(number, rng)}

    return Case("a vector of one entry", model, {"y": torch.tensor(ROW).float()}, exact)


def simplex() -> Case:
    counts = np.array([3.0, 5.0, 2.0])

    def model(y=None):
        p = pyro.sample("p", dist.Dirichlet(torch.tensor([1.0, 2.0, 1.5])))
        return pyro.sample("y", dist.Multinomial(10, probs=p, validate_args=False), obs=y)

    def exact(number, rng):
        return {"p": rng.dirichlet(counts + np.array([1.0, 2.0, 1.5]), number)}

    return Case("a simplex", model, {"y": torch.tensor(counts).float()}, exact)


def ordered() -> Case:
    y = np.array([-0.3, 1.4])

    def model(y=None):
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        c = pyro.sample("c", dist.TransformedDistribution(base, [dist.transforms.OrderedTransform()]))
        return pyro.sample("y", dist.Normal(c, 0.5).to_event(1), obs=y)

    def exact(number, rng):
        def log_density(a, b):
            first, second = a, a + np.exp(b)
            return (
                stats.norm.logpdf(a)
                + stats.norm.logpdf(b)
                + stats.norm.logpdf(y[0], first, 0.5)
                + stats.norm.logpdf(y[1], second, 0.5)
            )

        a, b = on_grid(log_density, (-4.0, 4.0), (-4.5, 3.0))(number, rng)
        return {"c": np.stack([a, a + np.exp(b)], -1)}

    return Case("an ordered vector", model, {"y": torch.tensor(y).float()}, exact)


def correlation() -> Case:
    y = np.random.default_rng(3).multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 20)

    def model(y=None):
        factor = pyro.sample("factor", dist.LKJCholesky(2, 2.0))
        with pyro.plate("data", 20):
            return pyro.sample("y", dist.MultivariateNormal(torch.zeros(2), scale_tril=factor), obs=y)

    def exact(number, rng):
        def log_density(r):
            found = np.log1p(-(r**2))  # LKJ(2) in two dimensions: (1 - r^2)^(eta - 1)
            quadratic = (y[:, 0] ** 2).sum() + (y[:, 1] ** 2).sum() - 2 * r * (y[:, 0] * y[:, 1]).sum()
            return found - 10 * np.log1p(-(r**2)) - 0.5 * quadratic / (1 - r**2)

        (r,) = on_grid(log_density, (-0.999, 0.999))(number, rng)
        factor = np.zeros((number, 2, 2))
        factor[:, 0, 0], factor[:, 1, 0], factor[:, 1, 1] = 1.0, r, np.sqrt(1 - r**2)
        return {"factor": factor}

    return Case("a Cholesky factor of correlations", model, {"y": torch.tensor(y).float()}, exact)


def interval() -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.Uniform(2.0, 5.0))
        return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3), 1.0).to_event(1), obs=y)

    def exact(number, rng):
        (z,) = on_grid(lambda z: stats.norm.logpdf(z, 2.2, 1 / 3**0.5), (2.0, 5.0))(number, rng)
        return {"z": z}

    return Case("an interval", model, {"y": torch.tensor([1.5, 2.5, 2.6])}, exact)


def half_line() -> Case:
    def model(y=None):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("data", 4):
            return pyro.sample("y", dist.Exponential(rate), obs=y)

    def exact(number, rng):
        return {"rate": rng.gamma(6.0, 1 / (1 + 3.0), number)}

    return Case("a half-line", model, {"y": torch.tensor([0.5, 0.9, 0.4, 1.2])}, exact)


def above_a_bound() -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.Pareto(1.0, 2.0))
        return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(2), 0.7).to_event(1), obs=y)

    def exact(number, rng):
        (z,) = on_grid(lambda z: -3 * np.log(z) + stats.norm.logpdf(z, 1.55, 0.7 / 2**0.5), (1.0, 6.0))(number, rng)
        return {"z": z}

    return Case("above a bound", model, {"y": torch.tensor([1.3, 1.8])}, exact)


def angle() -> Case:
    y = np.array([0.7, 1.3, 0.9])

    def model(y=None):
        z = pyro.sample("z", dist.VonMises(0.3, 1.5))
        with pyro.plate("data", 3):
            return pyro.sample("y", dist.VonMises(z, 2.0), obs=y)

    def exact(number, rng):
        (z,) = on_grid(lambda z: 1.5 * np.cos(z - 0.3) + 2.0 * sum(np.cos(entry - z) for entry in y), (-np.pi, np.pi))(
            number, rng
        )
        return {"z": z}

    return Case("an angle", model, {"y": torch.tensor(y).float()}, exact)


def heavy_tail() -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.Cauchy(0.0, 1.0))
        return pyro.sample("y", dist.Normal(z, 3.0), obs=y)

    def exact(number, rng):
        (z,) = on_grid(lambda z: -np.log1p(z**2) + stats.norm.logpdf(z, 4.0, 3.0), (-20.0, 25.0))(number, rng)
        return {"z": z}

    return Case("a Cauchy prior", model, {"y": torch.tensor(4.0)}, exact)


def heavy_tails_left() -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.Cauchy(0.0, 1.0))
        w = pyro.sample("w", dist.HalfCauchy(2.0))
        return pyro.sample("y", dist.StudentT(2.0, z, w), obs=y)

    def exact(number, rng):
        # u = asinh z and log w: the tails of both come into reach
        def log_density(u, v):
            z, w = np.sinh(u), np.exp(v)
            return (
                -np.log1p(z**2) + np.log(np.cosh(u)) - np.log1p((w / 2) ** 2) + v + stats.t.logpdf((0.5 - z) / w, 2) - v
            )

        u, v = on_grid(log_density, (-14.0, 14.0), (-14.0, 14.0), points=20000)(number, rng)
        return {"z": np.sinh(u), "w": np.exp(v)}

    return Case("tails that the data leave", model, {"y": torch.tensor(0.5)}, exact)


def derived(event_dim: int | None) -> Case:
    def model(y=None):
        log_rate = pyro.sample("log_rate", dist.Normal(0.0, 1.0))
        rate = pyro.deterministic("rate", log_rate.exp(), event_dim=event_dim)
        return pyro.sample("y", dist.Normal(rate[..., None] * torch.ones(3), 0.5).to_event(1), obs=y)

    def exact(number, rng):
        (x,) = on_grid(
            lambda x: stats.norm.logpdf(x) + sum(stats.norm.logpdf(entry, np.exp(x), 0.5) for entry in ROW), (-5.0, 3.0)
        )(number, rng)
        return {"log_rate": x, "rate": np.exp(x)}

    name = "a derived scalar" if event_dim is None else f"a derived scalar of event dimension {event_dim}"
    return Case(name, model, {"y": torch.tensor(ROW).float()}, exact)


def derived_in_plates() -> Case:
    def model(y=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.deterministic("twice", 2 * mu)
        with pyro.plate("group", 3):
            a = pyro.sample("a", dist.Normal(mu, 1.0))
            pyro.deterministic("square", a**2, event_dim=0)
            pyro.deterministic("both", torch.stack([a, mu + 0 * a], -1), event_dim=1)
            return pyro.sample("y", dist.Normal(a, 0.5), obs=y)

    def exact(number, rng):
        prior = np.ones((4, 4)) + np.diag([0.0, 1.0, 1.0, 1.0])
        draws = gaussian(np.zeros(4), prior, np.eye(4)[1:], np.full(3, 0.5), ROW)(number, rng)
        mu, a = draws[:, 0], draws[:, 1:]
        both = np.stack([a, np.repeat(mu[:, None], 3, 1)], -1)
        return {"mu": mu, "twice": 2 * mu, "a": a, "square": a**2, "both": both}

    return Case("derived quantities in and outside plates", model, {"y": torch.tensor(ROW).float()}, exact)


CASES = [
    one_scalar(),
    one_vector_of_one(),
    simplex(),
    ordered(),
    correlation(),
    interval(),
    half_line(),
    above_a_bound(),
    angle(),
    heavy_tail(),
    heavy_tails_left(),
    derived(None),
    derived(0),
    derived_in_plates(),
]
