"""Numbers from outside as float64 arrays: what is no array of real numbers is refused in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.require import shown

Array = NDArray[np.float64]
MOST = 2**31  # numbers in nested sequences


def numbers(name: str, value: Any, finite: bool = False) -> Array:
    """Return an array, tensor or nested sequence of numbers in float64.

    Complex numbers, dates, durations, records, strings and sparse or hidden (masked) entries would be read as other numbers.

    Raises:
        TypeError: it holds something else than real numbers.
        ValueError: an entry is not finite, where it has to be.
    """
    try:
        found = as_given(name, value).astype(float)
    except MemoryError:
        raise ValueError(f"{name}: got {_told(value)}, expected numbers that memory holds") from None
    if finite and not np.isfinite(found).all():
        raise ValueError(f"{name}: got {int((~np.isfinite(found)).sum())} entries that are not finite, expected none")
    return found


def as_given(name: str, value: Any) -> NDArray[Any]:
    """Return real numbers as an array of the precision that they came in.

    Raises:
        TypeError: it holds something else than real numbers.
    """
    wrong = TypeError(f"{name}: got {_told(value)}, expected an array of real numbers")
    if value is None or isinstance(value, str | bytes | dict | set) or _endless(value):
        raise wrong
    try:
        plain = value.detach().cpu().resolve_neg().numpy() if hasattr(value, "detach") else value
        found = np.asarray(plain)
    except Exception:  # of a tensor without storage, of a ragged sequence, of whatever else has __array__
        raise wrong from None
    if np.ma.is_masked(plain):
        raise TypeError(f"{name}: got an array with masked entries, expected all of them to be seen")
    if found.dtype.kind == "O" or (found.dtype.kind not in "biuf" and found is not plain):
        raise wrong
    if found.dtype.kind not in "biuf":
        raise TypeError(f"{name}: got an array of type {str(found.dtype)[:60]}, expected real numbers")
    return found


def dense(name: str, value: Any) -> None:
    """Refuse what is no tensor of finite real numbers in memory.

    Raises:
        ValueError: it is none.
    """
    if (
        not isinstance(value, Tensor)
        or value.is_nested
        or value.is_meta
        or value.layout != torch.strided
        or not value.is_floating_point()
        or value.numel() > MOST
        or not bool(torch.isfinite(value).all())
    ):
        raise ValueError(f"{name}: got {_told(value)}, expected a tensor of finite numbers")


def no_density(data: Mapping[str, Any], otherwise: str) -> ValueError:
    """Return the refusal of a model without a finite density: by what is missing in the data, else by ``otherwise``."""
    for name, value in data.items():
        if isinstance(value, Tensor) and value.is_floating_point() and bool(torch.isnan(value).any()):
            return ValueError(
                f"data['{name}']: got NaN, under which no density is finite, expected numbers, or a mask that hides what is missing"
            )
    return ValueError(otherwise)


def _told(value: Any) -> str:
    """What came, in a few characters; the text of a sequence may be longer than memory."""
    if isinstance(value, list | tuple | dict | set):
        return f"a {type(value).__name__} of {len(value)} entries"
    return shown(value)


def _endless(value: Any) -> bool:
    """Whether nested sequences hold more numbers than any memory, as one does that holds itself."""
    count = 1
    for _ in range(64):
        if not isinstance(value, list | tuple) or not len(value):
            return False
        count *= len(value)
        if count > MOST:
            return True
        value = value[0]
    return True
