"""What a finite-element forward solve and its gradient cost beside the bare sum of their parts.

Darcy flow with a log-diffusivity field on 33 x 33 nodes, P1, one thread, CPU time. A forward and backward
pass through ``FEMProblem``, alone and in a batch, is timed against the six operations that it cannot do
without, called directly on dolfinx and PETSc with everything allocated beforehand and the same (Cholesky)
factorisation. Several rounds one after the other; the table holds the median round, the facts the ratio of every
round. Pass level: at most 1.3 times the parts, for a call with one sample (which also pays for torch's autograd) and
for a sample of a batch.

    python benchmarks/fem_cost.py [--repeats 300] [--rounds 7]
"""

# UFL and dolfinx annotate with unions of all that an operation might return.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportOperatorIssue=false
from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the linear algebra libraries load

import time
from collections.abc import Callable

import numpy as np
import torch
from _store import store

from physzoo.physics.fem import FEMProblem
from physzoo.physics.fem.problem import require_dolfinx

PASS_LEVEL = 1.3
CELLS = 32
BATCH = 8
SEED = 0


def darcy(quadrature_degree: int = 2):
    """The form, its state, its parameter and its boundary condition."""
    require_dolfinx()
    import ufl
    from dolfinx import fem, mesh
    from mpi4py import MPI

    square = mesh.create_unit_square(MPI.COMM_SELF, CELLS, CELLS)
    space = fem.functionspace(square, ("P", 1))
    u, log_k, v = fem.Function(space), fem.Function(space), ufl.TestFunction(space)
    dx = ufl.Measure("dx", square, metadata={"quadrature_degree": quadrature_degree})
    form = ufl.exp(log_k) * ufl.dot(ufl.grad(u), ufl.grad(v)) * dx - v * dx
    square.topology.create_connectivity(1, 2)
    boundary = fem.locate_dofs_topological(space, 1, mesh.exterior_facet_indices(square.topology))
    return form, u, log_k, fem.dirichletbc(0.0, boundary, space)


def bare_parts(field: np.ndarray) -> dict[str, Callable[[], object]]:
    """The operations of one solve and gradient, each as one call without arguments."""
    import ufl
    from dolfinx import fem
    from petsc4py import PETSc

    form, u, log_k, condition = darcy()
    space = u.function_space
    log_k.x.array[:] = field
    weight = fem.Function(space)
    vector_form = fem.form(form)
    matrix_form = fem.form(ufl.derivative(form, u))
    (test,) = form.arguments()
    gradient_form = fem.form(ufl.derivative(ufl.replace(form, {test: weight}), log_k, ufl.TestFunction(space)))
    matrix = fem.create_matrix(matrix_form)
    pointers, columns = matrix.indptr.astype(np.int32), matrix.indices
    size = (field.size, field.size)
    shared = PETSc.Mat().createAIJWithArrays(size, (pointers, columns, matrix.data), comm=PETSc.COMM_SELF)
    preconditioner = PETSc.PC().create(PETSc.COMM_SELF)
    shared.setOption(PETSc.Mat.Option.SYMMETRIC, True)
    preconditioner.setType("cholesky")
    preconditioner.setFactorOrdering("nd")
    preconditioner.setOperators(shared)
    vector, gradient = np.zeros(field.size), np.zeros(field.size)
    right, out = shared.createVecRight(), shared.createVecRight()

    def assemble_matrix() -> None:
        matrix.data[:] = 0.0
        fem.assemble_matrix(matrix, matrix_form, [condition])

    def assemble_vector() -> None:
        vector[:] = 0.0
        fem.assemble_vector(vector, vector_form)

    def assemble_gradient() -> None:
        gradient[:] = 0.0
        fem.assemble_vector(gradient, gradient_form)

    def factorise() -> None:
        shared.stateIncrease()
        preconditioner.setUp()

    assemble_matrix()
    assemble_vector()
    factorise()
    right.array[:] = vector
    return {
        "assemble the matrix": assemble_matrix,
        "assemble the vector": assemble_vector,
        "factorise": factorise,
        "solve": lambda: preconditioner.apply(right, out),
        "solve transposed": lambda: preconditioner.applyTranspose(right, out),
        "assemble the gradient": assemble_gradient,
    }


def one_round(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median CPU time of each call in milliseconds."""
    times = {name: np.empty(repeats) for name in calls}
    for repeat in range(-10, repeats):  # interleaved: a slow spell of the machine falls on all
        for name, call in calls.items():
            call()  # the timed call finds its data in the cache, as in a sampler's loop
            start = time.thread_time()
            call()
            if repeat >= 0:
                times[name][repeat] = time.thread_time() - start
    return {name: 1e3 * float(np.median(sample)) for name, sample in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    repeats, rounds = arguments.repeats, arguments.rounds
    torch.set_num_threads(1)
    form, u, log_k, condition = darcy()
    problem = FEMProblem(form, u, {"log_k": log_k}, [condition])
    generator = torch.Generator().manual_seed(SEED)
    fields = 0.3 * torch.randn(BATCH, (CELLS + 1) ** 2, generator=generator, dtype=torch.float64)
    weights = torch.randn(problem.free_dofs.numel(), generator=generator, dtype=torch.float64)

    def through_problem(z: torch.Tensor) -> Callable[[], object]:
        def call() -> None:
            u = problem.solve(z)
            torch.autograd.grad(u, z, weights.expand_as(u))

        return call

    one, batch = "FEMProblem, one sample", f"FEMProblem, a sample of a batch of {BATCH}"
    calls = {
        one: through_problem(fields[0].clone().requires_grad_()),
        **bare_parts(fields[0].numpy()),
        batch: through_problem(fields.clone().requires_grad_()),
    }
    medians = np.array([list(one_round(calls, repeats).values()) for _ in range(rounds)])  # (rounds, calls)
    names = list(calls)
    medians[:, names.index(batch)] /= BATCH
    parts = [names.index(name) for name in names if name not in (one, batch)]
    ratios = medians / medians[:, parts].sum(1, keepdims=True)
    typical = np.median(medians, axis=0)
    rows = [{"operation": names[i], "median_ms": typical[i]} for i in parts]
    rows.append({"operation": "sum of the parts", "median_ms": typical[parts].sum(), "ratio": 1.0})
    for name in (one, batch):
        i = names.index(name)
        rows.append({"operation": name, "median_ms": typical[i], "ratio": float(np.median(ratios[:, i]))})
    store(
        "fem_cost",
        rows,
        seed=SEED,
        repeats=repeats,
        nodes=f"{CELLS + 1} x {CELLS + 1}",
        threads=1,
        pass_level=PASS_LEVEL,
        rounds=rounds,
        ratios_by_round={name: sorted(ratios[:, names.index(name)].tolist()) for name in (one, batch)},
        passed=all(row["ratio"] <= PASS_LEVEL for row in rows[-2:]),
    )


if __name__ == "__main__":
    main()
