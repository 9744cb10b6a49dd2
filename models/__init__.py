"""The animals: one file, one system. ``names()`` lists them, ``get(name)`` fetches one."""

from importlib import import_module
from typing import Any

import lazy_loader

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Import what is asked for: a public name, or a module of this room."""
    if name in __all__:
        return _public(name)
    full = f"{__name__}.{name}"
    try:
        if not name.startswith("__"):
            return import_module(full)
    except ModuleNotFoundError as error:
        if error.name != full:
            raise
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
