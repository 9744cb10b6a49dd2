"""The second stage of supervised conditional flows: the base of an amortised flow relaxed at given data sets."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ..core.arguments import Data
from ..core.model_spec import Whitening
from ..core.require import flag, named, shown
from .amortized_guide import AmortizedGuide
from .families.flows import Flow, LowerTriangularAffine
from .refine.gauss_newton import Refined, shifted


class RelaxedBase(AmortizedGuide):
    """q(z | y_obs): a trained amortised flow, frozen at data sets of interest, over a normal base that is fitted to each.

        w ~ N(mu, diag s^2),  z = f_phi(w; y_obs)      phi frozen, mu = 0 and s = 1 at the start

    Fit it by the reverse KL to the model of these data, whose likelihood or prior may be another than that of the pairs
    from which the flow learnt: it corrects what the amortisation has left, and a moderate shift of the data. What the
    flow has no shape for, a base that is only moved and stretched does not give it. Several data sets are one plated
    fit; each keeps its own mu and s, and is known again by its values, alone or among others in any order. A Student-t
    base (``tail``) is relaxed in the same way.

    Args:
        guide: a trained guide from ``amortize`` whose family is a flow; it stays as it is.
        data: the model's arguments, one data set or a batch.
        full: a full covariance of the base, w ~ N(mu, L L'), instead of a diagonal one.

    Raises:
        TypeError: ``guide`` is not from ``amortize``.
        ValueError: it has no encoder, or its family is no flow; later, data sets that the guide was not made for.

    Source: Siahkoohi, Rizzuti, Orozco, Herrmann, arXiv:2207.11640 (diagonal).

    Example:
        >>> corrected = RelaxedBase(guide, {"y": y})  # doctest: +SKIP
        >>> fit(model, corrected, {"y": y}, ELBO(16))  # doctest: +SKIP
    """

    known: Tensor
    contexts: Tensor

    def __init__(self, guide: AmortizedGuide, data: Data, full: bool = False) -> None:
        if not isinstance(guide, AmortizedGuide):
            raise TypeError(f"guide: got {shown(guide)}, expected a guide from amortize")
        if guide.encoder is None:
            raise ValueError("guide: got one of a single data set (encoder None), expected an amortised guide")
        flag("full", full)
        named("data", data)
        with torch.no_grad():
            context, refined = guide.context(data)
        family = deepcopy(guide.family).requires_grad_(False).eval()
        if not isinstance(family(context), Flow):
            raise ValueError(f"guide: got family {type(family).__name__}, expected a flow (transforms of a base)")
        super().__init__(guide.sites, None, family, {})
        self._ndim = {name: ndim for name, ndim in guide._ndim.items() if isinstance(data.get(name), Tensor)}
        self.to(guide.loc)
        self.whiten(Whitening(guide.loc, guide.tril))
        self.register_buffer("known", self._values(data).reshape(-1, self._values(data).shape[-1]))
        self.register_buffer("contexts", context.reshape(-1, context.shape[-1]))
        self.register_buffer("around", None if refined is None else refined.loc.reshape(-1, self.sites.size))
        self.register_buffer("factors", None if refined is None else refined.factor.reshape(-1, *self.tril.shape))
        self.location = nn.Parameter(self.loc.new_zeros(len(self.known), self.sites.size))
        self.log_scale = nn.Parameter(torch.zeros_like(self.location))
        self.below = nn.Parameter(self.location.new_zeros(*self.location.shape, self.sites.size)) if full else None

    def train(self, mode: bool = True) -> RelaxedBase:
        """Set the mode of all but the frozen flow, which stays as in use."""
        super().train(mode)
        self.family.train(False)
        return self

    def density(self, data: Data, refined: Refined | None = None) -> Flow:
        """Return q(w | y) in whitened coordinates, batch shape that of the data sets.

        Args:
            data: the model's arguments.
            refined: not used; the approximations are those of the data sets that the guide was made for.

        Raises:
            ValueError: a data set that is not one of these.
        """
        rows = self._rows(data)
        flow: Any = self.family(self.contexts[rows])
        around, factors = self.around, self.factors
        if isinstance(around, Tensor) and isinstance(factors, Tensor):
            flow = shifted(flow, Refined(around[rows], factors[rows], self.contexts[rows]))
        scale = self.log_scale[rows].exp()
        if self.below is not None:
            scale = torch.diag_embed(scale) + self.below[rows].tril(-1)
        base = LowerTriangularAffine(self.location[rows], scale)
        return Flow([base, *flow.to_value], flow.batch_shape, flow.like, flow.tail)

    def _values(self, data: Data) -> Tensor:
        """Return all numbers of each data set in one row, (..., n)."""
        named("data", data)
        lacking = [name for name in self._ndim if not isinstance(data.get(name), Tensor)]
        if lacking:
            raise ValueError(f"data: got {shown(sorted(data))}, expected also the tensor '{lacking[0]}'")
        parts = [data[name].reshape(*data[name].shape[: data[name].ndim - own], -1) for name, own in self._ndim.items()]
        outer = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*outer, -1) for part in parts], -1).to(self.loc).nan_to_num()

    def _rows(self, data: Data) -> Tensor:
        """Return the numbers of the data sets among those of the guide."""
        given = self._values(data)
        if given.shape == self.known.shape and torch.equal(given, self.known):
            return torch.arange(len(given), device=given.device)
        same = (given.unsqueeze(-2) == self.known).all(-1) if given.shape[-1] == self.known.shape[-1] else None
        if same is None or not same.any(-1).all():
            raise ValueError(f"data: got a data set that is none of the {len(self.known)} that the guide was made for")
        return same.int().argmax(-1)
