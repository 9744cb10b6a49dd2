"""The integrand of a UFL form as torch operations at the quadrature points, read node by node.

A quantity at the points is held as the product of a part that varies within a cell and one that does not, so that what is
constant on a cell, as the gradient of a linear element is, stays outside sums over its points. The integrand is linear in
the test function: reading it gives the coefficient of each of its values and derivatives.
"""

# UFL annotates with unions of all that an operation might return.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportOptionalMemberAccess=false, reportCallIssue=false, reportIndexIssue=false
from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import ufl
from torch import Tensor

VALUE = None  # the derivative that is none

Number = Tensor | float


class UnsupportedForm(Exception):
    """The form holds something that is not tabulated; the message says what."""


@dataclass(frozen=True)
class Factors:
    """A quantity at the points: the product of one that varies within a cell and one that does not.

    Attributes:
        point: (cells, points, batch or 1), or None for one.
        cell: (cells or 1, 1, batch or 1), or a number.
    """

    point: Tensor | None
    cell: Number

    @property
    def value(self) -> Number:
        """The product."""
        return self.cell if self.point is None else times(self.point, self.cell)

    def times(self, other: Factors) -> Factors:
        """Return the product of two quantities."""
        if self.point is None or other.point is None:
            point = other.point if self.point is None else self.point
        else:
            point = self.point * other.point
        return Factors(point, times(self.cell, other.cell))

    def plus(self, other: Factors) -> Factors:
        """Return the sum of two quantities; a common factor stays one."""
        if self.point is other.point:
            return Factors(self.point, self.cell + other.cell)
        return Factors(self.value + other.value, 1.0)  # type: ignore[arg-type]


def times(a: Number, b: Number) -> Number:
    """Return a b; nothing is multiplied by one."""
    if isinstance(a, float) and a == 1.0:
        return b
    return a if isinstance(b, float) and b == 1.0 else a * b


ONE = Factors(None, 1.0)
Linear = dict[tuple[int, int | None], Factors]  # (component, derivative) of the test function -> its coefficient

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Exp": torch.exp,
    "Ln": torch.log,
    "Sqrt": torch.sqrt,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Tanh": torch.tanh,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Erf": torch.erf,
    "Abs": torch.abs,
    "Sign": torch.sign,
}
_SAME = ("Conj", "Real", "Variable")  # of real numbers
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "LT": operator.lt,
    "GT": operator.gt,
    "LE": operator.le,
    "GE": operator.ge,
    "EQ": operator.eq,
    "NE": operator.ne,
}


class Points(Protocol):
    """What a reader asks of the tables, all for the samples at hand."""

    def field(self, function: Any, component: int, derivative: int | None) -> Factors:
        """Return a component of a field or of its derivative along an axis."""
        ...

    def constant(self, constant: Any, component: int) -> Factors:
        """Return a component of a constant."""
        ...

    def place(self, axis: int) -> Factors:
        """Return a coordinate of the points."""
        ...


class Reader:
    """Works out an expression; what occurs twice is worked out once.

    Args:
        points: fields, constants and places.
        like: a tensor of the dtype and on the device of the samples.
    """

    def __init__(self, points: Points, like: Tensor) -> None:
        self.points, self.like = points, like
        self._known: dict[Any, Factors | Linear] = {}

    def read(self, node: Any) -> Factors | Linear:
        if node not in self._known:
            self._known[node] = self._read_new(node)
        return self._known[node]

    def _number(self, node: Any) -> Factors:
        found = self.read(node)
        if isinstance(found, dict):
            raise UnsupportedForm("a test function where a number was expected")
        return found

    def _read_new(self, node: Any) -> Factors | Linear:
        kind = type(node).__name__
        if kind in ("IntValue", "FloatValue", "ScalarValue"):
            return Factors(None, float(node))
        if kind == "Zero":
            return Factors(None, 0.0)
        if kind in _SAME:
            return self.read(node.ufl_operands[0])
        if kind == "Sum":
            return _sum(*(self.read(part) for part in node.ufl_operands))
        if kind == "Product":
            return _product(*(self.read(part) for part in node.ufl_operands))
        if kind == "Division":
            above, below = self.read(node.ufl_operands[0]), self._number(node.ufl_operands[1])
            point = None if below.point is None else 1.0 / below.point
            return _product(above, Factors(point, 1.0 / below.cell))
        if kind == "Power":
            base, exponent = (self._number(part) for part in node.ufl_operands)
            return self._together(torch.pow, base, exponent)
        if kind in _FUNCTIONS:
            return self._together(_FUNCTIONS[kind], self._number(node.ufl_operands[0]))
        if kind in ("MinValue", "MaxValue"):
            function = torch.minimum if kind == "MinValue" else torch.maximum
            return self._together(function, *(self._number(part) for part in node.ufl_operands))
        if kind == "Conditional":
            test, *branches = node.ufl_operands
            compare = _COMPARISONS.get(type(test).__name__)
            if compare is None:
                raise UnsupportedForm(f"the condition {type(test).__name__}")
            sides = [self._number(part) for part in (*test.ufl_operands, *branches)]
            return self._together(lambda a, b, c, d: torch.where(compare(a, b), c, d), *sides)
        return self._terminal(node)

    def _together(self, function: Callable[..., Tensor], *parts: Factors) -> Factors:
        values = [torch.as_tensor(part.value).to(self.like) for part in parts]
        found = function(*values)
        return Factors(None, found) if all(part.point is None for part in parts) else Factors(found, 1.0)

    def _terminal(self, node: Any) -> Factors | Linear:
        """A constant, a place, a field, the test function, or a derivative or component of one."""
        index: Sequence[int] = []
        derivative = VALUE
        if isinstance(node, ufl.classes.Indexed):
            node, chosen = node.ufl_operands
            index = [int(i) for i in chosen]
        if isinstance(node, ufl.classes.Grad):
            (node,), index, derivative = node.ufl_operands, index[:-1], index[-1]
        if isinstance(node, ufl.classes.SpatialCoordinate) and derivative is VALUE:
            return self.points.place(*index)
        if not isinstance(node, ufl.classes.Argument | ufl.classes.Coefficient | ufl.classes.Constant):
            raise UnsupportedForm(f"the operation {type(node).__name__}")
        component = int(np.ravel_multi_index(tuple(index), node.ufl_shape)) if node.ufl_shape else 0
        if isinstance(node, ufl.classes.Argument):
            return {(component, derivative): ONE}
        if isinstance(node, ufl.classes.Coefficient):
            return self.points.field(node, component, derivative)
        return self.points.constant(node, component)


def _product(*parts: Factors | Linear) -> Factors | Linear:
    numbers, tests = [p for p in parts if isinstance(p, Factors)], [p for p in parts if isinstance(p, dict)]
    if len(tests) > 1:
        raise UnsupportedForm("two test functions in a product")
    factor = ONE
    for number in numbers:
        factor = factor.times(number)
    if not tests:
        return factor
    return {key: value.times(factor) for key, value in tests[0].items()}


def _sum(*parts: Factors | Linear) -> Factors | Linear:
    if all(isinstance(part, dict) for part in parts):
        total: Linear = {}
        for part in parts:
            for key, value in part.items():
                total[key] = total[key].plus(value) if key in total else value
        return total
    found: Any = None
    for part in parts:
        if isinstance(part, dict):
            raise UnsupportedForm("a sum of a test function and a number")
        found = part if found is None else found.plus(part)
    return found
