"""Do the arguments of a model fit what it observes? Told before any work is done, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from .require import named, shown
from .traces import nodes

Data = Mapping[str, Any]
MASK = "mask"
TAKEN = ("context", "fn", "self")  # by poutine, which hands all other keywords on to the model
CAUSES = (ValueError, TypeError, RuntimeError, IndexError, AttributeError, KeyError)


def rows_of(data: Mapping[str, Any], index: Any) -> dict[str, Any]:
    """Return some data sets of a batch; what is no tensor is the same for all."""
    return {name: value[index] if isinstance(value, Tensor) else value for name, value in data.items()}


def repeated(data: Mapping[str, Any], sets: int) -> dict[str, Any]:
    """Return one data set ``sets`` times: every tensor gets that leading dimension, without a copy."""
    return {name: v.expand(sets, *v.shape) if isinstance(v, Tensor) else v for name, v in data.items()}


def check_arguments(data: Mapping[str, Any], name: str = "data") -> None:
    """Refuse arguments that are no mapping, whose names Pyro's handlers take for themselves, or whose mask is no boolean tensor.

    Raises:
        TypeError: they are no mapping, or the mask is no boolean tensor.
        ValueError: a name that is taken; a mask without entries, or with more dimensions than any argument.
    """
    named(name, data)
    taken = [key for key in TAKEN if key in data]
    if taken:
        raise ValueError(
            f"{name}: got the name '{taken[0]}', expected another: Pyro's handlers have an argument of this name"
        )
    mask = data.get(MASK)
    if mask is not None and not (isinstance(mask, Tensor) and mask.dtype == torch.bool):
        raise TypeError(f"{name}['{MASK}']: got {shown(mask)}, expected a boolean tensor, True where observed")
    others = {key: value for key, value in data.items() if isinstance(value, Tensor) and key != MASK}
    if mask is not None and (not mask.numel() or (others and mask.dim() > max(v.dim() for v in others.values()))):
        like = ", ".join(f"'{key}' {tuple(value.shape)}" for key, value in others.items()) or "the data"
        raise ValueError(f"{name}['{MASK}']: got shape {tuple(mask.shape)}, expected one that broadcasts to {like}")


def check_observed(trace: poutine.Trace, data: Mapping[str, Any], sets: int | None = None) -> None:
    """Compare every argument that is the value of an observed site with what the site can take.

    Args:
        trace: of the model on one data set, without plates around it.
        data: its arguments; those of ``sets`` data sets where that is given.
        sets: number of data sets.

    Raises:
        TypeError: an argument is no tensor, or not floating-point at a continuous site.
        ValueError: it has not the site's shape, or the mask does not fit it, or an entry is not finite or lies outside the
            site's support. Entries that are masked are not looked at.
    """
    outer = () if sets is None else (sets,)
    sites = {
        name: site
        for name, site in nodes(trace).items()
        if site["type"] == "sample" and site["is_observed"] and data.get(name) is not None
    }
    for name, site in sites.items():
        _check_kind(name, site)
    mask = data.get(MASK)
    if isinstance(mask, Tensor) and sites:
        shapes = [tuple(data[name].shape) for name in sites]
        if not any(_broadcasts(mask.shape, shape) for shape in shapes):
            raise ValueError(
                f"data['{MASK}']: got shape {tuple(mask.shape)}, expected one that broadcasts to "
                f"{shapes[0]}, the shape of '{next(iter(sites))}'"
            )
    for name, site in sites.items():
        value, expected = data[name], outer + tuple(site["fn"].shape())
        if _picked(value, site, sets):
            continue
        if tuple(value.shape) != expected:
            each = "one data set" if sets is None else f"{sets} data sets"
            hint = ""
            if sets is None and value.ndim > len(expected):
                hint = (
                    "; hand many data sets over as DataSets, or expand the distribution to the data and declare the dimension by "
                    ".to_event or a pyro.plate"
                )
            raise ValueError(f"data['{name}']: got shape {tuple(value.shape)}, expected {expected} for {each}{hint}")
    for name, site in sites.items():
        _check_finite(name, site)
        _check_support(name, site["value"] if _picked(data[name], site, sets) else data[name], site, mask)


def failure(fn: Any, data: Mapping[str, Any], error: Exception, argument: str = "model") -> Exception:
    """Return what a failing run of ``fn``, a "model" or "guide", on ``data`` is to be told as: one sentence.

    Pyro appends a table of all sites to messages, and torch tells of sizes without saying whose.
    """
    first = str(error).strip().split("\n", 1)[0].strip()
    if isinstance(error, ValueError | TypeError) and "got" in first and "expected" in first and len(first) < 300:
        return type(error)(first) if type(error) in (ValueError, TypeError) else ValueError(first)
    came = ", ".join(f"{name} {tuple(v.shape) if isinstance(v, Tensor) else shown(v)}" for name, v in data.items())
    came = came if len(came) <= 120 else f"{came[:117]}..."
    kind = TypeError if isinstance(error, TypeError) else ValueError
    what = f"{type(error).__name__}: {first}"[:140]
    name = getattr(fn, "__name__", type(fn).__name__)
    if argument != "model":
        return kind(
            f"{argument}: got {name}, which fails on {came or 'no data'} ({what}), expected one that runs there"
        )
    return kind(
        f"data: got {came or 'nothing'}, on which {name} fails, expected the arguments of one data set ({what})"
    )


def _picked(value: Tensor, site: Mapping[str, Any], sets: int | None) -> bool:
    """Whether the model observes something else than the argument itself: rows of it, say."""
    return value.shape[0 if sets is None else 1 :] != site["value"].shape


def _check_kind(name: str, site: Mapping[str, Any]) -> None:
    value = site["value"]
    if not isinstance(value, Tensor):
        raise TypeError(f"data['{name}']: got {shown(value)}, expected a tensor")
    discrete = site["fn"].support.is_discrete if hasattr(site["fn"], "support") else True
    if not discrete and not value.is_floating_point():
        raise TypeError(f"data['{name}']: got {shown(value)}, expected a floating-point tensor")


def _check_finite(name: str, site: Mapping[str, Any]) -> None:
    """Refuse an entry that is no number where the density is taken: behind a mask of Pyro's, its gradient would be none either."""
    value = site["value"]
    if not value.is_floating_point() or bool(torch.isfinite(value).all()):
        return
    where = tuple(torch.nonzero(~torch.isfinite(value))[0].tolist())
    raise ValueError(
        f"data['{name}']: got {value[where].item()} at {where}, expected finite numbers; physzoo.observe(..., mask=) hides what is "
        "missing, and behind a mask of the distribution any number will do"
    )


def _check_support(name: str, value: Tensor, site: Mapping[str, Any], mask: Any) -> None:
    support = getattr(site["fn"], "support", None)
    if support is None or type(site["fn"]).__name__ in ("Unit", "Delta") or not value.numel():
        return
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if any(isinstance(bound, Tensor) for bound in vars(support).values()):
        return  # a bound that may move with the unknowns
    inside = support.check(value)
    if inside.shape != value.shape:
        return
    outside = torch.isfinite(value) & ~inside
    if isinstance(mask, Tensor) and _broadcasts(mask.shape, value.shape):
        outside = outside & mask
    if outside.any():
        where = tuple(torch.nonzero(outside)[0].tolist())
        raise ValueError(f"data['{name}']: got {value[where].item():.6g} at {where}, expected values in {support}")


def _broadcasts(shape: Any, target: Any) -> bool:
    lead = len(target) - len(shape)
    return lead >= 0 and all(mine in (1, other) for mine, other in zip(shape, target[lead:], strict=True))
