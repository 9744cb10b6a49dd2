"""Channels in an aquifer from the head in 25 wells: an inverse problem under a learnt prior.

    -div(exp(kappa) grad u) = 1  on the unit square,   u = 0 on its border
    kappa = f(w)                           f: decoder of a variational autoencoder, ``channels_prior``
    w ~ Normal(0, I),  w in R^8
    y_j ~ Normal(u(x_j), 0.00055)          5 x 5 wells at (i/6, j/6), noise 2 % of the typical largest head

kappa is constant on 16 x 16 cells, 0 in the ground and log 10 in a channel: ten times as permeable. u is bilinear on
the same cells. The typical largest head, 0.0276, is the median over maps of the generator of the largest head in a well.
Two likelihoods of the same problem:

    forward    u = F(f(w)): 0.1 ms a sample with its gradient
    residual   u free with a flat prior, 0 ~ Normal(r(u, f(w)), s_r) and the factor |det dr/du|: no solve, but a
               factorisation; the same posterior of w as s_r -> 0. Without the factor the posterior is another one.

The posterior is of maps that the decoder can make. How far that is from the truth of a map of the generator itself is
measured in benchmarks/channel_darcy.py, as is the point estimate of Lopez-Alvis et al.,

    minimise  |G(f(w)) - y|^2 / s^2 + beta (|w| - mu)^2,      mu = E|w|, the mean of a chi law of 8 degrees,

see ``physzoo.inference.modes.point_estimate``. Chains around the largest mode can miss a part of these posteriors and agree: the
reference is of sequential Monte Carlo. The recipe is of one data set: by wake-sleep, from the Laplace approximations at all modes;
the ELBO stays near the largest one. An amortised guide of 160,000 simulations, refined by Gauss-Newton steps (``amortize(...,
refine=3)``), gets the codes' ranks right and fits the data too loosely: its log-likelihood is rejected there. Importance weights
bring it close to the references.

Source: Xia, Liao, Li, arXiv:2302.11173 (VI under a generative prior); Lopez-Alvis, Laloy, Nguyen, Hermans,
arXiv:2008.12056 (point estimate); set-up by physzoo.
"""

from __future__ import annotations

import math
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn

from ..physics.elliptic.rectangle import Elliptic2D
from .channels_prior import LATENTS, GenerativeField, trained_decoder
from .datasets.channels import CELLS
from .likelihood import ForwardOrResidual, LikelihoodName, at_least_one
from .recipe import Quantity, Recipe
from .registry import Animal, register

CONTRAST = math.log(10.0)
SENSORS = 5
TYPICAL_HEAD = 0.0276
SEED = 1


def aquifer(cells: int = CELLS, sensors: int = SENSORS) -> Elliptic2D:
    """Return the flow problem, its unknown the log-permeability of the cells (..., cells^2), x fastest."""
    positions = torch.arange(1, sensors + 1, dtype=torch.float64) / (sensors + 1)
    return Elliptic2D(positions, cells, cells, source=1.0, on_failure="reject")


class ChannelDarcy(ForwardOrResidual):
    """The aquifer under the learnt prior, with a forward or a residual likelihood.

    Args:
        likelihood: "forward" solves for u; "residual" samples u and observes the residual as zero.
        sensors: wells on a side of their grid.
        noise: sensor sd as a fraction of the typical largest head, 0.0276.
        residual_scale: s_r in units of the nodal load f h^2 = 1 / 256 (residual likelihood).
        corrected: add log|det dr/du| (residual likelihood); without it the posterior is another one.
        decoder: w (..., 8) -> (..., 256) in float64; None takes the stored one.

    Raises:
        ValueError: an unknown likelihood, or fewer than one well (mask them to have none).
    """

    origin: Tensor

    def __init__(
        self,
        likelihood: LikelihoodName = "forward",
        sensors: int = SENSORS,
        noise: float = 0.02,
        residual_scale: float = 1e-2,
        corrected: bool = True,
        decoder: nn.Module | None = None,
    ) -> None:
        problem = aquifer(CELLS, at_least_one("sensors", sensors))
        super().__init__(
            problem,
            likelihood,
            (problem.inner**2,),
            noise=noise * TYPICAL_HEAD,
            residual_scale=residual_scale / CELLS**2,
            corrected=corrected,
        )
        self.field = GenerativeField(trained_decoder() if decoder is None else decoder, CONTRAST)
        self.register_buffer("origin", torch.zeros(LATENTS, dtype=torch.float64))

    def forward(self, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Sample w, solve for (or sample) u, observe y of shape (sensors^2,); return the interior nodes."""
        w = pyro.sample("w", dist.Normal(self.origin, 1.0).to_event(1))
        return self.observed(self.field(w), y, mask)


def truth() -> Tensor:
    """Return the unknowns w, shape (8,), behind the synthetic data set."""
    return torch.randn(LATENTS, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)


def heads() -> dict[str, Any]:
    """Return the synthetic data set {"y": (25,)} of ``truth()``, with noise of seed 2."""
    model = ChannelDarcy()
    generator = torch.Generator().manual_seed(SEED + 1)
    noise = torch.randn(SENSORS**2, generator=generator, dtype=torch.float64)
    return {"y": model.problem.observe(model.problem.solve(model.field(truth()))) + model.noise * noise}


register(
    Animal(
        name="channel_darcy",
        title="Channels in an aquifer from the head in 25 wells, under a learnt prior",
        physics="elliptic PDE, 2D, bilinear elements",
        likelihoods=("forward", "residual"),
        model=ChannelDarcy,
        data=heads,
        quantities={
            "w": Quantity("code of the channel map", "1", ("code",)),
            "u": Quantity("hydraulic head", "1", ("node",)),
            "r": Quantity("residual", "1", ("node",)),
            "y": Quantity("head in a well", "1", ("well",)),
        },
        recipe=Recipe(
            family="spline",
            encoder=None,
            objective="reweighted",
            start="modes",
            steps=2000,
            particles=512,
            learning_rate=2e-3,
            options={"tail": 10.0},
            reference="smc",
        ),
        priors={"w": "Normal(0, 1), each entry", "u": "flat (residual likelihood only)"},
        source="Xia, Liao, Li, arXiv:2302.11173; Lopez-Alvis et al., arXiv:2008.12056; set-up by physzoo",
    )
)
