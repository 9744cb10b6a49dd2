"""The layout of ArviZ 1.x: groups of arrays as one DataTree, with dimensions, coordinates and units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.require import named, shown

if TYPE_CHECKING:
    from xarray import DataTree

PER_ENTRY = ("log_likelihood", "posterior_predictive", "observed_data")


def tree(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    *,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    units: Mapping[str, str] | None = None,
    attrs: Mapping[str, Any] | None = None,
    seen: Mapping[str, Sequence[int]] | None = None,
) -> DataTree:
    """Return groups of (chain, draw, ...) arrays as an ArviZ DataTree with units; empty groups are left out.

    Args:
        groups: group -> name -> array; groups with "data" in their name have no chain and draw.
        coords: dimension -> coordinate values.
        dims: name -> names of its dimensions beyond chain and draw.
        units: name -> unit.
        attrs: attributes of the whole tree.
        seen: "<name>_seen" -> numbers of the entries that log_likelihood, posterior_predictive and observed_data hold of a name.

    Raises:
        ValueError: a name that ArviZ cannot hold.
    """
    import arviz_base as az
    from xarray import DataTree

    filled = {group: dict(variables) for group, variables in groups.items() if variables}
    _check_names(filled)
    places = {name: list(value) for name, value in {**(coords or {}), **(seen or {})}.items()}
    layout = {name: list(value) for name, value in (dims or {}).items()}
    parts = {}
    for group, variables in filled.items():
        own = layout | (_seen_dims(group, variables, layout, seen or {}) if group in PER_ENTRY else {})
        part = az.from_dict({group: variables}, coords=places, dims=own, pred_coords=places, pred_dims=own)
        parts[group] = part[group].to_dataset()
    result = DataTree.from_dict(parts)
    result.attrs = dict(attrs or {})
    for group in filled:
        for name, unit in (units or {}).items():
            if name in result[group].data_vars and group not in ("log_likelihood", "sample_stats"):
                result[group][name].attrs["units"] = unit
    return result


def _seen_dims(
    group: str, variables: Mapping[str, np.ndarray], layout: Mapping[str, list[str]], seen: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Return the dimensions of variables that hold the seen entries of a site alone, and behind them those of one entry."""
    found = {}
    for name, values in variables.items():
        if f"{name}_seen" in seen:
            behind = values.ndim - 1 - (0 if "data" in group else 2)
            known = layout.get(name, [f"{name}_dim_{k}" for k in range(behind)])
            found[name] = [f"{name}_seen", *known[len(known) - behind :]]
    return found


def _check_names(groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse names that a DataTree cannot hold: a slash leads to another group, chain and draw are dimensions.

    Raises:
        ValueError: there is one.
    """
    for name in (name for variables in groups.values() for name in variables):
        if "/" in name or name in ("chain", "draw", ".", "..") or not name:
            raise ValueError(
                f"model: got a site named '{name}', which an ArviZ tree cannot hold, expected a name without '/', other than "
                "'chain' and 'draw'"
            )


def check_layout(
    shapes: Mapping[str, Sequence[int]],
    coords: Mapping[str, Sequence[Any]] | None,
    dims: Mapping[str, Sequence[str]] | None,
    units: Mapping[str, str] | None,
) -> None:
    """Refuse names that are no sites, and dimensions that are not as many and as long as a site's."""
    for argument, given in (("coords", coords), ("dims", dims), ("units", units)):
        named(argument, {} if given is None else given)
        for name, value in ({} if given is None else given).items():
            if argument == "coords" and (isinstance(value, str | bytes) or not hasattr(value, "__len__")):
                raise TypeError(f"coords['{name}']: got {shown(value)}, expected the entries along the dimension")
            if argument == "units" and not isinstance(value, str):
                raise TypeError(f"units['{name}']: got {shown(value)}, expected words")
        for name in {} if argument == "coords" or given is None else given:
            if name not in shapes:
                raise ValueError(f"{argument}: got '{name}', expected a site of the model: {', '.join(shapes)}")
    for name, wanted in (dims or {}).items():
        if not isinstance(wanted, Sequence) or len(wanted) != len(shapes[name]):
            raise ValueError(f"dims['{name}']: got {shown(wanted)}, expected {len(shapes[name])} names")
        for dim, size in zip(wanted, shapes[name], strict=True):
            if coords is not None and dim in coords and len(coords[dim]) != size:
                raise ValueError(f"coords['{dim}']: got {len(coords[dim])} values, expected {size} as in '{name}'")
