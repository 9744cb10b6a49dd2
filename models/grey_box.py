"""What every grey-box animal shares: physics unknowns, learnt codes, noise, and the four outputs of the decoder.

    z_P ~ prior with a support         unknowns of the physics, the initial state among them
    z_A ~ Normal(0, I) or a flow       codes of the learnt parts
    x   ~ Normal(full(z_P, z_A), s)    s fixed, learnt, or an unknown with a lognormal prior

An animal writes ``priors``, ``physics`` and ``decode``. One object then is the generative model (``forward``), the physics
alone as a generative model (``physics_alone``, what the sleep loss draws from) and a counterfactual machine (``intervene``).

Source: Takeishi & Kalousis, arXiv:2102.13156.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from ..physics.grey_box import Decoded
from ..physics.likelihoods import observe

Noise = Literal["fixed", "learnt", "inferred"]


class GreyBox(PyroModule):
    """A generative model of one sequence or image x, shape (..., *event), with physics and learnt parts.

    Args:
        codes: name -> length of each auxiliary code, e.g. {"z_A1": 1, "z_A2": 2}.
        scale: noise sd at the start, in units of x.
        noise: "fixed"; "learnt", one number for all data sets; or "inferred", an unknown "noise" of each data set with
            prior LogNormal(log scale, 0.5).
        event_dim: dimensions of one x: 2 for (times, channels), 3 for images.
        code_priors: name -> module () -> distribution of that code, where it is learnt; Normal(0, I) otherwise.

    Raises:
        ValueError: a scale that is not positive, an unknown kind of noise, or a code of no length.
    """

    log_scale: Tensor

    def __init__(
        self,
        codes: Mapping[str, int],
        scale: float,
        noise: Noise = "learnt",
        event_dim: int = 2,
        code_priors: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if not (isinstance(scale, float | int) and math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale: got {scale!r}, expected a positive number")
        if noise not in ("fixed", "learnt", "inferred"):
            raise ValueError(f"noise: got {noise!r}, expected 'fixed', 'learnt' or 'inferred'")
        for name, length in codes.items():
            if not isinstance(length, int) or length < 1:
                raise ValueError(f"codes[{name!r}]: got {length!r}, expected a positive whole number")
        self.codes, self.noise, self.event_dim = dict(codes), noise, event_dim
        self.code_priors = nn.ModuleDict(dict(code_priors or {}))
        log_scale = torch.tensor(math.log(scale))
        if noise == "learnt":
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def priors(self) -> Mapping[str, Any]:
        """Return physics site -> prior distribution, in the order in which the sites are sampled."""
        raise TypeError(f"{type(self).__name__} has no priors: a GreyBox defines priors, physics and decode")

    def physics(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Tensor:
        """Return the data that the incomplete physics alone predicts, (..., *event)."""
        raise TypeError(f"{type(self).__name__} has no physics: a GreyBox defines priors, physics and decode")

    def decode(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Decoded:
        """Return the four outputs, at the times of the data or at others."""
        raise TypeError(f"{type(self).__name__} has no decode: a GreyBox defines priors, physics and decode")

    @property
    def physics_sites(self) -> tuple[str, ...]:
        """The names of the unknowns of the physics."""
        return tuple(self.priors())

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Decoded:
        """Sample unknowns and codes, decode, observe x of shape (*event); return the four outputs."""
        z = self._unknowns()
        for name, length in self.codes.items():
            z[name] = pyro.sample(name, self._code_prior(name, length))
        scale = self._sd()
        decoded = self.decode(z)
        observe("x", decoded.full, scale, obs=x, mask=mask, event_dim=self.event_dim)
        return decoded

    def physics_alone(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The generative model without learnt parts; return what the physics predicts."""
        predicted = self.physics(self._unknowns())
        observe("x", predicted, self.sd, obs=x, mask=mask, event_dim=self.event_dim)
        return predicted

    def intervene(self, z: Mapping[str, Tensor], times: Tensor | None = None, **values: Tensor) -> Decoded:
        """Decode with some unknowns set: what x would have been had they had these values, all else equal.

        Args:
            z: values of all sites, e.g. draws of a guide, leading dimensions free.
            times: other times than those of the data.
            **values: site -> value, broadcast to the shape that the site has in z.

        Raises:
            ValueError: a name that is no site of the model, or a value that does not broadcast to its site.
        """
        unknown = sorted(set(values) - set(z))
        if unknown:
            raise ValueError(f"intervene: got {', '.join(unknown)}, expected some of {', '.join(z)}")
        changed = {name: torch.as_tensor(value).to(z[name]) for name, value in values.items()}
        for name, value in changed.items():
            try:
                changed[name] = value.expand_as(z[name])
            except RuntimeError:
                got, own = tuple(value.shape), tuple(z[name].shape)
                raise ValueError(f"{name}: got shape {got}, expected one that broadcasts to {own}") from None
        return self.decode({**z, **changed}, times)

    def _unknowns(self) -> dict[str, Tensor]:
        return {name: pyro.sample(name, prior) for name, prior in self.priors().items()}

    def _code_prior(self, name: str, length: int) -> Any:
        if name in self.code_priors:
            return self.code_priors[name]()
        zero = self.log_scale.new_zeros(length)
        return dist.Normal(zero, torch.ones_like(zero)).to_event(1)

    def _sd(self) -> Tensor:
        """The noise sd, broadcasting against x."""
        if self.noise != "inferred":
            return self.log_scale.exp()
        noise = pyro.sample("noise", dist.LogNormal(self.log_scale, torch.full_like(self.log_scale, 0.5)))
        return noise[(..., *(None,) * self.event_dim)]

    @property
    def sd(self) -> Tensor:
        """The noise sd, or the median of its prior where it is inferred."""
        return self.log_scale.detach().exp()


def joined(z: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Return the vectors of some sites as one, leading dimensions broadcast."""
    shape = torch.broadcast_shapes(*(z[name].shape[:-1] for name in names))
    return torch.cat([z[name].expand(*shape, -1) for name in names], -1)
