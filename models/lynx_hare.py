"""Lynx and hare: Lotka-Volterra dynamics on the pelt records of the Hudson's Bay Company, 1900 to 1920.

    du/dt = (alpha - beta v) u          hare u, thousands of pelts
    dv/dt = (-gamma + delta u) v        lynx v, thousands of pelts

    alpha, gamma  ~ Normal(1, 0.5)       truncated to > 0, 1/year
    beta, delta   ~ Normal(0.05, 0.05)   truncated to > 0, 1/(thousand year)
    initial_state ~ LogNormal(log 10, 1) each species, at 1900
    sigma         ~ LogNormal(-1, 1)     each species
    y_t           ~ LogNormal(log (u, v)(t), sigma), 1900 included

Eight unknowns, 21 x 2 observations. Reference: ten chains of 1,000 draws in posteriordb
(hudson_lynx_hare-lotka_volterra); its posterior means are kept here, the draws are not.

Source: B. Carpenter, Predator-Prey Population Dynamics: the Lotka-Volterra model in Stan (2018); data C. G. Hewitt (1921).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor

from ..physics import ODEProblem, observe
from ..physics.priors import TruncatedNormal
from .recipe import Quantity, Recipe
from .registry import Animal, register

SPECIES = ("hare", "lynx")
YEARS = tuple(range(1900, 1921))


def lotka_volterra(t: Tensor, state: Tensor, z: Mapping[str, Tensor]) -> Tensor:
    """Return d(prey, predator)/dt for a state of shape (..., 2)."""
    prey, predator = state.unbind(-1)
    growth = z["alpha"] - z["beta"] * predator
    decline = z["delta"] * prey - z["gamma"]
    return torch.stack([growth * prey, decline * predator], dim=-1)


class LynxHare(PyroModule):
    """The Lotka-Volterra model with lognormal observations.

    Args:
        substeps: Runge-Kutta steps a year; 2 are within 3e-4 of the converged solution in the posterior's range.
    """

    rates: Tensor

    def __init__(self, substeps: int = 2) -> None:
        super().__init__()
        years = torch.arange(len(YEARS), dtype=torch.float64)
        self.problem = ODEProblem(lotka_volterra, years, method="rk4", substeps=substeps, on_failure="reject")
        self.register_buffer("rates", torch.tensor([1.0, 0.5, 0.05, 0.05], dtype=torch.float64))

    def forward(self, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Sample the unknowns, solve, observe y of shape (21, 2) in thousands of pelts; return the trajectory."""
        birth, birth_scale, contact, contact_scale = self.rates
        z = {
            "alpha": pyro.sample("alpha", TruncatedNormal(birth, birth_scale)),
            "beta": pyro.sample("beta", TruncatedNormal(contact, contact_scale)),
            "gamma": pyro.sample("gamma", TruncatedNormal(birth, birth_scale)),
            "delta": pyro.sample("delta", TruncatedNormal(contact, contact_scale)),
        }
        ones = self.rates.new_ones(2)
        z["initial_state"] = pyro.sample("initial_state", dist.LogNormal(math.log(10.0) * ones, ones).to_event(1))
        sigma = pyro.sample("sigma", dist.LogNormal(-ones, ones).to_event(1))
        states = self.problem.solve(z)
        observe("y", states, sigma.unsqueeze(-2), obs=y, mask=mask, family="lognormal", event_dim=2)
        return states


def hudson_bay() -> dict[str, Any]:
    """Return the pelts, {"y": (21, 2)} in thousands, hare then lynx, 1900 to 1920."""
    text = files(__package__).joinpath("data/hudson_lynx_hare.csv").read_text()
    rows = [line for line in text.splitlines() if line[:1].isdigit()]
    table = np.loadtxt(rows, delimiter=",")
    return {"y": torch.tensor(table[:, 1:], dtype=torch.float64)}


register(
    Animal(
        name="lynx_hare",
        title="Lotka-Volterra on the Hudson Bay pelts, 1900-1920",
        physics="ODE",
        likelihoods=("forward",),
        model=LynxHare,
        data=hudson_bay,
        quantities={
            "alpha": Quantity("hare growth rate", "1/year"),
            "beta": Quantity("predation rate", "1/(thousand year)"),
            "gamma": Quantity("lynx decline rate", "1/year"),
            "delta": Quantity("conversion rate", "1/(thousand year)"),
            "initial_state": Quantity("population in 1900", "thousand pelts", ("species",), {"species": SPECIES}),
            "sigma": Quantity("observation scale", "1", ("species",), {"species": SPECIES}),
            "y": Quantity("pelts", "thousand", ("year", "species"), {"year": YEARS, "species": SPECIES}),
        },
        recipe=Recipe(
            family="spline",
            encoder=None,
            objective="elbo",
            steps=900,
            particles=128,
            learning_rate=3e-3,
            options={"tail": 10.0},
        ),
        priors={
            "alpha": "Normal(1, 0.5) truncated to > 0",
            "beta": "Normal(0.05, 0.05) truncated to > 0",
            "gamma": "Normal(1, 0.5) truncated to > 0",
            "delta": "Normal(0.05, 0.05) truncated to > 0",
            "initial_state": "LogNormal(log 10, 1), each species",
            "sigma": "LogNormal(-1, 1), each species",
        },
        source="posteriordb, hudson_lynx_hare-lotka_volterra; Hewitt (1921); Howard (2009); Carpenter (2018)",
        published={
            "alpha": 0.546864,
            "beta": 0.0277473,
            "gamma": 0.800095,
            "delta": 0.0240859,
            "initial_state": [34.0352, 5.93590],
            "sigma": [0.248057, 0.251017],
        },
    )
)
