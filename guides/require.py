"""Refusals in one sentence: the argument, what came, what was expected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

LARGEST_SEED = 2**63 - 1  # what torch's generators take
MOST = 10**9  # of anything that is counted
LARGEST = 10**10  # entries of a tensor


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
    return text if len(text) <= 60 else f"{text[:57]}..."


def whole(name: str, value: Any, least: int, most: int = MOST) -> None:
    """Refuse what is no whole number from ``least`` to ``most``.

    Raises:
        ValueError: it is not.
    """
    wrong = not isinstance(value, Integral) or isinstance(value, bool)
    if wrong or not least <= int(value) <= most:
        high = not wrong and int(value) > most
        bounds = f"{least} to {most}" if most != MOST or high else f"a whole number of at least {least}"
        raise ValueError(f"{name}: got {shown(value)}, expected {bounds}")


def real(name: str, value: Any, low: float, high: float = math.inf, expected: str = "a positive number") -> None:
    """Refuse what is no number strictly between ``low`` and ``high``.

    Raises:
        ValueError: it is not.
    """
    try:
        number = isinstance(value, Real) and not isinstance(value, bool | Fraction)  # which meets no tensor
        inside = number and low < float(value) < high
    except OverflowError:
        inside = False
    if not inside:
        raise ValueError(f"{name}: got {shown(value)}, expected {expected}")


def seed_number(value: Any) -> None:
    """Refuse what cannot seed a generator.

    Raises:
        ValueError: it cannot.
    """
    whole("seed", value, 0, LARGEST_SEED)


def flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name}: got {shown(value)}, expected True or False")


def one_of(name: str, value: Any, words: Sequence[str]) -> None:
    """Refuse what is none of the words.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{name}: got {shown(value)}, expected one of {', '.join(words)}")


def function(name: str, value: Any, classes: bool = False) -> None:
    """Refuse what cannot be called, and a class where its instance is meant.

    Raises:
        TypeError: it cannot, or it is a class.
    """
    if not callable(value):
        raise TypeError(f"{name}: got {shown(value)}, expected a callable")
    if isinstance(value, type) and not classes:
        raise TypeError(f"{name}: got the class {value.__name__}, expected a function or an instance of a class")


def named(name: str, value: Any) -> None:
    """Refuse what is no mapping from names.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: got {shown(value)}, expected a mapping from names to values")
    wrong = [key for key in value if not isinstance(key, str)]
    if wrong:
        raise TypeError(f"{name}: got the key {shown(wrong[0])}, expected names")


def tensor(name: str, value: Any) -> None:
    """Refuse what is no tensor that holds all its numbers, one after the other: neither sparse, nor nested, nor without values.

    Raises:
        TypeError: it is none.
    """
    dense = isinstance(value, Tensor) and not value.is_nested and not value.is_meta and value.layout == torch.strided
    if not dense or value.numel() > LARGEST:
        raise TypeError(f"{name}: got {shown(value)}, expected a tensor")


def tensors(name: str, value: Any) -> None:
    """Refuse what is no mapping from names to tensors.

    Raises:
        TypeError: it is none.
    """
    named(name, value)
    for key, entry in value.items():
        tensor(f"{name}['{key}']", entry)


def widths(name: str, value: Any) -> None:
    """Refuse what is no sequence of layer widths.

    Raises:
        TypeError: it is no sequence.
        ValueError: a width is not a positive whole number.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray):
        raise TypeError(f"{name}: got {shown(value)}, expected a sequence of layer widths")
    for entry in value:
        whole(name, entry, 1)
