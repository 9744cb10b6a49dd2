"""The unknowns of a form as dolfinx takes them: flat, float64, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from ...core.require import floats, shown
from ..problem import Unknowns


class Form(Protocol):
    """What is asked of a ``FEMProblem``: the event shape of each parameter, and the numbers of the free dofs."""

    @property
    def parameter_shapes(self) -> Mapping[str, Any]: ...
    @property
    def free_dofs(self) -> Any: ...


def named_parameters(form: Form, z: Unknowns) -> Mapping[str, Tensor]:
    """Return z by name; a single parameter may come alone.

    Raises:
        TypeError, ValueError: no mapping, or one of other names.
    """
    names = form.parameter_shapes
    if isinstance(z, Tensor):
        if len(names) != 1:
            raise TypeError(f"z: got one tensor, expected a mapping with {', '.join(names)}")
        return {next(iter(names)): z}
    if not isinstance(z, Mapping):
        raise TypeError(f"z: got {shown(z)}, expected a mapping with {', '.join(names)}")
    if set(z) != set(names):
        raise ValueError(f"z: got the names {', '.join(sorted(map(str, z)))}, expected {', '.join(sorted(names))}")
    return z


def flat(
    form: Form, z: Unknowns, state: Tensor | None = None, as_they_are: bool = False
) -> tuple[list[Tensor], tuple[int, ...], Tensor]:
    """Return ([state,] *z) as (samples, ...), the leading shape and an empty tensor like them.

    They are float64 on the CPU, or of the dtype that they have in common and where they are.
    """
    entries = [] if state is None else [("state", state, (form.free_dofs.numel(),))]
    named = named_parameters(form, z)
    entries += [(name, named[name], event) for name, event in form.parameter_shapes.items()]
    leading: dict[str, torch.Size] = {}
    for name, tensor, event in entries:
        floats(name, tensor)
        split = max(tensor.dim() - len(event), 0)
        if tensor.shape[split:] != event:
            expected = ", ".join(["...", *map(str, event)])
            raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, expected ({expected})")
        leading[name] = tensor.shape[:split]
    shape = _common(leading)
    found, dtype = [], entries[0][1].dtype
    for name, tensor, event in entries:
        if leading[name] != shape:
            tensor = tensor.expand(shape + event)
        found.append(tensor.reshape(-1, *event))
        dtype = torch.promote_types(dtype, tensor.dtype)
    like = torch.empty(0, dtype=dtype, device=entries[0][1].device)
    wanted = like if as_they_are else torch.empty(0, dtype=torch.float64)
    return [tensor.to(wanted) for tensor in found], shape, like


def _common(leading: Mapping[str, torch.Size]) -> tuple[int, ...]:
    sizes = set(leading.values())
    if len(sizes) == 1:
        return tuple(sizes.pop())
    try:
        return tuple(torch.broadcast_shapes(*sizes))
    except RuntimeError as error:
        got = ", ".join(f"{name} {tuple(size)}" for name, size in leading.items())
        raise ValueError(f"leading shapes: got {got}, expected shapes that broadcast") from error


def back(out: Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return samples with their leading shape, dtype and device again."""
    return out.reshape(shape + tuple(out.shape[1:])).to(like)
