"""The guide of a grey-box model: codes of the learnt parts first, then the physics from data cleansed of these parts.

    q(z_A | x) q(z_P | x'),    x' = h(x, z_A)

h takes away what the physics cannot explain, so that the unknowns of the physics are inferred from data that look like the
physics alone. That makes them trainable on simulations of the physics alone (the sleep loss).

Source: Takeishi & Kalousis, arXiv:2102.13156, section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

from ..core.arguments import Data
from ..core.global_state import seeded
from ..core.simulate import simulate
from .amortize import amortize
from .amortized_guide import AmortizedGuide
from .encoders.base import Encoder, mlp
from .families.densities import Family


class Cleansing(nn.Module):
    """h(x, z_A) = x + s MLP([(x - m) / s, z_A]), the identity at the start; masked entries of x enter as their mean.

    Args:
        example: x of one data set, (*event).
        codes: length of all z_A together.
        hidden: widths of the network.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, example: Tensor, codes: int, hidden: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        self.event_dim = example.ndim
        self.net = mlp([example.numel() + codes, *hidden, example.numel()])
        with torch.no_grad():
            last: Any = self.net[-1]
            last.weight.zero_()
            last.bias.zero_()
        self.register_buffer("mean", torch.zeros_like(example))
        self.register_buffer("scale", torch.ones_like(example))

    def standardise(self, x: Tensor) -> None:
        """Take mean and sd from (N, *event) data; NaN is left out."""
        finite = torch.isfinite(x)
        weight = finite.sum(0).clamp_min(2)
        mean = torch.where(finite, x, 0.0).sum(0) / weight
        variance = torch.where(finite, (x - mean).square(), 0.0).sum(0) / (weight - 1)
        self.mean.copy_(mean)
        self.scale.copy_(variance.mean().sqrt().clamp_min(1e-12).expand_as(mean))

    def forward(self, x: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return x', (..., *event), complete also where x is masked."""
        shape = torch.broadcast_shapes(x.shape[: x.ndim - self.event_dim], codes.shape[:-1])
        if mask is not None:
            x = torch.where(mask, x, self.mean)
        scaled = ((x - self.mean) / self.scale).flatten(x.ndim - self.event_dim).clamp(-8.0, 8.0)
        change = self.net(torch.cat([scaled.expand(*shape, -1), codes.expand(*shape, -1)], -1))
        return x + self.scale * change.reshape(*shape, *self.mean.shape)


class CleansingGuide(PyroModule):
    """q(z_A | x) q(z_P | h(x, z_A)) as a guide of the whole model; build it with ``cleansing_guide``.

    Attributes:
        codes: guide of every site that the physics alone has not; ``None`` where there is none.
        physics: guide of the sites of the physics alone, of cleansed data.
        cleanse: h.
        names: the sites that h sees, in this order.
    """

    def __init__(
        self, codes: AmortizedGuide | None, physics: AmortizedGuide, cleanse: nn.Module, names: Sequence[str]
    ) -> None:
        super().__init__()
        self.codes, self.physics, self.cleanse, self.names = codes, physics, cleanse, tuple(names)

    def cleansed(self, values: Data, data: Data) -> Tensor:
        """Return x' for given codes, (..., *event)."""
        return self.cleanse(data["x"], self._joined(values, data["x"]), data.get("mask"))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Sample every latent site; return their values and the data after cleansing as "cleansed"."""
        data = {"x": x} if mask is None else {"x": x, "mask": mask}
        values = {} if self.codes is None else self.codes(**data)
        cleansed = self.cleansed(values, data)
        return {**values, **self.physics(x=cleansed), "cleansed": cleansed}

    def log_prob(self, values: Data, data: Data) -> Tensor:
        """Return log q(z | x) at given values, shape that of their outer dimensions."""
        inner = self.physics.log_prob(values, {"x": self.cleansed(values, data)})
        return inner if self.codes is None else inner + self.codes.log_prob(values, data)

    @torch.no_grad()
    def sample(self, data: Data, draws: int) -> dict[str, Tensor]:
        """Draw from q(z | x): site -> (draws, [B,] *site shape)."""
        values = {} if self.codes is None else self.codes.sample(data, draws)
        cleansed = self.cleansed(values, data)
        if not self.names:  # the same cleansed data for all draws
            return {**values, **self.physics.sample({"x": cleansed}, draws)}
        inner = self.physics.sample({"x": cleansed}, 1)
        return {**values, **{name: value.squeeze(0) for name, value in inner.items()}}

    def _joined(self, values: Data, like: Tensor) -> Tensor:
        if not self.names:
            return like.new_zeros((*like.shape[: like.ndim - self.cleanse.event_dim], 0))  # type: ignore[operator]
        return torch.cat([values[name] for name in self.names], -1)


def cleansing_guide(
    model: Any,
    example: Data,
    *,
    encoder: str | Encoder = "mlp",
    physics_encoder: str | Encoder = "mlp",
    family: str | Family = "full",
    physics_family: str | Family = "spline",
    cleanse: Callable[[Tensor, int], nn.Module] | None = None,
    data: Tensor | None = None,
    simulations: int = 2048,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    physics_options: dict[str, Any] | None = None,
) -> CleansingGuide:
    """Build q(z_A | x) q(z_P | h(x, z_A)) for a grey-box model.

    Args:
        model: a model with ``physics_alone``, the Pyro model of its incomplete physics, and ``codes``, as ``GreyBox``.
        example: {"x": one data set, "mask": ...}.
        encoder, family, options: of q(z_A | x), as for ``amortize``; an encoder is built from {"x": ...}.
        physics_encoder, physics_family, physics_options: of q(z_P | x').
        cleanse: (example x, length of all codes) -> module h(x, codes, mask) with ``event_dim``; ``Cleansing`` by default.
        data: (N, *event) training data, by which the code encoder and h are standardised; else the prior predictive.
        simulations: prior-predictive draws for the standardisation.
        seed: seed of the draws and of the initial weights.

    Returns:
        A guide with the signature of the model, and ``log_prob`` and ``sample`` as ``AmortizedGuide`` has them.

    Raises:
        TypeError: the model has no ``physics_alone`` or ``codes``.
    """
    for name in ("physics_alone", "codes"):
        if not hasattr(model, name):
            raise TypeError(f"model: got {type(model).__name__} without '{name}', expected a grey-box model")
    physics = amortize(
        model.physics_alone,
        physics_encoder,
        physics_family,
        example={"x": example["x"]},
        simulations=simulations,
        seed=seed,
        **(physics_options or {}),
    )
    inside = {block.name for block in physics.sites.blocks}
    others = poutine.block(model, hide=sorted(inside))
    codes = None
    drawn = simulate(model, simulations, {k: v for k, v in example.items() if k == "mask"}, seed=seed)
    outside = [name for name in drawn if name not in inside and name not in ("x",)]
    if outside:
        codes = amortize(
            others, encoder, family, example=example, simulations=simulations, seed=seed + 1, **(options or {})
        )
        codes.auxiliary = "_codes"
    names = [name for name in model.codes if name in outside]
    x = example["x"]
    with seeded(seed + 2):
        length = sum(model.codes[name] for name in names)
        net: Any = Cleansing(x, length) if cleanse is None else cleanse(x, length)
    seen = drawn["x"] if data is None else data
    if hasattr(net, "standardise"):
        net.standardise(seen.to(x.dtype))
    if codes is not None and codes.encoder is not None and data is not None:
        codes.encoder.standardise({"x": data})
    return CleansingGuide(codes, physics, net.to(x.dtype), names)
