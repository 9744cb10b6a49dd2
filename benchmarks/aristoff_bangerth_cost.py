"""What a sample of the 64-block membrane costs: the solve, and the solve with the gradient of the log joint.

32 x 32 bilinear elements, 64 unknowns, 169 readings, float64, one thread, CPU time. Unknowns are prior draws. The
gradient of log p(log a, y) is taken by torch's autograd, of a density written out in torch and of the Pyro model's
trace; alone and in a batch, of which the table gives the cost of one sample. Calls are repeated as in a sampler's loop, the
operations take turns by rounds; the table holds the median of the rounds' medians, and the lowest and highest of them.
Pass level: 1.5 ms for a single sample with its gradient, written out in torch.

    python benchmarks/aristoff_bangerth_cost.py [--repeats 100] [--rounds 7]
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the linear algebra libraries load

import time
from collections.abc import Callable
from statistics import median

import pyro
import torch
from _store import store
from torch import Tensor

from physzoo.models.aristoff_bangerth import NOISE, PRIOR_MEAN, PRIOR_SD, AristoffBangerth, deflections

PASS_LEVEL = 1.5  # ms
BATCH = 16
WARM_UP = 10  # calls
SEED = 0


def operations(model: AristoffBangerth, data: dict[str, Tensor]) -> dict[str, Callable[[Tensor], object]]:
    """The three operations, each a function of log a, shape (..., 64)."""

    def forward(log_a: Tensor) -> Tensor:
        with torch.no_grad():
            return model.problem.observe(model.problem.solve(log_a))

    def written_out(log_a: Tensor) -> Tensor:
        misfit = (model.problem.observe(model.problem.solve(log_a)) - data["y"]) / NOISE
        return -0.5 * (misfit.square().sum() + ((log_a - PRIOR_MEAN) / PRIOR_SD).square().sum())

    def traced(log_a: Tensor) -> Tensor:
        with pyro.plate_stack("samples", log_a.shape[:-1]):
            found = pyro.poutine.trace(pyro.condition(model, {"log_a": log_a})).get_trace(**data)
        return torch.as_tensor(found.log_prob_sum())

    def gradient(density: Callable[[Tensor], Tensor]) -> Callable[[Tensor], object]:
        return lambda log_a: torch.autograd.grad(density(log_a), log_a)

    return {
        "forward": forward,
        "forward and gradient": gradient(written_out),
        "forward and gradient, Pyro model": gradient(traced),
    }


def milliseconds(call: Callable[[Tensor], object], log_a: Tensor) -> float:
    """CPU time of one call for one sample."""
    start = time.thread_time()
    call(log_a)
    return 1e3 * (time.thread_time() - start) / (log_a.numel() // log_a.shape[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = AristoffBangerth()
    draws = torch.randn(BATCH, 64, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    draws = PRIOR_MEAN + PRIOR_SD * draws
    samples = {"single": draws[0].clone().requires_grad_(), f"batch of {BATCH}": draws.clone().requires_grad_()}
    cases = {
        (name, size): (call, log_a)
        for name, call in operations(model, deflections()).items()
        for size, log_a in samples.items()
    }
    rounds: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for _ in range(options.rounds):
        for case, (call, log_a) in cases.items():
            # one after the other, as in a sampler's loop; the first ones warm up
            times = [milliseconds(call, log_a) for _ in range(WARM_UP + options.repeats)]
            rounds[case].append(median(times[WARM_UP:]))
    rows = [
        {
            "operation": name,
            "samples": size,
            "median_ms": median(found),
            "lowest_round_ms": min(found),
            "highest_round_ms": max(found),
        }
        for (name, size), found in rounds.items()
    ]
    store(
        "aristoff_bangerth_cost",
        rows,
        seed=SEED,
        repeats=options.repeats,
        rounds=options.rounds,
        threads=1,
        clock="CPU time of the thread",
        pass_level_ms=PASS_LEVEL,
        passed=median(rounds["forward and gradient", "single"]) <= PASS_LEVEL,
    )


if __name__ == "__main__":
    main()
