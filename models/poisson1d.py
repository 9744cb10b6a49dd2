"""Conductivity of a layered bar from the temperature at a few points: the 1D elliptic inverse problem.

    -(exp(kappa(x)) u')' = 1  on (0, 1),   u(0) = u(1) = 0
    kappa = sum_k sqrt(l_k) phi_k z_k      Karhunen-Loeve modes of exp(-|x - x'| / 0.3)
    z_k ~ Normal(0, 1)                     k = 1..8 (91 % of the variance kept; 2: 65 %, 16: 96 %)
    y_j ~ Normal(u(x_j), 0.0025)           8 interior sensors, noise 2 % of max u at z = 0

kappa is constant on each of 64 elements and u linear between nodes: exact at the nodes, O(n) to solve. Two
likelihoods of the same problem:

    forward    u = F(z)
    residual   u free with a flat prior, 0 ~ Normal(r(u, z), s_r) and the factor |det dr/du|: no solve, and
               the same posterior of z as s_r -> 0. Without the factor the posterior is another one.

Source: Glyn-Davies, Vadeboncoeur, Akyildiz, Kazlauskaite, Girolami, arXiv:2409.06560; set-up by physzoo.
"""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor

from ..physics import Elliptic1D, KarhunenLoeve
from .likelihood import ForwardOrResidual, LikelihoodName, at_least_one
from .recipe import Quantity, Recipe
from .registry import Animal, register

ELEMENTS = 64
CORRELATION_LENGTH = 0.3
LARGEST_AT_PRIOR_MEAN = 0.125
SEED = 1


def bar(modes: int = 8, sensors: int = 8) -> Elliptic1D:
    """Return the elliptic problem with ``sensors`` equally spaced interior sensors."""
    midpoints = (torch.arange(ELEMENTS, dtype=torch.float64) + 0.5) / ELEMENTS
    field = KarhunenLoeve(midpoints, modes, CORRELATION_LENGTH)
    positions = torch.arange(1, sensors + 1, dtype=torch.float64) / (sensors + 1)
    return Elliptic1D(field, positions, ELEMENTS, dtype=torch.float64)


class Poisson1D(ForwardOrResidual):
    """The bar with a forward or a residual likelihood.

    Args:
        likelihood: "forward" solves for u; "residual" samples u and observes the residual as zero.
        modes: number of unknowns z.
        sensors: number of equally spaced interior sensors.
        noise: sensor sd as a fraction of 0.125, the largest u at z = 0.
        residual_scale: s_r in units of the nodal load f h = 1/64 (residual likelihood); at 1e-3 the posterior of z is
            the forward model's to a total variation of 0.001, at 1e-2 of 0.05 in the worst case measured.
        corrected: add log|det dr/du| (residual likelihood); without it the posterior is another one.

    Raises:
        ValueError: an unknown likelihood, or fewer than one sensor (mask them to have none).
    """

    origin: Tensor

    def __init__(
        self,
        likelihood: LikelihoodName = "forward",
        modes: int = 8,
        sensors: int = 8,
        noise: float = 0.02,
        residual_scale: float = 1e-3,
        corrected: bool = True,
    ) -> None:
        super().__init__(
            bar(modes, at_least_one("sensors", sensors)),
            likelihood,
            (ELEMENTS - 1,),
            noise=noise * LARGEST_AT_PRIOR_MEAN,
            residual_scale=residual_scale / ELEMENTS,
            corrected=corrected,
        )
        self.register_buffer("origin", torch.zeros(modes, dtype=torch.float64))

    def forward(self, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Sample the modes, solve for (or sample) u, observe y of shape (sensors,); return u."""
        z = pyro.sample("z", dist.Normal(self.origin, 1.0).to_event(1))
        return self.observed(z, y, mask)


def collapsed_log_joint(model: Poisson1D, z: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return log p(z, y) up to a constant, the state integrated out in closed form.

        forward     N(z; 0, I) N(y; H A^-1 F, s_y^2 I)
        residual    N(z; 0, I) N(y; H A^-1 F, s_y^2 I + s_r^2 H (A'A)^-1 H') |det A|^-1        (flat p(u))
        corrected   the same without |det A|^-1

    Args:
        model: the bar.
        z: unknowns, shape (..., modes).
        y: one data set, shape (sensors,).
        mask: True where observed, shape (sensors,).

    Where the covariance is numerically singular, at conductivities that differ by ten orders of magnitude, it is -inf.
    """
    problem = model.problem
    seen = torch.ones_like(y, dtype=torch.bool) if mask is None else mask
    prior = dist.Normal(0.0, 1.0, validate_args=False).log_prob(z).sum(-1)
    u = problem.solve(z)
    error = (y - problem.observe(u))[..., seen]
    if model.likelihood == "forward":
        return prior - 0.5 * (error / model.noise).square().sum(-1)
    # A is symmetric, so H A^-1 is the response to loads shaped like the sensors.
    weights = problem.observe(torch.eye(ELEMENTS - 1, dtype=z.dtype, device=z.device)).T[seen]
    response = problem.solve(z[..., None, :], residual=weights) - u[..., None, :]
    identity = torch.eye(len(weights), dtype=z.dtype, device=z.device)
    covariance = model.noise**2 * identity + model.residual_scale**2 * response @ response.mT
    factor, info = torch.linalg.cholesky_ex(covariance)
    lost = (info > 0)[..., None, None]  # so far from anything likely that the sums have no correct digit
    factor = torch.where(lost, identity, factor)
    white = torch.linalg.solve_triangular(factor, error[..., None], upper=False)[..., 0]
    fit = -0.5 * white.square().sum(-1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return prior + fit.masked_fill(lost[..., 0, 0], -torch.inf) - (0.0 if model.corrected else problem.logdet(u, z))


def truth() -> Tensor:
    """Return the unknowns z, shape (8,), behind the synthetic data set."""
    return torch.randn(8, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)


def temperatures() -> dict[str, Any]:
    """Return the synthetic data set {"y": (8,)} of ``truth()``, with noise of seed 2."""
    problem = bar()
    noise = torch.randn(8, generator=torch.Generator().manual_seed(SEED + 1), dtype=torch.float64)
    return {"y": problem.observe(problem.solve(truth())) + 0.02 * LARGEST_AT_PRIOR_MEAN * noise}


_NODES = {"node": tuple(i / ELEMENTS for i in range(1, ELEMENTS))}

register(
    Animal(
        name="poisson1d",
        title="Conductivity of a layered bar from point temperatures",
        physics="elliptic PDE, 1D, exact solver",
        likelihoods=("forward", "residual"),
        model=Poisson1D,
        data=temperatures,
        quantities={
            "z": Quantity("Karhunen-Loeve coefficient", "1", ("mode",)),
            "u": Quantity("temperature", "1", ("node",), _NODES),
            "r": Quantity("residual", "1", ("node",), _NODES),
            "y": Quantity("sensor reading", "1", ("sensor",)),
        },
        recipe=Recipe(
            family="spline",
            encoder="mlp",
            objective="forward_kl",
            steps=7_000,
            batch_size=512,
            learning_rate=2e-3,
            options={"transforms": 3, "refine": 2},
        ),
        priors={"z": "Normal(0, 1), each mode", "u": "flat (residual likelihood only)"},
        source="physzoo's POIS1D; setting of Glyn-Davies et al., arXiv:2409.06560",
    )
)
