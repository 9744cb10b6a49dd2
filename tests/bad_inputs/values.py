"""Values that almost no argument can take, each made afresh by a function without arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

DOUBLE = torch.float64


class Rude:
    """Fails at whatever Python asks an object for."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __len__(self) -> int:
        raise RuntimeError("no len")

    def __bool__(self) -> bool:
        raise RuntimeError("no bool")

    def __iter__(self) -> Any:
        raise RuntimeError("no iter")


def _plain() -> dict[str, Callable[[], Any]]:
    return {
        "None": lambda: None,
        "word": lambda: "word",
        "empty word": lambda: "",
        "word with a zero byte": lambda: "a\x00b",
        "long word": lambda: "x" * 5000,
        "bytes": lambda: b"x",
        "3": lambda: 3,
        "-1": lambda: -1,
        "0": lambda: 0,
        "2.5": lambda: 2.5,
        "nan": lambda: math.nan,
        "inf": lambda: math.inf,
        "1e99": lambda: 1e99,
        "2**64": lambda: 2**64,
        "10**5000": lambda: 10**5000,
        "True": lambda: True,
        "complex": lambda: 1j,
        "Decimal": lambda: Decimal("0.3"),
        "Fraction": lambda: Fraction(1, 3),
        "[]": lambda: [],
        "{}": lambda: {},
        "()": lambda: (),
        "set": lambda: {1, 2},
        "object": lambda: object(),
        "rude object": Rude,
        "function": lambda: lambda *a, **k: None,
        "class": lambda: timedelta,
        "module": lambda: math,
        "generator": lambda: (i for i in (1.0, 2.0)),
        "range": lambda: range(3),
        "words": lambda: ["a", "b"],
        "ragged list": lambda: [[1.0], [2.0, 3.0]],
        "list of None": lambda: [None],
        "{'z': 1}": lambda: {"z": 1},
        "{'y': word}": lambda: {"y": "word"},
        "{1: 2}": lambda: {1: 2},
        "missing path": lambda: Path("missing/file"),
        "folder": lambda: Path(),
    }


def _arrays() -> dict[str, Callable[[], Any]]:
    return {
        "numpy words": lambda: np.array(["a", "b"]),
        "numpy objects": lambda: np.array([None, object()], dtype=object),
        "numpy dates": lambda: np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[D]"),
        "numpy complex": lambda: np.array([1j, 2.0]),
        "numpy nan": lambda: np.array([math.nan, 1.0]),
        "numpy cube": lambda: np.ones((2, 3, 4)),
        "numpy number": lambda: np.float64(2.5),
        "complex tensor": lambda: torch.ones(2, dtype=torch.complex128),
        "int tensor": lambda: torch.ones(2, dtype=torch.int64),
        "bool tensor": lambda: torch.ones(2, dtype=torch.bool),
        "empty tensor": lambda: torch.ones(0, dtype=DOUBLE),
        "sparse tensor": lambda: torch.eye(2, dtype=DOUBLE).to_sparse(),
        "nested tensor": lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
        "meta tensor": lambda: torch.ones(2, device="meta", dtype=DOUBLE),
        "nan tensor": lambda: torch.full((2,), math.nan, dtype=DOUBLE),
        "inf tensor": lambda: torch.full((2,), math.inf, dtype=DOUBLE),
        "0-dim tensor": lambda: torch.tensor(1.0, dtype=DOUBLE),
        "wrong shape": lambda: torch.ones(7, 5, dtype=DOUBLE),
        "half tensor": lambda: torch.ones(2, dtype=torch.float16),
        "huge tensor": lambda: torch.ones(1, dtype=DOUBLE).expand(10**13),
        "class of dtype": lambda: torch.int64,
    }


VALUES: dict[str, Callable[[], Any]] = _plain() | _arrays()
