from .first_order import Linearised as Linearised
from .first_order import linearise as linearise
from .gauss_newton import GaussNewton as GaussNewton
from .gauss_newton import Refined as Refined
