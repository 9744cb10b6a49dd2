"""Linear source inversion: a heat source on a rod from a few thermometers, with a closed-form posterior.

    -u'' = sum_k z_k sqrt(2) sin(k pi x)  on (0, 1),   u(0) = u(1) = 0
    z_k ~ Normal(0, 1),                    k = 1..6, source amplitudes
    y_j ~ Normal(u(x_j), 0.005),           6 thermometers, none near the right end

Discretised by 64 linear elements: A u = B z, y = C u + noise, G = C A^-1 B. The posterior is Gaussian,

    precision = I + G'G / s^2,     mean = covariance G'y / s^2,     log p(y) = log N(y; 0, s^2 I + G G'),

with correlations up to .91, and so are the two best independent Gaussians: the posterior's mean with
variances 1/precision_kk (reverse KL: .14 to .84 of the truth) or covariance_kk (forward KL: the marginals).
Experiment B0: a guide's error is known, not estimated.

Source: Bishop, Pattern Recognition and Machine Learning (2006), sections 2.3 and 10.1.2; set-up by physzoo.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor

from ..physics import LinearProblem
from .likelihood import ForwardOrResidual, LikelihoodName
from .recipe import Quantity, Recipe
from .registry import Animal, register

MODES = 6
ELEMENTS = 64
NOISE = 0.005
SENSORS = (0.05, 0.15, 0.25, 0.35, 0.5, 0.65)
SEED = 1


def rod(modes: int = MODES, sensors: tuple[float, ...] = SENSORS, elements: int = ELEMENTS) -> LinearProblem:
    """Return -u'' = sum_k z_k sqrt(2) sin(k pi x) in linear elements, exact at the nodes."""
    h = 1.0 / elements
    one = torch.ones(elements - 1, dtype=torch.float64)
    stiffness = (2 * torch.diag(one) - torch.diag(one[1:], 1) - torch.diag(one[1:], -1)) / h
    frequency = math.pi * torch.arange(1, modes + 1, dtype=torch.float64)
    x = h * torch.arange(1, elements, dtype=torch.float64)
    # Integral of sin(w x) against the hat of a node: sin(w x_i) (2 - 2 cos w h) / (w^2 h).
    weight = (2 - 2 * torch.cos(frequency * h)) / (frequency**2 * h)
    load = math.sqrt(2) * weight * torch.sin(frequency * x[:, None])
    distance = (torch.tensor(sensors, dtype=torch.float64)[:, None] - x).abs() / h
    return LinearProblem(stiffness, load, (1 - distance).clamp_min(0))


class LinearGaussian(ForwardOrResidual):
    """Source inversion with a forward or a residual likelihood.

    Args:
        likelihood: "forward" solves for u; "residual" samples u and observes A u - B z as zero.
        noise: sd of a thermometer.
        residual_scale: s_r, in units of the nodal load h (residual likelihood).
        corrected: add log|det dr/du| (residual likelihood); a constant here.

    Raises:
        ValueError: an unknown likelihood.
    """

    origin: Tensor

    def __init__(
        self,
        likelihood: LikelihoodName = "forward",
        noise: float = NOISE,
        residual_scale: float = 1e-2,
        corrected: bool = True,
    ) -> None:
        scale = residual_scale / ELEMENTS
        super().__init__(rod(), likelihood, (ELEMENTS - 1,), noise=noise, residual_scale=scale, corrected=corrected)
        self.register_buffer("origin", torch.zeros(MODES, dtype=torch.float64))

    def forward(self, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Sample the amplitudes, solve (or sample) the temperature, observe y of shape (6,); return u."""
        z = pyro.sample("z", dist.Normal(self.origin, 1.0).to_event(1))
        return self.observed(z, y, mask)


@dataclass(frozen=True)
class GaussianPosterior:
    """The exact answer for one data set.

    Attributes:
        mean: posterior mean, shape (6,).
        covariance: posterior covariance, shape (6, 6).
        log_evidence: log p(y).
    """

    mean: Tensor
    covariance: Tensor
    log_evidence: Tensor

    @property
    def reverse_variances(self) -> Tensor:
        """Variances of the independent Gaussian q that minimises KL(q || p): 1 / precision_kk."""
        return torch.linalg.inv(self.covariance).diagonal().reciprocal()

    @property
    def forward_variances(self) -> Tensor:
        """Variances of the independent Gaussian q that minimises KL(p || q): covariance_kk."""
        return self.covariance.diagonal()


def exact_posterior(model: LinearGaussian, y: Tensor, mask: Tensor | None = None) -> GaussianPosterior:
    """Return the forward likelihood's posterior and evidence for one data set y of shape (6,)."""
    matrix = model.problem.sensors @ model.problem.forward_map
    if mask is not None:
        matrix, y = matrix[mask], y[mask]
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype)
    covariance = torch.linalg.inv(identity + matrix.T @ matrix / model.noise**2)
    mean = covariance @ (matrix.T @ y) / model.noise**2
    spread = model.noise**2 * torch.eye(len(y), dtype=y.dtype) + matrix @ matrix.T
    evidence = dist.MultivariateNormal(torch.zeros_like(y), spread).log_prob(y) if len(y) else y.new_zeros(())
    return GaussianPosterior(mean, covariance, evidence)


def closed_form(data: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the exact posterior mean (6,) and covariance (6, 6) of z for the model's keyword arguments."""
    exact = exact_posterior(LinearGaussian(), data["y"], data.get("mask"))
    return exact.mean, exact.covariance


def thermometers() -> dict[str, Any]:
    """Return the synthetic data set {"y": (6,)}, drawn from the model at seed 1."""
    generator = torch.Generator().manual_seed(SEED)
    problem = rod()
    z = torch.randn(MODES, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(SENSORS), generator=generator, dtype=torch.float64)
    return {"y": problem.observe(problem.solve(z)) + NOISE * noise}


register(
    Animal(
        name="linear_gaussian",
        title="Linear source inversion on a rod, posterior in closed form",
        physics="elliptic PDE, 1D, linear in the unknowns",
        likelihoods=("forward", "residual"),
        model=LinearGaussian,
        data=thermometers,
        quantities={
            "z": Quantity("source amplitude", "1", ("mode",), {"mode": tuple(range(1, MODES + 1))}),
            "u": Quantity("temperature", "1", ("node",), {"node": tuple(i / ELEMENTS for i in range(1, ELEMENTS))}),
            "r": Quantity("residual", "1", ("node",), {"node": tuple(i / ELEMENTS for i in range(1, ELEMENTS))}),
            "y": Quantity("thermometer reading", "1", ("sensor",), {"sensor": SENSORS}),
        },
        recipe=Recipe(family="full", encoder=None, objective="elbo", steps=1000),
        priors={"z": "Normal(0, 1), each mode", "u": "flat (residual likelihood only)"},
        source="physzoo; closed form: Bishop (2006), section 2.3",
        closed_form=closed_form,
    )
)
