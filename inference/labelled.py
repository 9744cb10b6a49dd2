"""Draws of two sources by site, labelled dimensions put in the same order: by name and by coordinate, not by position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.require import shown
from .arrays import Array, numbers

DRAWN = ("chain", "draw")


def paired(draws: Any, reference: Any) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return site -> (S, *site shape) of both, as far as both have the site, the first laid out as the second.

    Raises:
        TypeError, ValueError: what holds no draws, no common site, labels or shapes that do not match.
    """
    left, right = sites(draws, "draws"), sites(reference, "reference")
    names = [name for name in right if name in left]
    if not names:
        raise ValueError(
            f"draws: got sites {shown(sorted(left))}, expected some of the reference's, {shown(sorted(right))}"
        )
    found: tuple[dict[str, Array], dict[str, Array]] = {}, {}
    for name in names:
        pair = (left[name], right[name])
        if all(hasattr(part, "dims") for part in pair):
            pair = _aligned(name, *pair)
        for side, part, argument in zip(found, pair, ("draws", "reference"), strict=True):
            side[name] = _stacked(part, f"{argument}['{name}']")
        got, expected = found[0][name].shape[1:], found[1][name].shape[1:]
        if got != expected:
            raise ValueError(f"draws['{name}']: got site shape {got}, expected that of the reference, {expected}")
    for side, argument in zip(found, ("draws", "reference"), strict=True):
        sizes = {name: len(value) for name, value in side.items()}
        if len(set(sizes.values())) > 1 or 0 in sizes.values():
            raise ValueError(f"{argument}: got {shown(sizes)} draws, expected as many of each site, and at least one")
    return found


def sites(source: Any, argument: str) -> dict[str, Any]:
    """Return site -> draws as they are held: labelled arrays with chain and draw in front, or arrays (S, *site shape).

    Raises:
        TypeError: ``source`` holds no draws.
        ValueError: a labelled array has no chain and draw.
    """
    import xarray as xr

    if isinstance(source, xr.DataTree):
        source = source["posterior"] if "posterior" in source.children else source
        source = source.to_dataset()
    if isinstance(source, xr.Dataset):
        return {str(name): _labelled(array, f"{argument}['{name}']") for name, array in source.data_vars.items()}
    held = None if isinstance(source, Mapping) else getattr(source, "draws", None)
    if isinstance(held, Mapping):
        return {
            str(name): _flat(numbers(f"{argument}['{name}']", v), f"{argument}['{name}']") for name, v in held.items()
        }
    if not isinstance(source, Mapping):
        raise TypeError(f"{argument}: got {shown(source)}, expected a DataTree, a Reference or a mapping of arrays")
    result = {}
    for name, value in source.items():
        if not isinstance(name, str):
            raise TypeError(f"{argument}: got the key {shown(name)}, expected names of sites")
        if isinstance(value, xr.DataArray) and set(DRAWN) & set(value.dims):
            value = _labelled(value, f"{argument}['{name}']")
        result[name] = value
    sizes = {name: len(_stacked(value, f"{argument}['{name}']")) for name, value in result.items()}
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        raise ValueError(f"{argument}: got {shown(sizes)} draws, expected as many of each site, and at least one")
    return result


def _labelled(array: Any, argument: str) -> Any:
    if not set(DRAWN) <= set(array.dims):
        raise ValueError(f"{argument}: got dimensions {shown(tuple(array.dims))}, expected chain and draw among them")
    return array.transpose(*DRAWN, ...)


def _stacked(value: Any, argument: str) -> Array:
    """Return (S, *site shape)."""
    if hasattr(value, "dims") and set(DRAWN) <= set(value.dims):
        return _flat(numbers(argument, value.values), argument)
    found = numbers(argument, value)
    if not found.ndim:
        raise ValueError(f"{argument}: got a single number, expected draws of shape (S, ...)")
    return found


def _flat(value: Array, argument: str) -> Array:
    if value.ndim < 2:
        raise ValueError(f"{argument}: got shape {value.shape}, expected (chain, draw, ...)")
    return value.reshape(-1, *value.shape[2:])


def _aligned(name: str, left: Any, right: Any) -> tuple[Any, Any]:
    """Lay the dimensions and coordinates of a site's draws out as the reference's."""
    ours, theirs = ([dim for dim in part.dims if dim not in DRAWN] for part in (left, right))
    if set(ours) == set(theirs):
        left = left.transpose(*DRAWN, *theirs)
    elif not (_unnamed(name, ours) or _unnamed(name, theirs)) or len(ours) != len(theirs):
        raise ValueError(f"draws['{name}']: got dimensions {shown(ours)}, expected the reference's, {shown(theirs)}")
    else:  # names that ArviZ made up say nothing: by position
        left = left.rename({own: f"_{k}" for k, own in enumerate(ours)}).rename(
            {f"_{k}": other for k, other in enumerate(theirs)}
        )
        return left.drop_vars(theirs, errors="ignore"), right
    for dim in theirs:
        if dim in left.coords and dim in right.coords:
            left = left.isel({dim: _order(f"draws['{name}']", str(dim), left[dim].values, right[dim].values)})
    return left, right


def _unnamed(name: str, dims: list[Any]) -> bool:
    return all(str(dim).startswith((f"{name}_dim_", "dim_")) for dim in dims)


def _order(argument: str, dim: str, ours: NDArray[Any], theirs: NDArray[Any]) -> NDArray[np.intp]:
    """Return where each of the reference's labels stands among ours."""
    if ours.shape == theirs.shape and (ours == theirs).all():
        return np.arange(len(ours))
    close = all(part.dtype.kind == "f" for part in (ours, theirs)) and ours.shape == theirs.shape
    if close and np.allclose(ours, theirs, rtol=1e-6, atol=0):
        return np.arange(len(ours))
    places = {label: index for index, label in enumerate(ours.tolist())}
    if len(places) != len(ours) or set(places) != set(theirs.tolist()) or len(ours) != len(theirs):
        raise ValueError(
            f"{argument}: got coordinates {shown(ours.tolist())} of '{dim}', expected those of the reference, {shown(theirs.tolist())}"
        )
    return np.array([places[label] for label in theirs.tolist()])
