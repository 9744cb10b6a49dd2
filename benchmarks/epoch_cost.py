"""CPU seconds per epoch at the published architecture: our driver against a hand-written loop of the same computation.

    python benchmarks/epoch_cost.py [--epochs 20] [--rounds 5]

1,000 pendulums, batch 200, forward Euler at the data step, perceptrons 128-128 for the dynamics, the correction, the cleansing
and each encoder. The loop is plain torch: two unrolled Euler solves (completed and incomplete equation) for the four outputs, a
third without a gradient for the simulations of the sleep loss, the same losses, Adam and clipping. Both run one after the
other in each round, on one thread; the ratio is the median over rounds. Pass level 0.7 of the loop, aim 0.4.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from _store import store
from pyro import distributions as dist
from torch import Tensor, nn

from physzoo.guides import MLP
from physzoo.guides.cleansing import cleansing_guide
from physzoo.inference.fit import DataSets, fit
from physzoo.inference.objectives import GreyBoxELBO
from physzoo.models.datasets import pendulum as data
from physzoo.models.grey_box import GreyBox
from physzoo.models.networks import mlp
from physzoo.models.pendulum import frictionless
from physzoo.physics.grey_box import Decoded, GreyBoxODE

FRAMES, STEP, BATCH, SETS = data.FRAMES, data.STEP, 200, 1000
LOW, HIGH, START = 0.392, 3.53, (1.0, 0.1)
WEIGHTS: dict[str, Any] = {"predictive": 0.01, "cleansing": 0.01, "sleep": 1.0}
RATE = 1e-3


class Acceleration(nn.Module):
    """f_A: a perceptron of state and code, no matter what time it is."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp([3, 128, 128, 1])

    def forward(self, t: Tensor, state: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        force = self.net(torch.cat([state, z["code"]], -1))
        return torch.cat([torch.zeros_like(force), force], -1)


class Published(GreyBox):
    """The published set-up: z_A1 of length 1 in the dynamics, z_A2 of length 2 after it, Euler."""

    def __init__(self, gradient: str) -> None:
        super().__init__({"z_A1": 1, "z_A2": 2}, scale=0.05)
        times = data.frame_times(FRAMES).float()
        options: dict[str, Any] = {"method": "euler", "gradient": gradient, "event_dims": {"code": 1}}
        self.problem = GreyBoxODE(frictionless, Acceleration(), times, **options)
        self.correction_net = mlp([2, 128, 128, FRAMES])

    def priors(self) -> Mapping[str, Any]:
        sd = torch.tensor(START)
        return {"omega": dist.Uniform(LOW, HIGH), "initial_state": dist.Normal(torch.zeros(2), sd).to_event(1)}

    def physics(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Tensor:
        return self.problem.incomplete({name: z[name] for name in ("omega", "initial_state")})[..., :1]

    def decode(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Decoded:
        unknowns = {"omega": z["omega"], "initial_state": z["initial_state"], "code": z["z_A1"]}
        together, alone = (path[..., :1] for path in self.problem.branches(unknowns))
        correction = self.correction_net(z["z_A2"]).unsqueeze(-1)
        return Decoded(together + correction, together, alone + correction, alone)


class Ours:
    """The driver on the published set-up."""

    def __init__(self, x: Tensor, gradient: str) -> None:
        torch.manual_seed(0)
        self.data = DataSets({"x": x}, batch_size=BATCH)
        self.model = Published(gradient)
        encoders = [MLP({"x": x[0]}, width=128, hidden=(128,)) for _ in range(2)]
        self.guide = cleansing_guide(
            self.model, {"x": x[0]}, data=x, encoder=encoders[0], physics_encoder=encoders[1],
            family="diagonal", physics_family="diagonal",
        )  # fmt: skip
        self.run(1)

    def run(self, epochs: int) -> None:
        steps = epochs * SETS // BATCH
        options: dict[str, Any] = {"steps": steps, "learning_rate": RATE, "progress": False, "max_skipped": 10}
        fit(self.model, self.guide, self.data, GreyBoxELBO(**WEIGHTS), **options)


def elu_net(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 128), nn.ELU(), nn.Linear(128, 128), nn.ELU(), nn.Linear(128, outputs)
    )  # fmt: skip


class Plain:
    """The same by hand: torch alone, unrolled solves."""

    def __init__(self, x: Tensor) -> None:
        torch.manual_seed(0)
        self.x = x[..., 0]
        self.codes, self.latent = elu_net(FRAMES, 6), elu_net(FRAMES, 6)
        self.cleanse, self.dynamics, self.correct = elu_net(FRAMES + 3, FRAMES), elu_net(3, 1), elu_net(2, FRAMES)
        for net in (self.dynamics, self.correct):
            with torch.no_grad():
                for parameter in net[-1].parameters():
                    parameter.mul_(0.1)
        self.log_sd = nn.Parameter(torch.tensor(math.log(0.05)))
        nets = (self.codes, self.latent, self.cleanse, self.dynamics, self.correct)
        self.parameters = [p for net in nets for p in net.parameters()] + [self.log_sd]
        self.optimizer = torch.optim.Adam(self.parameters, lr=RATE, fused=True)
        self.start_sd = torch.tensor(START)
        self.run(1)

    def solve(self, omega: Tensor, start: Tensor, code: Tensor | None) -> Tensor:
        state, path = start, [start[:, 0]]
        for _ in range(FRAMES - 1):
            angle, velocity = state[:, 0], state[:, 1]
            force = -omega.square() * angle.sin()
            if code is not None:
                force = force + self.dynamics(torch.cat([state, code], -1)).squeeze(-1)
            state = state + STEP * torch.stack([velocity, force], -1)
            path.append(state[:, 0])
        return torch.stack(path, -1)

    def split(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and log sd of the unknowns in unconstrained space; the prior's density there."""
        return raw[:, :1], raw[:, 1:3], raw[:, 3:4], raw[:, 4:]

    def log_normal(self, value: Tensor, mean: Tensor | float, log_sd: Tensor) -> Tensor:
        return (-0.5 * ((value - mean) / log_sd.exp()).square() - log_sd - 0.5 * math.log(2 * math.pi)).sum(-1)

    def log_jacobian(self, u: Tensor) -> Tensor:
        return (math.log(HIGH - LOW) - nn.functional.softplus(-u) - nn.functional.softplus(u)).squeeze(-1)

    def log_q(self, x: Tensor, u: Tensor, start: Tensor) -> Tensor:
        m_u, m_s, l_u, l_s = self.split(self.latent(x))
        return self.log_normal(u, m_u, l_u) + self.log_normal(start, m_s, l_s) - self.log_jacobian(u)

    def loss(self, x: Tensor) -> Tensor:
        sd, zero = self.log_sd.exp(), torch.zeros(3)
        mean, log_sd = self.codes(x).chunk(2, -1)
        code = mean + log_sd.exp() * torch.randn_like(mean)
        log_q = self.log_normal(code, mean, log_sd)
        cleansed = x + self.cleanse(torch.cat([x, code], -1))
        m_u, m_s, l_u, l_s = self.split(self.latent(cleansed))
        u, start = m_u + l_u.exp() * torch.randn_like(m_u), m_s + l_s.exp() * torch.randn_like(m_s)
        log_q = log_q + self.log_normal(u, m_u, l_u) + self.log_normal(start, m_s, l_s) - self.log_jacobian(u)
        omega = LOW + (HIGH - LOW) * u.squeeze(-1).sigmoid()
        log_p = -math.log(HIGH - LOW) + self.log_normal(start, 0.0, self.start_sd.log())
        log_p = log_p + self.log_normal(code, 0.0, zero)
        together, alone = self.solve(omega, start, code[:, :1]), self.solve(omega, start, None)
        correction = self.correct(code[:, 1:])
        full, without_dynamics = together + correction, alone + correction
        log_p = log_p + self.log_normal(x, full, self.log_sd.expand(FRAMES))
        variance = sd.detach().square()
        pairs = ((together, alone), (without_dynamics, alone), (full, together), (full, without_dynamics))
        apart = sum((a - b).square().sum(-1).mean() for a, b in pairs) / variance
        tidy = (cleansed - alone.detach()).square().sum(-1).mean() / variance
        with torch.no_grad():
            share = torch.rand(len(x))
            drawn = self.start_sd * torch.randn(len(x), 2)
            seen = self.solve(LOW + (HIGH - LOW) * share, drawn, None)
            seen = seen + sd * torch.randn_like(seen)
        sleep = -self.log_q(seen, share.logit(1e-6).unsqueeze(-1), drawn).mean()
        elbo = (log_q - log_p).mean()
        return elbo + 0.25 * WEIGHTS["predictive"] * apart + WEIGHTS["cleansing"] * tidy + WEIGHTS["sleep"] * sleep

    def run(self, epochs: int) -> None:
        for _ in range(epochs):
            for rows in torch.randperm(SETS).split(BATCH):
                self.optimizer.zero_grad(set_to_none=True)
                loss = self.loss(self.x[rows])
                if not math.isfinite(loss.item()):
                    continue
                loss.backward()
                nn.utils.clip_grad_norm_(self.parameters, 10.0)
                self.optimizer.step()


def seconds(run: Any, epochs: int) -> float:
    started = time.process_time()
    run(epochs)
    return (time.process_time() - started) / epochs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    x = data.generate(seed=0, sizes=(SETS, 1, 1)).train.x
    runs = {"plain torch": Plain(x).run}
    runs |= {f"physzoo, {name}": partial(Ours(x, name).run) for name in ("unrolled", "parallel")}
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(given.rounds):
        for name, run in runs.items():
            took[name].append(seconds(run, given.epochs))
    rows = []
    for name, values in took.items():
        ratios = [a / b for a, b in zip(values, took["plain torch"], strict=True)]
        row = {"what": name, "cpu_seconds_per_epoch": statistics.median(values), "ratio": statistics.median(ratios)}
        rows.append({**row, "lowest_ratio": min(ratios), "highest_ratio": max(ratios)})
    store("epoch_cost", rows, epochs=given.epochs, rounds=given.rounds, pass_level=0.7, aim=0.4)


if __name__ == "__main__":
    main()
