from .preconditioned import PreconditionedGuide as PreconditionedGuide
from .residual import ResidualGuide as ResidualGuide
