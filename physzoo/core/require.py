"""Argument checks: each returns the checked value, or refuses it in one sentence: the argument, what came, what was expected."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

LARGEST_SEED = 2**63 - 1  # what torch's generators take
MOST = 10**9  # of anything that is counted
MANY = 10**6  # a bound from which on messages tell of it only where it is passed
LONGEST = 10**8  # steps, draws or particles that can be asked for
HELD = 2**31  # numbers that one result may hold: 16 GiB
LARGEST = 10**10  # entries of a tensor
SHOWN = 60  # characters of a value in a message


def shown(value: Any) -> str:
    """Return a value in a few characters: dtype and shape of a tensor, else the start of its repr."""
    try:
        if isinstance(value, Tensor) and (value.is_nested or value.layout != torch.strided):
            return f"a {'nested' if value.is_nested else 'sparse'} tensor of {value.dtype}"
        if isinstance(value, Tensor):
            return f"{value.dtype} of shape {tuple(value.shape)}{' without values (meta)' if value.is_meta else ''}"
        if hasattr(value, "shape"):
            return f"{type(value).__name__} of shape {tuple(value.shape)}"
        text = " ".join(repr(value).split())
    except Exception as error:  # somebody else's __repr__, or a whole number of more digits than Python writes
        return "a number of very many digits" if isinstance(value, int) else f"a {type(value).__name__} ({error})"[:60]
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def whole(name: str, value: Any, least: int, most: int = MOST) -> int:
    """Return ``value``, a whole number from ``least`` to ``most``.

    Raises:
        ValueError: it is another number, or no number.
    """
    wrong = not isinstance(value, Integral) or isinstance(value, bool)
    if wrong or not least <= int(value) <= most:
        high = not wrong and int(value) > most
        bounds = f"{least} to {most}" if most < MANY or high else f"a whole number of at least {least}"
        raise ValueError(f"{name}: got {shown(value)}, expected {bounds}")
    return int(value)


def check_size(**sizes: int) -> None:
    """Refuse a result that no memory holds.

    Raises:
        ValueError: the product of the sizes is above 2^31.
    """
    if math.prod(sizes.values()) > HELD:
        told = " x ".join(f"{size} {name}" for name, size in sizes.items())
        raise ValueError(f"{', '.join(sizes)}: got {told} numbers, expected at most {HELD}")


def real(name: str, value: Any, low: float = 0.0, high: float = math.inf, expected: str = "a positive number") -> float:
    """Return ``value``, a finite number strictly between ``low`` and ``high``; by default a positive one.

    Raises:
        ValueError: it is another number, or no number.
    """
    try:
        number = isinstance(value, Real) and not isinstance(value, bool | Fraction)  # which meets no tensor
        inside = number and low < float(value) < high
    except OverflowError:
        inside = False
    if not inside:
        raise ValueError(f"{name}: got {shown(value)}, expected {expected}")
    return float(value)


def finite(name: str, value: Any) -> float:
    """Return ``value``, a finite number.

    Raises:
        ValueError: it is not finite, or no number.
    """
    return real(name, value, -math.inf, expected="a finite number")


def seed_number(value: Any) -> int:
    """Return ``value``, a number that can seed a generator.

    Raises:
        ValueError: it cannot.
    """
    return whole("seed", value, 0, LARGEST_SEED)


def flag(name: str, value: Any) -> bool:
    """Return ``value``, True or False.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name}: got {shown(value)}, expected True or False")
    return value


def one_of(name: str, value: Any, options: Sequence[Any], context: str = "") -> Any:
    """Return ``value``, one of the options; ``context`` follows what came.

    Raises:
        ValueError: it is none.
    """
    if not any(type(value) is type(option) and value == option for option in options):
        *others, last = map(repr, options)
        expected = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"{name}: got {shown(value)}{context}, expected {expected}")
    return value


def function(name: str, value: Any, classes: bool = False) -> Callable[..., Any]:
    """Return ``value``, which can be called; no class where its instance is meant.

    Raises:
        TypeError: it cannot, or it is a class.
    """
    if not callable(value):
        raise TypeError(f"{name}: got {shown(value)}, expected a callable")
    if isinstance(value, type) and not classes:
        raise TypeError(f"{name}: got the class {value.__name__}, expected a function or an instance of a class")
    return value


def named(name: str, value: Any) -> Mapping[str, Any]:
    """Return ``value``, a mapping from names.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: got {shown(value)}, expected a mapping from names to values")
    wrong = [key for key in value if not isinstance(key, str)]
    if wrong:
        raise TypeError(f"{name}: got the key {shown(wrong[0])}, expected names")
    return value


def widths(name: str, value: Any) -> list[int]:
    """Return the widths of a network's layers, whole numbers of at least 1.

    Raises:
        TypeError: it is no sequence.
        ValueError: a width is not a positive whole number.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray):
        raise TypeError(f"{name}: got {shown(value)}, expected a sequence of layer widths")
    return [whole(name, entry, 1) for entry in value]


def stored(value: Tensor) -> bool:
    """Whether a tensor holds all its numbers, one after the other: neither sparse, nor nested, nor without values (meta)."""
    return value.layout == torch.strided and not value.is_nested and not value.is_meta


def tensor(name: str, value: Any) -> Tensor:
    """Return ``value``, a tensor that holds all its numbers, one after the other.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, Tensor) or not stored(value) or value.numel() > LARGEST:
        raise TypeError(f"{name}: got {shown(value)}, expected a tensor")
    return value


def tensors(name: str, value: Any) -> Mapping[str, Tensor]:
    """Return ``value``, a mapping from names to tensors.

    Raises:
        TypeError: it is none.
    """
    for key, entry in named(name, value).items():
        tensor(f"{name}['{key}']", entry)
    return value


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
        found = torch.as_tensor(_without_text(values), dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError, MemoryError):
        raise TypeError(f"{name}: got {shown(values)}, expected {expected}") from None
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"{name}: got an entry that is not finite, expected {expected}")
    return found


def _without_text(values: Any) -> Any:
    """Numbers that torch would take for others are refused: text and truth values."""
    found = values if isinstance(values, Tensor) else np.asarray(values)
    if isinstance(found, np.ndarray) and found.dtype.kind not in "iuf":
        raise TypeError
    return found if isinstance(found, Tensor) or found.dtype.kind != "f" else found.astype(np.float64)


def increasing_times(times: Any, t0: Any) -> tuple[Tensor, float]:
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


def dtype_of_floats(dtype: Any) -> torch.dtype | None:
    """Return ``dtype``, one that can hold real numbers, or None.

    Raises:
        TypeError: it cannot.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype: got {shown(dtype)}, expected a floating-point torch dtype")
    return dtype
