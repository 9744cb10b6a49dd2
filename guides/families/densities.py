"""Families of conditional densities over R^D: context -> distribution.

They start as the standard normal whatever the context, so that what stands around them (a whitening, a standardisation) is
the initial guide. ``PlanarFlow`` alone starts beside it: at u = 0 a layer adds (softplus(0) - 1) a / |a|^2 times its tanh.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ...core.require import flag, real, whole, widths
from .flows import Flow, LowerTriangularAffine, Planar, transforms_of_zuko

LARGEST = 10**4  # layers, transforms, bins and columns


def _check_sizes(features: int, context: int) -> None:
    whole("features", features, 1)
    whole("context", context, 0)


class Head(nn.Module):
    """A linear map of the context whose output starts near zero; a free vector where there is no context."""

    def __init__(self, context: int, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))
        self.weight = nn.Parameter(0.01 * torch.randn(size, context) / max(context, 1) ** 0.5) if context else None

    def forward(self, context: Tensor) -> Tensor:
        """Return (..., size)."""
        if self.weight is None:
            return self.bias.expand(*context.shape[:-1], -1)
        return nn.functional.linear(context, self.weight, self.bias)


class Affine(nn.Module):
    """loc(c) and a lower triangular (or diagonal) L(c) with positive diagonal, the identity at the start."""

    def __init__(self, features: int, context: int, full: bool) -> None:
        super().__init__()
        self.features, self.full = features, full
        self.below = features * (features - 1) // 2 if full else 0
        self.head = Head(context, 2 * features + self.below)
        self.register_buffer("rows", torch.tril_indices(features, features, -1), persistent=False)

    def forward(self, context: Tensor) -> LowerTriangularAffine:
        """Return the transform noise -> value."""
        loc, log_scale, below = self.head(context).split([self.features, self.features, self.below], -1)
        scale = log_scale.exp()
        if not self.full or self.features == 1:
            return LowerTriangularAffine(loc, scale)
        tril = torch.diag_embed(scale)
        rows = self.rows
        tril[..., rows[0], rows[1]] = below  # type: ignore[index]
        return LowerTriangularAffine(loc, tril)


class Gaussian(nn.Module):
    """q(x | c) = N(loc(c), L(c) L(c)'), with L diagonal or lower triangular."""

    def __init__(self, features: int, context: int, full: bool = True) -> None:
        super().__init__()
        _check_sizes(features, context)
        flag("full", full)
        self.affine = Affine(features, context, full)

    def forward(self, context: Tensor) -> TorchDistribution:
        """Return the distribution over R^features with the batch shape of the context."""
        affine = self.affine(context)
        return Flow([affine], context.shape[:-1], affine.loc)


class LowRank(nn.Module):
    """q(x | c) = N(loc(c), W(c) W(c)' + diag(d(c))), W of ``rank`` columns."""

    def __init__(self, features: int, context: int, rank: int | None = None) -> None:
        super().__init__()
        _check_sizes(features, context)
        if rank is not None:
            whole("rank", rank, 1, LARGEST)
        self.features, self.rank = features, rank or max(1, round(features**0.5))
        self.head = Head(context, features * (2 + self.rank))

    def forward(self, context: Tensor) -> TorchDistribution:
        """Return the distribution over R^features with the batch shape of the context."""
        loc, log_diagonal, factor = self.head(context).split(
            [self.features, self.features, self.features * self.rank], -1
        )
        factor = factor.unflatten(-1, (self.features, self.rank))
        return dist.LowRankMultivariateNormal(loc, factor, log_diagonal.exp(), validate_args=False)


class PlanarFlow(nn.Module):
    """K planar maps of a normal base, then an affine map; all parameters are functions of the context.

    Args:
        features: D.
        context: length of the context, 0 for none.
        layers: K.
        full: end in a full affine map, which does linear correlation, instead of a diagonal one.

    Source: Rezende & Mohamed, arXiv:1505.05770, there without the affine map.
    """

    def __init__(self, features: int, context: int, layers: int = 8, full: bool = False) -> None:
        super().__init__()
        _check_sizes(features, context)
        whole("layers", layers, 1, LARGEST)
        flag("full", full)
        self.features, self.layers = features, layers
        self.affine = Affine(features, context, full=full)
        self.head = Head(context, layers * (2 * features + 1))
        with torch.no_grad():
            self.head.bias[: layers * features] = 0.3 * torch.randn(layers * features)  # else all maps stay alike

    def forward(self, context: Tensor) -> TorchDistribution:
        """Return the distribution over R^features with the batch shape of the context."""
        size = self.layers * self.features
        a, u, b = self.head(context).split([size, size, self.layers], -1)
        planar = Planar(a.unflatten(-1, (self.layers, -1)), u.unflatten(-1, (self.layers, -1)), b)
        affine = self.affine(context)
        return Flow([planar, affine], context.shape[:-1], affine.loc)


class _Steps(nn.Module):
    """Steps of zuko applied to the noise one after the other, then a full conditional affine map."""

    def __init__(self, features: int, context: int, steps: list[nn.Module], tail: float | None = None) -> None:
        super().__init__()
        if tail is not None:
            real("tail", tail, 2.0, expected="a number above 2, or None")
        for step in steps:
            with torch.no_grad():  # every step starts close to the identity
                for parameter in list(step.parameters())[-2:]:
                    parameter.mul_(0.1)
        self.steps = nn.ModuleList(steps)
        self.context = context
        self.affine = Affine(features, context, full=True)
        self.log_tail = None if tail is None else nn.Parameter(torch.tensor(float(tail) - 2.0).log())

    def forward(self, context: Tensor) -> TorchDistribution:
        """Return the distribution over R^features with the batch shape of the context."""
        affine = self.affine(context)
        given = context if self.context else None
        maps = [step(given) for step in self.steps]
        tail = None if self.log_tail is None else 2.0 + self.log_tail.exp()
        return Flow([*maps, affine], context.shape[:-1], affine.loc, tail)


def _coupling(features: int, context: int, turn: int, hidden: tuple[int, ...], **univariate: Any) -> nn.Module:
    """Return a coupling of zuko whose mask alternates with ``turn``."""
    transforms_of_zuko()
    from zuko.flows.coupling import GeneralCouplingTransform

    mask: Any = torch.arange(features) % 2 == turn % 2 if features > 1 else None
    options = {"hidden_features": hidden, "activation": nn.SiLU, **univariate}
    return GeneralCouplingTransform(features=features, context=context, mask=mask, **options)


class SplineFlow(_Steps):
    """Rational-quadratic spline couplings of a normal or Student-t base, then a full conditional affine map.

    Coupling has a closed form in both directions, so it serves the reverse and the forward KL. The affine map does
    location, scale and linear correlation, and the splines only what is left.

    Args:
        features: D.
        context: length of the context, 0 for none.
        transforms: number of couplings; masks alternate.
        bins: number of spline bins on [-5, 5].
        hidden: widths of the networks.
        tail: initial degrees of freedom (> 2) of a Student-t base, learnt from there, or None for a normal base.

    Source: Durkan et al., arXiv:1906.04032.
    """

    def __init__(
        self,
        features: int,
        context: int,
        transforms: int = 4,
        bins: int = 8,
        hidden: tuple[int, ...] = (64, 64),
        tail: float | None = None,
    ) -> None:
        _check_sizes(features, context)
        whole("transforms", transforms, 1, LARGEST)
        whole("bins", bins, 2, LARGEST)
        widths("hidden", hidden)
        transforms_of_zuko()
        from zuko.transforms import MonotonicRQSTransform

        shapes = [torch.Size(size) for size in ((bins,), (bins,), (bins - 1,))]
        univariate = {"univariate": MonotonicRQSTransform, "shapes": shapes}
        steps = [_coupling(features, context, turn, hidden, **univariate) for turn in range(transforms)]
        super().__init__(features, context, steps, tail)


class CouplingFlow(_Steps):
    """Affine couplings of a normal base, then a full conditional affine map; closed in both directions.

        x_a = w_a,  x_b = shift(w_a, c) + scale(w_a, c) w_b,   scale between e^-6.9 and e^6.9

    Bounded scales keep the forward KL from diverging.

    Args:
        features: D.
        context: length of the context, 0 for none.
        transforms: number of couplings; masks alternate.
        hidden: widths of the networks.

    Source: Dinh, Sohl-Dickstein, Bengio, arXiv:1605.08803 (RealNVP).
    """

    def __init__(self, features: int, context: int, transforms: int = 6, hidden: tuple[int, ...] = (64, 64)) -> None:
        _check_sizes(features, context)
        whole("transforms", transforms, 1, LARGEST)
        widths("hidden", hidden)
        super().__init__(features, context, [_coupling(features, context, turn, hidden) for turn in range(transforms)])


class InverseAutoregressiveFlow(_Steps):
    """Inverse autoregressive affine maps of a normal base, then a full conditional affine map.

        x_k = shift_k(w_1..k-1, c) + scale_k(w_1..k-1, c) w_k,   the order turned round from one map to the next

    A draw with its density is one pass, so it is made for the reverse KL; a given value is scored in D passes a map, which
    the forward KL pays for.

    Args:
        features: D.
        context: length of the context, 0 for none.
        transforms: number of maps.
        hidden: widths of the networks.

    Source: Kingma et al., arXiv:1606.04934.
    """

    def __init__(self, features: int, context: int, transforms: int = 3, hidden: tuple[int, ...] = (64, 64)) -> None:
        _check_sizes(features, context)
        whole("transforms", transforms, 1, LARGEST)
        widths("hidden", hidden)
        transforms_of_zuko()
        from zuko.flows.autoregressive import MaskedAutoregressiveTransform

        order: Any = torch.arange(features)
        orders = [order if turn % 2 == 0 else order.flip(0) for turn in range(transforms)]
        options: dict[str, Any] = {"hidden_features": hidden, "activation": nn.SiLU}
        steps: list[nn.Module] = [
            MaskedAutoregressiveTransform(features, context, order=each, **options) for each in orders
        ]
        super().__init__(features, context, steps)


Family = Callable[[int, int], nn.Module]

FAMILIES: dict[str, Family] = {
    "diagonal": lambda features, context: Gaussian(features, context, full=False),
    "low_rank": LowRank,
    "full": lambda features, context: Gaussian(features, context),
    "planar": PlanarFlow,
    "coupling": CouplingFlow,
    "iaf": InverseAutoregressiveFlow,
    "spline": SplineFlow,
}
