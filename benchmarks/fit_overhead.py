"""What the driver costs: `fit` against a hand-written torch loop of the same model, guide and optimiser.

    python benchmarks/fit_overhead.py [--rounds 15]

A small variational auto-encoder (50 inputs, 128 hidden, 4 latents) on batches of 200. Both loops draw minibatches, compute the
ELBO by one draw, clip the gradient and step the same fused Adam; rounds alternate in one process, on one thread, after a
warm-up. The ratio is the median over the rounds of (fit / loop).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import pyro
import pyro.distributions as dist
import pyro.nn
import torch
from _store import store
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam  # type: ignore[attr-defined]
from torch import Tensor, nn

from physzoo.inference.fit import DataSets, fit
from physzoo.inference.fit.driver import FitOptions
from physzoo.inference.objectives import ELBO

SETS, INPUTS, LATENTS, HIDDEN, BATCH, STEPS = 1000, 50, 4, 128, 200, 300


def network(sizes: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ELU()]
    return nn.Sequential(*layers[:-1])


class Decoder(pyro.nn.PyroModule):
    """p(z) p(y | z) with a learnt noise scale."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network((LATENTS, HIDDEN, HIDDEN, INPUTS))
        self.log_noise = nn.Parameter(torch.zeros(()))

    def forward(self, y: Tensor | None = None) -> Tensor:
        z = pyro.sample("z", dist.Normal(torch.zeros(LATENTS), torch.ones(LATENTS)).to_event(1))
        return pyro.sample("y", dist.Normal(self.net(z), self.log_noise.exp()).to_event(1), obs=y)


class Encoder(pyro.nn.PyroModule):
    """q(z | y), diagonal."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network((INPUTS, HIDDEN, HIDDEN, 2 * LATENTS))

    def forward(self, y: Tensor) -> Tensor:
        loc, log_scale = self.net(y).chunk(2, -1)
        return pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def by_hand(model: Decoder, guide: Encoder, data: Tensor, steps: int) -> None:
    parameters = [*model.parameters(), *guide.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    prior = torch.distributions.Normal(torch.zeros(LATENTS), torch.ones(LATENTS), validate_args=False)
    losses, order = [], torch.randperm(SETS)
    for step in range(steps):
        place = step % (SETS // BATCH)
        if place == 0:
            order = torch.randperm(SETS)
        y = data[order[place * BATCH : (place + 1) * BATCH]]
        optimizer.zero_grad(set_to_none=True)
        loc, log_scale = guide.net(y).chunk(2, -1)
        q = torch.distributions.Normal(loc, log_scale.exp(), validate_args=False)
        z = q.rsample()
        likelihood = torch.distributions.Normal(model.net(z), model.log_noise.exp(), validate_args=False)
        loss = (q.log_prob(z).sum(-1) - prior.log_prob(z).sum(-1) - likelihood.log_prob(y).sum(-1)).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()
        losses.append(loss.item())


def by_fit(model: Decoder, guide: Encoder, data: Tensor, steps: int) -> None:
    options = FitOptions(steps=steps, progress=False, schedule="constant")
    fit(model, guide, DataSets({"y": data}, BATCH), ELBO(), options)


def by_svi(model: Decoder, guide: Encoder, data: Tensor, steps: int) -> None:
    """Stock Pyro for comparison."""
    pyro.clear_param_store()

    def batched(fn: nn.Module):
        def run(y: Tensor) -> Tensor:
            with pyro.plate("datasets", len(y), dim=-1):
                return fn(y)

        return run

    svi = SVI(batched(model), batched(guide), Adam({"lr": 1e-3}), Trace_ELBO())
    order = torch.randperm(SETS)
    for step in range(steps):
        place = step % (SETS // BATCH)
        svi.step(data[order[place * BATCH : (place + 1) * BATCH]])
    pyro.clear_param_store()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = torch.randn(SETS, INPUTS)
    loops = {"hand-written loop": by_hand, "fit": by_fit, "stock SVI": by_svi}
    parts = {name: (Decoder(), Encoder()) for name in loops}
    times: dict[str, list[float]] = {name: [] for name in loops}
    for name, loop in loops.items():
        loop(*parts[name], data, 50)
    for _ in range(parser.parse_args().rounds):
        for name, loop in loops.items():
            started = time.process_time()
            loop(*parts[name], data, STEPS)
            times[name].append((time.process_time() - started) / STEPS)
    base = times["hand-written loop"]
    rows = [
        {
            "loop": name,
            "cpu_ms_a_step": 1e3 * statistics.median(own),
            "ratio": statistics.median(a / b for a, b in zip(own, base, strict=True)),
        }
        for name, own in times.items()
    ]
    store("fit_overhead", rows, pass_level="fit at most 1.25 x the loop, aim 1.05", batch=BATCH, steps_a_round=STEPS)


if __name__ == "__main__":
    main()
