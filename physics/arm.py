"""A planar robot arm on a rail: where its joints are, link by link."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.require import dtype_of_floats, floats, numbers, shown
from .problem import Problem, Unknowns


class PlanarArm(Problem):
    """Links of fixed lengths, each turned against the one before, the first on a rail that shifts it sideways.

        p_0 = (z_0, 0),    t_k = z_1 + ... + z_k,    p_k = p_{k-1} + l_k (sin t_k, cos t_k),    k = 1..n

    The state u = (p_1, ..., p_n), shape (..., n, 2), and the end point y = p_n. The residual goes along the chain,

        r_k = p_k - p_{k-1} - l_k (sin t_k, cos t_k),    log|det dr/du| = 0,

    with a triangular Jacobian of ones on its diagonal: here virtual observables are exact without a correction.

    Args:
        lengths: l_k, positive.
        dtype: of the table; None takes torch's default.

    Raises:
        ValueError: no link, or a length that is not positive.

    Source: Ardizzone et al., arXiv:1808.04730; in these angles Kruse, Ardizzone, Rother, Koethe, arXiv:2101.10763.

    Example:
        >>> PlanarArm([1.0, 1.0]).observe(PlanarArm([1.0, 1.0]).solve(torch.zeros(3)))
        tensor([0., 2.])
    """

    lengths: Tensor
    state_event_dim = 2

    def __init__(self, lengths: Sequence[float], dtype: torch.dtype | None = None) -> None:
        super().__init__()
        values = numbers("lengths", lengths, "positive lengths of links")
        if values.dim() != 1 or not len(values) or not bool((values > 0).all()):
            raise ValueError(f"lengths: got {shown(lengths)}, expected positive lengths, at least one")
        dtype_of_floats(dtype)
        self.register_buffer("lengths", values.to(dtype or torch.get_default_dtype()))

    def solve(self, z: Unknowns, residual: Tensor | None = None) -> Tensor:
        """Return the joints (..., n, 2) for z (..., n + 1), the rail first; each link moved on by its ``residual``."""
        base, links = self._parts(z)
        if residual is not None:
            floats("residual", residual, len(self.lengths), 2, like=links)
        return base + (links if residual is None else links + residual).cumsum(-2)

    def observe(self, u: Tensor) -> Tensor:
        """Return the end point, (..., 2)."""
        return floats("u", u, len(self.lengths), 2)[..., -1, :]

    def residual(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return by how much each link misses the next joint, (..., n, 2)."""
        base, links = self._parts(z)
        u = floats("u", u, len(self.lengths), 2)
        first = u[..., :1, :] - base
        outer = first.shape[:-2]
        return torch.cat([first, u.diff(dim=-2).expand(*outer, -1, 2)], -2) - links

    def logdet(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return zero, (...)."""
        base, _ = self._parts(z)
        floats("u", u, len(self.lengths), 2)
        return base.new_zeros(torch.broadcast_shapes(base.shape[:-2], u.shape[:-2]))

    def _parts(self, z: Unknowns) -> tuple[Tensor, Tensor]:
        """Return the start of the first link (..., 1, 2) and the links (..., n, 2)."""
        known = floats("z", z, len(self.lengths) + 1, like=self.lengths)
        angle = known[..., 1:].cumsum(-1)
        links = self.lengths.unsqueeze(-1) * torch.stack([angle.sin(), angle.cos()], -1)
        return torch.nn.functional.pad(known[..., :1, None], (0, 1)), links
