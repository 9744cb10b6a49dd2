"""Residual and its gradient against forward solve and its gradient, Darcy flow from 16 x 16 to 256 x 256 cells.

    python benchmarks/residual_cost.py [--rounds 15] [--cells 16 32 64 128 256]

Both are of ``darcy2d``'s problem, one thread, CPU time of a sample of a batch: |r(u, kappa)|^2 and its gradient towards u and
kappa, by tables and without a solve, in single and in double precision; H F(kappa) and the gradient of its square towards
kappa, by dolfinx and PETSc, in double precision, which the solve needs. The two take turns; medians of the rounds' times and
of their ratios, with the lowest and highest ratio. Pass level: residual at least 30 times as many samples a second as the
solve, on the animal's own mesh, 16 x 16.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the linear algebra libraries load

import time
from collections.abc import Callable
from statistics import median

import torch
from _store import store
from torch import Tensor

from physzoo.models.darcy2d import aquifer, permeability
from physzoo.physics.fem import FEMProblem

PASS_LEVEL = 30.0
OWN = 16  # cells of the animal
VALUES = 2**22  # nodal values in a batch of residuals
SOLVES = 32  # samples in a batch of solves, fewer on fine meshes
SEED = 0


def residual(problem: FEMProblem, u: Tensor, kappa: Tensor) -> None:
    """Evaluate |r|^2 with its gradients."""
    u, kappa = u.requires_grad_(), kappa.requires_grad_()
    torch.autograd.grad(problem.residual(u, kappa).square().sum(), (u, kappa))


def forward(problem: FEMProblem, kappa: Tensor) -> None:
    """Solve, read the wells, and take the gradient."""
    kappa = kappa.requires_grad_()
    torch.autograd.grad(problem.observe(problem.solve(kappa)).square().sum(), kappa)


def seconds(call: Callable[[], None], samples: int) -> float:
    """CPU time of a sample."""
    started = time.thread_time()
    call()
    return (time.thread_time() - started) / samples


def line(cells: int, rounds: int) -> dict[str, float | int]:
    """Return the row of one mesh."""
    problem = aquifer(cells)
    generator = torch.Generator().manual_seed(SEED)
    field = permeability(aquifer(OWN))  # coarse modes, laid on the mesh by the nearest node: the cost does not see them
    place = torch.cdist(problem.coordinates("kappa"), aquifer(OWN).coordinates("kappa")).argmin(1)
    batch = min(1024, max(8, VALUES // problem.free_dofs.numel() // 4))
    few = max(2, SOLVES * OWN**2 // cells**2 * 4)
    kappa = field(torch.randn(batch, 8, generator=generator, dtype=torch.float64))[:, place]
    u = 0.05 * torch.randn(batch, problem.free_dofs.numel(), generator=generator, dtype=torch.float64)
    single = u.float(), kappa.float()
    few = min(few, batch)
    calls: dict[str, tuple[Callable[[], None], int]] = {
        "residual_single_us": (lambda: residual(problem, *single), batch),
        "residual_double_us": (lambda: residual(problem, u, kappa), batch),
        "solve_us": (lambda: forward(problem, kappa[:few].detach()), few),
    }
    for call, _ in calls.values():
        call()  # tables, compiled forms, memory
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (call, samples) in calls.items():
            found[name].append(1e6 * seconds(call, samples))
    row: dict[str, float | int] = {"cells": cells, "unknown_nodes": problem.free_dofs.numel(), "batch": batch}
    row |= {name: median(values) for name, values in found.items()}
    for precision in ("single", "double"):
        pairs = zip(found["solve_us"], found[f"residual_{precision}_us"], strict=True)
        ratios = [solve / evaluation for solve, evaluation in pairs]
        row[f"ratio_{precision}"] = median(ratios)
        row |= {f"lowest_ratio_{precision}": min(ratios), f"highest_ratio_{precision}": max(ratios)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cells", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [line(cells, given.rounds) for cells in given.cells]
    own = next((row["ratio_single"] for row in rows if row["cells"] == OWN), None)
    store("residual_cost", rows, seed=SEED, rounds=given.rounds, threads=1, clock="CPU time of the thread",
          pass_level=PASS_LEVEL, passed=None if own is None else own >= PASS_LEVEL)  # fmt: skip


if __name__ == "__main__":
    main()
