"""Data of every kind: counts, flags, gaps, censoring, precisions, one datum and ten thousand."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from scipy import stats

import physzoo

from .case import Case, gaussian, on_grid

ROW = np.array([0.8, 1.0, 1.2])


def _mean_of(y, sd=1.0, noise=0.5):
    """Exact draws of z ~ N(0, sd^2), y_i ~ N(z, noise^2)."""
    y = np.atleast_1d(np.asarray(y, float))

    def exact(number, rng):
        precision = 1 / sd**2 + len(y) / noise**2
        return {"z": rng.normal(y.sum() / noise**2 / precision, precision**-0.5, number)}

    return exact


def poisson(dtype) -> Case:
    counts = [3, 1, 4, 2]

    def model(y=None):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        return pyro.sample("y", dist.Poisson(rate[..., None] * torch.ones(4)).to_event(1), obs=y)

    def exact(number, rng):
        return {"rate": rng.gamma(12.0, 1 / 5.0, number)}

    return Case(
        f"Poisson counts, {str(dtype).removeprefix('torch.')}", model, {"y": torch.tensor(counts, dtype=dtype)}, exact
    )


def negative_binomial() -> Case:
    counts = np.array([3, 0, 7, 2])

    def model(y=None):
        logits = pyro.sample("logits", dist.Normal(0.0, 1.5))
        with pyro.plate("data", 4):
            return pyro.sample("y", dist.NegativeBinomial(torch.tensor(3.0), logits=logits), obs=y)

    def exact(number, rng):
        def log_density(x):
            p = 1 / (1 + np.exp(-x))
            return stats.norm.logpdf(x, 0, 1.5) + counts.sum() * np.log(p) + 12.0 * np.log1p(-p)

        (x,) = on_grid(log_density, (-6.0, 5.0))(number, rng)
        return {"logits": x}

    return Case("negative binomial counts", model, {"y": torch.tensor(counts).float()}, exact)


def binomial() -> Case:
    def model(n=None, y=None):
        p = pyro.sample("p", dist.Beta(2.0, 3.0))
        return pyro.sample("y", dist.Binomial(n, p[..., None]).to_event(1), obs=y)

    def exact(number, rng):
        return {"p": rng.beta(2.0 + 11, 3.0 + 19, number)}

    data = {"n": torch.tensor([10.0, 12.0, 8.0]), "y": torch.tensor([4.0, 5.0, 2.0])}
    return Case("binomial counts with a covariate", model, data, exact)


def bernoulli() -> Case:
    def model(y=None):
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        with pyro.plate("data", 8):
            return pyro.sample("y", dist.Bernoulli(p), obs=y)

    def exact(number, rng):
        return {"p": rng.beta(6.0, 4.0, number)}

    return Case("Bernoulli flags", model, {"y": torch.tensor([1.0, 0, 1, 1, 0, 1, 0, 1])}, exact)


def bernoulli_of_bools() -> Case:
    def model(y=None):
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        flags = None if y is None else y.float()
        with pyro.plate("data", 8):
            return pyro.sample("y", dist.Bernoulli(p), obs=flags)

    return Case(
        "Bernoulli flags as bools",
        model,
        {"y": torch.tensor([True, False, True, True, False, True, False, True])},
        bernoulli().exact,
    )


def handlers_mask() -> Case:
    keep = torch.tensor([True, False, True, True])

    def model(y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 4), poutine.mask(mask=keep):
            return pyro.sample("y", dist.Normal(z, 0.5), obs=y)

    return Case("a mask around the data", model, {"y": torch.tensor([0.8, 50.0, 1.0, 1.2])}, _mean_of(ROW))


def mask_of_distribution() -> Case:
    def model(y=None, mask=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        likelihood = dist.Normal(z[..., None] * torch.ones(4), 0.5)
        likelihood = likelihood if mask is None else likelihood.mask(mask)
        return pyro.sample("y", likelihood.to_event(1), obs=y)

    data = {"y": torch.tensor([0.8, 50.0, 1.0, 1.2]), "mask": torch.tensor([True, False, True, True])}
    return Case("a mask of the distribution", model, data, _mean_of(ROW))


def gaps() -> Case:
    def model(y=None, mask=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return physzoo.observe("y", z[..., None] * torch.ones(5), 0.5, obs=y, mask=mask)

    y = torch.tensor([0.8, torch.nan, 1.0, torch.nan, 1.2])
    return Case("gaps as NaN behind a mask", model, {"y": y, "mask": torch.isfinite(y)}, _mean_of(ROW))


def gaps_seen_to_by_the_model() -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        seen = None if y is None else torch.isfinite(y)
        return physzoo.observe("y", z[..., None] * torch.ones(5), 0.5, obs=y, mask=seen)

    y = torch.tensor([0.8, torch.nan, 1.0, torch.nan, 1.2])
    return Case(
        "gaps that the model finds itself",
        model,
        {"y": y},
        _mean_of(ROW),
        refused_by=frozenset({"fit forward KL", "fit forward KL, spline", "amortize(refine=2)"}),
    )


def censored() -> Case:
    """Times until failure; three devices still run at time 2."""

    def model(y=None):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        pyro.factor("still_running", -rate * 2.0 * 3)
        return pyro.sample("y", dist.Exponential(rate[..., None] * torch.ones(4)).to_event(1), obs=y)

    def exact(number, rng):
        return {"rate": rng.gamma(6.0, 1 / (1 + 3.0 + 6.0), number)}

    return Case(
        "censored data by a factor",
        model,
        {"y": torch.tensor([0.5, 0.9, 0.4, 1.2])},
        exact,
        refused_by=frozenset({"fit forward KL", "fit forward KL, spline", "calibrate"}),
    )


def precisions(model_dtype, data_dtype) -> Case:
    def model(y=None):
        one = torch.ones((), dtype=model_dtype)
        z = pyro.sample("z", dist.Normal(0 * one, one))
        return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3, dtype=model_dtype), 0.5).to_event(1), obs=y)

    names = [str(dtype).removeprefix("torch.") for dtype in (data_dtype, model_dtype)]
    return Case(
        f"data of {names[0]}, priors of {names[1]}", model, {"y": torch.tensor(ROW, dtype=data_dtype)}, _mean_of(ROW)
    )


def integer_covariate() -> Case:
    def model(x=None, y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(z[..., None] * x, 0.5).to_event(1), obs=y)

    def exact(number, rng):
        return {
            "z": gaussian(np.zeros(1), np.eye(1), np.array([[1.0], [2.0], [3.0]]), np.full(3, 0.5), ROW)(number, rng)[
                :, 0
            ]
        }

    return Case("a covariate of integers", model, {"x": torch.tensor([1, 2, 3]), "y": torch.tensor(ROW).float()}, exact)


def constant_entry() -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        start = torch.ones_like(z)[..., None]
        mean = torch.cat([start, z[..., None].expand(*z.shape, 3)], -1)
        return pyro.sample("y", dist.Normal(mean, torch.tensor([1e-12, 0.5, 0.5, 0.5])).to_event(1), obs=y)

    return Case(
        "an entry of the data that never changes",
        model,
        {"y": torch.tensor([1.0, 0.8, 1.0, 1.2])},
        _mean_of(ROW),
        refused_by=frozenset({"az.loo"}),
    )


def one_datum() -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(z, 0.5), obs=y)

    return Case("one datum", model, {"y": torch.tensor(1.2)}, _mean_of([1.2]))


def ten_thousand(plate: bool) -> Case:
    y = np.random.default_rng(0).normal(0.4, 2.0, 10_000).astype(np.float32)

    def model(y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        if plate:
            with pyro.plate("data", 10_000):
                return pyro.sample("y", dist.Normal(z, 2.0), obs=y)
        return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(10_000), 2.0).to_event(1), obs=y)

    where = "in a plate" if plate else "in an event"
    return Case(f"10,000 data {where}", model, {"y": torch.tensor(y)}, _mean_of(y, noise=2.0))


def two_data_sites() -> Case:
    def model(x=None, y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)
        return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(2), 0.5).to_event(1), obs=y)

    return Case("two sites of data", model, {"x": torch.tensor(0.8), "y": torch.tensor([1.0, 1.2])}, _mean_of(ROW))


CASES = [
    poisson(torch.float32),
    poisson(torch.int64),
    negative_binomial(),
    binomial(),
    bernoulli(),
    bernoulli_of_bools(),
    handlers_mask(),
    mask_of_distribution(),
    gaps(),
    gaps_seen_to_by_the_model(),
    censored(),
    precisions(torch.float32, torch.float64),
    precisions(torch.float64, torch.float32),
    precisions(torch.float64, torch.float64),
    integer_covariate(),
    constant_entry(),
    one_datum(),
    ten_thousand(False),
    ten_thousand(True),
    two_data_sites(),
]
