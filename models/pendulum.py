"""A pendulum with incomplete physics: friction and forcing are unknown and learnt.

    theta'' = -omega^2 sin theta + f_A,     x_n = theta(t_n) + f_B(t_n) + noise,   50 times, 0.05 s apart

    omega         ~ Uniform(0.392, 3.53)       1/s, the physics latent
    initial_state ~ Normal(0, (1, 0.1))        angle, rad, and angular velocity, rad/s, at t = 0
    z_A1          ~ Normal(0, I) or learnt     code of the dynamics f_A
    z_A2          ~ Normal(0, I)               code of the correction f_B

f_A = c_1 theta' + omega^p sum_k (a_k cos 2 pi f_k t + b_k sin 2 pi f_k t), with coefficients by a network of z_A1,
frequencies up to 8 Hz and a learnt power p (0 at the start); f_B is a series on the same basis with coefficients by a
network of z_A2. The data are made with friction and a sinusoidal force of unknown strength and frequency, of which the
physics knows nothing.

Source: Takeishi & Kalousis, arXiv:2102.13156, section 4.1; set-up of learnt parts by physzoo.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from ..physics.grey_box import Decoded, GreyBoxODE
from .datasets.simulated import Simulated
from .grey_box import GreyBox, Noise
from .networks import mlp
from .recipe import Quantity, Training, trained_by
from .registry import Animal, register

STEPS, DT = 50, 0.05
TIMES = tuple(round(DT * n, 2) for n in range(STEPS))
LOWEST, HIGHEST = 0.392, 3.53


def frictionless(t: Tensor, state: Tensor, z: Mapping[str, Tensor]) -> Tensor:
    """Return d(theta, theta')/dt = (theta', -omega^2 sin theta) for a state (..., 2)."""
    angle, velocity = state.unbind(-1)
    return torch.stack([velocity, -z["omega"].square() * angle.sin()], -1)


class Friction(nn.Module):
    """f_A: an acceleration linear in the velocity plus a Fourier series in time."""

    frequencies: Tensor

    def __init__(self, frequencies: Tensor) -> None:
        super().__init__()
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor, state: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        """Return (0, f_A), (..., 2)."""
        force = z["friction"] * state[..., 1] + (z["force"] * fourier(t, self.frequencies)).sum(-1)
        return torch.stack([torch.zeros_like(force), force], -1)


def fourier(t: Tensor, frequencies: Tensor) -> Tensor:
    """Return cos and sin of 2 pi f t, shape (*t.shape, 2 F)."""
    phase = 2.0 * torch.pi * t[..., None] * frequencies
    return torch.cat([phase.cos(), phase.sin()], -1)


class Pendulum(GreyBox):
    """The pendulum of which only gravity is known.

    Args:
        dynamics_code, correction_code: lengths of z_A1 and z_A2; 0 leaves that part out.
        substeps: Runge-Kutta steps between frames.
        method, gradient, compile: solver and its derivative, as for ``ODEProblem``.
        hidden: widths of the two networks.
        noise: "learnt", "fixed" or "inferred".
        learnt_prior: give z_A1 a learnt prior (a spline flow) instead of Normal(0, I).
    """

    lowest: Tensor

    def __init__(
        self,
        dynamics_code: int = 4,
        correction_code: int = 2,
        substeps: int = 1,
        method: str = "rk4",
        gradient: str = "parallel",
        hidden: tuple[int, ...] = (64, 64),
        noise: Noise = "learnt",
        learnt_prior: bool = False,
        compile: bool = False,
    ) -> None:
        codes = {"z_A1": dynamics_code, "z_A2": correction_code}
        codes = {name: length for name, length in codes.items() if length}
        learnt: dict[str, nn.Module] = {}
        if learnt_prior:
            from ..guides.families.prior import LearntPrior

            learnt = {"z_A1": LearntPrior(dynamics_code)}
        super().__init__(codes, scale=0.05, noise=noise, event_dim=2, code_priors=learnt)
        frequencies = torch.arange(0, 21) * 0.4  # Hz, to the Nyquist limit less a fifth
        size = 2 * len(frequencies)
        times = torch.arange(STEPS) * DT
        self.problem = GreyBoxODE(
            frictionless,
            Friction(frequencies),
            times,
            method=method,
            substeps=substeps,
            gradient=gradient,
            compile=compile,
            event_dims={"force": 1},
        )
        self.dynamics_net = mlp([dynamics_code, *hidden, 1 + size]) if dynamics_code else None
        if dynamics_code:
            self.power = nn.Parameter(torch.zeros(()))
        self.correction_net = mlp([correction_code, *hidden, size]) if correction_code else None
        self.register_buffer("start_sd", torch.tensor([1.0, 0.1]))

    def priors(self) -> Mapping[str, Any]:
        """Return the priors of omega and of the initial state."""
        sd: Any = self.start_sd
        return {
            "omega": dist.Uniform(LOWEST * sd[0], HIGHEST * sd[0]),
            "initial_state": dist.Normal(torch.zeros_like(sd), sd).to_event(1),
        }

    def physics(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Tensor:
        """Return the angle of the frictionless pendulum, (..., T, 1)."""
        problem = self.problem if times is None else self.problem.at(times)
        return problem.incomplete({name: z[name] for name in ("omega", "initial_state")})[..., :1]

    def decode(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Decoded:
        """Return the four outputs, (..., T, 1) each."""
        problem = self.problem if times is None else self.problem.at(times)
        unknowns = {name: z[name] for name in ("omega", "initial_state")}
        if self.dynamics_net is None:
            alone = together = problem.incomplete(unknowns)[..., :1]
        else:
            coefficients = self.dynamics_net(z["z_A1"])
            omega = z["omega"].clamp_min(1e-30)  # a counterfactual may set it to zero
            force = coefficients[..., 1:] * (omega.log() * self.power).exp()[..., None]
            unknowns |= {"friction": coefficients[..., 0], "force": force}
            together, alone = (path[..., :1] for path in problem.branches(unknowns))
        if self.correction_net is None:
            return Decoded(together, together, alone, alone)
        basis = fourier(problem.times, problem.dynamics.frequencies)  # type: ignore[union-attr]
        correction = (self.correction_net(z["z_A2"]) @ basis.T).unsqueeze(-1)
        return Decoded(together + correction, together, alone + correction, alone)


TRAINING: dict[str, Any] = {
    "guide": {},
    "objective": {"predictive": 0.01, "cleansing": 0.01, "sleep": 1.0, "whole_sleep": 1.0},
    "steps": 6000,
    "learning_rate": 3e-3,
    "batch_size": 200,
    "finish": {"steps": 2500, "learning_rate": 2e-3, "batch_size": 256},
}


DATA = Simulated("pendulum")


def _counterfactual(truths: Mapping[str, Tensor], factor: float) -> Tensor:
    from .datasets.pendulum import counterfactual

    return counterfactual(truths, factor)


def _continued(truths: Mapping[str, Tensor], frames: int) -> Tensor:
    from .datasets.pendulum import frame_times, trajectories

    return trajectories(truths, frame_times(frames))[..., :1]


register(
    Animal(
        name="pendulum",
        title="Pendulum with unknown friction and forcing, physics-integrated VAE",
        physics="incomplete ODE",
        likelihoods=("forward",),
        model=Pendulum,
        data=DATA.one,
        quantities={
            "omega": Quantity("angular frequency", "1/s"),
            "initial_state": Quantity(
                "initial state", "rad, rad/s", ("component",), {"component": ("angle", "velocity")}
            ),
            "z_A1": Quantity("code of friction and forcing", "1", ("dynamics_code",)),
            "z_A2": Quantity("code of the correction", "1", ("correction_code",)),
            "x": Quantity("angle", "rad", ("time", "channel"), {"time": TIMES}, {"time": "s"}),
        },
        recipe=trained_by(TRAINING),
        priors={
            "omega": "Uniform(0.392, 3.53)",
            "initial_state": "Normal(0, 1) rad and Normal(0, 0.1) rad/s",
            "z_A1": "Normal(0, I)",
            "z_A2": "Normal(0, I)",
        },
        source="Takeishi & Kalousis, NeurIPS 2021, arXiv:2102.13156; data simulated as there",
        training=Training(
            splits=DATA.splits,
            objective=TRAINING["objective"],
            finish=TRAINING["finish"],
            counterfactuals={"omega": _counterfactual},
            continued=_continued,
        ),
    )
)
