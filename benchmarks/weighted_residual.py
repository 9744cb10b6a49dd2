"""B2: the state learnt from weighted residuals, no solve in the training loop (1D elliptic problem, and Darcy flow in 2D).

    python benchmarks/weighted_residual.py [--quick]

Part "q(u | z)": p_beta(u | z) ~ exp(-|r(u, z)|^2 / (2 s_r^2)) is Gaussian in closed form, and so is every q(u | z) here:
the KL is exact, in nats per degree of freedom, its mean over 1,000 fresh z from the prior. s_r = 1e-2 of the load. Three
kinds of test functions: 63 finite-element hats and 12 sines for the bar of ``poisson1d`` (8 unknowns), 30 random points a
step for the strong form (5 Chebyshev coefficients). Guides:

    plain network     mean and Cholesky factor by one network, exact at the prior's centre, s_r lowered in three stages
    preconditioned    ``PreconditionedGuide`` with 1, 2, ... steps of its mean; one training for all of them
    not trained       the same before training: what the network adds to the scaled inverse at the prior mean
    exact limit       the closed form itself, one solve a draw: what is left is the error of the test functions

"relative_l2" is of the mean to the finite-element solution (1D: exact at the nodes; random points: 2,048 elements), "projected"
that of the best state in the basis. Whiteness: R (u - A^-1 f) of one draw for each z must be N(0, I), Kolmogorov-Smirnov by
entry and for the energy, Holm; the same with sd x 0.8, which costs .043 nat a degree of freedom only: the bar of the KL lets
it pass, whiteness rejects it. Pass level: KL < 0.05 nat a degree of freedom, relative L2 < 1 %, white. The last case is ``darcy2d``
with 8 unknowns, 256 fresh z.

Part "q(u | z) q(z)" puts the guide of two unknowns, trained under the prior, in the place of ``ResidualGuide``, 8 sensors with
2 % noise, log-determinant included: q(z) in total variation to the forward posterior on a grid. Its start, too, comes from the
guide's mean instead of a solver.

Part "inverse head" learns p_theta(z | u), a flow around Gauss-Newton's estimate: first from the pairs of a fixed q(u | z), then
both together by the ELBO of PDDLVM. The head is judged on its own pairs (512, simulation-based calibration, sd x 0.8 beside it),
q(u | z) by its distance to p_beta and by how often its 95 % intervals hold the finite-element solution. Settings were found
with other seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from _store import Rows, store
from _weighted import (
    Gaussian,
    PlainNetwork,
    Target,
    conditional,
    from_residual,
    judged,
    of_problem,
    trained_under_prior,
)
from _weighted_inverse import InverseHead, structured_row
from pyro import distributions as dist
from residual_tv import CASES
from torch import Tensor

from physzoo.guides import PreconditionedGuide
from physzoo.models.darcy2d import CELLS, MODES, aquifer, permeability
from physzoo.models.poisson1d import bar
from physzoo.physics import Collocation, Elliptic1D, Galerkin
from physzoo.physics.elliptic import sines

SEED = 52000
HELD_OUT, HELD_OUT_2D = 1000, 256
SCALE = 1e-2
NODES, SINES, POLYNOMIALS, POINTS, FINE = 63, 12, 16, 30, 2048
STEPS, TRAINED_WITH = (1, 2, 3, 4, 6), 4
PLAIN = 500
TRAINING = {
    "63 hats": 1500,
    "12 sines": 1500,
    "30 random points": 1200,
    "63 hats, 2 unknowns": 600,
    "225 hats in 2D": 300,
}
DATA, FITTED, FIT = 3, 1, 600
HEAD = {"head alone": 300, "together": 300}


def normal(dimension: int) -> dist.TorchDistribution:
    """z ~ N(0, I)."""
    return dist.Normal(torch.zeros(dimension, dtype=torch.float64), 1.0).to_event(1)


def of_bar(name: str, problem: Any, size: int, on_grid: Callable[[Tensor], Tensor], modes: int) -> Target:
    """The target of the bar's residual, weighted with hats or with what ``problem`` makes of them."""
    load = 1 / (NODES + 1)
    energy, exact = partial(from_residual, problem), of_problem(problem, size)
    return Target(name, size, normal(modes), energy, exact, on_grid, bar(modes).solve, load, SCALE * load, problem)


def hats(modes: int = 8) -> Target:
    """The bar's own residual."""
    name = "63 hats" if modes == 8 else f"63 hats, {modes} unknowns"
    return of_bar(name, bar(modes), NODES, lambda u: u, modes)


def of_sines() -> Target:
    """The bar's residual weighted with sines."""
    problem = Galerkin(bar(), sines(NODES, SINES, torch.float64))
    return of_bar("12 sines", problem, SINES, problem.state, 8)


def random_points() -> Target:
    """The strong form at random points, fresh ones at every step; the closed form has them marginalised."""
    problem = Collocation(POLYNOMIALS, POINTS, dtype=torch.float64)
    middle = -1 + (torch.arange(FINE, dtype=torch.float64) + 0.5) * 2 / FINE
    field: Any = lambda z: problem.conductivity(z, middle).log()  # noqa: E731
    elements = Elliptic1D(field, [0.0], FINE, domain=(-1.0, 1.0), dtype=torch.float64)

    def energy(u: Tensor, z: Tensor, scale: float) -> Tensor:
        x = 2 * torch.rand(POINTS, dtype=z.dtype) - 1
        return 0.5 * (problem.at_points(u, z, x) / scale).square().sum(-1)

    def exact(z: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        matrix, _ = problem.normal_equations(z)
        return problem.solve(z), torch.linalg.cholesky(matrix).mT / scale

    on_grid = partial(problem.state, x=elements.nodes[1:-1])
    edge = torch.ones(5, dtype=torch.float64)
    prior: Any = dist.Uniform(-edge, edge).to_event(1)
    name = f"{POINTS} random points"
    return Target(name, POLYNOMIALS, prior, energy, exact, on_grid, elements.solve, 1.0, SCALE, problem, True)


def darcy() -> Target:
    """Darcy flow in two dimensions by tables; the residual is batched and needs no assembly."""
    problem = aquifer()
    size, load, field = problem.free_dofs.numel(), 1 / CELLS**2, permeability(problem)

    def fine(z: Tensor) -> Tensor:
        return problem.solve(field(z))

    parts = partial(from_residual, problem, field=field), of_problem(problem, size, field), lambda u: u, fine
    return Target(f"{size} hats in 2D", size, normal(MODES), *parts, load, SCALE * load, problem, field=field)


def row(
    target: Target, guide: str, q: Gaussian, seed: int, z: Tensor, seconds: float, evaluations: int, solves: int = 0
) -> Any:
    """One line of the table."""
    found = judged(target, q, z, seed)
    passed = found["kl_per_dof"] < 0.05 and found["relative_l2"] < 0.01 and found["smallest_holm_p"] > 0.01
    first = {"part": "q(u | z)", "case": target.name, "dof": target.size, "guide": guide}
    return first | found | {
        "passed": passed, "cpu_seconds": seconds, "evaluations": evaluations, "solves_a_draw": solves,
    }  # fmt: skip


def limit(target: Target, z: Tensor, seed: int) -> dict[str, Any]:
    """The closed form, and the best that the basis can do."""
    with torch.no_grad():
        mean, root = target.exact(z, target.scale)
        factor = torch.linalg.inv(root)
        unit = target.on_grid(torch.eye(target.size, dtype=z.dtype)).T
        fine = target.fine(z)
        best = torch.linalg.lstsq(unit, fine.T).solution.T @ unit.T
    projected = float(((best - fine).norm(dim=-1) / fine.norm(dim=-1)).mean())
    return row(target, "exact limit", Gaussian(mean, factor), seed, z, 0.0, 0, 1) | {"projected": projected}


def plain(target: Target, z: Tensor, seed: int, steps: int) -> dict[str, Any]:
    """One network for mean and factor."""
    began = time.process_time()
    network = PlainNetwork(target, seed)
    network.train(steps, seed)
    return row(target, "plain network", network(z), seed, z, time.process_time() - began, 0)


def add_preconditioned(
    rows: Rows, target: Target, z: Tensor, less: int, seed: int, **options: Any
) -> Callable[[], PreconditionedGuide]:
    """Add the lines of one training, with several numbers of steps of the mean; return what gives its guide, with the most."""

    @cache
    def training() -> tuple[PreconditionedGuide, PreconditionedGuide, float]:
        began = time.process_time()
        start, guide = trained_under_prior(target, TRAINED_WITH, TRAINING[target.name] // less, seed, **options)
        return start, guide, time.process_time() - began

    def make(trained: bool, count: int) -> dict[str, Any]:
        start, guide, seconds = training()
        one = guide if trained else start
        one.steps = count
        name = f"{'preconditioned' if trained else 'not trained'}, {count} step{'s' * (count > 1)}"
        return row(target, name, conditional(one, z), seed, z, seconds * trained, one.evaluations)

    for trained, count in [(False, TRAINED_WITH), (False, STEPS[-1]), *((True, count) for count in STEPS)]:
        rows.add((target.name, trained, count), partial(make, trained, count))

    def most() -> PreconditionedGuide:
        guide = training()[1]
        guide.steps = STEPS[-1]  # whichever lines were made in this run
        return guide

    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the training, another seed, nothing stored")
    options = parser.parse_args()
    torch.set_num_threads(1)
    less, seed = (10, SEED + 500) if options.quick else (1, SEED)
    rows = Rows("weighted_residual_quick" if options.quick else "weighted_residual")
    for target in (hats(), of_sines(), random_points()):
        z = target.draw(HELD_OUT, seed + 1)
        rows.add((target.name, "limit"), partial(limit, target, z, seed))
        rows.add((target.name, "plain"), partial(plain, target, z, seed, PLAIN // less))
        add_preconditioned(rows, target, z, less, seed)
    target = hats(2)
    guide = add_preconditioned(rows, target, target.draw(HELD_OUT, seed + 1), less, seed)
    for case in CASES[:FITTED]:
        rows.add(
            (case.label,),
            lambda case=case: structured_row(case, guide(), range(seed + 10, seed + 10 + DATA), FIT // less),
        )
    heads = InverseHead(target, guide, seed + 100, {name: steps // less for name, steps in HEAD.items()})
    for name in HEAD:
        rows.add(("head", name), partial(heads.line, name))
    target = darcy()
    add_preconditioned(rows, target, target.draw(HELD_OUT_2D, seed + 1), less, seed, particles=64, modes=48)
    if not options.quick:
        store("weighted_residual", rows, seed=SEED, held_out=HELD_OUT, residual_scale=SCALE)
    rows.done()


if __name__ == "__main__":
    main()
