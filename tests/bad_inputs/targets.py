"""The public functions and constructors."""

from __future__ import annotations

from functools import cache

from .of_guides import of_guides
from .of_inference import of_inference
from .of_physics import of_fem_problems, of_physics
from .of_zoo import of_the_zoo
from .target import Target


@cache
def targets() -> tuple[Target, ...]:
    """All of them, those of finite elements only where they are installed."""
    found = [*of_inference(), *of_guides(), *of_physics(), *of_the_zoo()]
    try:
        from physzoo.physics.fem_require import require_dolfinx

        require_dolfinx()
    except ImportError:
        return tuple(found)
    return (*found, *of_fem_problems())
