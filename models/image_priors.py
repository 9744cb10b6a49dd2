"""Priors that images ask for: a direction in the plane without a seam, and a learnt mixture for the cells of a map of codes."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Categorical, constraints

from ..core.require import whole


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


class CellMixture(TorchDistribution):
    """A map of codes whose cells are independent, each from a mixture of Gaussians, its own or the same for all.

        p(z) = prod over cells sum_k w_k N(z_cell; m_k, diag s_k^2),    w = softmax(logits)

    A draw is differentiable in m and s of the part that it came from. The weights get no gradient from own draws, neither
    through them, since a part is chosen, nor through their density, whose score is zero in the mean: they learn from the
    density of given values alone.

    Args:
        logits: (..., cells or 1, parts).
        loc, scale: m and s, (..., cells or 1, parts, depth).
        cells: cells of the map; one draw is a map (depth, cells), flattened.
    """

    arg_constraints = {}  # type: ignore[assignment]  # noqa: RUF012 (torch's own convention)
    support = constraints.real_vector  # type: ignore[assignment]
    has_rsample = True

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, cells: int) -> None:
        self.parts, self.cells = (logits, loc, scale), cells
        self._last: Tensor | None = None
        event = torch.Size((loc.shape[-1] * cells,))
        super().__init__(logits.shape[:-2], event, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: TorchDistribution | None = None) -> CellMixture:
        new = CellMixture(*self.parts, self.cells)
        new._batch_shape = torch.Size(batch_shape)
        return new

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 (torch's signature)
        logits, loc, scale = self.parts
        shape = (*sample_shape, *self.batch_shape, self.cells)
        which = Categorical(logits=logits.expand(*shape, -1), validate_args=False).sample()
        chosen = which[..., None, None].expand(*shape, 1, loc.shape[-1])
        loc, scale = (part.expand(*shape, *part.shape[-2:]).gather(-2, chosen).squeeze(-2) for part in (loc, scale))
        self._last = (loc + scale * torch.randn_like(loc)).mT.flatten(-2)
        return self._last

    def log_prob(self, value: Tensor) -> Tensor:
        logits, loc, scale = self.parts
        weights = (logits.detach() if self._last is value else logits).log_softmax(-1)
        cells = value.unflatten(-1, (-1, self.cells)).mT.unsqueeze(-2)
        each = -0.5 * ((cells - loc) / scale).square().sum(-1) - scale.log().sum(-1)
        return (weights + each).logsumexp(-1).sum(-1) - 0.5 * self.event_shape[0] * math.log(2.0 * math.pi)


class CellPrior(nn.Module):
    """A learnt ``CellMixture``: most cells show nothing, a few show a neighbour, and how often is found by the ELBO.

    Under Normal(0, I) all cells are alike, so that images drawn from the model show too little of what is rare. At the start
    the first part is Normal(0, I) with most of the weight; the others have random places, so that they part.

    Args:
        depth: length of the code of one cell.
        cells: cells of the map.
        parts: Gaussians of the mixture, which all cells share.

    Raises:
        ValueError: a number below one.
    """

    def __init__(self, depth: int, cells: int, parts: int = 4) -> None:
        super().__init__()
        for name, value in (("depth", depth), ("cells", cells), ("parts", parts)):
            whole(name, value, 1)
        self.cells = cells
        self.logits = nn.Parameter(torch.tensor([0.0] + [-3.0] * (parts - 1)))
        self.loc = nn.Parameter(torch.cat([torch.zeros(1, depth), 1.5 * torch.randn(parts - 1, depth)]))
        self.log_scale = nn.Parameter(torch.zeros(parts, depth))

    def forward(self) -> CellMixture:
        """Return the distribution, batch shape (), event shape (depth * cells,)."""
        return CellMixture(self.logits[None], self.loc[None], self.log_scale[None].exp(), self.cells)
