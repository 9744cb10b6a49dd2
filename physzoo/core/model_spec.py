"""The latent sites of a model as one vector in unconstrained space, for any supports, shapes and plates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to, constraints

from .arguments import Data
from .broadcasting import check_batches
from .plates import plate_nesting
from .prototype import prototype
from .require import named, shown, tensor, tensors
from .sites import latent_sites, observed_sites
from .traces import derived_sites, nodes

CIRCULAR = ("VonMises", "SineBivariateVonMises", "SineSkewed")
TURN: Any = constraints.interval(-math.pi, math.pi)


@dataclass(frozen=True)
class Gaussian:
    """N(loc, tril tril') in unconstrained space, in the order of the model's sites: a start, or a whitening u = loc + tril w."""

    loc: Tensor
    tril: Tensor


Whitening = Gaussian  # its name in version 0.1


@dataclass(frozen=True)
class _Block:
    """Where a latent site lies in the flat unconstrained vector."""

    name: str
    support: Any
    plates: tuple[tuple[str, int, int], ...]  # name, size, dim
    batch: torch.Size
    shape: torch.Size
    unconstrained: torch.Size
    start: int

    @property
    def size(self) -> int:
        return math.prod(self.unconstrained)


class UnconstrainedSites:
    """The model's latent sites as slices of one flat vector in unconstrained space.

    Args:
        model: a Pyro model.
        example: its arguments for one data set; observed sites are those it conditions on.
    """

    def __init__(self, model: Callable[..., Any], example: Data | None = None) -> None:
        if example is not None:
            named("example", example)
        trace, other = prototype(model, example), prototype(model, example, seed=1)
        self.nesting = plate_nesting(trace)
        self.observed = tuple(observed_sites(trace))
        self.derived = {name: tuple(site["value"].shape) for name, site in derived_sites(trace).items()}
        self.blocks: list[_Block] = []
        start = 0
        for name, (site, support) in fixed_supports(trace, other).items():
            unconstrained = biject_to(support).inv(site["value"]).shape
            plates = tuple((f.name, f.size, f.dim) for f in site["cond_indep_stack"] if f.vectorized)
            block = _Block(name, support, plates, site["fn"].batch_shape, site["value"].shape, unconstrained, start)
            self.blocks.append(block)
            start += block.size
        self.size = start
        check_batches(model, example or {}, (trace, other), self.nesting)

    def constrain(self, flat: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Split (..., D) into constrained site values and log|det d value/d unconstrained| over each site's event.

        Values have shape (..., *site batch, *site event), log determinants (..., *site batch).

        Raises:
            TypeError, ValueError: another shape or dtype, or no tensor.
        """
        tensor("flat", flat)
        if flat.shape[-1:] != (self.size,) or not flat.is_floating_point():
            raise ValueError(f"flat: got {shown(flat)}, expected floats of shape (..., {self.size})")
        values, ladjs = {}, {}
        for block in self.blocks:
            piece = flat[..., block.start : block.start + block.size].reshape(flat.shape[:-1] + block.unconstrained)
            transform = biject_to(block.support)
            value = transform(piece)
            ladj = transform.log_abs_det_jacobian(piece, value)
            values[block.name] = value
            ladjs[block.name] = _sum_to(ladj, len(flat.shape) - 1 + len(block.batch))
        return values, ladjs

    def flatten(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Invert ``constrain``: values (..., *own shape) -> flat (..., D) and the summed log|det d value/d unconstrained|, (...).

        Raises:
            ValueError: a latent site is missing, or has not its own shape on the right.
        """
        tensors("values", values)
        pieces, total = [], None
        for block in self.blocks:
            if block.name not in values:
                raise ValueError(f"values: got sites {shown(sorted(values))}, expected also '{block.name}'")
            value, shape = values[block.name], block.shape
            if value.shape[value.ndim - len(shape) :] != shape:
                raise ValueError(
                    f"values: got '{block.name}' of shape {tuple(value.shape)}, expected (..., {', '.join(map(str, shape))})"
                )
            transform = biject_to(block.support)
            piece = transform.inv(value)
            outer = value.ndim - len(shape)
            ladj = _sum_to(transform.log_abs_det_jacobian(piece, value), outer)
            pieces.append(piece.flatten(outer) if block.unconstrained else piece.unsqueeze(-1))
            total = ladj if total is None else total + ladj
        if total is None:
            raise ValueError("values: got no latent site, expected at least one")
        leading = torch.broadcast_shapes(*(piece.shape[:-1] for piece in pieces))
        return torch.cat([piece.expand(*leading, piece.shape[-1]) for piece in pieces], -1), total

    def padded(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give values (..., *own shape) the ones that a model inside outer plates expects."""
        out = {}
        for block in self.blocks:
            value, pad = values[block.name], self.nesting - len(block.batch)
            outer = value.shape[: value.ndim - len(block.shape)]
            out[block.name] = value.reshape(outer + (1,) * pad + block.shape) if outer else value
        return out


def fixed_supports(trace: poutine.Trace, other: poutine.Trace) -> dict[str, tuple[dict[str, Any], Any]]:
    """Return site and support of every latent site; two runs of a model show whether they are always the same.

    Raises:
        ValueError: a site comes and goes, changes its shape or its support, or has one to which no bijection leads.
    """
    return {name: (site, _support(name, site, nodes(other).get(name))) for name, site in latent_sites(trace).items()}


def _support(name: str, site: Any, other: Any) -> Any:
    """Return the support of a latent site; refuse one that changes from draw to draw: no fixed bijection could follow it.

    ``other`` is the site in another run.
    """
    if other is None:
        raise ValueError(
            f"model: got latent site '{name}' in one run and not in the next, expected the same sites in all"
        )
    if other["value"].shape != site["value"].shape:
        got = f"{tuple(site['value'].shape)} in one run and {tuple(other['value'].shape)} in the next"
        raise ValueError(f"model: got latent site '{name}' of shape {got}, expected the same shape in all")
    support = support_of(name, site)
    first, second = biject_to(support), biject_to(support_of(name, other))
    x = first.inv(site["value"]).nan_to_num(0.0, 0.0, 0.0)
    here, there = first(x), second(x)
    # equal to rounding in any unit: no absolute tolerance
    if here.shape != there.shape or not torch.allclose(here, there, rtol=1e-5, atol=0.0, equal_nan=True):
        raise ValueError(
            f"model: the support of latent site '{name}' depends on other unknowns, expected a fixed one (sample a share of the "
            "interval and scale it)"
        )
    return support


def _sum_to(value: Tensor, dims: int) -> Tensor:
    return value.flatten(dims).sum(-1) if value.ndim > dims else value


def support_of(name: str, site: Mapping[str, Any]) -> Any:
    """Return the support of a latent site; of an angle, one turn of the circle.

    Torch gives angles the real line as support. Their density repeats itself there, so it has no integral: the circle is cut open
    at pi instead, where draws of these distributions end, too.

    Raises:
        ValueError: no bijection leads from R^n to the support.
    """
    distribution = site["fn"]
    support = TURN if circular(distribution) else distribution.support
    if support is TURN and distribution.event_dim:
        support = constraints.independent(support, distribution.event_dim)
    try:
        transform = biject_to(support)
        x = transform.inv(site["value"])
        transform.log_abs_det_jacobian(x, site["value"])
    except NotImplementedError:
        raise ValueError(
            f"model: latent site '{name}' has the support {support}, to which no bijection from R^n is known, expected another "
            "distribution (of a covariance: LKJCholesky and scales; of a point on a sphere: angles)"
        ) from None
    return support


def circular(distribution: Any) -> bool:
    """Whether the values of a distribution are angles."""
    while type(distribution).__name__ not in CIRCULAR:
        if hasattr(distribution, "transforms") or not hasattr(distribution, "base_dist"):
            return False
        distribution = distribution.base_dist
    return True
