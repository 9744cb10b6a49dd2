"""What the sources of a fit are refused for, in one sentence each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...core.arguments import check_arguments, rows_of
from ...core.prototype import prototype
from ...core.require import shown
from ...core.sites import latent_sites
from ...core.traces import samples


def unknowns(trace: Any, enumerated: bool) -> dict[str, Any]:
    """The sites that a guide has to draw.

    Raises:
        ValueError: there is none, or one is discrete and nobody sums over it.
    """
    sites = {name: site for name, site in samples(trace) if not site["is_observed"]}
    discrete = [name for name, site in sites.items() if getattr(site["fn"].support, "is_discrete", False)]
    marked = [name for name in discrete if enumerated and sites[name]["infer"].get("enumerate")]
    wrong = [name for name in discrete if name not in marked]
    if wrong:
        raise ValueError(
            f"model: latent site '{wrong[0]}' is discrete, expected data for it, or continuous unknowns; sum over it by "
            "@pyro.infer.config_enumerate on the model and pyro.infer.TraceEnum_ELBO() as objective"
        )
    without = trace.copy()
    for name in marked:
        without.remove_node(name)
    return latent_sites(without)


def check_rows(model: Callable[..., Any], data: Mapping[str, Any], most: int = 32) -> None:
    """Refuse data sets with entries that are no numbers, unless a mask hides them or the model puts others in their place.

    Raises:
        ValueError: one has such an entry; of those with any, the first ``most`` are looked at.
    """
    mask, wrong = data.get("mask"), torch.zeros(())
    for value in data.values():
        if isinstance(value, Tensor) and value.is_floating_point():
            lost = ~torch.isfinite(value)
            if isinstance(mask, Tensor) and mask is not value and mask.shape == value.shape:
                lost = lost & mask
            wrong = wrong + lost.reshape(len(value), -1).sum(-1)
    for row in torch.nonzero(wrong)[:most].flatten().tolist():
        try:
            prototype(model, rows_of(data, row), subsampled=True)
        except ValueError as error:
            raise ValueError(f"data set {row}: {error}") from None


def check_corrupted(data: Any, example: Mapping[str, Any]) -> None:
    """Refuse a ``corrupt`` that loses arguments or changes the shape of a data set."""
    check_arguments(data, "corrupt(data)")
    for name, value in example.items():
        if not isinstance(value, Tensor) or name not in data:
            continue
        if not isinstance(data[name], Tensor) or data[name].shape[1:] != value.shape:
            raise ValueError(f"corrupt(data)['{name}']: got {shown(data[name])}, expected shape {(2, *value.shape)}")
    missing = [name for name in example if name not in data]
    if missing:
        raise ValueError(f"corrupt(data): got {shown(sorted(data))}, expected also {', '.join(missing)}")


def check_numbers(name: str, value: Tensor) -> None:
    """Refuse values of unknowns that are not finite numbers."""
    if value.is_complex() or value.layout != torch.strided or value.is_meta:
        raise TypeError(f"{name}: got {shown(value)}, {value.layout} on {value.device}, expected real numbers, dense")
    if not bool(torch.isfinite(value).all()):
        where = tuple(torch.nonzero(~torch.isfinite(value))[0].tolist())
        raise ValueError(f"{name}: got {value[where].item()} at {where}, expected finite numbers")


def check_latents(latents: Mapping[str, Tensor], trace: Any) -> None:
    """Refuse unknowns that are not the model's, or have not their shape."""
    sites = latent_sites(trace) if latents else {}
    if set(latents) != set(sites):
        raise ValueError(
            f"latents: got {shown(sorted(latents))}, expected {shown(sorted(sites))}, the model's latent sites"
        )
    for name, value in latents.items():
        check_values(f"latents['{name}']", value, sites[name]["fn"].shape(), sites[name])


def check_values(name: str, value: Tensor, shape: Any, site: Mapping[str, Any]) -> None:
    """Refuse values of an unknown of another shape than the site's, or outside of its support."""
    if tuple(value.shape[1:]) != tuple(shape):
        raise ValueError(
            f"{name}: got shape {tuple(value.shape)}, expected ({len(value)}, ...) with {tuple(shape)} behind"
        )
    support = site["fn"].support
    moving = any(isinstance(bound, Tensor) for bound in vars(support).values())  # with other unknowns, perhaps
    if not moving and not bool(support.check(value).all()):
        raise ValueError(f"{name}: got values outside of the support, expected values in {support}")


def check_dense(name: str, data: Mapping[str, Any]) -> None:
    """Refuse tensors that hold no numbers, or not one for each place.

    Raises:
        TypeError: a tensor is sparse, or on the device "meta".
    """
    for key, value in data.items():
        if isinstance(value, Tensor) and (value.layout != torch.strided or value.is_meta):
            kind = "on the device 'meta'" if value.is_meta else f"of layout {value.layout}"
            raise TypeError(f"{name}['{key}']: got {shown(value)} {kind}, expected a dense tensor of numbers")
