"""Networks for images: two encoders, a family for maps of codes, a small U-Net, and the cleansing of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..core.arguments import Data
from ..core.require import whole
from ..guides.encoders.base import FARTHEST, Encoder, mlp
from ..guides.families.densities import Head
from .image_priors import CellMixture

MAP = 16  # channels of the map that a MapEncoder makes
RARE = -8.0  # log weight of the other parts at the start: draws of a part that is not trained spoil the training
PART = 128  # images that go through a network at once: what is in between stays small and in the cache


class Pixels(Encoder):
    """What image encoders share: pixels standardised by one mean and one scale a channel.

    Masked pixels are zero, and the mask is one more channel for each.

    Args:
        example: {"x": one image (channels, H, W), "mask": ...}.
        width: length of the context.

    Raises:
        ValueError: the example is no image.
    """

    def __init__(self, example: Data, width: int) -> None:
        super().__init__(example, width)
        (self.name,) = self.names
        if len(self.shapes[self.name]) != 3:
            raise ValueError(f"example: got '{self.name}' of shape {self.shapes[self.name]}, expected (channels, H, W)")
        self.channels_in = self.shapes[self.name][0] * (2 if self.masked else 1)
        delattr(self, f"{self.name}_knots")  # normal scores of single pixels are neither needed nor small
        for name in ("mean", "scale"):
            self.register_buffer(f"{self.name}_{name}", getattr(self, f"{self.name}_{name}")[:, :1, :1].clone())

    def standardise(self, draws: Data) -> None:
        """Take mean and standard deviation of each channel from (N, channels, H, W) images."""
        mean, scale = channel_moments(draws[self.name])
        getattr(self, f"{self.name}_mean").copy_(mean)
        getattr(self, f"{self.name}_scale").copy_(scale)

    def image(self, data: Data) -> Tensor:
        """Return the standardised image, (..., channels, H, W)."""
        value = self._entry(data, self.name)
        mean, scale = getattr(self, f"{self.name}_mean"), getattr(self, f"{self.name}_scale")
        image = ((value.to(mean.dtype) - mean) / scale).clamp(-FARTHEST, FARTHEST)
        if self.masked:
            seen = self._seen(data, value)
            image = torch.cat([torch.where(seen, image, 0.0), seen.to(image.dtype)], -3)
        return image


class ImageEncoder(Pixels):
    """Convolutions with stride 2, then a perceptron of the flattened features, so that positions are kept.

    Args:
        example: {"x": one image (channels, H, W), "mask": ...}.
        width: length of the context.
        features: channels of the layers; each halves height and width.

    Raises:
        ValueError: the example is no image.
    """

    def __init__(self, example: Data, width: int = 64, features: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__(example, width)
        _, height, across = self.shapes[self.name]
        layers: list[nn.Module] = []
        for a, b in pairwise([self.channels_in, *features]):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.SiLU()]
            height, across = (height + 1) // 2, (across + 1) // 2
        self.net = nn.Sequential(*layers)
        self.head = mlp([features[-1] * height * across, 128, width])

    def forward(self, **data: Tensor) -> Tensor:
        """Return the context, (..., width)."""
        image = self.image(data)
        outer = image.shape[:-3]
        context = in_parts(lambda part: self.head(self.net(part).flatten(1)), image.reshape(-1, *image.shape[-3:]))
        return context.reshape(*outer, self.width)


class MapEncoder(Pixels):
    """Convolutions to a quarter of height and width; the context is that map, flattened, channels first.

    Args:
        example: {"x": one image (channels, H, W), "mask": ...}.
        features: channels of the layers at a half and at a quarter of the resolution.

    Raises:
        ValueError: the example is no image.
    """

    def __init__(self, example: Data, features: Sequence[int] = (16, 32)) -> None:
        super().__init__(example, 1)
        rows, columns = levels(self.shapes[self.name][1:])[-1]
        self.width = MAP * rows * columns
        half, low = features
        self.net = nn.Sequential(
            nn.Conv2d(self.channels_in, half, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(half, low, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(low, low, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(low, low, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(low, MAP, 1),
            nn.SiLU(),
        )

    def forward(self, **data: Tensor) -> Tensor:
        """Return the context, (..., width)."""
        image = self.image(data)
        return self.net(image.reshape(-1, *image.shape[-3:])).reshape(*image.shape[:-3], self.width)


class MapMixture(nn.Module):
    """q(z | c) = prod over cells sum_k w_k(c_cell) N(z_cell; m_k(c_cell), diag s_k(c_cell)^2): codes from a map of features.

    Nearly all of the weight is on the first part at the start, and stays there while the guide is trained by its own draws
    (``CellMixture``); the others take what is not Gaussian when it is trained by simulations.

    Args:
        features: length of the code, (depth, cells) flattened.
        context: length of the context of a ``MapEncoder``, (``MAP``, cells) flattened.
        parts: Gaussians of a cell.
    """

    def __init__(self, features: int, context: int, parts: int = 3) -> None:
        super().__init__()
        whole("parts", parts, 1)
        self.cells, self.parts = context // MAP, parts
        self.depth = features // self.cells
        self.head = Head(MAP, parts * (1 + 2 * self.depth))
        weight: Any = self.head.weight
        nn.init.normal_(weight[parts : parts * (1 + self.depth)], 0.0, 0.3)  # codes that say nothing teach nothing
        with torch.no_grad():
            self.head.bias[1:parts] = RARE

    def forward(self, context: Tensor) -> CellMixture:
        """Return the distribution over R^features with the batch shape of the context."""
        found = self.head(context.unflatten(-1, (MAP, self.cells)).mT)
        size = self.parts * self.depth
        logits, loc, log_scale = found.split([self.parts, size, size], -1)
        loc, scale = (part.unflatten(-1, (self.parts, self.depth)) for part in (loc, log_scale.exp()))
        return CellMixture(logits, loc, scale, self.cells)


class UNet(nn.Module):
    """An image and a map of codes to an image of the same size, through two halvings and back.

    The codes enter at the lowest level, one short vector for each of its cells of 4 x 4 pixels. So what they say is local,
    and what is learnt in one place holds in all. The output is zero at the start.

    Args:
        inputs, outputs: channels.
        depth: length of the code of one cell, 0 for none.
        shape: height and width of the image.
        features: channels at full resolution.
    """

    def __init__(self, inputs: int, outputs: int, depth: int, shape: Sequence[int], features: int = 8) -> None:
        super().__init__()
        c = features
        self.levels, self.depth = levels(shape), depth
        sizes = [(inputs, c), (c, 2 * c), (2 * c + depth, 4 * c), (4 * c, 8 * c), (4 * c, 4 * c), (2 * c, c)]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in sizes)
        self.last = nn.Conv2d(c, outputs, 1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        """Return (N, outputs, H, W) for images (N or 1, inputs, H, W) and codes (N, depth * cells)."""
        full = self._layer(0, image)
        half = self._layer(1, functional.avg_pool2d(full, 2, ceil_mode=True))
        low = functional.avg_pool2d(half, 2, ceil_mode=True)
        if self.depth:
            code = code.unflatten(-1, (self.depth, *self.levels[2]))
            full, half, low = (part.expand(len(code), -1, -1, -1) for part in (full, half, low))
            low = torch.cat([low, code], -3)
        up = self._finer(self._layer(3, self._layer(2, low)), 1)
        up = self._finer(self._layer(4, torch.cat([half, up], -3)), 0)
        return self.last(self._layer(5, torch.cat([full, up], -3)))

    def _layer(self, index: int, image: Tensor) -> Tensor:
        return functional.silu(self.layers[index](image))

    def _finer(self, image: Tensor, level: int) -> Tensor:
        """Lay four channels out as the 2 x 2 pixels of the next level."""
        height, width = self.levels[level]
        return functional.pixel_shuffle(image, 2)[..., :height, :width]


def in_parts(net: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return net(*inputs) for inputs (N, ...), worked out ``PART`` rows at a time."""
    return torch.cat([net(*rows) for rows in zip(*(value.split(PART) for value in inputs), strict=True)])


def levels(shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the sizes of an image at full, half and quarter resolution, rounded up."""
    sizes = [tuple(shape)]
    for _ in range(2):
        sizes.append(tuple((size + 1) // 2 for size in sizes[-1]))
    return sizes


class ImageCleansing(nn.Module):
    """h(x, z_A) = x + s U([(x - m) / s], z_A), the identity at the start; masked pixels enter as the mean.

    Args:
        example: one image, (channels, H, W).
        codes: length of all z_A together, a map of cells of 4 x 4 pixels.
        features: channels of the U-Net at full resolution.

    Raises:
        ValueError: the codes are no map.
    """

    mean: Tensor
    scale: Tensor
    event_dim = 3

    def __init__(self, example: Tensor, codes: int, features: int = 8) -> None:
        super().__init__()
        channels, cells = example.shape[0], math.prod(levels(example.shape[1:])[-1])
        if codes % cells:
            raise ValueError(f"codes: got {codes}, expected a multiple of {cells}, the cells of the map")
        self.net = UNet(channels, channels, codes // cells, example.shape[1:], features)
        self.register_buffer("mean", torch.zeros_like(example[:, :1, :1]))
        self.register_buffer("scale", torch.ones_like(example[:, :1, :1]))

    def standardise(self, x: Tensor) -> None:
        """Take mean and sd of each channel from (N, channels, H, W) images."""
        mean, scale = channel_moments(x)
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    def forward(self, x: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return x', (..., channels, H, W), complete also where x is masked."""
        if mask is not None:
            x = torch.where(mask, x, self.mean)
        outer = torch.broadcast_shapes(x.shape[:-3], codes.shape[:-1])
        scaled = ((x - self.mean) / self.scale).clamp(-FARTHEST, FARTHEST).expand(*outer, *x.shape[-3:])
        flat = scaled.reshape(-1, *x.shape[-3:])
        change = in_parts(self.net, flat, codes.expand(*outer, -1).reshape(len(flat), codes.shape[-1]))
        return x + self.scale * change.reshape(*outer, *x.shape[-3:])


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and sd of each channel of (N, channels, H, W), (channels, 1, 1); pixels that are not finite are left out."""
    finite = torch.isfinite(x)
    kept = torch.where(finite, x, 0.0)
    count = finite.sum((0, 2, 3), keepdim=True).clamp_min(2)
    mean = kept.sum((0, 2, 3), keepdim=True) / count
    variance = torch.where(finite, (kept - mean).square(), 0.0).sum((0, 2, 3), keepdim=True) / (count - 1)
    return mean[0], variance[0].sqrt().clamp_min(1e-12)
