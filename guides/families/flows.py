"""Conditional flows over R^D as Pyro distributions, with the transforms of zuko.

zuko, when imported, switches off the argument checks of every torch distribution; `transforms_of_zuko` undoes that.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints

ROOT_STEPS = 80  # of which Newton takes a few and bisection, where the slope is close to zero, some tens


def transforms_of_zuko() -> ModuleType:
    """Import ``zuko.flows`` and leave the global settings of ``torch.distributions`` as they were."""
    validate, arguments = Distribution._validate_args, Distribution.arg_constraints
    try:
        import zuko.flows
    finally:
        Distribution._validate_args, Distribution.arg_constraints = validate, arguments  # type: ignore[method-assign]
    import zuko.distributions

    zuko.distributions.NormalizingFlow._validate_args = False
    return zuko.flows


class LowerTriangularAffine(Transform):
    """Map noise to values: x = loc + L w with L lower triangular and a positive diagonal.

    Args:
        loc: (..., D).
        tril: (..., D, D), or (..., D) for a diagonal L.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, loc: Tensor, tril: Tensor) -> None:
        super().__init__()
        self.loc, self.tril = loc, tril
        self.diagonal = tril.ndim == loc.ndim

    def _call(self, x: Tensor) -> Tensor:
        if self.diagonal:
            return self.loc + self.tril * x
        return self.loc + (self.tril @ x.unsqueeze(-1)).squeeze(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        if self.diagonal:
            return (y - self.loc) / self.tril
        shift = (y - self.loc).unsqueeze(-1)
        return torch.linalg.solve_triangular(self.tril, shift, upper=False).squeeze(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        scale = self.tril if self.diagonal else self.tril.diagonal(dim1=-2, dim2=-1)
        return scale.log().sum(-1).expand(x.shape[:-1])


class Planar(Transform):
    """A chain of planar maps: f(w) = w + u tanh(a.w + b), u kept in the region where f is invertible.

    The inverse of one map is a root in one dimension: s = a.w solves s + (a.u) tanh(s + b) = a.y, whose left side grows
    with s because a.u > -1; then w = y - u tanh(s + b).

    Source: Rezende & Mohamed, arXiv:1505.05770; the inverse is their appendix A.1, solved instead of only shown to exist.

    Args:
        a, u: (..., K, D).
        b: (..., K).
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, a: Tensor, u: Tensor, b: Tensor) -> None:
        super().__init__()
        inner = (a * u).sum(-1, keepdim=True)
        norm = a.square().sum(-1, keepdim=True).clamp_min(1e-12)
        self.a, self.b = a, b
        self.u = u + (nn.functional.softplus(inner) - 1 - inner) * a / norm

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(x) and log|det df/dx|."""
        ladj = torch.zeros_like(x[..., 0])
        for k in range(self.b.shape[-1]):
            a, u, b = self.a[..., k, :], self.u[..., k, :], self.b[..., k]
            wave = torch.tanh((a * x).sum(-1) + b)
            ladj = ladj + torch.log1p((1 - wave.square()) * (a * u).sum(-1)).nan_to_num(neginf=-1e6)
            x = x + u * wave.unsqueeze(-1)
        return x, ladj

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call_and_ladj(x)[1]

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return x = f^-1(y) and log|det dx/dy|, with gradients towards y and the parameters."""
        ladj = torch.zeros_like(y[..., 0])
        for k in reversed(range(self.b.shape[-1])):
            a, u, b = self.a[..., k, :], self.u[..., k, :], self.b[..., k]
            steepness = (a * u).sum(-1)
            wave = torch.tanh(_root(steepness, b, (a * y).sum(-1)) + b)
            ladj = ladj - torch.log1p((1 - wave.square()) * steepness).nan_to_num(neginf=-1e6)
            y = y - u * wave.unsqueeze(-1)
        return y, ladj

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_ladj(y)[0]


def _root(k: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return s with s + k tanh(s + b) = c for k > -1, by Newton steps that a bracket keeps; gradients by one more step."""
    with torch.no_grad():
        slope, shift, right = (value.double() for value in torch.broadcast_tensors(k, b, c))
        low, high, s = right - slope.abs(), right + slope.abs(), right
        for _ in range(ROOT_STEPS):
            wave = torch.tanh(s + shift)
            excess = s + slope * wave - right
            low, high = torch.where(excess < 0, s, low), torch.where(excess > 0, s, high)
            step = s - excess / (1 + slope * (1 - wave.square())).clamp_min(1e-12)
            step = torch.where((step >= low) & (step <= high), step, 0.5 * (low + high))
            moved, s = (step - s).abs().max() if s.numel() else 0.0, step
            if not moved > 1e-12:
                break
        s = s.to(c)
    wave = torch.tanh(s + b)
    return s - (s + k * wave - c) / (1 + k * (1 - wave.square())).clamp_min(1e-6).detach()


def call_and_ladj(transform: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return f(x) and log|det df/dx| in one pass where the transform offers that, in two where it does not."""
    both = getattr(transform, "call_and_ladj", None)
    if both is not None:
        return both(x)
    y = transform(x)
    return y, transform.log_abs_det_jacobian(x, y)


def inverse_and_ladj(transform: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return x = f^-1(y) and log|det dx/dy|; a coupling evaluates its network once."""
    if hasattr(transform, "idx_b"):  # zuko's CouplingTransform would evaluate it for the value and for the determinant
        kept, moved = transform.split(y)
        spline = transform.meta(kept)
        back = spline.inv(moved)
        return transform.merge(kept, back, y.shape), -spline.log_abs_det_jacobian(back, moved)
    both = getattr(transform, "inverse_and_ladj", None)
    if both is not None:
        return both(y)
    x = transform.inv(y)
    return x, -transform.log_abs_det_jacobian(x, y)


class Flow(TorchDistribution):
    """Push a standard base over R^D through noise -> value transforms.

        w ~ base,  x = f(w),   log q(x) = log base(w) - log|det df/dw|

    The density of the last draw is remembered, so scoring an own draw costs nothing.

    Args:
        to_value: transforms applied to the noise in order.
        batch_shape: batch shape of the transforms' parameters.
        like: a tensor that sets D (last dimension), dtype and device.
        tail: degrees of freedom of a Student-t base, or None for a normal one.
    """

    arg_constraints = {}  # type: ignore[assignment]  # noqa: RUF012 (torch's own convention)
    support = constraints.real_vector  # type: ignore[assignment]
    has_rsample = True

    def __init__(
        self, to_value: list[Transform], batch_shape: torch.Size, like: Tensor, tail: Tensor | None = None
    ) -> None:
        self.to_value, self.like, self.tail = to_value, like, tail
        self._last: tuple[Tensor, Tensor] | None = None
        super().__init__(batch_shape, like.shape[-1:], validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: TorchDistribution | None = None) -> Flow:
        return Flow(self.to_value, torch.Size(batch_shape), self.like, self.tail)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 (torch's signature)
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        noise = torch.randn(shape, dtype=self.like.dtype, device=self.like.device)
        if self.tail is not None:
            # one chi-square a draw: a multivariate Student-t, elliptical like the normal it replaces
            chi = torch._standard_gamma((self.tail / 2).expand(shape[:-1])) * 2  # type: ignore[attr-defined]
            noise = noise * (self.tail / chi).sqrt().unsqueeze(-1)
        value, log_prob = noise, self._base(noise)
        for transform in self.to_value:
            value, ladj = call_and_ladj(transform, value)
            log_prob = log_prob - ladj
        self._last = (value, log_prob)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        if self._last is not None and self._last[0] is value:
            return self._last[1]
        result: Any = 0.0
        for transform in reversed(self.to_value):
            value, ladj = inverse_and_ladj(transform, value)
            result = result + ladj
        return self._base(value) + result

    def _base(self, noise: Tensor) -> Tensor:
        size, square = noise.shape[-1], noise.square().sum(-1)
        if self.tail is None:
            return -0.5 * square - 0.5 * size * math.log(2 * math.pi)
        half, whole = self.tail / 2, (self.tail + size) / 2
        constant = torch.lgamma(whole) - torch.lgamma(half) - 0.5 * size * (self.tail * math.pi).log()
        return constant - whole * torch.log1p(square / self.tail)
