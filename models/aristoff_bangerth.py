"""Stiffness of a membrane in 64 blocks from its deflection at 169 points: the benchmark of Aristoff and Bangerth.

    -div(a grad u) = 10  on the unit square,   u = 0 on its border
    log a_k ~ Normal(4, 2)                     k = 1..64: a is constant on 8 x 8 blocks, x fastest
    y_ij ~ Normal(u(i/14, j/14), 0.05)         i, j = 1..13, j fastest

u is bilinear on 32 x 32 square cells. The benchmark states its density with respect to da,

    exp(-|z(a) - z_hat|^2 / (2 0.05^2)) exp(-sum_k (log a_k)^2 / 8) da,

and da = a d(log a), so that in log a the prior is Normal(4, 2^2) and not Normal(0, 2^2). The data z_hat have no
noise: cubic elements on 256 x 256 cells, from a = 1 but for four blocks of 0.1 and four of 10. They are symmetric
under the exchange of x and y, hence so is the posterior: E log a_ij = E log a_ji checks any sampler.

    forward    u = F(log a): 0.9 ms with its gradient, 0.4 ms a sample of a batch
    residual   961 values of u free, 0 ~ Normal(r(u, log a), s_r) and the factor |det dr/du|: no solve, but a
               factorisation; the same posterior of log a as s_r -> 0. Without the factor the posterior is another one.

Source: D. Aristoff & W. Bangerth, A benchmark for the Bayesian inversion of coefficients in partial differential
equations, arXiv:2102.07263 (SIAM Review 65 (2023) 1074); data as published there, see the file's entry ``source``.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from torch import Tensor

from ..physics.elliptic.rectangle import Elliptic2D
from .likelihood import ForwardOrResidual, LikelihoodName, at_least_one
from .recipe import Quantity, Recipe
from .registry import Animal, register

CELLS = 32
BLOCKS = 8
POINTS = 13
FORCE = 10.0
NOISE = 0.05
PRIOR_MEAN, PRIOR_SD = 4.0, 2.0
SOFT, STIFF = (9, 10, 17, 18), (45, 46, 53, 54)


def membrane(cells: int = CELLS, blocks: int = BLOCKS, points: int = POINTS) -> Elliptic2D:
    """Return the elliptic problem, its unknown log a of shape (..., blocks^2), read at points x points points."""
    positions = torch.arange(1, points + 1, dtype=torch.float64) / (points + 1)
    return Elliptic2D(positions, cells, blocks, source=FORCE, on_failure="reject")


class AristoffBangerth(ForwardOrResidual):
    """The membrane with a forward or a residual likelihood.

    Args:
        likelihood: "forward" solves for u; "residual" samples u and observes the residual as zero.
        cells: mesh cells on a side, a multiple of ``blocks``; the benchmark's posterior is that of 32.
        blocks: blocks on a side.
        points: measuring points on a side.
        residual_scale: s_r in units of the nodal load f h^2 = 10 / cells^2 (residual likelihood).
        corrected: add log|det dr/du| (residual likelihood); without it the posterior is another one.

    Raises:
        ValueError: an unknown likelihood, or fewer than one point (mask them to have none).
    """

    centre: Tensor

    def __init__(
        self,
        likelihood: LikelihoodName = "forward",
        cells: int = CELLS,
        blocks: int = BLOCKS,
        points: int = POINTS,
        residual_scale: float = 1e-2,
        corrected: bool = True,
    ) -> None:
        problem = membrane(cells, blocks, at_least_one("points", points))
        super().__init__(
            problem,
            likelihood,
            (problem.inner**2,),
            noise=NOISE,
            residual_scale=residual_scale * FORCE / cells**2,
            corrected=corrected,
        )
        self.register_buffer("centre", torch.full((blocks**2,), PRIOR_MEAN, dtype=torch.float64))

    def forward(self, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Sample log a, solve for (or sample) u, observe y of shape (points^2,); return the interior nodes."""
        log_a = pyro.sample("log_a", dist.Normal(self.centre, PRIOR_SD).to_event(1))
        return self.observed(log_a, y, mask)


def truth() -> Tensor:
    """Return log a, shape (64,), from which the published values were computed."""
    log_a = torch.zeros(BLOCKS**2, dtype=torch.float64)
    log_a[list(SOFT)], log_a[list(STIFF)] = np.log(0.1), np.log(10.0)
    return log_a


def deflections() -> dict[str, Any]:
    """Return the published data set {"y": (169,)}, y fastest."""
    return {"y": _stored()["measurements"]}


def forward_checks() -> dict[str, Tensor]:
    """Return what the reference code computes for five coefficient vectors, to 12 digits.

    theta (5, 64), x fastest: a, not its logarithm; z (5, 169): u at the points, y fastest; loglikelihood (5,) and
    logprior (5,), with respect to da and without constants.
    """
    stored = _stored()
    return {name: stored[name] for name in ("theta", "z", "loglikelihood", "logprior")}


def _stored() -> dict[str, Tensor]:
    with files(__package__).joinpath("data/aristoff_bangerth.npz").open("rb") as file, np.load(file) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "source"}


register(
    Animal(
        name="aristoff_bangerth",
        title="Stiffness of a membrane in 64 blocks, the benchmark of Aristoff and Bangerth",
        physics="elliptic PDE, 2D, bilinear elements",
        likelihoods=("forward", "residual"),
        model=AristoffBangerth,
        data=deflections,
        quantities={
            "log_a": Quantity("log stiffness of a block", "1", ("block",)),
            "u": Quantity("deflection", "1", ("node",)),
            "r": Quantity("residual", "1", ("node",)),
            "y": Quantity("deflection at a point", "1", ("point",)),
        },
        recipe=Recipe(
            family="spline", encoder=None, steps=1500, particles=32, learning_rate=2e-3, options={"tail": 10.0}
        ),
        priors={"log_a": "Normal(4, 2), each block", "u": "flat (residual likelihood only)"},
        source="D. Aristoff & W. Bangerth, arXiv:2102.07263; data and checks as published there",
    )
)
