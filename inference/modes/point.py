"""A point estimate under a generative prior: the data fitted by a code that is as long as codes of the prior are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Independent, MaskedDistribution
from torch import Tensor

from ...core.arguments import Data
from ...core.global_state import alone, unchecked
from ...core.plates import outer_plates
from ...core.require import named, real, seed_number, whole
from ...core.sites import observed_sites
from ...core.traces import nodes, trace_of
from ..arrays import no_density
from ..density.densities import site_log_probs, total
from ..density.latents import Latents
from ..density.precision import in_double, workable
from .ascent import ascend
from .gaussian import MOST


@dataclass(frozen=True)
class PointEstimate:
    """The best end of several descents.

    Attributes:
        values: latent site -> its estimate.
        objective: the sum of the two terms below.
        misfit: |G(f(w)) - y|^2 / s^2 over the entries that are seen.
        penalty: beta (|w| - mu)^2.
        ends: the objective at the end of each descent, lowest first: how far they agree says whether there are other minima.
    """

    values: dict[str, Tensor]
    objective: float
    misfit: float
    penalty: float
    ends: tuple[float, ...]


def mean_length(size: int) -> float:
    """Return mu = E|w| for w ~ N(0, I) in R^size: 2^(1/2) Gamma((size + 1) / 2) / Gamma(size / 2), of a chi law.

    Raises:
        ValueError: fewer than one dimension.
    """
    whole("size", size, 1, 2**53)
    return math.sqrt(2.0) * math.exp(math.lgamma((size + 1) / 2) - math.lgamma(size / 2))


@alone()
def point_estimate(
    model: Callable[..., Any],
    data: Data,
    *,
    beta: float = 1.0,
    starts: int = 8,
    climbers: int = 64,
    candidates: int = 256,
    seed: int = 0,
) -> PointEstimate:
    """Minimise |G(f(w)) - y|^2 / s^2 + beta (|w| - mu)^2 over w by gradients, from several starts.

    Under w ~ N(0, I) almost all codes have a length near mu, while the mode of their density is zero. The penalty keeps
    the code where the generative prior f was trained, and does not draw it to the middle as |w|^2 does.

    Args:
        model: a Pyro model with Gaussian likelihoods whose unknowns are all N(0, I).
        data: the arguments of one data set.
        beta: weight of the penalty, not negative.
        starts: descents by L-BFGS.
        climbers: prior draws that go down together before, by Adam.
        candidates: prior draws to choose these from.
        seed: seed of these draws.

    Raises:
        ValueError: unknowns of another prior, a likelihood that is no Gaussian, a number out of range, or no prior draw with
            a finite misfit.

    Source: Lopez-Alvis, Laloy, Nguyen, Hermans, arXiv:2008.12056.
    """
    if not isinstance(beta, int | float) or beta != 0:
        real("beta", beta, 0.0, expected="a number of at least 0")
    beta = float(beta)
    for name, number, least in (("starts", starts, 1), ("climbers", climbers, 1), ("candidates", candidates, 2)):
        whole(name, number, least, MOST)
    seed_number(seed)
    named("data", data)
    model, data = in_double(model, data)
    latents = Latents.of(model, data)
    mu = mean_length(latents.size)
    draws = latents.prior(model, data, candidates, seed).double()

    with unchecked():
        kind = workable(
            lambda w: latents.log_density(model, w, data), latents.prior(model, data, 2, seed), torch.float64
        )

    def parts(w: Tensor) -> tuple[Tensor, Tensor]:
        return _misfit(model, latents, w.to(kind), data).double(), beta * (w.square().sum(-1).sqrt() - mu).square()

    def height(w: Tensor) -> Tensor:
        with unchecked():
            misfit, penalty = parts(w)
        return -misfit - penalty

    with torch.no_grad(), unchecked():
        _check_prior(model, latents, draws.to(kind), data)
        heights = height(draws)
    if not bool(torch.isfinite(heights).any()):
        raise no_density(data, f"data: got none of {candidates} prior draws with a finite misfit, expected some")
    points, ends = ascend(height, draws, heights, climbers, starts)
    with torch.no_grad():
        misfit, penalty = (term.item() for term in parts(points[:1]))
    values, _ = latents.unpack(points[0])
    return PointEstimate(values, misfit + penalty, misfit, penalty, tuple(ends.tolist()))


def _traced(model: Callable[..., Any], latents: Latents, w: Tensor, data: Data) -> poutine.Trace:
    conditioned = poutine.condition(model, data=latents.padded(latents.unpack(w)[0]))
    with outer_plates(latents.nesting, len(w)):
        return trace_of(conditioned, data)


def _misfit(model: Callable[..., Any], latents: Latents, w: Tensor, data: Data) -> Tensor:
    """Return twice the log density that the data lack to their largest, (S,); infinite where a solve was rejected."""
    trace = _traced(model, latents, w, data)
    seen = [name for name in observed_sites(trace) if name not in latents.shapes]
    at_best = trace.copy()
    for name in seen:
        site: Any = nodes(at_best)[name]
        nodes(at_best)[name] = {**site, "value": _centre(name, site)}
    found, best = (_observed(site_log_probs(t, latents.nesting), latents.shapes) for t in (trace, at_best))
    rejected = torch.isinf(found)
    gap = torch.where(rejected, torch.inf, 2 * (torch.where(rejected, 0.0, best) - torch.where(rejected, 0.0, found)))
    return gap.expand(len(w))


def _observed(terms: dict[str, Tensor], latent: Iterable[str]) -> Tensor:
    return total({name: term for name, term in terms.items() if name not in set(latent)})


def _centre(name: str, site: Any) -> Tensor:
    fn = site["fn"]
    while isinstance(fn, Independent | MaskedDistribution):
        fn = fn.base_dist
    if not isinstance(fn, torch.distributions.Normal | torch.distributions.MultivariateNormal):
        raise ValueError(f"model: got observed site '{name}' of {type(fn).__name__}, expected a Gaussian likelihood")
    return fn.loc.expand(site["fn"].batch_shape + site["fn"].event_shape)


def _check_prior(model: Callable[..., Any], latents: Latents, draws: Tensor, data: Data) -> None:
    terms = site_log_probs(_traced(model, latents, draws, data), latents.nesting)
    prior = total({name: terms[name] for name in latents.shapes}).expand(len(draws))
    standard = -0.5 * draws.square().sum(-1) - 0.5 * latents.size * math.log(2 * math.pi)
    if not torch.allclose(prior.double(), standard, rtol=1e-4, atol=1e-3):
        raise ValueError("model: got unknowns of another prior, expected N(0, I), as under a generative prior")
