"""Objectives: what a fit minimises. Each is a mean over data sets, in nats, and any of them can be added up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from pyro import poutine
from torch import Tensor

from ...core.arguments import Data
from ...core.plates import plain, plated
from ...core.require import function, real, shown, whole
from ...core.sites import latent_sites
from ...core.traces import samples, site_log_probs, total, trace_of
from ...guides.refine.gauss_newton import Refined
from ..density.densities import conditioned
from ..density.rejected import Kept, accepted_traces, at_fixed, log_share

MOST = 2**31 - 1  # draws or data sets in one step


@dataclass(frozen=True)
class Batch:
    """What one step sees: the data, how many data sets they are (None for one), and what is known of them beforehand.

    Attributes:
        latents: the unknowns.
        refined: what the guide's ``refined(data)`` returned.
        rejecting: whether the physics has rejected draws in earlier steps: then q is restricted in every step, also in one
            whose draws are all accepted.
    """

    data: Data
    datasets: int | None = None
    latents: Mapping[str, Tensor] = field(default_factory=dict)
    nesting: int = 0
    refined: Refined | None = None
    rejecting: bool = False


class Objective(Protocol):
    """A loss of model and guide on a batch, differentiable in the parameters of both."""

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the loss, a scalar."""
        ...


@dataclass(frozen=True)
class ELBO:
    """Reverse KL: -E_q[log p(z, y) - log q(z | y)], pathwise gradients.

    Where the physics rejects draws, q is the guide restricted to what is accepted: the mean is over the accepted draws, and
    log q less the logarithm of their share.

    Args:
        particles: draws a data set and step, evaluated in one batch.

    Raises:
        ValueError: a guide site cannot be reparameterised.
    """

    particles: int = 1

    def __post_init__(self) -> None:
        whole("particles", self.particles, 1, MOST)

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the negative ELBO a data set."""
        log_p, log_q, kept = log_densities(model, guide, batch, self.particles)
        if kept is None:
            return (log_q - log_p).mean()
        return kept.over_sets(kept.means(log_q - log_p) - kept.log_share)


@dataclass(frozen=True)
class ForwardKL:
    """Forward KL averaged over the data: -E_{p(z, y)}[log q(z | y)]; needs pairs, so a ``Simulator``.

    Source: Papamakarios & Murray, arXiv:1605.06376; Siahkoohi et al., arXiv:2207.11640.

    Raises:
        ValueError: the batch holds no unknowns, or the guide cannot score given ones.
    """

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the negative mean log density of the true unknowns."""
        if not batch.latents:
            raise ValueError("data: got data without their unknowns, expected a Simulator for the forward KL")
        return -guide_log_prob(guide, batch).mean()


@dataclass(frozen=True)
class Reweighted:
    """Forward KL to one posterior by self-normalised importance weights: -sum_s w_s log q(z_s), w ~ p(z_s, y)/q(z_s).

    Mass covering where the ELBO is mode seeking; the draws carry no gradient. Weights are truncated at
    mean * sqrt(S) (Ionides, 2008).

    Source: Bornschein & Bengio, arXiv:1406.2751 (wake phase of the guide).

    Args:
        particles: draws a data set and step.
    """

    particles: int = 64

    def __post_init__(self) -> None:
        whole("particles", self.particles, 1, MOST)

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the weighted negative log density of the guide's own draws."""
        with torch.no_grad():
            model_trace, guide_trace, kept = accepted_traces(
                model, guide, batch.data, batch.nesting, self.particles, batch.datasets
            )
            log_w = total(site_log_probs(model_trace, batch.nesting)) - total(
                site_log_probs(guide_trace, batch.nesting)
            )
            useful = torch.isfinite(log_w) if kept is None else torch.isfinite(log_w) & kept.reshape(log_w.shape)
            log_w = torch.where(useful, log_w, torch.full_like(log_w, -torch.inf))
            ceiling = log_w.logsumexp(0) - 0.5 * torch.log(torch.tensor(float(self.particles)))
            weights = torch.softmax(torch.minimum(log_w, ceiling), 0)
            outer = tuple(log_w.shape)
            values = {name: plain(site, outer) for name, site in samples(model_trace) if not site["is_observed"]}
        log_q = guide_log_prob(guide, Batch(batch.data, batch.datasets, values, batch.nesting), len(outer))
        losses = -(weights * log_q).sum(0)
        return losses.mean() if kept is None else losses[kept.any(0).reshape(losses.shape)].mean()


@dataclass(frozen=True)
class Mixture:
    """A weighted sum of objectives, e.g. a ELBO + (1 - a) forward KL: a times that of the UQ-VAE (``AlphaJS``).

    Source: Goh, Sheriffdeen, Wittmer, Bui-Thanh, arXiv:1912.04212.

    Args:
        terms: (weight, objective) pairs.
    """

    terms: tuple[tuple[float, Objective], ...]

    def __post_init__(self) -> None:
        pairs = isinstance(self.terms, Sequence) and all(isinstance(t, Sequence) and len(t) == 2 for t in self.terms)
        if not pairs or not self.terms:
            raise ValueError(f"terms: got {shown(self.terms)}, expected (weight, objective) pairs, at least one")
        for weight, objective in self.terms:
            real("terms: weight", weight, -math.inf, expected="a finite number")
            function("terms: objective", objective)

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the weighted sum of the terms."""
        return torch.stack([weight * objective(model, guide, batch) for weight, objective in self.terms]).sum()


def log_densities(
    model: Callable[..., Any], guide: Callable[..., Any], batch: Batch, particles: int
) -> tuple[Tensor, Tensor, Kept | None]:
    """Return log p(z, y) and log q(z | y) of fresh draws, differentiable, and which count; shapes broadcast to (S, [B])."""
    model_trace, guide_trace, kept = drawn_traces(model, guide, batch, particles)
    for name, site in samples(guide_trace):
        if not site["fn"].has_rsample:
            raise ValueError(
                f"guide: site '{name}' has no reparameterised draws, expected such, or pyro.infer.Trace_ELBO() as objective"
            )
    log_p, log_q = (total(site_log_probs(trace, batch.nesting)) for trace in (model_trace, guide_trace))
    return log_p, log_q, kept


def drawn_traces(
    model: Callable[..., Any], guide: Callable[..., Any], batch: Batch, particles: int
) -> tuple[poutine.Trace, poutine.Trace, Kept | None]:
    """Trace model and guide at fresh draws of the guide; say which count, None where all do.

    Raises:
        RejectedError: none does.
    """
    size = None if particles == 1 else particles
    at = (batch.data, batch.nesting, size, batch.datasets)
    model_trace, guide_trace, mask = accepted_traces(model, guide, *at)
    if mask is None and not batch.rejecting:
        return model_trace, guide_trace, None
    if mask is None:
        mask = torch.ones(particles, batch.datasets or 1, dtype=torch.bool)
    outer = tuple(n for n in (size, batch.datasets) if n is not None)
    own = getattr(getattr(guide, "__self__", guide), "log_prob", None)
    try:
        values = {name: plain(site, outer).detach() for name, site in latent_sites(model_trace).items()}
        log_q = at_fixed(guide, guide_trace, *at) if own is None else own(values, batch.data)
    except TypeError:  # a StateGuide around a guide without log_prob
        log_q = at_fixed(guide, guide_trace, *at)
    return model_trace, guide_trace, Kept(mask, log_share(mask, log_q.expand(outer).reshape(mask.shape)))


def guide_log_prob(guide: Callable[..., Any], batch: Batch, outer: int = 1) -> Tensor:
    """Return log q(z | y) of given unknowns: by the guide's own ``log_prob``, else by conditioning its sites.

    Args:
        outer: leading dimensions of the unknowns.

    Raises:
        ValueError: the guide draws auxiliary sites (as Pyro's autoguides do), so given unknowns cannot be scored.
    """
    own = getattr(getattr(guide, "__self__", guide), "log_prob", None)  # the driver may pass guide.forward
    if own is not None:
        known = {} if batch.refined is None else {"refined": batch.refined}
        return own(batch.latents, batch.data, **known)
    inside = plated(guide, batch.nesting, None, batch.datasets)
    trace = trace_of(conditioned(inside, batch.latents, batch.nesting, outer), batch.data)
    for name, site in samples(trace):
        if not site["is_observed"]:
            raise ValueError(
                f"guide: site '{name}' is not one of the unknowns, expected a guide with log_prob(values, data)"
            )
    return total(site_log_probs(trace, batch.nesting))
