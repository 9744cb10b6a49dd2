"""Refusals in one sentence: the argument, what came, what was expected."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


def shown(value: Any) -> str:
    """Return a value in a few characters: dtype and shape of a tensor, else the start of its repr."""
    if isinstance(value, Tensor):
        kind = "nested " if value.is_nested else "" if value.layout == torch.strided else f"{str(value.layout)[6:]} "
        shape = "" if value.is_nested else f" of shape {tuple(value.shape)}"
        return f"{kind}{value.dtype}{shape}{' without values (meta)' if value.is_meta else ''}"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # somebody else's __repr__
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


MOST = 10**9  # of anything that is counted


def whole(name: str, value: Any, least: int, most: int = MOST) -> int:
    """Return ``value``, a whole number of at least ``least``.

    Raises:
        ValueError, TypeError: it is another number, or no number.
    """
    expected = f"a whole number of at least {least}"
    _real(name, value, expected)
    if not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}: got {shown(value)}, expected {expected}")
    if int(value) > most:
        raise ValueError(f"{name}: got {shown(value)}, expected {expected} and at most {most}")
    return int(value)


def one_of(name: str, value: Any, options: Sequence[Any], context: str = "") -> None:
    """Refuse what is none of the options.

    Raises:
        ValueError: it is none.
    """
    if not any(type(value) is type(option) and value == option for option in options):
        *others, last = map(repr, options)
        expected = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"{name}: got {shown(value)}{context}, expected {expected}")


def widths(name: str, values: Any) -> list[int]:
    """Return the widths of a network's layers, whole numbers of at least 1.

    Raises:
        ValueError, TypeError: they are not.
    """
    if isinstance(values, str | bytes | bytearray) or not isinstance(values, Sequence):
        raise TypeError(f"{name}: got {shown(values)}, expected whole numbers, one for each layer")
    return [whole(name, value, 1) for value in values]


def positive(name: str, value: Any) -> float:
    """Return ``value``, a positive finite number.

    Raises:
        ValueError, TypeError: it is another number, or no number.
    """
    _real(name, value, "a positive number")
    if not 0 < value <= sys.float_info.max:
        raise ValueError(f"{name}: got {shown(value)}, expected a positive number")
    return float(value)


def finite(name: str, value: Any) -> float:
    """Return ``value``, a finite number.

    Raises:
        ValueError, TypeError: it is not finite, or no number.
    """
    _real(name, value, "a finite number")
    if not abs(value) <= sys.float_info.max:
        raise ValueError(f"{name}: got {shown(value)}, expected a finite number")
    return float(value)


def numbers(name: str, values: Any, expected: str) -> Tensor:
    """Return ``values`` as float64, shape as given; every entry finite.

    Raises:
        ValueError, TypeError: an entry is not finite, or there are no numbers.
    """
    if isinstance(values, Tensor) and (
        values.is_complex() or values.dtype == torch.bool or not stored(values) or values.numel() > MOST
    ):
        raise TypeError(f"{name}: got {shown(values)}, expected {expected}")
    try:
        found = torch.as_tensor(_plain(values), dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError, MemoryError):
        raise TypeError(f"{name}: got {shown(values)}, expected {expected}") from None
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"{name}: got an entry that is not finite, expected {expected}")
    return found


def stored(value: Tensor) -> bool:
    """Whether a tensor holds all its numbers, one after the other: neither sparse, nor nested, nor without values (meta)."""
    return value.layout == torch.strided and not value.is_nested and not value.is_meta


def _plain(values: Any) -> Any:
    """Numbers that torch would take for others are refused: text and truth values."""
    found = values if isinstance(values, Tensor) else np.asarray(values)
    if isinstance(found, np.ndarray) and found.dtype.kind not in "iuf":
        raise TypeError
    return found if isinstance(found, Tensor) or found.dtype.kind != "f" else found.astype(np.float64)


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


def flag(name: str, value: Any) -> bool:
    """Return ``value``, True or False.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name}: got {shown(value)}, expected True or False")
    return value


def function(name: str, value: Any) -> None:
    """Refuse what cannot be called.

    Raises:
        TypeError: it cannot.
    """
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"{name}: got {shown(value)}, expected a function")


def floats(name: str, value: Any, *trailing: int | None, like: Tensor | None = None) -> Tensor:
    """Return ``value``, a floating-point tensor whose last dimensions are ``trailing`` (None: any size), of the dtype of ``like``.

    Raises:
        ValueError, TypeError: another shape or dtype, or no tensor.
    """
    sizes = ", ".join("any" if size is None else str(size) for size in trailing)
    if not isinstance(value, Tensor) or not value.is_floating_point() or not stored(value) or value.numel() > MOST:
        raise TypeError(f"{name}: got {shown(value)}, expected a floating-point tensor")
    own = value.shape[max(value.dim() - len(trailing), 0) :] if trailing else ()
    if len(own) != len(trailing) or any(w not in (None, g) for g, w in zip(own, trailing, strict=True)):
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected (..., {sizes})")
    if like is not None and value.device != like.device:
        raise TypeError(f"{name}: got a tensor on {value.device}, expected {like.device}, where that is what it meets")
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
        raise TypeError(f"dtype: got {shown(dtype)}, expected a floating-point torch dtype")


def _real(name: str, value: Any, expected: str) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name}: got {shown(value)}, expected {expected}")
