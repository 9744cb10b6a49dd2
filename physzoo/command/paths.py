"""Paths as they come from users."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def is_file(path: Path) -> bool:
    """Whether a path is that of a file that can be looked at; no pipe, no device, no name that cannot be one."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether a path is that of a folder."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def plain(value: Any) -> Any:
    """Return ``value`` in JSON's types: mappings, lists, numbers, strings; NaN and infinities as strings."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
