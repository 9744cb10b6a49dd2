"""Walking by an attentive planar-flow auto-encoder: two numbers for the physics, planar flows, attention along time.

    z_P  ~ Normal(0, I), 2 numbers     posture and (q, p) at heel strike = mean + z_P A, A (2, 9) learnt
    z_A2 ~ Normal(0, I)                code of the correction
    x_n = posture + q(t_n) + f_B(z_P, z_A2; t_n) + noise

H(q, p) and f_B as in ``locomotion``. The guide's families are planar flows, 12 maps on z_A2 and 5 or 10 on z_P, whose
parameters are functions of the stride; their log determinants are part of log q, and gradients reach both latents through
the motion. Attention runs along the time of one stride, never across the batch. The four members of the ablation are
``guide_options("both" | "flow" | "attention" | "neither")``, whose flows end in a diagonal affine map; the animal's end in a
full one, without which twelve planar maps cannot follow the correlations of seventeen numbers.

Source: Akhtar, arXiv:2404.12267; planar flows: Rezende & Mohamed, arXiv:1505.05770; set-up by physzoo.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from .locomotion import DATA, STRIDE, UNKNOWNS, Locomotion
from .locomotion_guide import locomotion_guide
from .pca import PCA
from .recipe import Quantity, Training, trained_by
from .registry import Animal, register

ABLATION = ("both", "flow", "attention", "neither")
Z_P = 2


def guide_options(member: str = "both", physics_layers: int = 5, code_layers: int = 12) -> dict[str, Any]:
    """Return the options of ``locomotion_guide`` for one member of the ablation.

    Args:
        member: "both", "flow" (planar flows, perceptron), "attention" (diagonal Gaussians, attention) or "neither".
        physics_layers, code_layers: planar maps on z_P and on z_A2.

    Raises:
        ValueError: another member.
    """
    if member not in ABLATION:
        raise ValueError(f"member: got {member!r}, expected one of {', '.join(ABLATION)}")
    options: dict[str, Any] = {"family": "diagonal", "physics_family": "diagonal"}
    if member in ("both", "flow"):
        options = {
            "family": "planar",
            "physics_family": "planar",
            "options": {"layers": code_layers},
            "physics_options": {"layers": physics_layers},
        }
    if member in ("both", "attention"):
        options |= {"inner": "attention", "inner_options": {"features": 32, "layers": 1}}
    return options


FULL = guide_options()
FULL = {
    **FULL,
    "options": {**FULL["options"], "full": True},
    "physics_options": {**FULL["physics_options"], "full": True},
}
TRAINING: dict[str, Any] = {
    "guide": {**FULL, "physics_steps": 0},  # two numbers cannot fit a stride alone
    "objective": {"predictive": 0.003, "cleansing": 0.001},
    "steps": 1500,
    "learning_rate": 1e-3,
    "batch_size": 64,
    "finish": {"steps": 1500, "learning_rate": 1e-3, "batch_size": 128},
}


class AttentiveFlowLocomotion(Locomotion):
    """Joint angles of one stride, x of shape (101, 3) in rad, with a two-dimensional z_P.

    Args:
        correction_code: length of z_A2; the published 15 make 17 numbers a stride, 19 make 21.
        **options: of ``Locomotion``.
    """

    sites: Mapping[str, int] = {"z_P": Z_P}

    def __init__(self, correction_code: int = 15, **options: Any) -> None:
        super().__init__(correction_code, **options)

    def _start_unknowns(self) -> None:
        self.mean_unknowns = nn.Parameter(torch.zeros(UNKNOWNS))
        self.directions = nn.Parameter(0.1 * torch.eye(Z_P, UNKNOWNS))

    def priors(self) -> Mapping[str, Any]:
        """Return the standard normal prior of z_P."""
        zero = torch.zeros_like(self.directions[:, 0])
        return {"z_P": dist.Normal(zero, torch.ones_like(zero)).to_event(1)}

    def unknowns(self, z: Mapping[str, Tensor]) -> Tensor:
        """Return posture, q(0) and p(0), (..., 9)."""
        return self.mean_unknowns + z["z_P"] @ self.directions

    def _start_physics(self, scores: Tensor, found: PCA) -> tuple[Tensor, Tensor]:
        """Lay z_P along the two directions of the unknowns in which the motions of the training strides differ most."""
        motions = self._linear_motions(scores)
        fit = torch.linalg.pinv(motions)
        unknowns = scores @ found.axes @ fit
        _, spread, axes = torch.linalg.svd(unknowns @ motions, full_matrices=False)
        sd = spread[:Z_P] / (len(scores) - 1) ** 0.5
        self.mean_unknowns.copy_(found.mean @ fit)
        self.directions.copy_(sd[:, None] * (axes[:Z_P] @ fit))
        functional = found.axes @ fit @ motions @ axes[:Z_P].T / sd
        return functional, functional.new_zeros(Z_P)


register(
    Animal(
        name="locomotion_attentive_flow",
        title="Joint angles of human strides, attentive planar-flow VAE",
        physics="Hamilton's equations, learnt energy",
        likelihoods=("forward",),
        model=AttentiveFlowLocomotion,
        data=DATA.one,
        quantities={
            "z_P": Quantity("code of the unknowns of the physics", "1", ("physics_code",)),
            "z_A2": Quantity("code of the correction", "1", ("correction_code",)),
            "x": STRIDE,
        },
        recipe=trained_by(TRAINING),
        priors={"z_P": "Normal(0, I)", "z_A2": "Normal(0, I)"},
        source="Akhtar, arXiv:2404.12267; real strides: Lencioni et al., Sci. Data 6:309 (2019)",
        training=Training(
            splits=DATA.splits,
            kind="cleansing, planar",
            make=locomotion_guide,
            guide=TRAINING["guide"],
            objective=TRAINING["objective"],
            finish=TRAINING["finish"],
        ),
    )
)
