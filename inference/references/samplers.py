"""One call for a reference posterior: a sampler, with its options as a value, and a start that all samplers share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from ...core.arguments import Data
from ...core.model_spec import Gaussian
from ...core.require import LONGEST, flag, shown, whole
from ..density.latents import Latents
from ..modes.gaussian import laplace
from ..warn import TrustWarning
from .crank_nicolson import pcn
from .hamiltonian import hmc
from .no_u_turn import nuts
from .quadrature import JAGGED, grid, warn_of_grid
from .result import Reference, summarise
from .tempering import smc

Model = Callable[..., Any]
CHAINS = 4  # to which independent draws are dealt, for R-hat
FINEST = (8000, 1000)  # points per axis of a grid of one unknown, of two


@runtime_checkable
class Sampler(Protocol):
    """Draws from the posterior of a model; ``start`` is a Gaussian in unconstrained space, or None."""

    def draw(
        self, model: Model, data: Data, start: Gaussian | None, datasets: bool, seed: int, progress: bool
    ) -> Reference:
        """Return the draws with their summary."""
        ...


@dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo, all chains in one batch; starts at ``start``, by default the Laplace approximation.

    All chains stay in the mode where they start, and R-hat does not show that there are others: take ``SMC`` where there may be.

    Attributes:
        chains, draws, warmup: chains, kept draws of each, adaptation steps.
        target_accept: acceptance that the step size is adapted to.
        max_steps: at most this many leapfrog steps a draw.

    Source: ``physzoo.inference.references.hmc``.
    """

    chains: int = 40
    draws: int = 250
    warmup: int = 100
    target_accept: float = 0.8
    max_steps: int = 32

    def draw(
        self, model: Model, data: Data, start: Gaussian | None, datasets: bool, seed: int, progress: bool
    ) -> Reference:
        """Return the draws with their summary."""
        if start is None and datasets:
            raise ValueError(
                "start: got none for many data sets, expected a Gaussian with loc (B, d) and tril (B, d, d)"
            )
        start = laplace(model, data, seed=seed) if start is None else start
        options: dict[str, Any] = {**vars(self), "datasets": datasets, "seed": seed, "progress": progress}
        return hmc(model, data, loc=start.loc, tril=start.tril, **options)


@dataclass(frozen=True)
class NUTS:
    """Pyro's No-U-Turn sampler; with a ``start`` the chains are scattered about it and move in its units.

    A chain stays in the mode where it starts: take ``SMC`` where there may be several.

    Attributes:
        chains, draws, warmup: chains, kept draws of each, adaptation steps.
        target_accept: acceptance that the step size is adapted to.
        max_tree_depth: at most 2^depth - 1 leapfrog steps a draw.
        workers: processes.

    Source: ``physzoo.inference.references.nuts``.
    """

    chains: int = 4
    draws: int = 1000
    warmup: int = 500
    target_accept: float = 0.8
    max_tree_depth: int = 10
    workers: int = 1

    def draw(
        self, model: Model, data: Data, start: Gaussian | None, datasets: bool, seed: int, progress: bool
    ) -> Reference:
        """Return the draws with their summary."""
        _one_data_set("NUTS", datasets)
        options: dict[str, Any] = {**vars(self), "seed": seed, "progress": progress}
        if start is not None:
            options["initial"], _ = Latents.of(model, data).unpack(start.loc)
            options["inverse_mass"] = start.tril @ start.tril.mT
        return nuts(model, data, **options)


@dataclass(frozen=True)
class PCN:
    """Metropolis steps that leave a normal law invariant, the ``start`` or by default the prior's; needs no gradient.

    Attributes:
        chains, draws, warmup, thin: chains, kept draws of each, adaptation steps, steps for each kept draw.
        adapt: whether the normal law is adapted; step sizes always are.
        candidates: prior draws of which the chains start at the densest; None starts them at any.
        acceptance: wanted acceptance rate.

    Source: ``physzoo.inference.references.pcn``.
    """

    chains: int = 8
    draws: int = 1000
    warmup: int = 2000
    thin: int = 5
    adapt: bool = True
    candidates: int | None = None
    acceptance: float = 0.3

    def draw(
        self, model: Model, data: Data, start: Gaussian | None, datasets: bool, seed: int, progress: bool
    ) -> Reference:
        """Return the draws with their summary."""
        options: dict[str, Any] = {**vars(self), "datasets": datasets, "seed": seed, "progress": progress}
        if start is not None:
            options |= {"loc": start.loc, "tril": start.tril}
        return pcn(model, data, **options)


@dataclass(frozen=True)
class SMC:
    """Sequential Monte Carlo from the prior's moments, tempered, in independent runs: finds several modes; needs no gradient.

    Attributes:
        runs, particles: independent runs, and particles of each.
        moves, final: moves of every particle at each temperature, and further ones at the last.
        ess: the share of effective particles that each temperature leaves.

    Source: ``physzoo.inference.references.smc``.
    """

    runs: int = 8
    particles: int = 500
    moves: int = 20
    final: int = 100
    ess: float = 0.5

    def draw(
        self, model: Model, data: Data, start: Gaussian | None, datasets: bool, seed: int, progress: bool
    ) -> Reference:
        """Return the draws with their summary."""
        _one_data_set("SMC", datasets)
        _no_start("SMC", start)
        return smc(model, data, **vars(self), seed=seed, progress=progress)


@dataclass(frozen=True)
class Grid:
    """Quadrature on a grid of one or two scalar unknowns; the draws are independent, dealt to four chains.

    Where cells are wide beside the posterior, the grid is laid again around its mass with twice the points, up to ``FINEST``.

    Attributes:
        points: cells per axis to begin with.
        width: the grid reaches this many prior standard deviations to both sides of the prior mean.
        bounds: (low, high) per axis in unconstrained space instead.
        chunk: at most this many points are evaluated at once.
        draws: number of draws.

    Source: ``physzoo.inference.references.grid``.
    """

    points: int = 121
    width: float = 4.5
    bounds: Sequence[tuple[float, float]] | None = None
    chunk: int = 16384
    draws: int = 4000

    def draw(
        self, model: Model, data: Data, start: Gaussian | None, datasets: bool, seed: int, progress: bool
    ) -> Reference:
        """Return the draws with their summary."""
        _one_data_set("Grid", datasets)
        _no_start("Grid", start)
        count = whole("draws", self.draws, 4 * CHAINS, LONGEST) // CHAINS * CHAINS
        points, bounds = self.points, self.bounds
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrustWarning)  # told below, of the last grid
            found = grid(model, data, points=points, width=self.width, bounds=bounds, chunk=self.chunk, seed=seed)
            finest = FINEST[len(found.names) - 1]
            while max(found.roughness.values()) > JAGGED and points < finest:
                points, bounds = min(2 * points, finest), found.inside
                found = grid(model, data, points=points, bounds=bounds, chunk=self.chunk, seed=seed)
        warn_of_grid(found)
        drawn = found.reference(Latents.of(model, data), count, seed)
        draws = {name: value.reshape(CHAINS, -1, *value.shape[2:]) for name, value in drawn.draws.items()}
        return replace(drawn, draws=draws, summary=summarise(draws))


def reference(
    model: Model,
    data: Data,
    sampler: Sampler | None = None,
    *,
    start: Gaussian | None = None,
    datasets: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Reference:
    """Draw from the posterior p(z | y) by a sampler, to hold a guide against.

    Args:
        model: a Pyro model of one data set.
        data: its arguments; with ``datasets`` every tensor has the data-set dimension first.
        sampler: ``HMC()`` (the default), ``NUTS()``, ``SMC()`` where there may be several modes, ``PCN()`` without gradients, or
            ``Grid()`` for one or two unknowns, each with its options.
        start: a Gaussian in unconstrained space, as ``laplace`` returns; SMC and Grid take none.
        datasets: whether ``data`` is a batch of data sets (HMC and PCN).
        seed: seed; torch's generator is put back afterwards.
        progress: whether to show a bar.

    Returns:
        Draws, their summary with R-hat and effective sizes, and how they were made.

    Raises:
        TypeError: ``sampler`` is no sampler, or ``start`` no Gaussian.
        ValueError: an option out of range, a start of another model, or one for a sampler that takes none.

    Warns:
        TrustWarning: R-hat above 1.01, fewer than 400 effective draws, or divergences; with what to do.
    """
    if isinstance(sampler, type) or not (sampler is None or isinstance(sampler, Sampler)):
        got = f"the class {sampler.__name__}" if isinstance(sampler, type) else shown(sampler)
        raise TypeError(f"sampler: got {got}, expected HMC(), NUTS(), SMC(), PCN() or Grid()")
    if start is not None and not isinstance(start, Gaussian):
        raise TypeError(f"start: got {shown(start)}, expected a Gaussian with loc and tril, as laplace returns")
    flag("datasets", datasets)
    try:
        return (HMC() if sampler is None else sampler).draw(model, data, start, datasets, seed, progress)
    except ValueError as error:
        if start is not None and str(error).startswith(("loc: ", "tril: ", "inverse_mass: ", "flat: ")):
            raise ValueError(f"start: {error}") from None
        raise


def _one_data_set(name: str, datasets: bool) -> None:
    if datasets:
        raise ValueError(f"datasets: got many data sets for {name}, expected one: HMC and PCN take many")


def _no_start(name: str, start: Gaussian | None) -> None:
    if start is not None:
        raise ValueError(f"start: got a Gaussian for {name}, expected none: it starts from the prior")
