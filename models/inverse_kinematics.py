"""How a planar arm is bent, from where its hand is: four unknowns, two data, several answers.

    p_0 = (z_0, 0),    p_k = p_{k-1} + l_k (sin t_k, cos t_k),    t_k = z_1 + ... + z_k,    l = (0.5, 0.5, 1)
    z_0 ~ Normal(0, 0.25)    place of the base on its rail
    z_k ~ Normal(0, 0.5)     angle of a joint, radian, k = 1..3
    y   ~ Normal(p_3, 0.05)  the hand, both coordinates

The posterior is a thin curved sheet: two directions in which the data fix the arm to the noise, two in which only the
prior does, and a hand nearer than the arm is long is reached by bending to the left or to the right. The data set is on the axis of
symmetry, y = (0, 1.7): turning every sign of z round leaves p(y | z) and the prior alone, so exactly half of the posterior
bends to either side. That is a check of any guide, beside the exact draws of ``rejection``. Two likelihoods:

    forward    the joints follow from z
    residual   the joints are free with a flat prior, and every link observes 0 ~ Normal(r_k, s_r); the determinant
               is one, so here the correction is nothing

Source: Ardizzone et al., Analyzing Inverse Problems with Invertible Neural Networks, arXiv:1808.04730; angles and lengths as
in Kruse, Ardizzone, Rother, Koethe, arXiv:2101.10763. There the hand is known exactly; its noise is physzoo's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor

from ..core.global_state import seeded
from ..core.require import whole
from ..physics import PlanarArm
from .likelihood import ForwardOrResidual, LikelihoodName
from .recipe import Quantity, Recipe
from .registry import Animal, register

LENGTHS = (0.5, 0.5, 1.0)
SPREAD = (0.25, 0.5, 0.5, 0.5)
NOISE = 0.05
HAND = (0.0, 1.7)
AT_ONCE, MOST = 250_000, 400


class InverseKinematics(ForwardOrResidual):
    """The arm with a forward or a residual likelihood, y of shape (2,).

    Args:
        likelihood: "forward" follows the links; "residual" samples the joints and observes every link as closed.
        noise: sd of the hand, in units of length.
        residual_scale: s_r, in units of length (residual likelihood).

    Raises:
        ValueError: an unknown likelihood.
    """

    spread: Tensor

    def __init__(
        self, likelihood: LikelihoodName = "forward", noise: float = NOISE, residual_scale: float = 1e-3
    ) -> None:
        arm = PlanarArm(LENGTHS, dtype=torch.float64)
        super().__init__(arm, likelihood, (len(LENGTHS), 2), noise=noise, residual_scale=residual_scale)
        self.register_buffer("spread", torch.tensor(SPREAD, dtype=torch.float64))

    def forward(self, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Sample the arm, follow its links (or sample the joints), observe the hand; return the joints (..., 3, 2)."""
        z = pyro.sample("z", dist.Normal(torch.zeros_like(self.spread), self.spread).to_event(1))
        return self.observed(z, y, mask)


def rejection(y: Tensor, draws: int = 4000, seed: int = 0, noise: float = NOISE) -> Tensor:
    """Return independent exact draws of z given the hand y (2,), shape (draws, 4), float64.

        z ~ p(z), kept with probability exp(-|y - G(z)|^2 / 2 noise^2)

    Raises:
        ValueError: ``draws`` is not positive, or y lies where next to no arm of the prior reaches.
    """
    whole("draws", draws, 1)
    model = InverseKinematics()
    kept: list[Tensor] = []
    with seeded(seed), torch.no_grad():
        for _ in range(MOST):
            z = model.spread * torch.randn(AT_ONCE, 4, dtype=torch.float64)
            miss = (model.problem.observe(model.problem.solve(z)) - y).square().sum(-1)
            kept.append(z[torch.rand_like(miss).log() < -0.5 * miss / noise**2])
            if sum(map(len, kept)) >= draws:
                return torch.cat(kept)[:draws]
    raise ValueError(f"y: got {y.tolist()}, which 1e8 arms of the prior hardly reach, expected a place within reach")


def hand() -> dict[str, Any]:
    """Return the data set {"y": (2,)}, a hand on the axis of symmetry."""
    return {"y": torch.tensor(HAND, dtype=torch.float64)}


def exact_draws(data: Mapping[str, Any], draws: int, seed: int) -> dict[str, Tensor]:
    """Return {"z": (draws, 4)}, independent draws of the posterior of the model's keyword arguments.

    Raises:
        ValueError: a masked hand, or what ``rejection`` refuses.
    """
    if data.get("mask") is not None:
        raise ValueError(f"data: got a mask {data['mask'].tolist()}, expected a hand that is seen whole")
    return {"z": rejection(data["y"], draws, seed)}


_PLACES = {"coordinate": ("along the rail", "away from it")}

register(
    Animal(
        name="inverse_kinematics",
        title="How a planar arm is bent, from the place of its hand",
        physics="kinematics, closed form",
        likelihoods=("forward", "residual"),
        model=InverseKinematics,
        data=hand,
        quantities={
            "z": Quantity("rail and joints", "1", ("part",), {"part": ("rail", "angle 1", "angle 2", "angle 3")}),
            "u": Quantity("joint", "length", ("link", "coordinate"), {"link": (1, 2, 3), **_PLACES}),
            "r": Quantity("residual", "length", ("link", "coordinate"), {"link": (1, 2, 3), **_PLACES}),
            "y": Quantity("hand", "length", ("coordinate",), _PLACES),
        },
        recipe=Recipe(
            family="spline",
            encoder="mlp",
            objective="forward_kl",
            steps=6_000,
            batch_size=512,
            learning_rate=2e-3,
            options={"transforms": 6},
        ),
        priors={"z": "Normal(0, (0.25, 0.5, 0.5, 0.5))", "u": "flat (residual likelihood only)"},
        exact_draws=exact_draws,
        source="Ardizzone et al., arXiv:1808.04730; Kruse et al., arXiv:2101.10763; noise by physzoo",
    )
)
