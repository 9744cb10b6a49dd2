"""What the benchmarks of virtual observables share: the structured guide, and how it is fitted."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from physzoo.core.model_spec import Whitening
from physzoo.guides import AmortizedGuide, amortize
from physzoo.guides.state import ResidualGuide
from physzoo.inference.fit import fit
from physzoo.inference.objectives import ELBO, Reweighted
from physzoo.models.poisson1d import Poisson1D


def structured(
    exact: Poisson1D, model: Poisson1D, data: dict[str, Tensor], start: Whitening, seed: int
) -> tuple[AmortizedGuide, ResidualGuide]:
    """Return q(z), a spline flow around a Gaussian of the forward model, and q(z) q(u | z) of the residual model."""
    guide = amortize(exact, None, "spline", example=data, whitening=start, seed=seed, tail=10.0)
    shape = (model.problem.elements - 1,)
    return guide, ResidualGuide(guide, model.problem, shape, model.residual_scale)


def fit_structured(
    model: Poisson1D, guide: ResidualGuide, data: dict[str, Tensor], steps: int, wake: int, seed: int
) -> Iterator[str]:
    """Fit by the ELBO, then by reweighted wake-sleep, which widens what the ELBO leaves too narrow, for ``wake`` steps;
    yield what a name has more after each of both."""
    fit(model, guide, data, ELBO(64), steps=steps, learning_rate=2e-3, seed=seed, max_skipped=50, progress=False)
    yield ", ELBO alone"
    by_wake_sleep(model, guide, data, wake, seed)
    yield ""


def by_wake_sleep(
    model: Poisson1D, guide: ResidualGuide, data: dict[str, Tensor], steps: int, seed: int, rate: float = 2e-3
) -> None:
    """Fit by reweighted wake-sleep from where the guide is."""
    fit(model, guide, data, Reweighted(512), steps=steps, learning_rate=rate, seed=seed, max_skipped=50, progress=False)
