"""The animals: one file, one system. ``names()`` lists them, ``get(name)`` fetches one."""

from .contract import Check, ContractError, check_model
from .registry import Animal, Quantity, Recipe, get, names, register

__all__ = [
    "Animal",
    "Check",
    "ContractError",
    "Quantity",
    "Recipe",
    "check_model",
    "get",
    "names",
    "register",
]
