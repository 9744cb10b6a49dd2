"""What every encoder shares: the shape of a data set, standardised inputs, masks.

Each value enters twice: standardised, and as its normal score under the prior predictive (the normal quantile of its
rank), because data of nonlinear physics spread over orders of magnitude. Masked entries are replaced by zero and the mask
itself is an input, so that a missing value and an average one differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ...core.arguments import MASK, Data
from ...core.require import named, shown, tensors, whole, widths

KNOTS = 65
STEEPEST = 1e-3  # least spread of the knots, in standard deviations a unit of the score
ROUNDING = 16.0  # spreads below so many units of rounding are none
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
        """Take means and standard deviations from (N, ...) draws of the data; infinite draws are left out.

        A single row v, as of a covariate, and an entry that is the same in all draws say nothing of the spread: mean v, scale
        |v| (1 where v is zero), a linear score.

        Raises:
            TypeError, ValueError: draws of an encoded argument are missing, or of another shape or kind.
        """
        tensors("draws", draws)
        for name in self.names:
            value, shape = draws.get(name), self.shapes[name]
            if value is None or value.is_complex() or tuple(value.shape[1:]) != shape or not len(value):
                raise ValueError(
                    f"draws['{name}']: got {shown(value)}, expected numbers of shape (N, {', '.join(map(str, shape))})"
                )
            found = self._moments(value)
            for kind, value in zip(("mean", "scale", "knots"), found, strict=True):
                getattr(self, f"{name}_{kind}").copy_(value)

    def _moments(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean, scale and knots of (N, ...) draws."""
        values = values.to(torch.promote_types(values.dtype, self.scores.dtype))
        if len(values) == 1:
            mean = values[0].nan_to_num(0.0, 0.0, 0.0)
            return self._without_spread(mean)
        finite = torch.isfinite(values)
        weight = finite.sum(0).clamp_min(2)
        kept = torch.where(finite, values, torch.zeros_like(values))
        largest = kept.abs().amax(0)
        unit = torch.where(largest > 0, largest, 1.0)  # squares of very small or large units leave the range of floats
        mean = (kept / unit).sum(0) / weight * unit
        deviation = torch.where(finite, (values - mean) / unit, 0.0)
        scale = (deviation.square().sum(0) / (weight - 1)).sqrt() * unit
        levels = torch.special.ndtr(self.scores).to(values.dtype)
        rows = torch.where(finite, values, mean.expand_as(values)).reshape(len(values), -1)
        knots = torch.quantile(rows[: 2**24 // max(rows.shape[1], 1)], levels, dim=0).T
        # ties, as counts have, must not make a step of the score
        knots = knots + STEEPEST * scale.reshape(-1, 1) * self.scores.to(values.dtype)
        still = scale <= ROUNDING * torch.finfo(self.scores.dtype).eps * mean.abs()
        plain = self._without_spread(mean)
        return (
            mean,
            torch.where(still, plain[1], scale),
            torch.where(still.reshape(-1, 1), plain[2], knots),
        )

    def _without_spread(self, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean, scale and knots of entries that never change: a linear score in units of the entry itself."""
        scale = torch.where(mean == 0, 1.0, mean.abs())
        return mean, scale, mean.reshape(-1, 1) + scale.reshape(-1, 1) * self.scores.to(mean.dtype)

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
        wrong = not isinstance(value, Tensor) or value.is_nested or not value.numel() or value.ndim < len(shape)
        if wrong or tuple(value.shape[value.ndim - len(shape) :]) != shape:
            got = tuple(value.shape) if isinstance(value, Tensor) and not value.is_nested else shown(value)
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
        width = high - low
        part = torch.where(width > 0, (rows - low) / torch.where(width > 0, width, 1.0), 0.5)
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
