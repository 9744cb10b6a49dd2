"""Images of disk galaxies: the physics knows an exponential disk, and a U-Net learns what else a telescope sees.

    disk(x, y) = I0 exp(-r),    r^2 = (x_rot / A)^2 + (y_rot / (A (1 - e)))^2    on [-1, 1]^2
    image_k    = colour_k disk + U_k(colour disk, z_A) + noise

    I0        ~ Uniform(0.5, 1)       brightness in the middle
    A         ~ Uniform(0.05, 0.5)    scale length, half the image is 1
    e         ~ Uniform(0.2, 0.9)     flattening
    direction ~ Ring(0.1)             a vector v in the plane; the position angle is atan2(v_2, v_1) / 2, uniform on (0, pi)
    z_A       ~ Normal(0, I)          code of the learnt part: colour, centre, neighbours

The disk looks the same after half a turn, so its angle has period pi, and no interval of numbers holds it without a seam.
The unknown is therefore a vector of free length that points at twice the angle: its plane has no seam, a guide in it is
continuous, and the length, of which the data say nothing, stays close to 1 by its prior, so that the posterior of v is
close to normal.

The brightness of a galaxy and its colour are only known together. The mean colour of the sample is therefore given, as a
telescope's zero points are, and z_A describes how one galaxy departs from it.

Source of the disk and of the idea: Takeishi & Kalousis, arXiv:2102.13156, section 4.3; network, code and priors by physzoo.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro import distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ..physics.grey_box import Decoded
from .datasets.galaxy import MEAN_COLOUR, disk, symmetry
from .grey_box import GreyBox, Noise
from .image_networks import ImageCleansing, ImageEncoder, UNet
from .registry import Animal, Quantity, Training, register, trained_by

RANGES = {"I0": (0.5, 1.0), "A": (0.05, 0.5), "e": (0.2, 0.9)}
PERIOD = math.pi


class Ring(TorchDistribution):
    """A vector in the plane whose direction is uniform and whose length is Normal(1, width).

        p(v) = N(|v|; 1, width^2) / (2 pi |v|)

    The mass that the normal has below zero, under 1e-22 for widths up to 0.1, is left out of account.

    Args:
        width: sd of the length, a scalar tensor, at most 0.2.
    """

    arg_constraints = {"width": constraints.interval(0.0, 0.2)}  # type: ignore[assignment]  # noqa: RUF012 (torch's own convention)
    support = constraints.real_vector  # type: ignore[assignment]
    has_rsample = True

    def __init__(self, width: Tensor, validate_args: bool | None = None) -> None:
        self.width = width
        super().__init__(width.shape, torch.Size((2,)), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: TorchDistribution | None = None) -> Ring:
        new: Any = self._get_checked_instance(Ring, _instance)
        new.width = self.width.expand(batch_shape)
        super(Ring, new).__init__(torch.Size(batch_shape), torch.Size((2,)), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 (torch's signature)
        shape = self._extended_shape(sample_shape)[:-1]
        turn = 2.0 * math.pi * torch.rand(shape, dtype=self.width.dtype, device=self.width.device)
        length = 1.0 + self.width * torch.randn(shape, dtype=self.width.dtype, device=self.width.device)
        return length.unsqueeze(-1) * torch.stack([turn.cos(), turn.sin()], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        length = value.square().sum(-1).clamp_min(torch.finfo(value.dtype).tiny).sqrt()
        standard = (length - 1.0) / self.width
        return -0.5 * standard.square() - self.width.log() - 1.5 * math.log(2.0 * math.pi) - length.log()


class Galaxy(GreyBox):
    """Images of galaxies, of which only the exponential disk is known.

    Args:
        size: pixels on a side.
        colour: mean colour of the sample, one positive number for each channel.
        code: length of z_A; 0 leaves the learnt part out.
        features: channels of the U-Net at full resolution.
        noise: "learnt", "fixed" or "inferred".

    Raises:
        ValueError: a colour that is not positive, or a size of no pixel.
    """

    width: Tensor
    colour: Tensor

    def __init__(
        self,
        size: int = 32,
        colour: Sequence[float] = MEAN_COLOUR,
        code: int = 16,
        features: int = 8,
        noise: Noise = "learnt",
    ) -> None:
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size: got {size!r}, expected a positive number of pixels")
        if not colour or not all(0 < value < math.inf for value in colour):
            raise ValueError(f"colour: got {tuple(colour)}, expected a positive number for each channel")
        channels = len(colour)
        super().__init__({"z_A": code} if code else {}, scale=0.05, noise=noise, event_dim=3)
        self.size = size
        self.register_buffer("colour", torch.tensor([float(value) for value in colour])[:, None, None])
        self.correction_net = UNet(channels, channels, code, (size, size), features) if code else None
        self.register_buffer("width", torch.tensor(0.1))

    def priors(self) -> Mapping[str, Any]:
        """Return the priors of the disk."""
        one = torch.ones_like(self.width)
        known: dict[str, Any] = {name: dist.Uniform(low * one, high * one) for name, (low, high) in RANGES.items()}
        return {**known, "direction": Ring(self.width)}

    def physics(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Tensor:
        """Return the image of the disk, (..., channels, size, size)."""
        image = disk({**{name: z[name] for name in RANGES}, "angle": angle(z["direction"])}, self.size)
        return self.colour * image.unsqueeze(-3)

    def decode(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Decoded:
        """Return the four outputs, (..., channels, size, size) each; there are no dynamics."""
        physics = self.physics(z)
        if self.correction_net is None:
            return Decoded(physics, physics, physics, physics)
        code = z["z_A"]
        outer = torch.broadcast_shapes(physics.shape[:-3], code.shape[:-1])
        images = physics.expand(*outer, *physics.shape[-3:]).reshape(-1, *physics.shape[-3:])
        change = self.correction_net(images, code.expand(*outer, -1).reshape(len(images), -1))
        full = physics + change.reshape(*outer, *physics.shape[-3:])
        return Decoded(full, physics, full, physics)


def angle(direction: Tensor) -> Tensor:
    """Return the position angle in [0, pi) of vectors (..., 2) that point at twice the angle."""
    return (0.5 * torch.atan2(direction[..., 1], direction[..., 0])).remainder(PERIOD)


def direction(angle: Tensor) -> Tensor:
    """Return the unit vectors (..., 2) that point at twice the position angle."""
    return torch.stack([(2.0 * angle).cos(), (2.0 * angle).sin()], -1)


def eightfold(x: Tensor) -> Tensor:
    """Return images (N, channels, H, H) in all their eight symmetric positions, (8 N, channels, H, H): augmentation.

    Raises:
        ValueError: the images are not square.
    """
    if x.dim() != 4 or x.shape[-1] != x.shape[-2]:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected square images (N, channels, H, H)")
    return torch.cat([symmetry(x, turns, flip) for turns in range(4) for flip in (False, True)])


class WithAngle:
    """A guide whose draws also hold "angle", so that ``evaluate`` can judge it on its circle.

    Args:
        guide: a guide of ``Galaxy`` with ``sample``.
    """

    def __init__(self, guide: Any) -> None:
        self.guide = guide

    def sample(self, data: Mapping[str, Any], draws: int) -> dict[str, Tensor]:
        """Draw from the guide: site -> (draws, N, ...), and the angle in [0, pi)."""
        values = self.guide.sample(data, draws)
        return {**values, "angle": angle(values["direction"])}


TRAINING: dict[str, Any] = {
    "guide": {"encoder": ImageEncoder, "physics_encoder": ImageEncoder, "cleanse": ImageCleansing},
    "objective": {"predictive": 0.1, "cleansing": 0.1, "sleep": 1.0, "whole_sleep": 1.0},
    "steps": 3000,
    "learning_rate": 2e-3,
    "batch_size": 64,
}


def one_image() -> dict[str, Any]:
    """Return a generated image that is in no split, {"x": (3, 32, 32)}."""
    from .datasets.galaxy import generate

    return {"x": generate(seed=1, sizes=(1, 1, 1), size=32).train.x[0]}


def _splits(seed: int) -> Any:
    from .datasets.galaxy import generate

    return generate(seed, (2000, 200, 500), 32)


register(
    Animal(
        name="galaxy",
        title="Images of disk galaxies, physics-integrated VAE",
        physics="closed form",
        likelihoods=("forward",),
        model=Galaxy,
        data=one_image,
        quantities={
            "I0": Quantity("central brightness", "1"),
            "A": Quantity("scale length", "half image"),
            "e": Quantity("flattening", "1"),
            "direction": Quantity("direction of twice the position angle", "1", ("axis",), {"axis": ("x", "y")}),
            "z_A": Quantity("code of the learnt part", "1", ("code",)),
            "x": Quantity("brightness", "1", ("channel", "row", "column")),
        },
        recipe=trained_by(TRAINING),
        priors={
            "I0": "Uniform(0.5, 1)",
            "A": "Uniform(0.05, 0.5)",
            "e": "Uniform(0.2, 0.9)",
            "direction": "Ring(0.1): uniform angle, length Normal(1, 0.1)",
            "z_A": "Normal(0, I)",
        },
        source="Takeishi & Kalousis, NeurIPS 2021, arXiv:2102.13156; images simulated",
        training=Training(splits=_splits, guide=TRAINING["guide"], objective=TRAINING["objective"]),
    )
)
