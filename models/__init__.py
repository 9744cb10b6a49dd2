"""The animals: one file, one system. ``names()`` lists them, ``get(name)`` fetches one."""

from importlib import import_module
from types import ModuleType

from .contract import Check, ContractError, check_model, parametrize_with_checks
from .recipe import Quantity, Recipe
from .registry import Animal, get, names, register

__all__ = [
    "Animal",
    "Check",
    "ContractError",
    "Quantity",
    "Recipe",
    "check_model",
    "get",
    "names",
    "parametrize_with_checks",
    "register",
]


def __getattr__(name: str) -> ModuleType:
    """Import a module of this room when it is first asked for."""
    full = f"{__name__}.{name}"
    try:
        if not name.startswith("__"):
            return import_module(full)
    except ModuleNotFoundError as error:
        if error.name != full:
            raise
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
