"""A small grey-box model whose answers can be checked: decay with an unknown supply and an offset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from physzoo.models.grey_box import GreyBox
from physzoo.physics.grey_box import Decoded, GreyBoxODE


def decay(t: Tensor, state: Tensor, z: Mapping[str, Tensor]) -> Tensor:
    """du/dt = -rate u."""
    return -z["rate"][..., None] * state


class Supply(nn.Module):
    """f_A: a network of state and code, and a wave in time."""

    def __init__(self, states: int) -> None:
        super().__init__()
        self.net = nn.Linear(states + 1, states)

    def forward(self, t: Tensor, state: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        wave = (1.0 + 0.3 * torch.sin(2.0 * t))[..., None]
        return wave * torch.tanh(self.net(torch.cat([state, z["code"]], -1)))


class Decay(GreyBox):
    """du/dt = -rate u + f_A(u, z_A1),   x = u + W z_A2 + noise, at irregular times."""

    def __init__(self, noise: Any = "learnt", code: bool = True, gradient: str = "parallel") -> None:
        super().__init__({"z_A1": 1, "z_A2": 2} if code else {}, scale=0.1, noise=noise)
        times = torch.tensor([0.1, 0.3, 0.4, 1.0, 1.5])
        self.problem = GreyBoxODE(decay, Supply(1), times, t0=0.0, gradient=gradient, event_dims={"code": 1})
        self.correct = nn.Linear(2, 5, bias=False) if code else None

    def priors(self) -> Mapping[str, Any]:
        one = self.log_scale.new_ones(())
        return {
            "rate": dist.LogNormal(0.0 * one, 0.5 * one),
            "initial_state": dist.Normal(one[None] * 2, 0.5).to_event(1),
        }

    def physics(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Tensor:
        problem = self.problem if times is None else self.problem.at(times)
        return problem.incomplete({name: z[name] for name in ("rate", "initial_state")})

    def decode(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Decoded:
        problem = self.problem if times is None else self.problem.at(times)
        if self.correct is None:
            alone = self.physics(z, times)
            return Decoded(alone, alone, alone, alone)
        unknowns = {name: z[name] for name in ("rate", "initial_state")} | {"code": z["z_A1"]}
        together, alone = problem.branches(unknowns)
        correction = self.correct(z["z_A2"])[..., None] if times is None else torch.zeros_like(alone)
        return Decoded(together + correction, together, alone + correction, alone)
