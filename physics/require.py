"""Refusals in one sentence: the argument, what came, what was expected."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def shown(value: Any) -> str:
    """Return a value in a few characters: dtype and shape of a tensor, else the start of its repr."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def whole(name: str, value: Any, least: int) -> int:
    """Return ``value``, a whole number of at least ``least``.

    Raises:
        ValueError, TypeError: it is another number, or no number.
    """
    _real(name, value, f"a whole number of at least {least}")
    if not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}: got {value}, expected a whole number of at least {least}")
    return int(value)


def positive(name: str, value: Any) -> float:
    """Return ``value``, a positive finite number.

    Raises:
        ValueError, TypeError: it is another number, or no number.
    """
    _real(name, value, "a positive number")
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: got {value}, expected a positive number")
    return float(value)


def finite(name: str, value: Any) -> float:
    """Return ``value``, a finite number.

    Raises:
        ValueError, TypeError: it is not finite, or no number.
    """
    _real(name, value, "a finite number")
    if not math.isfinite(value):
        raise ValueError(f"{name}: got {value}, expected a finite number")
    return float(value)


def numbers(name: str, values: Any, expected: str) -> Tensor:
    """Return ``values`` as float64, shape as given; every entry finite.

    Raises:
        ValueError, TypeError: an entry is not finite, or there are no numbers.
    """
    try:
        found = torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: got {shown(values)}, expected {expected}") from None
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"{name}: got an entry that is not finite, expected {expected}")
    return found


def clock(times: Any, t0: Any) -> tuple[Tensor, float]:
    """Return the times as float64, (T,), and the start, by default the first of them.

    Raises:
        ValueError, TypeError: the times are not increasing numbers, or start before ``t0``.
    """
    exact = numbers("times", times, "increasing numbers")
    if exact.dim() != 1 or not len(exact) or not bool((exact.diff() > 0).all()):
        raise ValueError(f"times: got {shown(exact.tolist())}, expected increasing numbers")
    start = float(exact[0]) if t0 is None else finite("t0", t0)
    if start > float(exact[0]):
        raise ValueError(f"t0: got {start}, expected at most the first of the times, {float(exact[0])}")
    return exact, start


def function(name: str, value: Any) -> None:
    """Refuse what cannot be called.

    Raises:
        TypeError: it cannot.
    """
    if not callable(value):
        raise TypeError(f"{name}: got {shown(value)}, expected a function")


def floats(name: str, value: Any, *trailing: int | None, like: Tensor | None = None) -> Tensor:
    """Return ``value``, a floating-point tensor whose last dimensions are ``trailing`` (None: any size), of the dtype of ``like``.

    Raises:
        ValueError, TypeError: another shape or dtype, or no tensor.
    """
    sizes = ", ".join("any" if size is None else str(size) for size in trailing)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{name}: got {shown(value)}, expected a floating-point tensor")
    own = value.shape[max(value.dim() - len(trailing), 0) :] if trailing else ()
    if len(own) != len(trailing) or any(w not in (None, g) for g, w in zip(own, trailing, strict=True)):
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected (..., {sizes})")
    if like is not None and value.dtype != like.dtype:
        raise TypeError(
            f"{name}: got {value.dtype}, expected {like.dtype}, that of what it meets (problem.to(dtype) turns a problem's own)"
        )
    return value


def dtype_of_floats(dtype: Any) -> None:
    """Refuse a dtype that cannot hold real numbers; None is taken.

    Raises:
        TypeError: it cannot.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype: got {dtype!r}, expected a floating-point torch dtype")


def _real(name: str, value: Any, expected: str) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name}: got {shown(value)}, expected {expected}")
