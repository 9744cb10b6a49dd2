"""Learnt parts that start at principal components: a linear decoder, its exact linear encoder, small networks around both.

    x = m + c V + net(c),    V (k, n) the first principal axes of the training data, net = 0 at the start

With few data a network that starts anywhere else ends above the error of plain PCA; from here it can only leave PCA for
something better. Source of principal components: Jolliffe, Principal Component Analysis (2002).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.require import whole
from ..guides.amortized_guide import AmortizedGuide
from ..guides.encoders.base import Encoder, mlp
from ..guides.encoders.networks import ENCODERS
from .networks import mlp as elu_mlp

RATE = 0.3  # factor on learnt parts that start at PCA: under Adam they move that much slower than the rest
SEEN = 60  # principal components that a network sees


@dataclass(frozen=True)
class PCA:
    """Mean (n,), axes (k, n) and standard deviations (k,) along them."""

    mean: Tensor
    axes: Tensor
    sd: Tensor

    @classmethod
    def fit(cls, x: Tensor, components: int) -> PCA:
        """Return the first principal components of (N, ...) data, flattened.

        Raises:
            ValueError: more components than the data have.
        """
        flat = x.flatten(1).double()
        whole("components", components, 1, min(len(flat) - 1, flat.shape[1]))
        mean = flat.mean(0)
        _, size, axes = torch.linalg.svd(flat - mean, full_matrices=False)
        sd = size[:components] / (len(flat) - 1) ** 0.5
        return cls(mean.to(x.dtype), axes[:components].to(x.dtype), sd.to(x.dtype))


@dataclass(frozen=True)
class LinearCode:
    """A linear encoder: code = weight x + bias, sd the start of the posterior width; (k, n), (k,), (k,)."""

    weight: Tensor
    bias: Tensor
    sd: Tensor

    def rows(self, start: int, stop: int) -> LinearCode:
        """Return some of the codes."""
        return LinearCode(self.weight[start:stop], self.bias[start:stop], self.sd[start:stop])


class LinearPlusNetwork(nn.Module):
    """x = offset + c V + net(c), of codes c (..., k) -> (..., n); zero until ``set`` is called.

    The network sees centred codes, each scaled by the size of its effect on x, so that it starts smooth in x.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, code: int, numbers: int, hidden: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(numbers))
        self.axes = nn.Parameter(torch.zeros(code, numbers))
        self.net = elu_mlp([code, *hidden, numbers], start=0.0)
        self.register_buffer("centre", torch.zeros(code))
        self.register_buffer("scale", torch.ones(code))

    @torch.no_grad()
    def set(self, offset: Tensor, axes: Tensor, centre: Tensor, effect: Tensor) -> None:
        """Start at offset + (c - centre) axes; effect (k, n): what a unit of each code does to the whole output."""
        self.offset.copy_((offset - centre @ axes) / RATE)
        self.axes.copy_(axes / RATE)
        self.centre.copy_(centre)
        size = effect.norm(dim=-1)
        self.scale.copy_(4.0 * size)

    def forward(self, code: Tensor) -> Tensor:
        """Return (..., n)."""
        return RATE * (self.offset + code @ self.axes + self.net((code - self.centre) * self.scale))


class SkipEncoder(Encoder):
    """Context = [linear code of x, principal components of x, a network's features]; the code is there from the start.

    Args:
        example: {"x": one data set, "mask": ...}; masked entries enter as the mean of the training data.
        code: the linear encoder.
        seen: principal components that enter the context and the network, from the training data.
        inner: None for a perceptron of these components; else the name of an encoder of x, e.g. "attention".
        learnt: length of the network's features.
        **options: of the inner encoder.
    """

    mean: Tensor
    axes: Tensor
    weight: Tensor
    shift: Tensor

    def __init__(
        self,
        example: Mapping[str, Tensor],
        code: LinearCode,
        seen: PCA,
        inner: str | None = None,
        learnt: int = 64,
        **options: Any,
    ) -> None:
        codes, components = len(code.bias), len(seen.sd)
        super().__init__(example, codes + components + learnt)
        data = {"x": example["x"]}
        self.inner = ENCODERS[inner](data, width=learnt, **options) if inner else mlp([components, 128, learnt])
        self.register_buffer("mean", seen.mean.clone())
        self.register_buffer("axes", 4.0 / seen.sd[0] * seen.axes)
        self.register_buffer("weight", torch.empty_like(code.weight))
        self.register_buffer("shift", torch.empty_like(code.bias))
        self.begin(code)

    def begin(self, code: LinearCode) -> None:
        """Take another linear code of the same length, in units of the sites."""
        self.weight.copy_(code.weight)
        self.shift.copy_(code.bias + code.weight @ self.mean)

    def standardise(self, draws: Mapping[str, Tensor]) -> None:
        """Pass the draws on to an inner encoder of x; the linear code keeps its own units."""
        if isinstance(self.inner, Encoder):
            self.inner.standardise({"x": draws["x"]})

    def forward(self, **data: Tensor) -> Tensor:
        """Return the context, (..., width)."""
        x = self._entry(data, "x")
        flat = x.flatten(x.ndim - len(self.shapes["x"])).to(self.mean.dtype)
        if data.get("mask") is not None:
            seen = self._seen(data, x)
            flat = torch.where(seen.flatten(seen.ndim - len(self.shapes["x"])), flat, self.mean)
        centred = flat - self.mean
        components = centred @ self.axes.T
        if isinstance(self.inner, Encoder):
            features = self.inner(x=(self.mean + centred).reshape(x.shape))
        else:
            features = self.inner(components)
        return torch.cat([self.shift + centred @ self.weight.T, components, features], -1)


@torch.no_grad()
def start_at(guide: AmortizedGuide, code: LinearCode) -> None:
    """Let a guide with a ``SkipEncoder`` and a family with an affine end start at Normal(linear code of x, sd^2).

    Raises:
        TypeError: another encoder, or a family without an affine end.
    """
    size, encoder, family = len(code.bias), guide.encoder, guide.family
    if not isinstance(encoder, SkipEncoder):
        raise TypeError(f"guide: got the encoder {type(encoder).__name__}, expected a SkipEncoder")
    if not hasattr(family, "affine"):
        raise TypeError(f"guide: got the family {type(family).__name__}, expected one with an affine end")
    head = family.affine.head  # type: ignore[union-attr]
    unit = guide.tril.diagonal()
    encoder.weight.copy_(encoder.weight / unit[:, None])
    encoder.shift.copy_((encoder.shift - guide.loc) / unit)
    head.weight.zero_()  # type: ignore[union-attr]
    head.weight[:size, :size] = torch.eye(size)  # type: ignore[index]
    head.bias[size : 2 * size] = (code.sd / unit).log()  # type: ignore[index]
