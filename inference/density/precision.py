"""In which precision a model is asked: float64 for second differences and L-BFGS, else the widest of what it is given."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import reduce
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ...core.arguments import Data
from ...core.prototype import prototype
from ...core.require import named

Model = Callable[..., Any]


def in_double(model: Model, data: Data) -> tuple[Model, dict[str, Any]]:
    """Return a model and its data in float64.

    A module with parameters or buffers of another precision is copied, in evaluation mode; a function stays as it is. So does
    a module that makes tensors of its own in another precision and cannot be run in float64.
    """
    named("data", data)
    copied, cast = _copied(model, torch.float64), _cast(data, torch.float64)
    if copied is model:
        return model, cast
    try:
        prototype(copied, cast)
    except (ValueError, TypeError):
        return model, dict(data)
    return copied, cast


def in_one(model: Model, data: Data, *others: Tensor) -> tuple[Model, dict[str, Any]]:
    """Return a model and its data in the widest precision of the module's weights, the data and ``others``.

    Where all have one precision already nothing is copied. A function stays as it is.
    """
    named("data", data)
    held = chain(model.parameters(), model.buffers()) if isinstance(model, nn.Module) else ()
    kind = widest(*held, *data.values(), *others)
    return (model, dict(data)) if kind is None else (_copied(model, kind), _cast(data, kind))


def widest(*values: Any) -> torch.dtype | None:
    """Return the widest floating precision of some tensors; ``None`` where none of them is floating."""
    kinds = [value.dtype for value in values if isinstance(value, Tensor) and value.is_floating_point()]
    return reduce(torch.promote_types, kinds) if kinds else None


def workable(density: Callable[[Tensor], Any], x: Tensor, wanted: torch.dtype) -> torch.dtype:
    """Return the precision of unknowns in which a density can be evaluated: the wanted one, else that of ``x``.

    A function may hold tensors of one precision, which refuse to be multiplied with those of another.

    Raises:
        ValueError: it cannot be evaluated in either.
    """
    if x.dtype == wanted:
        return wanted
    for kind in (wanted, x.dtype):
        try:
            with torch.no_grad():
                density(x.to(kind))
        except (RuntimeError, TypeError) as error:
            reason = str(error).strip().split("\n", 1)[0][:120]
        else:
            return kind
    raise ValueError(
        f"model: got unknowns in {wanted} and in {x.dtype}, at which it fails, expected data and tensors of one precision ({reason})"
    )


def _copied(model: Model, kind: torch.dtype) -> Model:
    if not isinstance(model, nn.Module):
        return model
    if not any(_other(value, kind) for value in chain(model.parameters(), model.buffers())):
        return model
    return deepcopy(model).to(kind).eval()


def _cast(data: Data, kind: torch.dtype) -> dict[str, Any]:
    return {name: value.to(kind) if _other(value, kind) else value for name, value in data.items()}


def _other(value: Any, kind: torch.dtype) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype != kind
