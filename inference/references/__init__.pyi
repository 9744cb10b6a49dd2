from .crank_nicolson import pcn as pcn
from .hamiltonian import hmc as hmc
from .no_u_turn import nuts as nuts
from .quadrature import Grid as Grid
from .quadrature import grid as grid
from .result import Reference as Reference
from .result import summarise as summarise
from .tempering import smc as smc
