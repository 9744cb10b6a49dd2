"""Four rates of a predator-prey system from ten noisy counts of each species: a benchmark of simulation-based inference.

    du/dt = (alpha - beta v) u      prey,      u(0) = 30
    dv/dt = (-gamma + delta u) v    predator,  v(0) = 1,  20 days

    alpha, gamma ~ LogNormal(-0.125, 0.5)   1/day
    beta, delta  ~ LogNormal(-3, 0.5)       1/(day animal)
    y_t          ~ LogNormal(log (u, v)(t), 0.1),   t = 0, 2.1, 4.2, ..., 18.9 days

The posterior is 2 to 5 % as wide as the prior, and where it lies is what a network learns slowest: amortised methods without
the likelihood are told from the reference with an accuracy of .70 to .98 after 100,000 simulations. Here the guide takes
Gauss-Newton steps through the model before the flow. For two data sets of a hundred they end in a local minimum; the base
of the flow has heavy tails, so that these do not rule its training. The logarithms of the state are integrated, so that no population turns
negative; 21 Runge-Kutta steps between observations.

Source: J.-M. Lueckmann, J. Boelts, D. Greenberg, P. Goncalves, J. Macke, Benchmarking Simulation-Based Inference,
arXiv:2101.04653, task "Lotka-Volterra"; the data set is the first of its ten observations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor

from ..physics import ODEProblem, observe
from .recipe import Quantity, Recipe
from .registry import Animal, register

RATES = {"alpha": -0.125, "beta": -3.0, "gamma": -0.125, "delta": -3.0}  # log of the prior median
SPREAD, NOISE = 0.5, 0.1
START = (30.0, 1.0)
DAYS = tuple(2.1 * n for n in range(10))
SPECIES = ("prey", "predator")
# prey on the ten days, then predators
FIRST = (
    31.783262, 1.1971166, 0.29703617, 0.71145046, 2.9415865, 11.482614, 36.09036, 0.46229604, 0.38081983, 0.9173736,
    0.8910395, 27.039942, 4.356176, 0.78444487, 0.17100818, 0.1325878, 8.727008, 16.97251, 2.7902339, 0.47567415,
)  # fmt: skip


def logarithms(t: Tensor, state: Tensor, z: Mapping[str, Tensor]) -> Tensor:
    """Return d(log prey, log predator)/dt for a state of logarithms, (..., 2)."""
    prey, predator = state.exp().unbind(-1)
    return torch.stack([z["alpha"] - z["beta"] * predator, z["delta"] * prey - z["gamma"]], -1)


class LotkaVolterraBenchmark(PyroModule):
    """The Lotka-Volterra task, y of shape (10, 2), prey first.

    Args:
        substeps: Runge-Kutta steps between observations.
    """

    start: Tensor

    def __init__(self, substeps: int = 21) -> None:
        super().__init__()
        days = torch.tensor(DAYS, dtype=torch.float64)
        self.problem = ODEProblem(
            logarithms, days, method="rk4", substeps=substeps, observation=torch.exp, on_failure="reject"
        )
        self.register_buffer("start", torch.tensor(START, dtype=torch.float64).log())

    def forward(self, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Sample the rates, solve, observe y; return the populations, (..., 10, 2)."""
        scale = self.start.new_tensor(SPREAD)
        z = {name: pyro.sample(name, dist.LogNormal(self.start.new_tensor(m), scale)) for name, m in RATES.items()}
        states = self.problem.observe(self.problem.solve({**z, "initial_state": self.start}))
        observe("y", states, NOISE, obs=y, mask=mask, family="lognormal", event_dim=2)
        return states


def counts(values: Any = FIRST) -> dict[str, Any]:
    """Return a data set {"y": (10, 2)} from the benchmark's twenty numbers, by default those of its first observation.

    Raises:
        ValueError: not twenty positive numbers in one row.
    """
    y = torch.as_tensor(values, dtype=torch.float64)
    if y.numel() != 2 * len(DAYS) or y.shape[-1] != y.numel() or not bool((torch.isfinite(y) & (y > 0)).all()):
        raise ValueError(f"values: got shape {tuple(y.shape)}, expected {2 * len(DAYS)} positive numbers, prey first")
    y = y.flatten()
    return {"y": y.reshape(2, -1).T.contiguous()}


register(
    Animal(
        name="lotka_volterra_benchmark",
        title="Predator and prey, task of a benchmark of simulation-based inference",
        physics="ODE",
        likelihoods=("forward",),
        model=LotkaVolterraBenchmark,
        data=counts,
        quantities={
            "alpha": Quantity("prey growth rate", "1/day"),
            "beta": Quantity("predation rate", "1/(day animal)"),
            "gamma": Quantity("predator decline rate", "1/day"),
            "delta": Quantity("conversion rate", "1/(day animal)"),
            "y": Quantity("population", "animals", ("day", "species"), {"day": DAYS, "species": SPECIES}),
        },
        recipe=Recipe(
            family="spline",
            encoder="mlp",
            objective="forward_kl",
            steps=1000,
            batch_size=1024,
            simulations=20_000,
            learning_rate=5e-4,
            options={"refine": 10, "tail": 4.0},
        ),
        priors={name: f"LogNormal({middle:g}, {SPREAD:g})" for name, middle in RATES.items()},
        source="Lueckmann et al., arXiv:2101.04653, task Lotka-Volterra",
        published=dict(zip(RATES, (0.683524, 0.104658, 0.896504, 0.117832), strict=True)),
    )
)
