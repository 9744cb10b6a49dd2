"""Heat on a line that also drifts: the physics knows the diffusion alone, and the drift is learnt.

    dT/dt = a D T + A(z_A1) T,    T(0) = sum_k w_k / k^2 sin(k pi x / L),    x_n = T(t_n) + noise,    50 times, 0.02 apart

    a       ~ Uniform(0.005, 0.2)    the physics latent: diffusivity
    modes   ~ Normal(0, I), 6        w: the initial profile, which is not observed; it vanishes at both ends
    z_A1    ~ Normal(0, I), 4        code of the learnt part A

D takes second-order central differences on 20 points 0.1 apart, with the value 0 at one further point on either side. A is
a linear operator that is the same everywhere on the grid and constant in time: a stencil s(z_A1), learnt. So the whole
model is linear in T and is solved exactly, and its time can go on as long as one likes.

**What keeps a identifiable.** A free stencil contains D, and then the data say nothing about a: any share of the diffusion
could be the learnt part's. ``learnt="orthogonal"`` (the default) takes of all decompositions that give the same data the
one with the smallest learnt operator (Frobenius norm). The physics is linear in a, so by the projection theorem this is the
one in which A is orthogonal to D, and the constraint is built in instead of a penalty with a weight. It uses D, which the
physics knows, and nothing of advection: asymmetry, conservation and the sign are learnt. It says that whatever looks like D
is diffusion; were the missing part a reaction -c T, not orthogonal to D, a part of it would count as diffusion.

    "orthogonal"       2 reach + 1 coefficients less the direction of D
    "free"             2 reach + 1 coefficients: a is not identifiable without a regulariser (for the ablation)
    "antisymmetric"    reach coefficients, s_-j = -s_j: conserves heat and energy inside the grid; the strongest assumption

Source: system and set-up: Takeishi & Kalousis, arXiv:2102.13156, section 4.2; the smallest completion of a physical model:
Yin et al., arXiv:2010.04456.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from ..core.global_state import seeded
from ..core.require import whole
from ..guides.amortize import amortize
from ..guides.amortized_guide import AmortizedGuide
from ..guides.encoders.networks import MLP
from ..guides.families.flows import Flow
from ..physics.grey_box import Decoded
from ..physics.ode.linear import Banded, LinearODE
from .datasets.simulated import Simulated
from .grey_box import GreyBox, Noise
from .networks import mlp
from .recipe import Quantity, Training, trained_by
from .registry import Animal, register

POINTS, SPACING, STEPS, DT = 20, 0.1, 50, 0.02
LOWEST, HIGHEST = 0.005, 0.2
LARGEST = 5.0  # 1/time; norm of the learnt stencil's coefficients; those of the diffusion reach a / dx^2 = 20
Learnt = Literal["orthogonal", "free", "antisymmetric"]


class AdvectionDiffusion(GreyBox):
    """Advection and diffusion, of which only the diffusion is known.

    Args:
        dynamics_code: length of z_A1; 0 leaves the learnt part out.
        learnt: what stencils the learnt part may have, see above.
        reach: grid points to either side that the stencil sees.
        modes: sine modes of the initial profile.
        hidden: widths of the network that makes the stencil; none for a linear map of the code. Then directions of the
            code that do not matter are straight, and the posterior stays close to normal.
        squarings: of the matrix exponential, as for ``LinearODE``.
        noise: "learnt", "fixed" or "inferred".

    Raises:
        ValueError: an unknown kind of learnt part.
    """

    basis: Tensor
    profiles: Tensor
    diffusion: Tensor
    rates: Tensor
    vectors: Tensor
    unit: Tensor

    def __init__(
        self,
        dynamics_code: int = 4,
        learnt: Learnt = "orthogonal",
        reach: int = 1,
        modes: int = 6,
        hidden: tuple[int, ...] = (),
        squarings: int | None = 1,
        noise: Noise = "learnt",
    ) -> None:
        super().__init__({"z_A1": dynamics_code} if dynamics_code else {}, scale=0.003, noise=noise, event_dim=2)
        bases = {"orthogonal": _orthogonal, "free": torch.eye, "antisymmetric": _antisymmetric}
        if learnt not in bases:
            raise ValueError(f"learnt: got {learnt!r}, expected one of {', '.join(bases)}")
        whole("reach", reach, 1)
        self.register_buffer("basis", bases[learnt](2 * reach + 1), persistent=False)
        diffusion = Banded(POINTS)(_second()).double()
        rates, modes_of = torch.linalg.eigh(diffusion)
        self.register_buffer("diffusion", diffusion.float(), persistent=False)
        self.register_buffer("rates", rates.float(), persistent=False)
        self.register_buffer("vectors", modes_of.float(), persistent=False)
        x = torch.arange(POINTS) / (POINTS - 1)
        k = torch.arange(1, modes + 1).unsqueeze(-1)
        self.register_buffer("profiles", torch.sin(math.pi * k * x) / k**2, persistent=False)
        self.register_buffer("unit", torch.ones(modes), persistent=False)
        self.banded = Banded(POINTS, reach)
        self.problem = LinearODE(lambda z: z["operator"], torch.arange(STEPS) * DT, t0=0.0, squarings=squarings)
        self.stencil_net = mlp([dynamics_code, *hidden, len(self.basis)], start=1.0) if dynamics_code else None

    def priors(self) -> Mapping[str, Any]:
        """Return the priors of the diffusivity and of the modes of the initial profile."""
        one: Any = self.unit
        return {
            "a": dist.Uniform(LOWEST * one[0], HIGHEST * one[0]),
            "modes": dist.Normal(torch.zeros_like(one), one).to_event(1),
        }

    def stencil(self, z: Mapping[str, Tensor]) -> Tensor:
        """Return the learnt stencil, (..., 2 reach + 1), 1/time; offsets from -reach to reach."""
        if self.stencil_net is None:
            return torch.zeros_like(self.basis[0])
        free = self.stencil_net(z["z_A1"])
        # Bounded, so that no draw explodes, by a factor that leaves the direction as it is.
        return (free / (1.0 + (free / LARGEST).square().sum(-1, keepdim=True)).sqrt()) @ self.basis

    def physics(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Tensor:
        """Return the temperatures by diffusion alone, (..., T, 20): D is symmetric, and its modes decay by themselves."""
        times = self.problem.times if times is None else times.to(self.rates.dtype)
        amplitudes = (z["modes"] @ self.profiles @ self.vectors).unsqueeze(-2)
        decay = (z["a"][..., None, None] * times.unsqueeze(-1) * self.rates).exp()
        return (amplitudes * decay) @ self.vectors.mT

    def decode(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Decoded:
        """Return the four outputs, (..., T, 20) each; there is no correction after the dynamics."""
        problem = self.problem if times is None else self.problem.at(times)
        operator, initial = z["a"][..., None, None] * self.diffusion, z["modes"] @ self.profiles
        if self.stencil_net is None:
            alone = problem.solve({"operator": operator, "initial_state": initial})
            return Decoded(alone, alone, alone, alone)
        together = problem.solve({"operator": operator + self.banded(self.stencil(z)), "initial_state": initial})
        alone = self.physics(z, times)
        return Decoded(together, together, alone, alone)


class Standard(nn.Module):
    """The guide family that learns nothing: N(0, I), so that the Gauss-Newton approximation of each posterior is the guide.

    The posterior here is normal to a good approximation (1,000 numbers, 11 unknowns), and what is not learnt cannot lag
    behind a decoder that is.
    """

    def __init__(self, features: int, context: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, context: Tensor) -> Flow:
        """Return the standard normal with the batch shape of the context."""
        return Flow([], context.shape[:-1], context.new_zeros(self.features))


def refined_guide(
    model: AdvectionDiffusion,
    example: Mapping[str, Any],
    *,
    data: Tensor | None = None,
    refine: int = 6,
    seed: int = 0,
    **options: Any,
) -> AmortizedGuide:
    """Build q(a, modes, z_A1 | x) by Gauss-Newton steps through the model, called like ``cleansing_guide``.

    Args:
        model: the model; its decoder may be trained with the guide, which follows it.
        example: {"x": one data set, "mask": ...}.
        data: not used: the steps start from a regression on simulations of the model.
        refine: evaluations of the model and its Jacobian.
        seed, **options: as for ``amortize``.
    """
    with seeded(seed):  # only its standardisation is used: the family is the identity
        encoder = MLP(example, width=8, hidden=(16,))
    return amortize(model, encoder, Standard, example=example, seed=seed, refine=refine, **options)


def _second() -> Tensor:
    return torch.tensor([1.0, -2.0, 1.0]) / SPACING**2


def _orthogonal(size: int) -> Tensor:
    """An orthonormal basis of the stencils whose matrices are orthogonal to D, (size - 1, size).

    The diagonals of a matrix have different lengths, which is what weighs the coefficients in the product of matrices.
    """
    offsets = torch.arange(size) - size // 2
    lengths = (POINTS - offsets.abs()).double()
    second = torch.zeros(size, dtype=torch.float64)
    second[size // 2 - 1 : size // 2 + 2] = _second().double()
    normal = (lengths * second).unsqueeze(0)
    return torch.linalg.svd(normal).Vh[1:].float()


def _antisymmetric(size: int) -> Tensor:
    reach = size // 2
    right = torch.eye(size)[reach + 1 :]
    return (right - right.flip(-1)) / math.sqrt(2.0)


TRAINING: dict[str, Any] = {
    "make": refined_guide,
    "guide": {"refine": 6},
    "objective": {},
    "steps": 400,
    "learning_rate": 1e-2,
    "batch_size": 24,
}
"""One guide of all unknowns, by Gauss-Newton steps through the model, and the plain ELBO: model and noise are all that is learnt."""

CLEANSED: dict[str, Any] = {
    "guide": {},
    "objective": {"predictive": 1e-4, "cleansing": 0.01, "sleep": 1.0, "whole_sleep": 1.0},
    "steps": 4000,
    "learning_rate": 3e-3,
    "batch_size": 200,
}
"""A cleansing network and regularisers, as for the other grey boxes: for comparison."""


DATA = Simulated("advection_diffusion")


def _counterfactual(truths: Mapping[str, Tensor], factor: float) -> Tensor:
    from .datasets.advection_diffusion import trajectories

    return trajectories({**truths, "a": factor * truths["a"]})


def _continued(truths: Mapping[str, Tensor], frames: int) -> Tensor:
    from .datasets.advection_diffusion import trajectories

    return trajectories(truths, frames)


register(
    Animal(
        name="advection_diffusion",
        title="Diffusion of heat with an unknown wind, physics-integrated VAE",
        physics="incomplete PDE, 1D, linear",
        likelihoods=("forward",),
        model=AdvectionDiffusion,
        data=DATA.one,
        quantities={
            "a": Quantity("diffusivity", "length^2/time"),
            "modes": Quantity("sine mode of the initial profile", "temperature", ("mode",)),
            "z_A1": Quantity("code of the learnt stencil", "1", ("dynamics_code",)),
            "x": Quantity("temperature", "temperature", ("frame", "point")),
        },
        recipe=trained_by(TRAINING),
        priors={
            "a": "Uniform(0.005, 0.2)",
            "modes": "Normal(0, 1), entering as w_k / k^2",
            "z_A1": "Normal(0, I)",
        },
        source="Takeishi & Kalousis, NeurIPS 2021, arXiv:2102.13156; data simulated as there",
        training=Training(
            splits=DATA.splits,
            kind="Gauss-Newton",
            make=TRAINING["make"],
            guide=TRAINING["guide"],
            counterfactuals={"a": _counterfactual},
            continued=_continued,
        ),
    )
)
