"""The latent sites of a model with the densities that a sampler or a check asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import IndependentTransform

from ...core.arguments import Data
from ...core.global_state import unregistered
from ...core.model_spec import UnconstrainedSites
from ...core.plates import outer_plates
from ...core.prototype import prototype
from ...core.require import named
from ...core.simulate import simulate
from ...core.traces import site_log_probs, total, trace_of
from .densities import data_log_probs, log_joint


class Latents(UnconstrainedSites):
    """The latent sites of a model together with its densities: z constrained and named, x = T^-1(z) one vector."""

    @classmethod
    def of(cls, model: Callable[..., Any], data: Data | None = None) -> Latents:
        """Read the latent sites from a trace of ``model(**data)``, ``data`` being one data set."""
        return cls(model, data)

    @property
    def supports(self) -> dict[str, Any]:
        """Site -> constraint, in the model's order."""
        return {block.name: block.support for block in self.blocks}

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Site -> constrained shape of one draw, plates included."""
        return {block.name: block.shape for block in self.blocks}

    @property
    def elementwise(self) -> bool:
        """Whether every transform acts on each scalar alone, so that coordinate k of x belongs to scalar k of z."""
        return all(map(_scalar_by_scalar, self.supports.values()))

    def plain(self, values: Mapping[str, Tensor], leading: int) -> dict[str, Tensor]:
        """Give every site its own shape behind the first ``leading`` dimensions (plate padding removed)."""
        return {
            name: values[name].reshape(values[name].shape[:leading] + shape)
            for name, shape in self.shapes.items()
            if name in values
        }

    def pack(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return x of shape (..., d) for constrained values of shapes (..., *site shape)."""
        return self.flatten(values)[0]

    def unpack(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return z (site -> (..., *site shape)) and log|det dz/dx| (...) at x (..., d)."""
        values, terms = self.constrain(x)
        outer = x.ndim - 1
        return values, total({n: t.flatten(outer).sum(-1) if t.ndim > outer else t for n, t in terms.items()})

    @unregistered()
    def log_density(self, model: Callable[..., Any], x: Tensor, data: Data, *, datasets: bool = False) -> Tensor:
        """Return log p(z(x), y) + log|det dz/dx|, differentiable in x.

        Shape () at x of shape (d,), (S,) at (S, d), and (S, B) at (S, B, d) with ``datasets``.
        """
        values, log_det = self.unpack(x)
        if x.ndim == 1:
            trace = trace_of(poutine.condition(model, data=values), data)
            return total(site_log_probs(trace, self.nesting)) + log_det
        padded = self.padded(values)
        return log_joint(model, padded, data, datasets=datasets, nesting=self.nesting) + log_det

    @unregistered()
    def terms(
        self, model: Callable[..., Any], values: Mapping[str, Tensor], data: Data, *, datasets: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return log p(z, y) and log p(y | z), each (S, [B]), at constrained values of shape (S, [B,] *site
        shape)."""
        shape = next(iter(values.values())).shape[: 1 + datasets]
        conditioned = poutine.condition(model, data=self.padded(values))
        with torch.no_grad(), outer_plates(self.nesting, shape[0], shape[1] if datasets else None):
            trace = trace_of(conditioned, data)
        log_probs = site_log_probs(trace, self.nesting)
        seen = {name: term for name, term in data_log_probs(trace, log_probs).items() if name not in self.shapes}
        return total(log_probs).expand(shape), (total(seen) if seen else torch.zeros(())).expand(shape)

    def prior(self, model: Callable[..., Any], data: Data, count: int, seed: int | None) -> Tensor:
        """Return ``count`` prior draws of x, shape (count, d); observed data are not looked at."""
        given = unobserved(model, data)
        return self.pack(self.plain(simulate(model, count, given, seed, self.nesting), 1))


def _scalar_by_scalar(support: Any) -> bool:
    transform = biject_to(support)
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return transform.domain.event_dim == transform.codomain.event_dim == 0


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
