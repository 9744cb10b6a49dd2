from .gaussian import laplace as laplace
from .gaussian import laplace_mixture as laplace_mixture
from .point import PointEstimate as PointEstimate
from .point import point_estimate as point_estimate
