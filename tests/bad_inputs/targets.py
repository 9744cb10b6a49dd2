"""The public functions and constructors."""

from __future__ import annotations

from contextlib import suppress
from functools import cache

from physzoo.physics.fem import require_dolfinx

from .of_guides import of_guides
from .of_inference import of_inference
from .of_physics import of_fem_problems, of_physics
from .of_zoo import of_the_zoo
from .target import Target


@cache
def targets(fem: bool = True) -> tuple[Target, ...]:
    """All of them; those of finite elements only where they are wanted and installed."""
    found = [*of_inference(), *of_guides(), *of_physics(), *of_the_zoo()]
    with suppress(ImportError):
        if fem and require_dolfinx():
            found += of_fem_problems()
    return tuple(found)
