"""Families of conditional densities over R^D: context -> distribution.

All of them start as the standard normal whatever the context, so that what stands around them (a whitening, a
standardisation) is the initial guide.
"""

from __future__ import annotations

from collections.abc import Callable

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from .flows import Flow, LowerTriangularAffine, Planar, transforms_of_zuko
from .require import real, whole, widths


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
        self.affine = Affine(features, context, full)

    def forward(self, context: Tensor) -> TorchDistribution:
        """Return the distribution over R^features with the batch shape of the context."""
        affine = self.affine(context)
        return Flow([affine], context.shape[:-1], affine.loc)


class LowRank(nn.Module):
    """q(x | c) = N(loc(c), W(c) W(c)' + diag(d(c))), W of ``rank`` columns."""

    def __init__(self, features: int, context: int, rank: int | None = None) -> None:
        super().__init__()
        if rank is not None:
            whole("rank", rank, 1)
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
        whole("layers", layers, 1)
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


class SplineFlow(nn.Module):
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
        super().__init__()
        whole("transforms", transforms, 1)
        whole("bins", bins, 2)
        widths("hidden", hidden)
        if tail is not None:
            real("tail", tail, 2.0, expected="a number above 2, or None")
        flows = transforms_of_zuko()
        from zuko.flows.coupling import GeneralCouplingTransform
        from zuko.transforms import MonotonicRQSTransform

        del flows
        steps = []
        for i in range(transforms):
            step = GeneralCouplingTransform(
                features=features,
                context=context,
                mask=torch.arange(features) % 2 == i % 2 if features > 1 else None,  # type: ignore[arg-type]
                univariate=MonotonicRQSTransform,
                shapes=[torch.Size(size) for size in ((bins,), (bins,), (bins - 1,))],
                hidden_features=hidden,
                activation=nn.SiLU,
            )
            with torch.no_grad():  # every spline starts close to the identity
                for parameter in list(step.parameters())[-2:]:
                    parameter.mul_(0.1)
            steps.append(step)
        self.steps = nn.ModuleList(steps)
        self.context = context
        self.affine = Affine(features, context, full=True)
        self.log_tail = None if tail is None else nn.Parameter(torch.tensor(float(tail) - 2.0).log())

    def forward(self, context: Tensor) -> TorchDistribution:
        """Return the distribution over R^features with the batch shape of the context."""
        affine = self.affine(context)
        given = context if self.context else None
        splines = [step(given) for step in self.steps]
        tail = None if self.log_tail is None else 2.0 + self.log_tail.exp()
        return Flow([*splines, affine], context.shape[:-1], affine.loc, tail)


Family = Callable[[int, int], nn.Module]

FAMILIES: dict[str, Family] = {
    "diagonal": lambda features, context: Gaussian(features, context, full=False),
    "low_rank": LowRank,
    "full": lambda features, context: Gaussian(features, context),
    "planar": PlanarFlow,
    "spline": SplineFlow,
}
