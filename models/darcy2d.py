"""Permeability of an aquifer from the head in a few wells: the 2D elliptic inverse problem.

    -div(exp(kappa) grad u) = 1  on the unit square,   u = 0 on its border
    kappa = sum_k sqrt(l_k) phi_k z_k      Karhunen-Loeve modes of exp(-|x - x'| / 0.3)
    z_k ~ Normal(0, 1)                     k = 1..8 (64 % of the variance kept; 16: 75 %)
    y_j ~ Normal(u(x_j), 0.0015)           5 x 5 wells at (i/6, j/6), noise 2 % of max u at z = 0

kappa and u are linear on the triangles of a 16 x 16 mesh; exp(kappa) is taken in the middle of each, which is as accurate
as linear elements are (Ciarlet, The Finite Element Method for Elliptic Problems, 1978, theorem 4.1.6). The mesh's diagonals
break the symmetry of the square and so tell apart modes of equal eigenvalue (relative gap 1e-3). Two likelihoods of the same
problem:

    forward    u = F(z): 0.2 ms a sample with its gradient
    residual   u free with a flat prior, 0 ~ Normal(r(u, z), s_r) and the factor |det dr/du|: no solve, but a
               factorisation; the same posterior of z as s_r -> 0. Without the factor the posterior is another one.

Without y the model is the simulator of an amortised fit; it takes no gradient then and keeps no
factorisation. What cannot be solved gets log-density -inf. Needs dolfinx (the extra ``fem``), which loads when the model is built.

Source: setting of Zhu, Zabaras, Koutsourelakis, Perdikaris, arXiv:1901.06314, and Glyn-Davies et al.,
arXiv:2409.06560; set-up by physzoo.
"""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor

from ..physics import KarhunenLoeve
from ..physics.fem.problem import FEMProblem, require_dolfinx
from .likelihood import ForwardOrResidual, LikelihoodName, at_least_one
from .recipe import Quantity, Recipe
from .registry import Animal, register

CELLS = 16
MODES = 8
WELLS = 5
CORRELATION_LENGTH = 0.3
LARGEST_AT_PRIOR_MEAN = 0.0734
SEED = 1


def aquifer(cells: int = CELLS, wells: int = WELLS) -> FEMProblem:
    """Return the flow problem, its unknown the nodal log-permeability (..., nodes), with wells x wells wells.

    Raises:
        ImportError: dolfinx is missing.
    """
    require_dolfinx()
    import ufl
    from dolfinx import fem, mesh
    from mpi4py import MPI

    square = mesh.create_unit_square(MPI.COMM_SELF, cells, cells)
    space = fem.functionspace(square, ("P", 1))
    u: Any = fem.Function(space)
    kappa: Any = fem.Function(space)
    v: Any = ufl.TestFunction(space)
    permeable: Any = ufl.exp(kappa)
    form: Any = permeable * ufl.dot(ufl.grad(u), ufl.grad(v)) * ufl.dx - v * ufl.dx
    square.topology.create_connectivity(1, 2)
    border = fem.locate_dofs_topological(space, 1, mesh.exterior_facet_indices(square.topology))
    positions = torch.arange(1, wells + 1, dtype=torch.float64) / (wells + 1)
    return FEMProblem(
        form,
        u,
        {"kappa": kappa},
        [fem.dirichletbc(0.0, border, space)],
        sensors=torch.cartesian_prod(positions, positions),
        quadrature_degree=1,
        on_failure="reject",  # trajectories of a sampler's warm-up may go where nothing can be solved
    )


def permeability(problem: FEMProblem, modes: int = MODES) -> KarhunenLoeve:
    """Return the field z -> nodal log-permeability; weights are the areas that belong to the nodes."""
    return KarhunenLoeve(problem.coordinates("kappa"), modes, CORRELATION_LENGTH, weights=problem.volumes("kappa"))


class Darcy2D(ForwardOrResidual):
    """The aquifer with a forward or a residual likelihood.

    Args:
        likelihood: "forward" solves for u; "residual" samples u and observes the residual as zero.
        modes: number of unknowns z.
        wells: wells on a side of their grid.
        cells: mesh cells on a side.
        noise: sensor sd as a fraction of 0.0734, the largest u at z = 0.
        residual_scale: s_r in units of the nodal load f h^2 = 1 / cells^2 (residual likelihood).
        corrected: add log|det dr/du| (residual likelihood); without it the posterior is another one.

    Raises:
        ImportError: dolfinx is missing.
        ValueError: an unknown likelihood, or fewer than one well (mask them to have none).
    """

    origin: Tensor

    def __init__(
        self,
        likelihood: LikelihoodName = "forward",
        modes: int = MODES,
        wells: int = WELLS,
        cells: int = CELLS,
        noise: float = 0.02,
        residual_scale: float = 1e-2,
        corrected: bool = True,
    ) -> None:
        problem = FEMProblem.from_builder(aquifer, cells, at_least_one("wells", wells))
        super().__init__(
            problem,
            likelihood,
            (problem.free_dofs.numel(),),
            noise=noise * LARGEST_AT_PRIOR_MEAN,
            residual_scale=residual_scale / cells**2,
            corrected=corrected,
        )
        self.field = permeability(problem, modes)
        self.register_buffer("origin", torch.zeros(modes, dtype=torch.float64))

    def forward(self, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Sample the modes, solve for (or sample) u, observe y of shape (wells^2,); return the free nodes."""
        z = pyro.sample("z", dist.Normal(self.origin, 1.0).to_event(1))
        return self.observed(self.field(z), y, mask)


def truth() -> Tensor:
    """Return the unknowns z, shape (8,), behind the synthetic data set."""
    return torch.randn(MODES, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)


def heads() -> dict[str, Any]:
    """Return the synthetic data set {"y": (25,)} of ``truth()``, with noise of seed 2."""
    problem = aquifer()
    generator = torch.Generator().manual_seed(SEED + 1)
    noise = torch.randn(WELLS**2, generator=generator, dtype=torch.float64)
    u = problem.solve(permeability(problem)(truth()))
    return {"y": problem.observe(u) + 0.02 * LARGEST_AT_PRIOR_MEAN * noise}


register(
    Animal(
        name="darcy2d",
        title="Permeability of an aquifer from the head in 25 wells",
        physics="elliptic PDE, 2D, finite elements",
        likelihoods=("forward", "residual"),
        model=Darcy2D,
        data=heads,
        quantities={
            "z": Quantity("Karhunen-Loeve coefficient", "1", ("mode",)),
            "u": Quantity("hydraulic head", "1", ("node",)),
            "r": Quantity("residual", "1", ("node",)),
            "y": Quantity("head in a well", "1", ("well",)),
        },
        recipe=Recipe(
            family="spline", encoder=None, steps=800, particles=32, learning_rate=3e-3, options={"tail": 10.0}
        ),
        priors={"z": "Normal(0, 1), each mode", "u": "flat (residual likelihood only)"},
        source="setting of arXiv:1901.06314 and arXiv:2409.06560, set-up by physzoo",
        requires="fem",
    )
)
