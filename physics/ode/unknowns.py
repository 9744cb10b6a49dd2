"""The unknowns of an equation, brought to one batch shape."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...core.require import floats, shown
from ..problem import Unknowns
from .failures import Named


def widened(event_dims: Mapping[str, int], z: Unknowns, path: Tensor | None) -> tuple[dict[str, Tensor], torch.Size]:
    """Return every unknown expanded to the batch shape common with ``path`` (..., T, k), and that shape.

    Raises:
        TypeError, ValueError: no mapping, no initial state, or shapes that do not fit.
    """
    if not isinstance(z, Mapping) or "initial_state" not in z:
        got = list(z) if isinstance(z, Mapping) else type(z).__name__
        raise ValueError(f"z: got {got}, expected a mapping of named unknowns with 'initial_state'")
    leads = {name: floats(f"z[{name!r}]", z[name]).dim() - event_dims.get(name, 0) for name in z}
    short = [name for name, lead in leads.items() if lead < 0]
    if short:
        raise ValueError(
            f"z[{short[0]!r}] got shape {tuple(z[short[0]].shape)}, expected (..., "
            f"{event_dims[short[0]]} dimensions of its own)"
        )
    states = z["initial_state"].shape[-1]
    if not states or (path is not None and path.shape[-1] != states):
        got = tuple(z["initial_state"].shape)
        wanted = "at least one state" if path is None else f"the {path.shape[-1]} states of the trajectory"
        raise ValueError(f"z['initial_state'] got shape {got}, expected {wanted}")
    shapes = {name: tuple(z[name].shape[:lead]) for name, lead in leads.items()}
    try:
        batch = torch.broadcast_shapes(() if path is None else path.shape[:-2], *shapes.values())
    except RuntimeError:
        raise ValueError(f"z: got batch shapes {shown(shapes)}, expected shapes that broadcast") from None
    found = {name: z[name].expand((*batch, *z[name].shape[lead:])) for name, lead in leads.items()}
    return Named(found), batch


def flattened(event_dims: Mapping[str, int], value: Tensor, name: str, batch: torch.Size) -> Tensor:
    """Return an unknown of a batch shape as (samples, *own shape)."""
    own = value.shape[value.dim() - event_dims.get(name, 0) :]
    return value.expand((*batch, *own)).reshape(-1, *own)
