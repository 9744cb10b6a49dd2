"""Explicit Runge-Kutta steps of fixed length, as they are or compiled.

    k_i = f(t + c_i h, u + h sum_j a_ij k_j),   u(t + h) = u + h sum_i b_i k_i

"rk4" is the 3/8 rule. A small equation of few operations spends its time on calling them, and so gains most by ``Compiled``.

Source: W. Kutta, Zeitschrift fuer Mathematik und Physik 46 (1901); Hairer, Norsett, Wanner, Solving ODEs I, II.1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

# method -> (c, rows of a, b)
TABLEAUX: dict[str, tuple[tuple[float, ...], tuple[tuple[float, ...], ...], tuple[float, ...]]] = {
    "euler": ((0.0,), ((),), (1.0,)),
    "midpoint": ((0.0, 1 / 2), ((), (1 / 2,)), (0.0, 1.0)),
    "heun2": ((0.0, 1.0), ((), (1.0,)), (1 / 2, 1 / 2)),
    "heun3": ((0.0, 1 / 3, 2 / 3), ((), (1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4)),
    "rk4": (
        (0.0, 1 / 3, 2 / 3, 1.0),
        ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
        (1 / 8, 3 / 8, 3 / 8, 1 / 8),
    ),
}

FEWEST = 64  # samples below which a step is not worth compiling
VARIANTS = 64

Velocity = Callable[[Tensor, Tensor], Tensor]


def step(velocity: Velocity, method: str, t: Tensor, h: Tensor, u: Tensor) -> Tensor:
    """Return u(t + h), shape of u (..., k); t and h are scalars."""
    fractions, rows, weights = TABLEAUX[method]
    slopes: list[Tensor] = []
    for fraction, row in zip(fractions, rows, strict=True):
        slopes.append(velocity(t + fraction * h if fraction else t, _moved(u, h, row, slopes)))
    return _moved(u, h, weights, slopes)


def _moved(u: Tensor, h: Tensor, weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    used = [(weight, slope) for weight, slope in zip(weights, slopes, strict=True) if weight]
    if not used:
        return u
    total = used[0][0] * used[0][1] if used[0][0] != 1.0 else used[0][1]
    for weight, slope in used[1:]:
        total = torch.add(total, slope, alpha=weight)
    return torch.addcmul(u, h, total)


def integrate(
    velocity: Velocity, start: Tensor, knots: Tensor, method: str, substeps: int, one_step: Any = None
) -> Tensor:
    """Return the path at the knots t_0 < t_1 < ..., (knots, ..., k), with ``substeps`` equal steps between two of them.

    Args:
        one_step: (t, h, u) -> u(t + h), instead of ``step``.
    """
    path, u = [start], start
    lengths = knots.diff() / substeps
    for t, h in zip(knots[:-1].unbind(), lengths.unbind(), strict=True):
        for n in range(substeps):
            now = t + n * h if n else t
            u = step(velocity, method, now, h, u) if one_step is None else one_step(now, h, u)
        path.append(u)
    return torch.stack(path)


class Compiled:
    """Steps of right-hand sides, compiled when first used; what cannot be compiled runs as it is, with a warning.

    Layouts, dtypes and right-hand sides of a process may make ``VARIANTS`` compiled steps together; what comes after these
    runs as it is. A deep copy starts empty: a compiled step holds on to the networks that it was compiled with.
    """

    def __init__(self) -> None:
        self._steps: dict[Any, tuple[Any, Any]] = {}  # key -> right-hand side, which the id in the key is of; step

    def __deepcopy__(self, memo: Any) -> Compiled:
        return Compiled()

    def __reduce__(self) -> Any:
        return Compiled, ()

    def integrate(
        self, rhs: Callable[..., Tensor], z: Mapping[str, Tensor], start: Tensor, knots: Tensor, how: tuple[str, int]
    ) -> Tensor:
        """Return the path of du/dt = rhs(t, u, z) as ``integrate`` does; ``how`` is method and substeps."""
        method, substeps = how

        def velocity(t: Tensor, u: Tensor) -> Tensor:
            return rhs(t, u, z)

        if start[..., 0].numel() < FEWEST:
            return integrate(velocity, start, knots, method, substeps)
        checks = Distribution._validate_args  # which torch.compile switches off for the whole process
        key = (id(getattr(rhs, "__self__", rhs)), getattr(rhs, "__func__", None), method)
        try:
            if key not in self._steps:
                self._steps[key] = rhs, _compiled(rhs, method)
            function = self._steps[key][1]
            if function is None:
                return integrate(velocity, start, knots, method, substeps)
            plain = {name: value.contiguous() for name, value in z.items()}  # each layout would be compiled anew
            compiled: Any = lambda t, h, u: function(t, h, u, plain)  # noqa: E731
            return integrate(velocity, start.contiguous(), knots, method, substeps, compiled)
        except Exception as error:
            path = integrate(velocity, start, knots, method, substeps)  # a mistake in the equation is told by itself
            self._steps[key] = rhs, None
            reason = str(error).strip().split("\n", 1)[0][:120]
            warnings.warn(f"compile: the step could not be compiled and runs as it is ({reason})", stacklevel=2)
            return path
        finally:
            Distribution._validate_args = checks


def _compiled(rhs: Callable[..., Tensor], method: str) -> Any:
    def one(t: Tensor, h: Tensor, u: Tensor, z: dict[str, Tensor]) -> Tensor:
        return step(lambda s, v: rhs(s, v, z), method, t, h, u)

    compiler: Any = torch.compile
    try:
        return compiler(one, recompile_limit=VARIANTS)
    except TypeError:  # an older torch, whose own limit is 8
        return compiler(one)
