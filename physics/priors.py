"""Priors that Pyro lacks."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from ..core.require import finite, flag, floats, shown


class TruncatedNormal(TorchDistribution):
    """Normal distribution truncated to values above zero.

        p(x) = N(x; loc, scale^2) / Phi(loc / scale),   x > 0

    Args:
        loc: mean before truncation, any shape; at most 5 scales below zero (beyond, draws underflow).
        scale: standard deviation before truncation, positive, broadcastable with ``loc``.

    Raises:
        ValueError: a scale is not positive (where validation is on).

    Draws invert the distribution function, x = loc - scale Phi^-1(u Phi(loc / scale)), u uniform.

    Source: Devroye, Non-Uniform Random Variate Generation (1986), section II.2.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # type: ignore[assignment]  # noqa: RUF012
    support = constraints.positive  # type: ignore[assignment]
    has_rsample = True

    def __init__(self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None) -> None:
        for name, value in (("loc", loc), ("scale", scale)):
            floats(name, value) if isinstance(value, Tensor) else finite(name, value)
        if validate_args is not None:
            flag("validate_args", validate_args)
        try:
            self.loc, self.scale = broadcast_all(*(v if isinstance(v, Tensor) else float(v) for v in (loc, scale)))
        except RuntimeError:
            raise ValueError(
                f"loc, scale: got {shown(loc)} and {shown(scale)}, expected shapes that broadcast"
            ) from None
        if validate_args is not False and self._validate_args:
            if not bool(torch.isfinite(self.loc).all()):
                raise ValueError("loc: got an entry that is not finite, expected finite numbers")
            if not bool(((self.scale > 0) & torch.isfinite(self.scale)).all()):
                raise ValueError("scale: got an entry that is not positive and finite, expected positive numbers")
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: TorchDistribution | None = None) -> TruncatedNormal:
        new: Any = self._get_checked_instance(TruncatedNormal, _instance)
        new.loc, new.scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        super(TruncatedNormal, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 (torch's signature)
        shape = self._extended_shape(sample_shape)
        tiny = torch.finfo(self.loc.dtype).eps
        uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp(tiny, 1 - tiny)
        # by the upper tail, so that nothing cancels where the normal lies far below zero
        draw = self.loc - self.scale * torch.special.ndtri(uniform * torch.special.ndtr(self.loc / self.scale))
        return draw.clamp_min(torch.finfo(self.loc.dtype).tiny)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        standard = (value - self.loc) / self.scale
        inside = torch.special.log_ndtr(self.loc / self.scale)
        log_prob = -0.5 * standard.square() - self.scale.log() - 0.5 * math.log(2 * math.pi) - inside
        return torch.where(value > 0, log_prob, torch.full_like(log_prob, -math.inf))
