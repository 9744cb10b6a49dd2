"""Physics inside an amortised guide: Gauss-Newton steps through the model, from a first estimate that costs nothing.

The posterior of stiff physics is far narrower than its prior, and where it lies is what a network learns slowest. A few
steps with the model's own derivatives find the place and the shape for each data set; the family learns what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from ...core.arguments import Data
from ...core.model_spec import UnconstrainedSites
from ...core.prototype import prototype
from ...core.require import whole
from ...core.sites import latent_sites
from ..encoders.base import FARTHEST, Encoder, mlp
from ..families.flows import Flow
from .first_order import Linearised, linearise

FEATURES, NUMBERS = 256, 2**18  # random features, fewer where the data are long
START = 4.0  # prior standard deviations within which the first estimate is kept
RADIUS = 3.0  # prior standard deviations that one step may move
MISFIT = 3.0  # mean square of the residuals from which on the approximation is widened: it has not arrived
FURTHER = 3  # more steps for the data sets that have not arrived
ARRIVED = 0.3  # posterior standard deviations: a shorter step is the last one
PAIRWISE = 16  # with more unknowns, the off-diagonal entries of the precision's factor are no features
SEEN = 128  # with more residuals, they are no features


@dataclass(frozen=True)
class Refined:
    """The Gauss-Newton approximation N(loc, (C C')^-1) of each posterior, in the guide's whitened coordinates.

    Attributes:
        loc: (..., D).
        factor: C, lower triangular, (..., D, D).
        features: what the context should know of it, (..., F).
    """

    loc: Tensor
    factor: Tensor
    features: Tensor

    def rows(self, index: Tensor) -> Refined:
        """Return those of the data sets with these numbers."""
        return Refined(self.loc[index], self.factor[index], self.features[index])

    def to(self, device: str) -> Refined:
        """Return the approximations on a device."""
        return Refined(self.loc.to(device), self.factor.to(device), self.features.to(device))


class Precision(Transform):
    """Map noise to values: x = loc + C^-T w with C a lower triangular factor of the precision; scoring needs no solve."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, loc: Tensor, factor: Tensor) -> None:
        super().__init__()
        self.loc, self.factor = loc, factor

    def _call(self, x: Tensor) -> Tensor:
        return self.loc + torch.linalg.solve_triangular(self.factor.mT, x.unsqueeze(-1), upper=True).squeeze(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return (self.factor.mT @ (y - self.loc).unsqueeze(-1)).squeeze(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1).expand(x.shape[:-1])


class GaussNewton(nn.Module):
    """Damped Gauss-Newton steps on every data set's posterior, from a ridge regression of the unknowns on the data.

        w_0 = A f(y),                           f: values, normal scores, random SiLU features; A by least squares
        (I + J'J) d = J'r - w,                  r, J: residual and Jacobian of the model's likelihood at w
        q(w | y) around N(w + d, (I + J'J)^-1)  the prior being N(0, I) in whitened coordinates, to its moments

    Steps that do not lower the cost are taken back and damped (Levenberg-Marquardt). After K evaluations the data sets whose
    last step was long go on alone, up to ``FURTHER`` steps more. Where the residuals at the end are still
    far above the noise, the steps have not arrived, and J'J is divided by their mean square over ``MISFIT``. A data set on
    which the model fails or has no finite value keeps its prior, and its neighbours do not notice. Nothing of this is
    learnt, and no gradient passes through the model; what is learnt is how the context follows from the encoder and from
    the approximation.

    Source: Nocedal & Wright, Numerical Optimization (2006), sections 10.3 and 4.1 (the step, the damping).

    Args:
        model: a Pyro model of one data set; it stays outside the guide's parameters and state.
        sites: its latent sites.
        encoder: gives the inputs f and the width of the context.
        example: the arguments of one data set.
        steps: evaluations of the model and its Jacobian for all data sets, K: at w_0 and after each of K - 1 steps.

    Raises:
        ValueError: ``steps`` is not positive; the likelihood is of a kind, or the model uses an operation, that cannot be
            linearised.
    """

    directions: Tensor
    offsets: Tensor
    weights: Tensor
    below: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(
        self, model: Callable[..., Any], sites: UnconstrainedSites, encoder: Encoder, example: Data, steps: int
    ) -> None:
        super().__init__()
        whole("refine", steps, 1)
        self._model = (model,)
        self.sites, self.steps = sites, steps
        size, inputs = sites.size, encoder.size()
        hidden = min(FEATURES, max(NUMBERS // inputs, 16))
        self.register_buffer("directions", torch.randn(inputs, hidden) / inputs**0.5)
        self.register_buffer("offsets", torch.randn(hidden))
        self.register_buffer("weights", torch.zeros(1 + inputs + hidden, size))
        self.register_buffer("below", torch.tril_indices(size, size, -1), persistent=False)
        self.pairs = size <= PAIRWISE
        ndim = {name: value.ndim for name, value in example.items() if isinstance(value, Tensor)}
        start = sites.flatten({n: site["value"] for n, site in latent_sites(prototype(model, example)).items()})[0]
        at = linearise(model, self._values(lambda w: w, example), start.unsqueeze(0), _sets(example, ndim, False))
        pairs = size * (size - 1) // 2 if self.pairs else 0
        self.residuals = n = at.residual.shape[-1]
        self.seen = n <= SEEN
        count = 3 * size + pairs + (n if self.seen else 0)
        self.head = mlp([encoder.width + count, 128, encoder.width])
        self.register_buffer("centre", torch.zeros(count))
        self.register_buffer("spread", torch.ones(count))

    def _values(self, unwhiten: Callable[[Tensor], Tensor], data: Data) -> Callable[[Tensor], dict[str, Tensor]]:
        floats = (v.dtype for v in data.values() if isinstance(v, Tensor) and v.is_floating_point())
        dtype = next(floats, torch.get_default_dtype())
        return lambda at: self.sites.padded(self.sites.constrain(unwhiten(at).to(dtype))[0])

    def regress(self, inputs: Tensor, w: Tensor) -> None:
        """Fit the first estimate to simulated pairs (N, inputs) and (N, D)."""
        f, w = self._basis(inputs).double(), w.double()
        usable = torch.isfinite(f).all(-1) & torch.isfinite(w).all(-1)
        f, w = f[usable], w[usable]
        few = len(f) < f.shape[-1]  # the same weights from the smaller of two systems
        gram = f @ f.mT if few else f.mT @ f
        gram.diagonal().add_(1e-6 * len(f))
        self.weights.copy_(f.mT @ torch.linalg.solve(gram, w) if few else torch.linalg.solve(gram, f.mT @ w))

    def standardise(self, features: Tensor) -> None:
        """Take mean and sd of the features (N, F) of simulated data sets."""
        self.centre.copy_(features.mean(0))
        self.spread.copy_(features.std(0).clamp_min(1e-6))

    def _basis(self, inputs: Tensor) -> Tensor:
        hidden = nn.functional.silu(inputs @ self.directions * 3.0 + self.offsets)
        return torch.cat([torch.ones_like(inputs[..., :1]), inputs, hidden], -1)

    @torch.no_grad()
    def forward(
        self, inputs: Tensor, data: Data, ndim: Mapping[str, int], unwhiten: Callable[[Tensor], Tensor]
    ) -> Refined:
        """Return the approximation for data sets of any batch shape (that of ``inputs``)."""
        outer = inputs.shape[:-1]
        w = (self._basis(inputs) @ self.weights).reshape(-1, self.sites.size)
        data = _sets(data, ndim, bool(outer))
        values = self._values(unwhiten, data)
        batched = frozenset(name for name, own in ndim.items() if name in data and data[name].ndim > own)
        w = torch.where(torch.isfinite(w).all(-1, keepdim=True), w, 0.0).clamp(-START, START)
        best = _attempt(self._model[0], values, w, data, batched, self.residuals)
        cost = best.cost + 0.5 * w.square().sum(-1)
        damping = torch.zeros_like(cost)
        moved = torch.full_like(cost, torch.inf)  # by the last step, in posterior standard deviations
        for k in range(self.steps - 1 + FURTHER):
            rows = slice(None) if k < self.steps - 1 else (moved > ARRIVED).nonzero().squeeze(-1)
            if isinstance(rows, Tensor) and not len(rows):
                break
            here, at = best.rows(rows), w[rows]
            step, factor = _step(here, at, damping[rows])
            trial, own = at + step, _rows(data, batched, rows)
            found = _attempt(self._model[0], values, trial, own, batched, self.residuals)
            new = found.cost + 0.5 * trial.square().sum(-1)
            better = new < cost[rows]
            damping[rows] = torch.where(better, 0.2 * damping[rows], 5.0 * damping[rows] + 0.3)
            length = (factor.mT @ step.unsqueeze(-1)).squeeze(-1).square().sum(-1).sqrt()
            moved[rows] = torch.where(better | (length < ARRIVED), length, torch.inf)
            best.jacobian[rows] = torch.where(better[:, None, None], found.jacobian, here.jacobian)
            best.residual[rows] = torch.where(better[:, None], found.residual, here.residual)
            best.cost[rows] = torch.where(better, found.cost, here.cost)
            w[rows] = torch.where(better[:, None], trial, at)
            cost[rows] = torch.where(better, new, cost[rows])
        w = torch.where(torch.isfinite(cost)[:, None], w, 0.0)
        step, factor = _step(best, w, torch.zeros_like(cost))
        near = (factor.mT @ step.unsqueeze(-1)).squeeze(-1).square().sum(-1) < 1.0
        step = torch.where(near[:, None], step, 0.0)  # a last step that needs no check, as it is within the posterior
        loc = w + step
        residual = best.residual - (best.jacobian @ step.unsqueeze(-1)).squeeze(-1)
        variance = residual.square().mean(-1) / MISFIT if self.residuals else torch.zeros_like(cost)
        _, factor = _step(_tempered(best, variance.clamp_min(1.0)), w, torch.zeros_like(cost))
        scale = factor.diagonal(dim1=-2, dim2=-1)
        features = [loc, scale.log(), (factor.mT @ step.unsqueeze(-1)).squeeze(-1).clamp(-FARTHEST, FARTHEST)]
        if self.pairs:
            below = (factor / scale.unsqueeze(-1))[:, self.below[0], self.below[1]]
            features.append(below.clamp(-FARTHEST, FARTHEST))
        if self.seen:
            features.append(residual.sign() * residual.abs().log1p())
        context = ((torch.cat(features, -1) - self.centre) / self.spread).clamp(-FARTHEST, FARTHEST)
        return Refined(loc.reshape(*outer, -1), factor.reshape(*outer, *factor.shape[1:]), context.reshape(*outer, -1))


def _attempt(
    model: Callable[..., Any],
    values: Callable[[Tensor], Data],
    w: Tensor,
    data: Data,
    batched: frozenset[str],
    residuals: int,
) -> Linearised:
    """Linearise; where the model raises for the whole batch, find the data sets that it raises for by bisection."""
    sets = len(w)
    try:
        return linearise(model, values, w, data)
    except (ArithmeticError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        if sets == 1:
            nothing = w.new_zeros(1, residuals)
            return Linearised(nothing.unsqueeze(-1).expand(-1, -1, w.shape[-1]), nothing, w.new_full((1,), torch.inf))
    found = []
    for part in (slice(0, sets // 2), slice(sets // 2, sets)):
        found.append(_attempt(model, values, w[part], _rows(data, batched, part), batched, residuals))
    return Linearised(*(torch.cat([getattr(x, name) for x in found]) for name in ("jacobian", "residual", "cost")))


def _rows(data: Data, batched: frozenset[str], rows: Any) -> dict[str, Any]:
    return {name: value[rows] if name in batched else value for name, value in data.items()}


def _tempered(at: Linearised, variance: Tensor) -> Linearised:
    """Take the noise for larger by ``variance``, (B,)."""
    root = variance.rsqrt()
    return Linearised(at.jacobian * root[:, None, None], at.residual * root[:, None], at.cost)


def _step(at: Linearised, w: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
    """Return the damped step, at most RADIUS long, and the factor of the damped precision."""
    jacobian, residual = at.jacobian.double(), at.residual.double()  # J'J squares the spread of the scales
    precision = jacobian.mT @ jacobian
    diagonal = precision.diagonal(dim1=-2, dim2=-1)
    diagonal += 1.0
    diagonal *= 1.0 + damping[:, None]
    factor, failed = torch.linalg.cholesky_ex(precision)
    fine = (failed == 0) & torch.isfinite(factor).flatten(1).all(-1)
    factor = torch.where(fine[:, None, None], factor, torch.eye(w.shape[-1], dtype=factor.dtype, device=w.device))
    slope = (jacobian.mT @ residual.unsqueeze(-1)).squeeze(-1) - w
    step = torch.cholesky_solve(slope.unsqueeze(-1), factor).squeeze(-1)
    step = step * (RADIUS / step.square().sum(-1, keepdim=True).sqrt().clamp_min(RADIUS))
    return torch.where(fine[:, None], step, -w.double()).to(w.dtype), factor.to(w.dtype)


def shifted(density: TorchDistribution, refined: Refined) -> TorchDistribution:
    """Return the law of loc + C^-T x for x from ``density``."""
    transform = Precision(refined.loc, refined.factor)
    if isinstance(density, Flow):
        return Flow([*density.to_value, transform], density.batch_shape, density.like, density.tail)
    return dist.TransformedDistribution(density, [transform])


def _sets(data: Data, ndim: Mapping[str, int], many: bool) -> dict[str, Any]:
    """Give every argument one dimension of data sets in front; what all data sets share stays as it is."""
    flat = {}
    for name, value in data.items():
        own = ndim.get(name)
        if not isinstance(value, Tensor) or own is None:
            flat[name] = value
        elif not many:
            flat[name] = value.unsqueeze(0)
        else:
            flat[name] = value if value.ndim == own else value.flatten(0, value.ndim - own - 1)
    return flat
