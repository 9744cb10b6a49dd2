"""The latent sites of a model as one vector in unconstrained space, for any supports, shapes and plates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to

from ..guides.nodes import nodes
from ..guides.require import named
from ..guides.sites import Data, latent_sites, outer_plates, plate_nesting, prototype, simulate
from .densities import log_joint, site_log_probs, total


@dataclass(frozen=True)
class Latents:
    """Latent sites of a model: z constrained and named, x = T^-1(z) one unconstrained vector.

    Attributes:
        supports: site -> constraint, in the model's order.
        shapes: site -> constrained shape of one draw, plates included.
        free_shapes: site -> unconstrained shape of one draw (a simplex loses one entry).
        batch_ranks: site -> how many of the model's own plate dimensions it has.
        nesting: the model's own plate depth.
    """

    supports: dict[str, Any]
    shapes: dict[str, torch.Size]
    free_shapes: dict[str, torch.Size]
    batch_ranks: dict[str, int]
    nesting: int

    @classmethod
    def of(cls, model: Callable[..., Any], data: Data | None = None) -> Latents:
        """Read the latent sites from a trace of ``model(**data)``, ``data`` being one data set."""
        trace = prototype(model, data)
        supports, shapes, free_shapes, ranks = {}, {}, {}, {}
        for name, site in latent_sites(trace).items():
            supports[name] = site["fn"].support
            shapes[name] = site["value"].shape
            free_shapes[name] = biject_to(supports[name]).inv(site["value"]).shape
            ranks[name] = len(shapes[name]) - len(site["fn"].event_shape)
        return cls(supports, shapes, free_shapes, ranks, plate_nesting(trace))

    @property
    def size(self) -> int:
        """Number of unconstrained coordinates d."""
        return sum(prod(shape) for shape in self.free_shapes.values())

    @property
    def elementwise(self) -> bool:
        """Whether every transform keeps the shape, so that coordinate k of x belongs to scalar k of z."""
        return all(self.shapes[name] == self.free_shapes[name] for name in self.shapes)

    def plain(self, values: Mapping[str, Tensor], leading: int) -> dict[str, Tensor]:
        """Give every site its own shape behind the first ``leading`` dimensions (plate padding removed)."""
        return {
            name: values[name].reshape(values[name].shape[:leading] + shape)
            for name, shape in self.shapes.items()
            if name in values
        }

    def padded(self, values: Mapping[str, Tensor], leading: int) -> dict[str, Tensor]:
        """Insert the singleton plate dimensions that the model's outer plates expect; inverse of
        ``plain``."""
        result = {}
        for name, value in values.items():
            shape, missing = self.shapes[name], self.nesting - self.batch_ranks[name]
            result[name] = value.reshape(value.shape[:leading] + (1,) * missing + shape)
        return result

    def pack(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return x of shape (..., d) for constrained values of shapes (..., *site shape)."""
        parts = []
        for name, support in self.supports.items():
            leading = values[name].shape[: values[name].ndim - len(self.shapes[name])]
            parts.append(biject_to(support).inv(values[name]).reshape(*leading, -1))
        return torch.cat(_expanded(parts), -1)

    def unpack(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return z (site -> (..., *site shape)) and log|det dz/dx| (...) at x (..., d)."""
        values: dict[str, Tensor] = {}
        log_det = x.new_zeros(x.shape[:-1])
        start = 0
        for name, support in self.supports.items():
            shape = self.free_shapes[name]
            stop = start + prod(shape)
            free = x[..., start:stop].reshape(x.shape[:-1] + shape)
            transform = biject_to(support)
            values[name] = transform(free)
            term = transform.log_abs_det_jacobian(free, values[name])
            log_det = log_det + (term.flatten(x.ndim - 1).sum(-1) if term.ndim >= x.ndim else term)
            start = stop
        return values, log_det

    def log_density(self, model: Callable[..., Any], x: Tensor, data: Data, *, datasets: bool = False) -> Tensor:
        """Return log p(z(x), y) + log|det dz/dx|, differentiable in x.

        Shape () at x of shape (d,), (S,) at (S, d), and (S, B) at (S, B, d) with ``datasets``.
        """
        values, log_det = self.unpack(x)
        if x.ndim == 1:
            trace = poutine.trace(poutine.condition(model, data=values)).get_trace(**data)
            return total(site_log_probs(trace, self.nesting)) + log_det
        padded = self.padded(values, 1 + datasets)
        return log_joint(model, padded, data, datasets=datasets, nesting=self.nesting) + log_det

    def terms(
        self, model: Callable[..., Any], values: Mapping[str, Tensor], data: Data, *, datasets: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return log p(z, y) and log p(y | z), each (S, [B]), at constrained values of shape (S, [B,] *site
        shape)."""
        shape = next(iter(values.values())).shape[: 1 + datasets]
        conditioned = poutine.condition(model, data=self.padded(values, 1 + datasets))
        with torch.no_grad(), outer_plates(self.nesting, shape[0], shape[1] if datasets else None):
            trace = poutine.trace(conditioned).get_trace(**data)
        log_probs = site_log_probs(trace, self.nesting)
        # factors weigh the unknowns, they are no data: ``draw`` leaves them out of the likelihood as well
        seen = {
            name: term
            for name, term in log_probs.items()
            if name not in self.shapes and type(nodes(trace)[name]["fn"]).__name__ != "Unit"
        }
        return total(log_probs).expand(shape), (total(seen) if seen else torch.zeros(())).expand(shape)

    def prior(self, model: Callable[..., Any], data: Data, count: int, seed: int | None) -> Tensor:
        """Return ``count`` prior draws of x, shape (count, d); observed data are not looked at."""
        given = unobserved(model, data)
        return self.pack(self.plain(simulate(model, count, given, seed, self.nesting), 1))


def unobserved(model: Callable[..., Any], data: Data) -> dict[str, Any]:
    """Return the arguments that are not the value of an observed site: masks, covariates, times."""
    named("data", data)
    sites = prototype(model, data).nodes
    return {name: value for name, value in data.items() if name not in sites or not sites[name].get("is_observed")}


def scalar_names(shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Return one name per scalar, "a" for a scalar site and "z[0]", "z[1, 2]" for entries of an array."""
    names = []
    for name, shape in shapes.items():
        for index in product(*(range(size) for size in shape)):
            names.append(f"{name}[{', '.join(map(str, index))}]" if index else name)
    return names


def _expanded(parts: Sequence[Tensor]) -> list[Tensor]:
    leading = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return [part.expand(*leading, part.shape[-1]) for part in parts]
