from .densities import log_joint as log_joint
from .latents import Latents as Latents
from .precision import in_double as in_double
from .rejected import NonFiniteError as NonFiniteError
from .rejected import RejectedError as RejectedError
from .shares import RejectedWarning as RejectedWarning
