from .basis import Basis as Basis
from .basis import FixedBasis as FixedBasis
from .basis import Trunk as Trunk
from .problem import Surrogate as Surrogate
from .problem import unit_cube_cutoff as unit_cube_cutoff
