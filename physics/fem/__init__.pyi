from .problem import FEMProblem as FEMProblem
from .problem import NewtonOptions as NewtonOptions
from .require import order_mpi as order_mpi
from .require import require_dolfinx as require_dolfinx
