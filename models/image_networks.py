"""Networks for images: an encoder, a small U-Net that a code steers, and the cleansing of images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..guides.encoder import FARTHEST, Encoder, mlp
from ..guides.sites import Data


class ImageEncoder(Encoder):
    """Convolutions with stride 2, then a perceptron of the flattened features, so that positions are kept.

    Pixels are standardised by one mean and one scale a channel. Masked pixels are zero, and the mask is one more channel
    for each.

    Args:
        example: {"x": one image (channels, H, W), "mask": ...}.
        width: length of the context.
        features: channels of the layers; each halves height and width.

    Raises:
        ValueError: the example is no image.
    """

    def __init__(self, example: Data, width: int = 64, features: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__(example, width)
        (self.name,) = self.names
        if len(self.shapes[self.name]) != 3:
            raise ValueError(f"example: got '{self.name}' of shape {self.shapes[self.name]}, expected (channels, H, W)")
        channels, height, across = self.shapes[self.name]
        delattr(self, f"{self.name}_knots")  # normal scores of single pixels are neither needed nor small
        for name in ("mean", "scale"):
            self.register_buffer(f"{self.name}_{name}", getattr(self, f"{self.name}_{name}")[:, :1, :1].clone())
        layers: list[nn.Module] = []
        for a, b in pairwise([channels * (2 if self.masked else 1), *features]):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.SiLU()]
            height, across = (height + 1) // 2, (across + 1) // 2
        self.net = nn.Sequential(*layers)
        self.head = mlp([features[-1] * height * across, 128, width])

    def standardise(self, draws: Data) -> None:
        """Take mean and standard deviation of each channel from (N, channels, H, W) images."""
        mean, scale = channel_moments(draws[self.name])
        getattr(self, f"{self.name}_mean").copy_(mean)
        getattr(self, f"{self.name}_scale").copy_(scale)

    def forward(self, **data: Tensor) -> Tensor:
        """Return the context, (..., width)."""
        value = self._entry(data, self.name)
        mean, scale = getattr(self, f"{self.name}_mean"), getattr(self, f"{self.name}_scale")
        image = ((value.to(mean.dtype) - mean) / scale).clamp(-FARTHEST, FARTHEST)
        if self.masked:
            seen = self._seen(data, value)
            image = torch.cat([torch.where(seen, image, 0.0), seen.to(image.dtype)], -3)
        outer = image.shape[:-3]
        return self.head(self.net(image.reshape(-1, *image.shape[-3:])).flatten(1)).reshape(*outer, self.width)


class UNet(nn.Module):
    """An image to an image of the same size, through two halvings and back, steered by a code.

    The code scales and shifts every channel of every layer, and a perceptron paints it as a coarse image at the lowest
    level, so that it can also place things. The output is zero at the start.

    Args:
        inputs, outputs: channels.
        code: length of the code, 0 for none.
        shape: height and width of the image.
        features: channels at full resolution.
    """

    def __init__(self, inputs: int, outputs: int, code: int, shape: Sequence[int], features: int = 8) -> None:
        super().__init__()
        c = features
        self.levels = [tuple(shape)]
        for _ in range(2):
            self.levels.append(tuple((size + 1) // 2 for size in self.levels[-1]))
        painted = c if code else 0
        sizes = [(inputs, c), (c, 2 * c), (2 * c + painted, 2 * c), (4 * c, c), (2 * c, c)]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in sizes)
        self.steer = nn.ModuleList(nn.Linear(code, 2 * b) for _, b in sizes) if code else None
        self.paint = mlp([code, 64, c * self.levels[2][0] * self.levels[2][1]]) if code else None
        self.last = nn.Conv2d(c, outputs, 1)
        for parameter in (*self.last.parameters(), *(p for layer in self.steer or () for p in layer.parameters())):
            nn.init.zeros_(parameter)

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        """Return (N, outputs, H, W) for images (N, inputs, H, W) and codes (N, code)."""
        full = self._layer(0, image, code)
        half = self._layer(1, functional.interpolate(full, self.levels[1], mode="area"), code)
        low = functional.interpolate(half, self.levels[2], mode="area")
        if self.paint is not None:
            low = torch.cat([low, self.paint(code).unflatten(-1, (-1, *self.levels[2]))], -3)
        low = functional.interpolate(self._layer(2, low, code), self.levels[1], mode="nearest")
        up = functional.interpolate(self._layer(3, torch.cat([half, low], -3), code), self.levels[0], mode="nearest")
        return self.last(self._layer(4, torch.cat([full, up], -3), code))

    def _layer(self, index: int, image: Tensor, code: Tensor) -> Tensor:
        image = self.layers[index](image)
        if self.steer is not None:
            scale, shift = self.steer[index](code)[..., None, None].chunk(2, -3)
            image = image * (1.0 + scale) + shift
        return functional.silu(image)


class ImageCleansing(nn.Module):
    """h(x, z_A) = x + s U([(x - m) / s], z_A), the identity at the start; masked pixels enter as the mean.

    Args:
        example: one image, (channels, H, W).
        codes: length of all z_A together.
        features: channels of the U-Net at full resolution.
    """

    mean: Tensor
    scale: Tensor
    event_dim = 3

    def __init__(self, example: Tensor, codes: int, features: int = 8) -> None:
        super().__init__()
        channels = example.shape[0]
        self.net = UNet(channels, channels, codes, example.shape[1:], features)
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
        change = self.net(flat, codes.expand(*outer, -1).reshape(len(flat), codes.shape[-1]))
        return x + self.scale * change.reshape(*outer, *x.shape[-3:])


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and sd of each channel of (N, channels, H, W), (channels, 1, 1); pixels that are not finite are left out."""
    finite = torch.isfinite(x)
    kept = torch.where(finite, x, 0.0)
    count = finite.sum((0, 2, 3), keepdim=True).clamp_min(2)
    mean = kept.sum((0, 2, 3), keepdim=True) / count
    variance = torch.where(finite, (kept - mean).square(), 0.0).sum((0, 2, 3), keepdim=True) / (count - 1)
    return mean[0], variance[0].sqrt().clamp_min(1e-12)
