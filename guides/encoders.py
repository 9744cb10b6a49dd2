"""Encoders: data of any number of data sets -> a context vector for each.

Every encoder is built from one example data set, takes the model's keyword arguments, and never mixes data sets. Each value
enters twice: standardised, and as its normal score under the prior predictive (the normal quantile of its rank), because
data of nonlinear physics spread over orders of magnitude. Masked entries are replaced by zero and the mask itself is an
input, so that a missing value and an average one differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import MASK
from .require import named, shown, whole, widths
from .sites import Data

KNOTS = 65
FARTHEST = 8.0  # standardised values are cut here: a wild data set must not blow up the network


class Encoder(nn.Module):
    """Base class: standardised inputs and the shape of one data set.

    Args:
        example: the model's arguments for one data set; tensors only are encoded.
        width: length C of the context.

    Raises:
        TypeError: ``example`` holds no tensor to encode.
    """

    scores: Tensor

    def __init__(self, example: Data, width: int = 64) -> None:
        super().__init__()
        named("example", example)
        whole("width", width, 1)
        self.width = width
        self.names = [name for name, value in example.items() if isinstance(value, Tensor) and name != MASK]
        if not self.names:
            raise TypeError(f"example: got {shown(sorted(example))}, expected at least one tensor of data to encode")
        empty = [name for name in self.names if not example[name].numel()]
        if empty:
            raise ValueError(
                f"example['{empty[0]}']: got shape {tuple(example[empty[0]].shape)}, expected at least one entry"
            )
        self.shapes = {name: tuple(example[name].shape) for name in self.names}
        self.masked = isinstance(example.get(MASK), Tensor)
        if self.masked:
            self.shapes[MASK] = tuple(example[MASK].shape)
        for name in self.names:
            self.register_buffer(f"{name}_mean", torch.zeros(self.shapes[name]))
            self.register_buffer(f"{name}_scale", torch.ones(self.shapes[name]))
            entries = torch.Size(self.shapes[name]).numel()
            self.register_buffer(f"{name}_knots", _scores(KNOTS).expand(entries, KNOTS).clone())
        self.register_buffer("scores", _scores(KNOTS))

    def standardise(self, draws: Data) -> None:
        """Take means and standard deviations from (N, ...) draws of the data; infinite draws are left out."""
        for name in self.names:
            values = draws[name]
            finite = torch.isfinite(values)
            weight = finite.sum(0).clamp_min(2)
            kept = torch.where(finite, values, torch.zeros_like(values))
            mean = kept.sum(0) / weight
            variance = torch.where(finite, (values - mean).square(), torch.zeros_like(values)).sum(0) / (weight - 1)
            scale = variance.sqrt()
            getattr(self, f"{name}_mean").copy_(mean)
            getattr(self, f"{name}_scale").copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))
            levels = torch.special.ndtr(self.scores).to(values.dtype)
            rows = torch.where(finite, values, mean.expand_as(values)).flatten(1)
            knots = torch.quantile(rows[: 2**24 // max(rows.shape[1], 1)], levels, dim=0).T
            getattr(self, f"{name}_knots").copy_(knots)

    def inputs(self, data: Data) -> tuple[Tensor, Tensor | None]:
        """Return values and normal scores, (..., 2 n) with the scores last, and the mask as numbers (..., n), or None.

        Raises:
            ValueError: an argument is missing or has not the trailing shape of the example.
        """
        if not self.masked and data.get(MASK) is not None:
            raise ValueError(
                f"mask: got {shown(data[MASK])}, expected none, as in the example that the encoder was built from"
            )
        values, scores, masks = [], [], []
        for name in self.names:
            value = self._entry(data, name)
            outer = value.ndim - len(self.shapes[name])
            mean, scale = getattr(self, f"{name}_mean"), getattr(self, f"{name}_scale")
            value = value.to(mean.dtype)
            pair = [
                _flat((value - mean) / scale, outer).clamp(-FARTHEST, FARTHEST),
                self._normal_score(name, _flat(value, outer)),
            ]
            if self.masked:
                seen = _flat(self._seen(data, value), outer)
                pair = [torch.where(seen, part, torch.zeros_like(part)) for part in pair]
                masks.append(seen.to(mean.dtype))
            values.append(pair[0])
            scores.append(pair[1])
        return torch.cat(values + scores, -1), torch.cat(masks, -1) if masks else None

    def _entry(self, data: Data, name: str) -> Tensor:
        value: Any = data.get(name)
        shape = self.shapes[name]
        wrong = not isinstance(value, Tensor) or not value.numel() or value.ndim < len(shape)
        if wrong or tuple(value.shape[value.ndim - len(shape) :]) != shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else shown(value)
            raise ValueError(f"{name}: got {got}, expected a tensor of shape (..., {', '.join(map(str, shape))})")
        return value

    def _seen(self, data: Data, value: Tensor) -> Tensor:
        mask = data.get(MASK)
        if mask is None:
            return torch.ones_like(value, dtype=torch.bool)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(f"mask: got {shown(mask)}, expected a boolean tensor, True where observed")
        try:
            return mask.expand(value.shape)
        except RuntimeError:
            raise ValueError(
                f"mask: got shape {tuple(mask.shape)}, expected to broadcast to {tuple(value.shape)}"
            ) from None

    def _normal_score(self, name: str, flat: Tensor) -> Tensor:
        """Interpolate the normal score of each entry linearly between the knots, and on beyond the outermost two."""
        knots = getattr(self, f"{name}_knots")
        rows = flat.reshape(-1, flat.shape[-1]).T.contiguous()
        above = torch.searchsorted(knots, rows).clamp(1, KNOTS - 1)
        low, high = knots.gather(1, above - 1), knots.gather(1, above)
        part = (rows - low) / (high - low).clamp_min(torch.finfo(rows.dtype).tiny)
        score = self.scores[above - 1] + part * (self.scores[above] - self.scores[above - 1])
        return score.clamp(-FARTHEST, FARTHEST).T.reshape(flat.shape)

    def steps(self, data: Data) -> tuple[Tensor, Tensor | None]:
        """Return the values as a sequence (..., T, channels) along the first axis of a data set, and a step mask (..., T)."""
        flat, mask = self.inputs(data)
        length = self.length()
        sequence = torch.cat([self._by_step(half) for half in flat.chunk(2, -1)], -1)
        if mask is None:
            return sequence, None
        by_step = self._by_step(mask)
        return torch.cat([sequence, by_step], -1), by_step.reshape(*by_step.shape[:-2], length, -1).sum(-1) > 0

    def length(self) -> int:
        """Return the number T of steps along the first axis of the data.

        Raises:
            ValueError: the encoded tensors have different first axes.
        """
        lengths = {self.shapes[name][0] if self.shapes[name] else 1 for name in self.names}
        if len(lengths) > 1:
            raise ValueError(
                f"example: got first axes of length {sorted(lengths)}, expected one common length to encode along it"
            )
        return lengths.pop()

    def channels(self) -> int:
        """Return the number of channels a step, mask channels included."""
        return self.size() // self.length()

    def size(self) -> int:
        """Return the number of inputs: value, normal score and mask of each entry."""
        return sum(torch.Size(self.shapes[name]).numel() for name in self.names) * (3 if self.masked else 2)

    def _by_step(self, flat: Tensor) -> Tensor:
        length, pieces, start = self.length(), [], 0
        for name in self.names:
            size = torch.Size(self.shapes[name]).numel()
            pieces.append(flat[..., start : start + size].unflatten(-1, (length, -1)))
            start += size
        return torch.cat(pieces, -1)


def _flat(value: Tensor, outer: int) -> Tensor:
    return value.flatten(outer) if value.ndim > outer else value.unsqueeze(-1)


def _scores(count: int) -> Tensor:
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count).float()


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Return linear layers of the given sizes with SiLU between them."""
    widths("hidden", sizes)
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers += [nn.Linear(a, b)] if i == len(sizes) - 2 else [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers)


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
        if not isinstance(where, Tensor) or where.ndim < 1 or len(where) != self.length():
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
    "table": Table,
}
