"""Encoders: data of any number of data sets -> a context vector for each.

Every encoder is built from one example data set, takes the model's keyword arguments, and never mixes data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ...core.arguments import Data
from ...core.require import shown, whole, widths
from .base import Encoder, mlp


class MLP(Encoder):
    """A multilayer perceptron of the flattened data: context = MLP([y * mask, mask])."""

    def __init__(self, example: Data, width: int = 64, hidden: Sequence[int] = (128, 128)) -> None:
        super().__init__(example, width)
        widths("hidden", hidden)
        self.net = mlp([self.size(), *hidden, width])

    def forward(self, **data: Tensor) -> Tensor:
        """Return the context, (..., width)."""
        values, mask = self.inputs(data)
        return self.net(values if mask is None else torch.cat([values, mask], -1))


class Convolution(Encoder):
    """1D convolutions along the first axis of the data, then a perceptron of the flattened features."""

    def __init__(self, example: Data, width: int = 64, features: int = 32, kernel: int = 5, layers: int = 3) -> None:
        super().__init__(example, width)
        whole("features", features, 1)
        whole("layers", layers, 1)
        whole("kernel", kernel, 1)
        if kernel % 2 == 0:
            raise ValueError(f"kernel: got {kernel}, expected an odd number")
        sizes = [self.channels(), *([features] * layers)]
        blocks: list[nn.Module] = []
        for a, b in pairwise(sizes):
            blocks += [nn.Conv1d(a, b, kernel, padding=kernel // 2), nn.SiLU()]
        self.net = nn.Sequential(*blocks)
        self.head = mlp([features * self.length(), 128, width])

    def forward(self, **data: Tensor) -> Tensor:
        """Return the context, (..., width)."""
        sequence, _ = self.steps(data)
        outer = sequence.shape[:-2]
        features = self.net(sequence.reshape(-1, *sequence.shape[-2:]).mT)
        return self.head(features.flatten(1)).reshape(*outer, self.width)


class Attention(Encoder):
    """Self-attention along the first axis of one data set, never across data sets; pooled over the observed steps.

    Source: Vaswani et al., arXiv:1706.03762. Steps whose every value is masked are left out as keys and in the pool.
    """

    positions: Tensor

    def __init__(self, example: Data, width: int = 64, features: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__(example, width)
        for name, value in (("features", features), ("heads", heads), ("layers", layers)):
            whole(name, value, 1)
        if features % heads:
            raise ValueError(f"features: got {features}, expected a multiple of heads = {heads}")
        where = torch.linspace(0, 1, self.length()).unsqueeze(-1)
        waves = where * torch.pi * 2.0 ** torch.arange(4)
        self.register_buffer("positions", torch.cat([where, waves.sin(), waves.cos()], -1))
        self.embed = nn.Linear(self.channels() + self.positions.shape[-1], features)
        layer = nn.TransformerEncoderLayer(
            features, heads, 2 * features, dropout=0.0, batch_first=True, norm_first=True
        )
        self.net = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = mlp([features, 128, width])

    def forward(self, **data: Tensor) -> Tensor:
        """Return the context, (..., width)."""
        sequence, present = self.steps(data)
        outer = sequence.shape[:-2]
        sequence = sequence.reshape(-1, *sequence.shape[-2:])
        positions = self.positions.to(sequence.dtype).expand(len(sequence), -1, -1)
        tokens = self.embed(torch.cat([sequence, positions], -1))
        if present is None:
            pooled = self.net(tokens).mean(-2)
        else:
            present = present.reshape(-1, present.shape[-1])
            absent = ~present & present.any(
                -1, keepdim=True
            )  # an empty data set attends to its zeros instead of to nothing
            weight = (~absent).to(tokens.dtype).unsqueeze(-1)
            pooled = (self.net(tokens, src_key_padding_mask=absent) * weight).sum(-2) / weight.sum(-2)
        return self.head(pooled).reshape(*outer, self.width)


class MaskedSet(Encoder):
    """A permutation-invariant encoder of scattered sensors: rho(sum_i mask_i phi(y_i, x_i), number observed).

    Args:
        example: one data set; its first axis runs over the sensors.
        positions: (T, dim) sensor positions, or None for equally spaced ones.

    Source: Zaheer et al., arXiv:1703.06114.
    """

    positions: Tensor

    def __init__(self, example: Data, width: int = 64, positions: Tensor | None = None, features: int = 128) -> None:
        super().__init__(example, width)
        whole("features", features, 1)
        where = torch.linspace(0, 1, self.length()) if positions is None else positions
        if not isinstance(where, Tensor) or where.is_nested or where.ndim < 1 or len(where) != self.length():
            raise ValueError(
                f"positions: got {shown(where)}, expected a tensor, one row for each of the {self.length()} sensors"
            )
        where = where.float().reshape(len(where), -1)
        self.register_buffer("positions", where)
        self.element = mlp([self.channels() + where.shape[-1], features, features])
        self.head = mlp([features + 1, features, width])

    def forward(self, **data: Tensor) -> Tensor:
        """Return the context, (..., width)."""
        sequence, present = self.steps(data)
        positions = self.positions.to(sequence.dtype).expand(*sequence.shape[:-1], -1)
        elements = self.element(torch.cat([sequence, positions], -1))
        if present is None:
            weight = torch.ones_like(elements[..., :1])
        else:
            weight = present.to(elements.dtype).unsqueeze(-1)
        observed = weight.sum(-2)
        pooled = (elements * weight).sum(-2) / observed.clamp_min(1.0)
        return self.head(torch.cat([pooled, observed / self.length()], -1))


class Table(Encoder):
    """Free vectors, one for each data set of a fixed batch: one plated fit of many guides that are not amortised.

    Args:
        example: one data set (kept for the common signature; nothing of it is encoded).
        sets: the number of data sets; later calls must bring all of them, in the same order.
    """

    def __init__(self, example: Data, width: int = 64, sets: int = 1) -> None:
        super().__init__(example, width)
        whole("sets", sets, 1)
        self.vectors = nn.Parameter(torch.zeros(sets, width))

    def forward(self, **data: Tensor) -> Tensor:
        """Return the context, (sets, width).

        Raises:
            ValueError: another number of data sets comes than the table holds.
        """
        first = self.names[0]
        value = self._entry(data, first)
        if self.masked:
            self._seen(data, value)
        outer = tuple(value.shape[: value.ndim - len(self.shapes[first])])
        if outer == ():
            return self.vectors[0]  # one data set without a plate: the trial run that a driver makes
        if outer != (len(self.vectors),):
            raise ValueError(
                f"{first}: got leading shape {outer}, expected ({len(self.vectors)},), the data sets of the table"
            )
        return self.vectors


ENCODERS: dict[str, type[Encoder]] = {
    "mlp": MLP,
    "convolution": Convolution,
    "attention": Attention,
    "set": MaskedSet,
}
