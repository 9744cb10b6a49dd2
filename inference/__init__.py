"""What is done with a model and a guide: fit, posterior, references, calibration; knows no model of the zoo."""

from importlib import import_module
from types import ModuleType


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
