"""Numbers from outside as float64 arrays: what is no array of real numbers is refused in one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..guides.require import shown

Array = NDArray[np.float64]


def numbers(name: str, value: Any, finite: bool = False) -> Array:
    """Return an array, tensor or nested sequence of numbers in float64.

    Complex numbers, dates, durations, records, strings and sparse or hidden (masked) entries would be read as other numbers.

    Raises:
        TypeError: it holds something else than real numbers.
        ValueError: an entry is not finite, where it has to be.
    """
    found = as_given(name, value).astype(float)
    if finite and not np.isfinite(found).all():
        raise ValueError(f"{name}: got {int((~np.isfinite(found)).sum())} entries that are not finite, expected none")
    return found


def as_given(name: str, value: Any) -> NDArray[Any]:
    """Return real numbers as an array of the precision that they came in.

    Raises:
        TypeError: it holds something else than real numbers.
    """
    wrong = TypeError(f"{name}: got {shown(value)}, expected an array of real numbers")
    if value is None or isinstance(value, str | bytes | dict | set):
        raise wrong
    try:
        plain = value.detach().cpu().resolve_neg().numpy() if hasattr(value, "detach") else value
        found = np.asarray(plain)
    except Exception:  # of a tensor without storage, of a ragged sequence, of whatever else has __array__
        raise wrong from None
    if found.dtype.kind not in "biuf" or np.ma.is_masked(plain):
        if np.ma.is_masked(plain):
            raise TypeError(f"{name}: got an array with masked entries, expected all of them to be seen") from None
        raise TypeError(f"{name}: got numbers of type {found.dtype}, expected an array of real numbers") from None
    return found
