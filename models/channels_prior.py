"""A learnt prior of channel maps: the decoder of a variational autoencoder, and its stored weights.

    w ~ Normal(0, I),  w in R^8
    x_i ~ Normal(sigmoid(d_i(w)), 0.1)      share of channel in cell i of 16 x 16; d: a perceptron 8 -> 128 -> 256 -> 256
    f_i(w) = contrast sigmoid(d_i(w))       log-permeability of the cell, between those of ground and channel

Trained on 10,000 maps of ``datasets.channels`` by the ELBO. What an inverse problem takes from it is f alone, the
mean map of w.

    models/data/channels_prior.safetensors    the decoder, float32
    models/data/channels_prior.json           command, seed, versions, metrics;  python benchmarks/channels_prior.py

Source: Lopez-Alvis, Laloy, Nguyen, Hermans, arXiv:2008.12056; Kingma & Welling, arXiv:1312.6114.
"""

from __future__ import annotations

import copy
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from .datasets.channels import CELLS
from .networks import mlp

LATENTS = 8
HIDDEN = (128, 256)
BLUR = 0.1
WEIGHTS = "data/channels_prior.safetensors"


class ChannelVAE(PyroModule):
    """The autoencoder's generative model of one map x, shape (256,), in [0, 1], x fastest."""

    origin: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.decoder = mlp([LATENTS, *HIDDEN, CELLS**2])
        self.register_buffer("origin", torch.zeros(LATENTS))

    def forward(self, x: Tensor | None = None) -> Tensor:
        """Sample w and observe x; return its mean."""
        w = pyro.sample("w", dist.Normal(self.origin, 1.0).to_event(1))
        share = torch.sigmoid(self.decoder(w))
        pyro.sample("x", dist.Normal(share, BLUR).to_event(1), obs=x)
        return share


class GenerativeField(nn.Module):
    """The field f(w) = contrast sigmoid(d(w)), which nothing trains any more.

    Args:
        decoder: d, w (..., 8) -> (..., cells); it is copied.
        contrast: log-permeability of a channel over that of the ground.
    """

    def __init__(self, decoder: nn.Module, contrast: float) -> None:
        super().__init__()
        self.decoder, self.contrast = copy.deepcopy(decoder), contrast
        for layer in self.decoder.modules():
            for name, value in list(layer.named_parameters(recurse=False)):
                delattr(layer, name)
                layer.register_buffer(name, value.detach())

    def forward(self, w: Tensor) -> Tensor:
        """Return the log-permeability of the cells, shape (..., cells), zero in the ground."""
        return self.contrast * torch.sigmoid(self.decoder(w))


def trained_decoder(path: str | Path | None = None) -> nn.Module:
    """Return the decoder with stored weights, in float64.

    Args:
        path: a .safetensors file; by default the one that comes with the package.

    Raises:
        ValueError: the file is not there, or is of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    decoder = mlp([LATENTS, *HIDDEN, CELLS**2])
    file: Any = files(__package__).joinpath(WEIGHTS) if path is None else Path(path)
    try:
        decoder.load_state_dict(load(file.read_bytes()))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).split("\n", 1)[0][:120]
        raise ValueError(f"path: got '{file}', expected the weights of the channels' decoder ({reason})") from None
    return decoder.double()
