"""A zoo of physics-informed generative models in Pyro, each with a measured certificate of calibration.

    problem.solve(z) -> u        z unknowns, u state, y data
    problem.observe(u) -> y
    problem.residual(u, z) -> r  the notation that every animal shares

What most people need can be taken from here; each name is imported when it is first used, so that ``import
physzoo`` costs nothing and changes nothing. The rest is in its module, in one of the rooms ``physzoo.models``,
``physzoo.physics``, ``physzoo.guides`` and ``physzoo.inference``: ``physzoo.inference.objectives.GreyBoxELBO``,
``physzoo.inference.references.grid``, ...
"""

from typing import Any

import lazy_loader

from .moved import install

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
install()


def __getattr__(name: str) -> Any:
    """Import what is asked for, where it is asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return _public(name)
