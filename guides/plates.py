"""Room for a model's own plates: ones in the shapes of what is sampled outside of them."""

from __future__ import annotations

from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor


def unsqueezed(density: dist.TorchDistribution, nesting: int) -> dist.TorchDistribution:
    """Return a distribution whose batch shape has ``nesting`` ones on the right."""
    if not nesting:
        return density
    return _Reshaped(density, nesting)


class _Reshaped(dist.TorchDistribution):
    """A distribution whose batch shape has ``nesting`` ones on the right: room for the model's own plates."""

    arg_constraints = {}  # type: ignore[assignment]  # noqa: RUF012 (torch's own convention)
    has_rsample = True

    def __init__(self, base: dist.TorchDistribution, nesting: int) -> None:
        self.base, self.nesting = base, nesting
        super().__init__(base.batch_shape + (1,) * nesting, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.base.support

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> _Reshaped:
        kept = torch.Size(batch_shape)[: len(batch_shape) - self.nesting]
        return _Reshaped(self.base.expand(kept), self.nesting)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 (torch's signature)
        self._inner = self.base.rsample(sample_shape)
        self._outer = self._inner.reshape(self._inner.shape[:-1] + (1,) * self.nesting + self._inner.shape[-1:])
        return self._outer

    def log_prob(self, value: Tensor) -> Tensor:
        inner = (
            self._inner
            if getattr(self, "_outer", None) is value
            else value.reshape(value.shape[: value.ndim - 1 - self.nesting] + value.shape[-1:])
        )
        log_prob = self.base.log_prob(inner)
        return log_prob.reshape(log_prob.shape + (1,) * self.nesting)


def padded(value: Tensor, log_density: Tensor, pad: int, batch: int) -> tuple[Tensor, Tensor]:
    """Insert ``pad`` dimensions of one between the outer plates and a site's own plates."""
    at = log_density.ndim - batch
    shape = log_density.shape[:at] + (1,) * pad + log_density.shape[at:]
    return value.reshape(shape + value.shape[log_density.ndim :]), log_density.reshape(shape)
