"""A linear-Gaussian inverse problem whose posterior is known exactly, with a positive unknown and two data
sites.

x = (z_1, z_2, log rate) ~ N(0, I),  y = A x + s e,  so  x | y ~ N(C A' y / s^2, C),  C = (I + A'A / s^2)^-1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

OPERATOR = torch.tensor([[1.0, 0.5, 0.2], [0.0, 1.0, 0.7], [0.3, 0.0, 1.0], [0.5, 0.4, 0.3]], dtype=torch.float64)


@dataclass(frozen=True)
class Linear:
    """The model; noise sets how much the data tell."""

    noise: float = 0.5

    def __call__(self, y: Tensor | None = None) -> None:
        zero = OPERATOR.new_zeros(2)
        z = pyro.sample("z", dist.Normal(zero, torch.ones_like(zero)).to_event(1))
        rate = pyro.sample("rate", dist.LogNormal(zero[0], torch.ones_like(zero[0])))
        x = torch.cat([z, rate.log().unsqueeze(-1).expand(*z.shape[:-1], 1)], -1)
        pyro.sample("y", dist.Normal(x @ OPERATOR.T, self.noise).to_event(1), obs=y)

    def posterior(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (..., 3) and covariance (3, 3) in unconstrained space."""
        precision = torch.eye(3, dtype=y.dtype) + OPERATOR.T @ OPERATOR / self.noise**2
        covariance = torch.linalg.inv(precision)
        return y @ OPERATOR @ covariance / self.noise**2, covariance

    def log_evidence(self, y: Tensor) -> Tensor:
        covariance = OPERATOR @ OPERATOR.T + self.noise**2 * torch.eye(4, dtype=y.dtype)
        return dist.MultivariateNormal(torch.zeros(4, dtype=y.dtype), covariance).log_prob(y)


@dataclass(frozen=True)
class Exact:
    """The exact amortised posterior, or one with its sd multiplied and its mean shifted by a number of sd."""

    model: Linear
    width: float = 1.0
    shift: float = 0.0
    prior: bool = False

    def density(self, y: Tensor) -> dist.MultivariateNormal:
        mean, covariance = self.model.posterior(y)
        if self.prior:
            mean, covariance = torch.zeros_like(mean), torch.eye(3, dtype=y.dtype)
        mean = mean + self.shift * covariance.diagonal().sqrt()
        return dist.MultivariateNormal(mean, covariance * self.width**2)

    def __call__(self, y: Tensor) -> None:
        x = pyro.sample("_x", self.density(y), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Delta(x[..., :2], event_dim=1))
        pyro.sample("rate", dist.Delta(x[..., 2].exp(), log_density=-x[..., 2]))  # pyright: ignore

    def log_prob(self, values: dict[str, Tensor], data: dict[str, Any]) -> Tensor:
        log_rate = values["rate"].log()
        x = torch.cat([values["z"], log_rate.unsqueeze(-1)], -1)
        return self.density(data["y"]).log_prob(x) - log_rate


class Plated(PyroModule):
    """Unknowns inside and outside a plate: mu ~ N(0, 1), a_g ~ N(mu, 1) for three groups, y_g = a_g +
    noise."""

    def forward(self, y: Tensor | None = None) -> None:
        zero = torch.zeros((), dtype=torch.float64)
        mu = pyro.sample("mu", dist.Normal(zero, 1.0))
        with pyro.plate("groups", 3):
            a = pyro.sample("a", dist.Normal(mu, 1.0))
            pyro.sample("y", dist.Normal(a, 0.5), obs=y)

    @staticmethod
    def mean_of_mu(y: Tensor) -> Tensor:
        """E[mu | y]: each y_g has variance 1.25 about mu."""
        return y.sum(-1) / 1.25 / (1 + 3 / 1.25)
