"""A bar that conducts better where it is warm: the nonlinear elliptic inverse problem in one dimension.

    -((1 + u^2) exp(kappa(x)) u')' = 10  on (0, 1),   u(0) = u(1) = 0
    kappa = sum_k sqrt(l_k) phi_k z_k      Karhunen-Loeve modes of exp(-|x - x'| / 0.3)
    z_k ~ Normal(0, 1)                     k = 1..5 (86 % of the variance kept; 2: 65 %)
    y_j ~ Normal(u(x_j), 0.019)            8 interior sensors, noise 2 % of max u at z = 0

kappa is constant on each of 64 elements and u linear between nodes; Newton's method solves. The equation is linear in
w = u + u^3 / 3 (Kirchhoff's transform), so the exact nodal values are known: the discrete ones equal them. Two likelihoods of the same
problem:

    forward    u = F(z)
    residual   u free with a flat prior, 0 ~ Normal(r(u, z), s_r) and the factor |det dr/du|, here at u and not only at z;
               the same posterior of z as s_r -> 0. Without the factor the posterior is another one.

What cannot be solved gets log-density -inf. Needs dolfinx (the extra ``fem``), which loads when the model is built.

Source: a nonlinear Poisson equation in one dimension with five unknowns is among the problems of Vadeboncoeur et al.,
arXiv:2208.04856; coefficients and set-up by physzoo.
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

ELEMENTS = 64
MODES = 5
SENSORS = 8
SOURCE = 10.0
CORRELATION_LENGTH = 0.3
LARGEST_AT_PRIOR_MEAN = 0.957
STATE_SCALE = 1000.0
SEED = 1


def warm_bar(sensors: int = SENSORS) -> FEMProblem:
    """Return the problem, its unknown the log-conductivity of the elements (..., 64), with equally spaced interior sensors.

    Raises:
        ImportError: dolfinx is missing.
    """
    require_dolfinx()
    import ufl
    from dolfinx import fem, mesh
    from mpi4py import MPI

    interval = mesh.create_unit_interval(MPI.COMM_SELF, ELEMENTS)
    space = fem.functionspace(interval, ("P", 1))
    u: Any = fem.Function(space)
    kappa: Any = fem.Function(fem.functionspace(interval, ("DG", 0)))
    v: Any = ufl.TestFunction(space)
    conductivity: Any = (1 + u**2) * ufl.exp(kappa)
    form: Any = conductivity * ufl.dot(ufl.grad(u), ufl.grad(v)) * ufl.dx - SOURCE * v * ufl.dx
    ends = fem.locate_dofs_geometrical(space, lambda x: x[0] * (1 - x[0]) < 1e-9)
    positions = torch.arange(1, sensors + 1, dtype=torch.float64) / (sensors + 1)
    return FEMProblem(
        form,
        u,
        {"kappa": kappa},
        [fem.dirichletbc(0.0, ends, space)],
        sensors=positions[:, None],
        quadrature_degree=2,  # exact: u^2 is of degree 2, the rest is constant or linear on an element
        on_failure="reject",  # trajectories of a sampler's warm-up may go where nothing can be solved
    )


class NonlinearPoisson1D(ForwardOrResidual):
    """The bar with a forward or a residual likelihood.

    Args:
        likelihood: "forward" solves for u; "residual" samples u and observes the residual as zero.
        modes: number of unknowns z.
        sensors: number of equally spaced interior sensors.
        noise: sensor sd as a fraction of 0.957, the largest u at z = 0.
        residual_scale: s_r in units of the nodal load 10 / 64 (residual likelihood).
        corrected: add log|det dr/du| (residual likelihood); without it the posterior is another one.

    Raises:
        ImportError: dolfinx is missing.
        ValueError: an unknown likelihood, or fewer than one sensor (mask them to have none).
    """

    origin: Tensor

    def __init__(
        self,
        likelihood: LikelihoodName = "forward",
        modes: int = MODES,
        sensors: int = SENSORS,
        noise: float = 0.02,
        residual_scale: float = 1e-2,
        corrected: bool = True,
    ) -> None:
        problem = FEMProblem.from_builder(warm_bar, at_least_one("sensors", sensors))
        super().__init__(
            problem,
            likelihood,
            (ELEMENTS - 1,),
            noise=noise * LARGEST_AT_PRIOR_MEAN,
            residual_scale=residual_scale * SOURCE / ELEMENTS,
            corrected=corrected,
            state_scale=STATE_SCALE,
        )
        points, lengths = problem.coordinates("kappa"), problem.volumes("kappa")
        self.field = KarhunenLoeve(points, modes, CORRELATION_LENGTH, weights=lengths)
        self.register_buffer("origin", torch.zeros(modes, dtype=torch.float64))

    def forward(self, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Sample the modes, solve for (or sample) u, observe y of shape (sensors,); return the free nodes."""
        z = pyro.sample("z", dist.Normal(self.origin, 1.0).to_event(1))
        return self.observed(self.field(z), y, mask)


def truth() -> Tensor:
    """Return the unknowns z, shape (5,), behind the synthetic data set."""
    return torch.randn(MODES, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)


def temperatures() -> dict[str, Any]:
    """Return the synthetic data set {"y": (8,)} of ``truth()``, with noise of seed 2."""
    model = NonlinearPoisson1D()
    noise = torch.randn(SENSORS, generator=torch.Generator().manual_seed(SEED + 1), dtype=torch.float64)
    return {"y": model.problem.observe(model.problem.solve(model.field(truth()))) + model.noise * noise}


_NODES = {"node": tuple(i / ELEMENTS for i in range(1, ELEMENTS))}

register(
    Animal(
        name="nonlinear_poisson1d",
        title="Conductivity of a bar that conducts better where it is warm",
        physics="nonlinear elliptic PDE, 1D, finite elements",
        likelihoods=("forward", "residual"),
        model=NonlinearPoisson1D,
        data=temperatures,
        quantities={
            "z": Quantity("Karhunen-Loeve coefficient", "1", ("mode",)),
            "u": Quantity("temperature", "1", ("node",), _NODES),
            "r": Quantity("residual", "1", ("node",), _NODES),
            "y": Quantity("sensor reading", "1", ("sensor",)),
        },
        recipe=Recipe(
            family="spline", encoder=None, steps=800, particles=32, learning_rate=3e-3, options={"tail": 10.0}
        ),
        priors={"z": "Normal(0, 1), each mode", "u": "flat (residual likelihood only)"},
        source="setting of Vadeboncoeur et al., arXiv:2208.04856; coefficients and set-up by physzoo",
        requires="fem",
    )
)
