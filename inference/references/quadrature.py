"""Posterior of one or two unknowns on a grid: exact but for the spacing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ...core.arguments import Data
from ...core.global_state import alone, unchecked
from ...core.require import LONGEST, check_size, real, seed_number, shown, whole
from ..arrays import Array, as_given, no_density, numbers
from ..density.densities import proper
from ..density.latents import Latents, scalar_names
from ..density.precision import in_one, widest, workable
from ..warn import warn
from .result import Reference, summarise

EDGE = 0.01  # mass in the outermost cells
COARSE, JAGGED = (
    0.7,
    0.12,
)  # roughness from which on moments are wrong; from which on sds of draws are more than 1 % too large
NOTHING = 1e-10  # mass that a closer look leaves out on each side


@dataclass(frozen=True)
class Grid:
    """A posterior on a tensor grid of cells in unconstrained space.

    Attributes:
        names: scalar latents, one per axis.
        axes: cell centres per axis in unconstrained space.
        values: scalar latent -> constrained value at the centres of its axis.
        probability: mass of each cell, (n,) or (n, n), summing to one.
        log_evidence: log p(y), the integral over the grid.
    """

    names: tuple[str, ...]
    axes: tuple[Array, ...]
    values: dict[str, Array]
    probability: Array
    log_evidence: float

    @property
    def edge(self) -> float:
        """Mass in the outermost cells: where it is not small, the grid cuts the posterior off."""
        inner = self.probability[(slice(1, -1),) * self.probability.ndim]
        return float(1 - inner.sum())

    @property
    def roughness(self) -> dict[str, float]:
        """How far cells differ from the mean of their two neighbours along each axis, summed: 0.48 / s^2 where the sd is s cells.

        Looked at cell by cell, so that narrow modes far apart, and narrow ridges, count as what they are.
        """
        found = {}
        for axis, name in enumerate(self.names):
            mass = np.moveaxis(
                np.pad(self.probability, [(int(axis == k),) * 2 for k in range(len(self.names))]), axis, 0
            )
            found[name] = float(np.abs(mass[1:-1] - 0.5 * (mass[2:] + mass[:-2])).sum())
        return found

    @property
    def coarse(self) -> tuple[str, ...]:
        """Scalar latents along which cells are wider than the posterior."""
        return tuple(name for name, rough in self.roughness.items() if rough > COARSE)

    @property
    def inside(self) -> list[tuple[float, float]]:
        """Bounds per axis around all but ``NOTHING`` of the mass."""
        found = []
        for axis, mass in zip(self.axes, self._marginals().values(), strict=True):
            seen = np.flatnonzero((np.cumsum(mass) > NOTHING) & (np.cumsum(mass[::-1])[::-1] > NOTHING))
            step = axis[1] - axis[0]
            found.append((float(axis[seen[0]] - step), float(axis[seen[-1]] + step)))
        return found

    @property
    def mean(self) -> dict[str, float]:
        """Posterior mean of every scalar latent."""
        return {name: float(mass @ self.values[name]) for name, mass in self._marginals().items()}

    @property
    def sd(self) -> dict[str, float]:
        """Posterior standard deviation of every scalar latent."""
        mean = self.mean
        return {
            name: float(np.sqrt(mass @ (self.values[name] - mean[name]) ** 2))
            for name, mass in self._marginals().items()
        }

    def reference(self, latents: Latents, draws: int = 4000, seed: int = 0) -> Reference:
        """Return independent draws, uniform within their cells, as a one-chain ``Reference``."""
        if not isinstance(latents, Latents) or latents.size != len(self.axes):
            raise TypeError(f"latents: got {shown(latents)}, expected those of the model, Latents.of(model, data)")
        whole("draws", draws, 4, LONGEST)
        seed_number(seed)
        jagged = [name for name, rough in self.roughness.items() if rough > JAGGED]
        if jagged and not self.coarse:
            warn(
                f"grid: got cells along {jagged[0]} that are wide beside the posterior, expected narrower ones: sds of draws are more "
                "than 1 % too large; pass bounds=, or more points="
            )
        rng = np.random.default_rng(seed)
        cells = np.unravel_index(
            rng.choice(self.probability.size, draws, p=self.probability.ravel()), self.probability.shape
        )
        columns = []
        for axis, index in zip(self.axes, cells, strict=True):
            columns.append(axis[index] + (axis[1] - axis[0]) * rng.uniform(-0.5, 0.5, draws))
        values, _ = latents.unpack(torch.tensor(np.stack(columns, -1)))
        found = {name: value.numpy()[None] for name, value in values.items()}
        return Reference("grid", found, summarise(found), {}, {"seed": seed, "edge": self.edge})

    def _marginals(self) -> dict[str, Array]:
        dims = range(self.probability.ndim)
        return {
            name: self.probability.sum(tuple(other for other in dims if other != axis))
            for axis, name in enumerate(self.names)
        }


@alone()
def grid(
    model: Callable[..., Any],
    data: Data,
    *,
    points: int = 121,
    width: float = 4.5,
    bounds: Sequence[tuple[float, float]] | None = None,
    chunk: int = 16384,
    seed: int = 0,
) -> Grid:
    """Evaluate the posterior of one or two scalar unknowns on a grid in unconstrained space.

    Args:
        model: a Pyro model with at most two unconstrained coordinates.
        data: its arguments, one data set.
        points: cells per axis.
        width: the grid reaches this many prior standard deviations to both sides of the prior mean.
        bounds: (low, high) per axis in unconstrained space instead.
        chunk: at most this many points are evaluated at once.
        seed: seed of the prior draws that ``width`` rests on.

    Raises:
        ValueError: more than two coordinates, bounds that do not fit, or a density that is nowhere finite.

    Warns:
        TrustWarning: cells wider than the posterior, or a hundredth of the mass at the edge.
    """
    model, data = in_one(model, data)
    latents = Latents.of(model, data)
    if latents.size > 2 or not latents.elementwise:
        raise ValueError(
            f"model: got {latents.size} unknowns, expected one or two scalars (no simplex, no ordered vector) for a grid"
        )
    whole("points", points, 3, LONGEST)
    whole("chunk", chunk, 1, LONGEST)
    seed_number(seed)
    real("width", width, 0.0, 1000.0, "a positive number below 1000, in standard deviations")
    check_size(**{f"points of axis {axis}": points for axis in range(latents.size)})
    prior = latents.prior(model, data, 4096, seed)
    if bounds is None:
        middle, spread = prior.mean(0).tolist(), prior.std(0).tolist()
        bounds = [(m - width * s, m + width * s) for m, s in zip(middle, spread, strict=True)]
    try:
        limits = as_given("bounds", bounds)
    except TypeError:
        limits = np.zeros(0)
    usable = limits.shape == (latents.size, 2) and limits.dtype.kind in "iuf" and bool(np.isfinite(limits).all())
    if not usable or not bool((limits[:, 0] < limits[:, 1]).all()):
        raise ValueError(f"bounds: got {shown(bounds)}, expected {latents.size} pairs low < high")
    steps = [(high - low) / points for low, high in bounds]
    with unchecked():
        kind = workable(
            lambda x: latents.log_density(model, x, data), prior[:2], widest(prior, *data.values()) or prior.dtype
        )
    axes = [low + step * (torch.arange(points, dtype=kind) + 0.5) for (low, _), step in zip(bounds, steps, strict=True)]
    mesh = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, latents.size)
    with torch.no_grad(), unchecked():
        found = torch.cat([latents.log_density(model, part, data).double() for part in mesh.split(chunk)])
    log_density = proper(found).reshape((points,) * latents.size)
    if not torch.isfinite(log_density).any():
        raise no_density(
            data, "model: got a density that is finite at no grid point, expected some; pass other bounds="
        )
    names = scalar_names(latents.shapes)
    constrained = _columns(latents, torch.stack(axes, -1))
    result = Grid(
        names=tuple(names),
        axes=tuple(axis.double().numpy() for axis in axes),
        values={name: column for name, column in zip(names, constrained, strict=True)},
        probability=torch.softmax(log_density.flatten(), 0).reshape(log_density.shape).numpy(),
        log_evidence=float(torch.logsumexp(log_density.flatten(), 0) + np.log(steps).sum()),
    )
    warn_of_grid(result)
    return result


def warn_of_grid(found: Grid) -> None:
    """Warn of a grid that does not resolve its posterior, or cuts it off."""
    if found.coarse or found.edge > EDGE:
        why = f"cells wider than the posterior along {found.coarse[0]}" if found.coarse else "mass at its edge"
        warn(f"grid: got {why}, expected it resolved and inside: the moments are wrong; pass bounds=, or more points=")


def total_variation(p: Grid | ArrayLike, q: Grid | ArrayLike) -> float:
    """Return the total variation distance of two posteriors on the same grid: sum |p - q| / 2, from 0 to 1.

    Raises:
        ValueError: the grids differ.
    """
    if isinstance(p, Grid) and isinstance(q, Grid):
        same = (
            len(p.axes) == len(q.axes) and all(map(np.allclose, p.axes, q.axes))
            if p.probability.shape == q.probability.shape
            else False
        )
        if not same:
            raise ValueError("p, q: got two different grids, expected the same bounds and points")
    left = _masses("p", p.probability if isinstance(p, Grid) else p)
    right = _masses("q", q.probability if isinstance(q, Grid) else q)
    if left.shape != right.shape:
        raise ValueError(f"p, q: got shapes {left.shape} and {right.shape}, expected the same grid")
    return float(0.5 * np.abs(left - right).sum())


def _masses(name: str, value: Any) -> Array:
    found = numbers(name, value)
    if not (found >= 0).all() or not math.isclose(found.sum(), 1.0, rel_tol=1e-6):
        raise ValueError(f"{name}: got numbers that sum to {found.sum():.6g}, expected probabilities that sum to 1")
    return found


def _columns(latents: Latents, x: Tensor) -> list[Array]:
    """Return the constrained value of each coordinate at rows of x (n, d), as d columns."""
    values: Mapping[str, Tensor] = latents.unpack(x)[0]
    flat = torch.cat([value.reshape(len(x), -1) for value in values.values()], -1)
    return list(flat.double().numpy().T)
