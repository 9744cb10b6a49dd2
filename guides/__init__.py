"""Families q(z | y): any Pyro model's latent sites become an amortised or flow-based guide."""

from typing import Any

import lazy_loader

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_BELOW = ("UnconstrainedSites", "Whitening")  # from this room in version 0.1; in physzoo.core.model_spec now


def __getattr__(name: str) -> Any:
    """Import what is asked for, where it is asked for."""
    if name in _BELOW:
        from ..core import model_spec

        return getattr(model_spec, name)
    return _public(name)
