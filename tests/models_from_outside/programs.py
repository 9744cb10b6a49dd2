"""How programs are written: parameters, modules, names; and what must be refused."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from torch import nn

from .case import Case, gaussian
from .data import ROW, _mean_of

DATA = {"y": torch.tensor(ROW).float()}


class Frozen(PyroModule):
    def __init__(self):
        super().__init__()
        self.noise = nn.Parameter(torch.tensor(0.5), requires_grad=False)

    def forward(self, y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3), self.noise).to_event(1), obs=y)


class Tied(PyroModule):
    """Two layers of one frozen weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
        self.b.weight = self.a.weight
        self.a.weight.requires_grad_(False)

    def forward(self, y=None):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("y", dist.Normal(self.b(self.a(z)), 0.5).to_event(1), obs=y)


class Regression(PyroModule):
    """Priors as attributes: site names with dots."""

    def __init__(self):
        super().__init__()
        self.line = PyroModule[nn.Linear](1, 1)
        self.line.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 1]).to_event(2))
        self.line.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

    def forward(self, y=None):
        x = torch.tensor([-1.0, 0.0, 2.0])
        mean = self.line.weight[..., 0] * x + self.line.bias
        return pyro.sample("y", dist.Normal(mean, 0.5).to_event(1), obs=y)


def tied() -> Case:
    weight = np.array([[1.0, 0.5], [0.0, 1.0]])
    y = np.array([0.6, -0.4])

    def exact(number, rng):
        return {"z": gaussian(np.zeros(2), np.eye(2), weight @ weight, np.full(2, 0.5), y)(number, rng)}

    return Case("parameters that two layers share", Tied(), {"y": torch.tensor(y).float()}, exact)


def regression() -> Case:
    operator = np.array([[-1.0, 1.0], [0.0, 1.0], [2.0, 1.0]])

    def exact(number, rng):
        draws = gaussian(np.zeros(2), np.eye(2), operator, np.full(3, 0.5), ROW)(number, rng)
        return {"line.weight": draws[:, :1, None], "line.bias": draws[:, 1:]}

    return Case("priors as attributes, names with dots", Regression(), DATA, exact)


def parameter_in_a_function() -> Case:
    def model(y=None):
        noise = pyro.param("gallery_noise", torch.tensor(0.5), constraint=dist.constraints.positive).detach()
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3), noise).to_event(1), obs=y)

    return Case("a parameter in a function", model, DATA, _mean_of(ROW))


def names(first: str, second: str, refusal: str = "", **calls: frozenset[str]) -> Case:
    def model(y=None):
        a = pyro.sample(first, dist.Normal(0.0, 1.0))
        b = pyro.sample(second, dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal((a + b)[..., None] * torch.ones(3), 0.5).to_event(1), obs=y)

    def exact(number, rng):
        draws = gaussian(np.zeros(2), np.eye(2), np.ones((3, 2)), np.full(3, 0.5), ROW)(number, rng)
        return {first: draws[:, 0], second: draws[:, 1]}

    return Case(f"sites named '{first}' and '{second}'", model, DATA, exact, refusal, **calls)


def arguments(name: str) -> Case:
    scope: dict = {"pyro": pyro, "dist": dist, "torch": torch}
    exec(
        f"def model({name}=None):\n"
        "    z = pyro.sample('z', dist.Normal(0.0, 1.0))\n"
        f"    return pyro.sample('{name}', dist.Normal(z[..., None] * torch.ones(3), 0.5).to_event(1), obs={name})\n",
        scope,
    )
    return Case(f"data named '{name}'", scope["model"], {name: torch.tensor(ROW).float()}, _mean_of(ROW))


def undeclared() -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(z * torch.ones(3), 0.5), obs=y)

    return Case("to_event forgotten", model, DATA, refusal=".to_event")


def undeclared_unknown() -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))
        return pyro.sample("y", dist.Normal(z, 0.5).to_event(1), obs=y)

    return Case("to_event forgotten at an unknown", model, DATA, refusal="plate")


def undeclared_one() -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0))
        return pyro.sample("y", dist.Normal(z * torch.ones(3), 0.5).to_event(1), obs=y)

    return Case("to_event forgotten at a vector of one entry", model, DATA, refusal=".to_event")


def not_expanded() -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(z, 0.5), obs=y)

    return Case("data longer than their distribution", model, DATA, refusal=".to_event")


def subsampled() -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 3, subsample_size=2) as rows:
            return pyro.sample("y", dist.Normal(z, 0.5), obs=None if y is None else y[rows])

    return Case("a plate that is subsampled", model, DATA, refusal="rows")


def stacked_in_front() -> Case:
    def model(y=None):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(torch.stack([a, b, a + b]), 0.5).to_event(1), obs=y)

    return Case("torch.stack along the first dimension", model, DATA, refusal="broadcast")


def sum_of_all() -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        return pyro.sample("y", dist.Normal(z - z.mean(), 0.5).to_event(1), obs=y)

    return Case("a mean over everything", model, DATA, refusal="broadcast")


def moving_support() -> Case:
    def model(y=None):
        top = pyro.sample("top", dist.LogNormal(0.0, 0.3))
        z = pyro.sample("z", dist.Uniform(0.0, top))
        return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3), 0.5).to_event(1), obs=y)

    return Case("a support that moves", model, DATA, refusal="support")


def discrete() -> Case:
    def model(y=None):
        k = pyro.sample("k", dist.Bernoulli(0.5))
        return pyro.sample("y", dist.Normal(k[..., None] * torch.ones(3), 0.5).to_event(1), obs=y)

    return Case("a discrete unknown", model, DATA, refusal="discrete")


def obs_mask() -> Case:
    def model(y=None, mask=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 3):
            return pyro.sample("y", dist.Normal(z, 0.5), obs=y, obs_mask=mask)

    data = {**DATA, "mask": torch.tensor([True, False, True])}
    return Case("obs_mask of pyro.sample", model, data, refusal="obs_mask")


def covariance() -> Case:
    def model(y=None):
        c = pyro.sample("c", dist.Wishart(torch.tensor(4.0), torch.eye(3)))
        return pyro.sample("y", dist.MultivariateNormal(torch.zeros(3), c), obs=y)

    return Case("a covariance matrix", model, DATA, refusal="bijection")


def not_a_number() -> Case:
    def model(y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(z[..., None] * torch.ones(3), 0.5).to_event(1), obs=y)

    return Case("data that are not a number", model, {"y": torch.tensor([0.8, torch.nan, 1.2])}, refusal="finite")


WITHOUT_TREES = frozenset({"laplace", "hmc", "nuts", "pcn", "smc", "calibrate"})

CASES = [
    Case("a frozen parameter", Frozen(), DATA, _mean_of(ROW)),
    tied(),
    regression(),
    parameter_in_a_function(),
    names("layer.weight", "layer.bias"),
    names("log_p", "loc"),
    names("forward", "sample", refused_by=frozenset({"fit ELBO, AutoNormal"})),  # attributes of Pyro's modules
    names("a/b", "c", "without '/'", served_by=WITHOUT_TREES),
    names("chain", "draw", "'chain'", served_by=WITHOUT_TREES),
    arguments("data"),
    arguments("values"),
    arguments("draws"),
    undeclared(),
    undeclared_unknown(),
    undeclared_one(),
    not_expanded(),
    subsampled(),
    stacked_in_front(),
    sum_of_all(),
    moving_support(),
    discrete(),
    obs_mask(),
    covariance(),
    not_a_number(),
]
