"""Float64 for what asks for it: second differences, L-BFGS, references."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..guides.sites import Data


def in_double(model: Callable[..., Any], data: Data) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return a model and its data in float64.

    A module with parameters or buffers of another precision is copied, in evaluation mode, together with the data; all else is
    returned as it is.
    """
    if not isinstance(model, nn.Module) or not any(map(_other, chain(model.parameters(), model.buffers()))):
        return model, dict(data)
    return deepcopy(model).double().eval(), {
        name: value.double() if _other(value) else value for name, value in data.items()
    }


def _other(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
