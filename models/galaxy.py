"""Images of disk galaxies: the physics knows an exponential disk, its colour and its place; a U-Net learns what else is seen.

    disk(x, y) = I0 exp(-r),    r^2 = (x_rot / A)^2 + (y_rot / (A (1 - e)))^2    on [-1, 1]^2
    image_k    = colour_k disk(x - centre_x, y - centre_y) + U_k(z_A) + noise

    I0        ~ Uniform(0.5, 1)       brightness in the middle
    A         ~ Uniform(0.05, 0.5)    scale length, half the image is 1
    e         ~ Uniform(0.2, 0.9)     flattening
    direction ~ Ring(0.1)             a vector v in the plane; the position angle is atan2(v_2, v_1) / 2, uniform on (0, pi)
    colour_k  ~ LogNormal(log mean_k, 0.1)
    centre    ~ Normal(0, 0.03)       in x and y
    z_A       ~ prod over cells sum_k w_k N(z_cell; m_k, diag s_k^2)
                                      code of the learnt part, 6 numbers for each cell of 4 x 4 pixels: background, neighbours

The disk looks the same after half a turn, so its angle has period pi, and no interval of numbers holds it without a seam.
The unknown is therefore a vector of free length that points at twice the angle: its plane has no seam, a guide in it is
continuous, and the length, of which the data say nothing, stays close to 1 by its prior, so that the posterior of v is
close to normal.

An image says I0 colour_k to a few per cent and I0 and colour_k apart no better than their priors do: the mean colour of
the sample and its scatter are given, as a telescope's zero points are, and the posterior of I0 is as wide as they leave
it. The guide's family starts from the products (``Degeneracy``).

Most cells show background alone, a few a neighbour. The prior of the codes is therefore a mixture of four Gaussians that all
cells share, learnt by the ELBO (``CellPrior``): with Normal(0, I) the images that the model draws, from which the guide
learns the width of its intervals, show too few neighbours.

What keeps the disk to the physics: U sees neither the disk nor the place in the image, so that it can paint at a place only
by the code of that place, which costs; the physics costs nothing. And the guide knows disks before U learns anything: in a
first stage it is trained on simulations of the disk alone. Without it U paints the middle of disks while the guide is still
blind, and keeps it: I0 and A come out too small, with intervals that do not cover. After that the codes of the guide are
trained by the ELBO; its physics mostly by simulations of the whole model, for which its width is the honest one. In a last
stage, on simulations of the trained model alone, the codes become a mixture of Gaussians in each cell, as their prior is,
and the physics learn to be inferred beside codes that the guide drew (``DrawnCodesKL``), since no others are at hand at use.
Half of these images are simulated around the codes of training images: the prior draws each cell by itself and shows no whole
neighbour, the codes of images do, and a guide that has not seen them is off, and too sure, where one stands by the disk.
The noise of that stage is the one that most pixels show (``robust_noise``): the sd that the ELBO learns also pays for the few
neighbours that the code does not hold, and makes the intervals of all images too wide.
The stage is the longest: until the network has learnt to read an image, its intervals are too wide, those of the angle last.

Source of the disk and of the idea: Takeishi & Kalousis, arXiv:2102.13156, section 4.3; network, code and priors by physzoo.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from ..guides.families.densities import SplineFlow
from ..guides.families.flows import Flow
from ..physics.grey_box import Decoded
from .datasets.galaxy import MEAN_COLOUR, disk
from .galaxy_data import DATA, PERIOD, training_splits
from .grey_box import GreyBox, Noise
from .image_networks import ImageCleansing, ImageEncoder, MapEncoder, MapMixture, UNet, levels
from .image_priors import CellPrior, Ring
from .recipe import Quantity, Training, trained_by
from .registry import Animal, register

RANGES = {"I0": (0.5, 1.0), "A": (0.05, 0.5), "e": (0.2, 0.9)}
FIRST = 5  # place of the first colour among the coordinates of the unknowns: I0, A, e, direction, colour, centre
COLOUR_SCATTER, CENTRE_SCATTER = 0.1, 0.03


class Galaxy(GreyBox):
    """Images of galaxies, of which only the exponential disk is known.

    Args:
        size: pixels on a side.
        colour: mean colour of the sample, one positive number for each channel.
        code: length of z_A in one cell of 4 x 4 pixels; 0 leaves the learnt part out.
        features: channels of the U-Net at full resolution.
        noise: "learnt", "fixed" or "inferred".
        parts: Gaussians in the learnt prior of a cell's code; 0 for Normal(0, I).

    Raises:
        ValueError: a colour that is not positive, or a size of no pixel.
    """

    width: Tensor
    colour: Tensor
    blank: Tensor

    def __init__(
        self,
        size: int = 32,
        colour: Sequence[float] = MEAN_COLOUR,
        code: int = 6,
        features: int = 8,
        noise: Noise = "learnt",
        parts: int = 4,
    ) -> None:
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size: got {size!r}, expected a positive number of pixels")
        colour = tuple(float(value) for value in colour)
        if not colour or not all(0 < value < math.inf for value in colour):
            raise ValueError(f"colour: got {tuple(colour)}, expected a positive number for each channel")
        channels, shape = len(colour), (size, size)
        cells = math.prod(levels(shape)[-1])
        learnt: dict[str, nn.Module] = {"z_A": CellPrior(code, cells, parts)} if code and parts else {}
        codes = {"z_A": code * cells} if code else {}
        super().__init__(codes, scale=0.05, noise=noise, event_dim=3, code_priors=learnt)
        self.size = size
        self.register_buffer("colour", torch.tensor([float(value) for value in colour]))
        self.register_buffer("width", torch.tensor(0.1))
        self.register_buffer("blank", torch.ones(1, 1, size, size), persistent=False)
        self.correction_net = UNet(1, channels, code, shape, features) if code else None

    def priors(self) -> Mapping[str, Any]:
        """Return the priors of the disk."""
        one = torch.ones_like(self.width)
        known: dict[str, Any] = {name: dist.Uniform(low * one, high * one) for name, (low, high) in RANGES.items()}
        return {
            **known,
            "direction": Ring(self.width),
            "colour": dist.LogNormal(self.colour.log(), COLOUR_SCATTER * torch.ones_like(self.colour)).to_event(1),
            "centre": dist.Normal(self.width.new_zeros(2), CENTRE_SCATTER * one).to_event(1),
        }

    def physics(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Tensor:
        """Return the image of the disk, (..., channels, size, size)."""
        known = {name: z[name] for name in RANGES}
        image = disk({**known, "angle": angle(z["direction"]), "centre": z["centre"]}, self.size)
        return z["colour"][..., None, None] * image.unsqueeze(-3)

    def decode(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Decoded:
        """Return the four outputs, (..., channels, size, size) each; there are no dynamics."""
        physics = self.physics(z)
        if self.correction_net is None:
            return Decoded(physics, physics, physics, physics)
        outer = z["z_A"].shape[:-1]
        code = z["z_A"].reshape(-1, z["z_A"].shape[-1])
        change = self.correction_net(self.blank, code)
        full = physics + change.reshape(*outer, *change.shape[1:])
        return Decoded(full, physics, full, physics)


class Degeneracy(Transform):
    """Shift the logarithms of the colours by that of I0, so that what comes in is the brightness of each channel.

        w_colour = w_brightness - (log I0(w_I0) - log 0.75) / 0.1,    I0(w) = 0.5 + 0.5 sigmoid(pi / sqrt(3) w)

    The image says colour times I0 to a few per cent and each of the two to ten: a family that starts from the brightness
    has little left to learn. w are the coordinates of the sites in standard units of their priors.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return x - self._shift(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return y + self._shift(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(x[..., 0])

    def _shift(self, w: Tensor) -> Tensor:
        low, high = RANGES["I0"]
        intensity = low + (high - low) * torch.sigmoid(math.pi / math.sqrt(3.0) * w[..., :1])
        shift = (intensity.log() - math.log(0.5 * (low + high))) / COLOUR_SCATTER
        return torch.cat(
            [torch.zeros_like(w[..., :FIRST]), shift.expand_as(w[..., FIRST:-2]), torch.zeros_like(w[..., -2:])], -1
        )


class DiskFlow(SplineFlow):
    """A spline flow over the brightness of each channel instead of its colour."""

    def forward(self, context: Tensor) -> Flow:
        """Return the distribution over R^features with the batch shape of the context."""
        flow: Any = super().forward(context)
        return Flow([*flow.to_value, Degeneracy()], flow.batch_shape, flow.like)


def angle(direction: Tensor) -> Tensor:
    """Return the position angle in [0, pi) of vectors (..., 2) that point at twice the angle."""
    return (0.5 * torch.atan2(direction[..., 1], direction[..., 0])).remainder(PERIOD)


def direction(angle: Tensor) -> Tensor:
    """Return the unit vectors (..., 2) that point at twice the position angle."""
    return torch.stack([(2.0 * angle).cos(), (2.0 * angle).sin()], -1)


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
    "guide": {
        "encoder": MapEncoder,
        "family": MapMixture,
        "physics_encoder": ImageEncoder,
        "physics_family": DiskFlow,
        "cleanse": ImageCleansing,
    },
    # the ELBO alone would make the posteriors of the physics narrower than the network's own errors
    "objective": {"predictive": 1e-3, "cleansing": 0.01, "sleep": 20.0, "whole_sleep": 200.0, "dream_codes": False},
    "start": {"steps": 200, "learning_rate": 3e-3, "batch_size": 128},
    "steps": 2000,
    "learning_rate": 3e-3,
    "batch_size": 64,
    "finish": {
        "steps": 8000,
        "learning_rate": 2e-3,
        "batch_size": 128,
        "drawn_codes": True,
        "seen_codes": True,
        "robust_noise": True,
    },
}


register(
    Animal(
        name="galaxy",
        title="Images of disk galaxies, physics-integrated VAE",
        physics="closed form",
        likelihoods=("forward",),
        model=Galaxy,
        data=DATA.one,
        quantities={
            "I0": Quantity("central brightness", "1"),
            "A": Quantity("scale length", "half image"),
            "e": Quantity("flattening", "1"),
            "direction": Quantity("direction of twice the position angle", "1", ("axis",), {"axis": ("x", "y")}),
            "colour": Quantity("colour", "1", ("channel",)),
            "centre": Quantity("centre", "half image", ("axis",), {"axis": ("x", "y")}),
            "z_A": Quantity("code of the learnt part", "1", ("code",)),
            "x": Quantity("brightness", "1", ("channel", "row", "column")),
        },
        recipe=trained_by(TRAINING),
        priors={
            "I0": "Uniform(0.5, 1)",
            "A": "Uniform(0.05, 0.5)",
            "e": "Uniform(0.2, 0.9)",
            "direction": "Ring(0.1): uniform angle, length Normal(1, 0.1)",
            "colour": "LogNormal(log mean colour, 0.1) in each channel",
            "centre": "Normal(0, 0.03) in x and y",
            "z_A": "a mixture of four Gaussians in each cell, the same in all, learnt",
        },
        source="Takeishi & Kalousis, NeurIPS 2021, arXiv:2102.13156; images simulated",
        training=Training(
            splits=training_splits,
            guide=TRAINING["guide"],
            objective=TRAINING["objective"],
            start=TRAINING["start"],
            finish=TRAINING["finish"],
        ),
    )
)
