"""What the world does: problems, fields and the two likelihoods. Knows torch and Pyro, no model."""

from typing import TYPE_CHECKING, Any

from .arm import PlanarArm
from .collocation import Collocation
from .elliptic1d import Elliptic1D
from .fields import KarhunenLoeve
from .galerkin import Galerkin
from .likelihoods import SolverWarning, observe, virtual_observables
from .linear import LinearProblem
from .model_error import ModelError, error_covariance
from .ode import ODEProblem
from .problem import Problem, SolveError, Unknowns
from .surrogate import Surrogate, unit_cube_cutoff
from .surrogate_basis import FixedBasis, Trunk

if TYPE_CHECKING:
    from .fem import FEMProblem

__all__ = [
    "Collocation",
    "Elliptic1D",
    "FEMProblem",
    "FixedBasis",
    "Galerkin",
    "KarhunenLoeve",
    "LinearProblem",
    "ModelError",
    "ODEProblem",
    "PlanarArm",
    "Problem",
    "SolveError",
    "SolverWarning",
    "Surrogate",
    "Trunk",
    "Unknowns",
    "error_covariance",
    "observe",
    "unit_cube_cutoff",
    "virtual_observables",
]


def __getattr__(name: str) -> Any:
    # Finite elements bring in dolfinx and MPI, which only start for those who ask.
    if name == "FEMProblem":
        from .fem import FEMProblem
        from .fem_require import order_mpi

        order_mpi()
        return FEMProblem
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
