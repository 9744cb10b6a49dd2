"""Families q(z | y): any Pyro model's latent sites become an amortised or flow-based guide."""

from .amortize import amortize
from .amortized_guide import AmortizedGuide
from .encoder import Encoder
from .encoders import MLP, Attention, Convolution, MaskedSet, Table
from .families import FAMILIES, Gaussian, LowRank, PlanarFlow, SplineFlow
from .flows import Flow
from .preconditioned import PreconditionedGuide
from .refine import GaussNewton
from .relaxed_base import RelaxedBase
from .residual import ResidualGuide
from .unconstrained import UnconstrainedSites, Whitening

__all__ = [
    "FAMILIES",
    "MLP",
    "AmortizedGuide",
    "Attention",
    "Convolution",
    "Encoder",
    "Flow",
    "GaussNewton",
    "Gaussian",
    "LowRank",
    "MaskedSet",
    "PlanarFlow",
    "PreconditionedGuide",
    "RelaxedBase",
    "ResidualGuide",
    "SplineFlow",
    "Table",
    "UnconstrainedSites",
    "Whitening",
    "amortize",
]
