from .collocation import Collocation as Collocation
from .galerkin import Galerkin as Galerkin
from .galerkin import sines as sines
from .interval import Elliptic1D as Elliptic1D
from .rectangle import Elliptic2D as Elliptic2D
