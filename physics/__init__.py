"""What the world does: problems, fields and the two likelihoods. Knows torch and Pyro, no model."""

from typing import Any

import lazy_loader

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Import what is asked for; with finite elements also MPI, in the order that ``import dolfinx`` needs."""
    if name == "FEMProblem":
        from .fem.require import order_mpi

        order_mpi()
    return _public(name)
