"""Objectives beside the ELBO and the forward KL: alpha-divergences, and distances between simulated and guided pairs.

Which applies where. ``Renyi`` needs the density p(z, y) alone, as the ELBO and ``Reweighted`` do, so one data set will do.
``AlphaJS`` needs the density and simulated pairs. ``MMD``, ``EnergyDistance`` and ``SlicedWasserstein`` compare draws with
draws: they need simulated pairs, never the density, and a guide from ``amortize``. For one data set the pairs would have to
be draws of its posterior, which is the answer; amortised over simulated data is where all of them can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.require import real, shown, whole
from ...guides.amortized_guide import AmortizedGuide
from .standard import ELBO, MOST, Batch, ForwardKL, Mixture, log_densities


@dataclass(frozen=True)
class Renyi:
    """Renyi's alpha-divergence by K importance samples a data set, pathwise gradients.

        L_a = -1 / (1 - a) log (1/K) sum_k w_k^(1 - a),    w_k = p(z_k, y) / q(z_k | y),    z_k ~ q(z | y)

    At a = 1 it is the ELBO, at a = 0 the importance-weighted ELBO; towards a = 0 it covers more mass. At the exact posterior
    every w_k is p(y), so the loss is -log p(y) for any a and K. A finite K draws it towards the ELBO. At a = 0 and for large K
    every guide that covers the posterior is as good as the next, and a guide that cannot be the posterior grows wider than
    it with K: where the width matters, keep a > 0 or K small. Draws that the physics rejects: as in ``ELBO``.

    Source: Li & Turner, arXiv:1602.02311; Burda, Grosse, Salakhutdinov, arXiv:1509.00519 (a = 0).

    Args:
        alpha: a, any finite number.
        particles: K, evaluated in one batch.

    Raises:
        ValueError: a number out of range, or a guide site that cannot be reparameterised.
    """

    alpha: float = 0.5
    particles: int = 16

    def __post_init__(self) -> None:
        real("alpha", self.alpha, -math.inf, expected="a finite number")
        whole("particles", self.particles, 2, MOST)

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the negative alpha-bound on the log evidence a data set."""
        if self.alpha == 1:
            return ELBO(self.particles)(model, guide, batch)
        log_p, log_q, kept = log_densities(model, guide, batch, self.particles)
        rest = 1.0 - self.alpha
        powers = rest * (log_p - log_q)
        if kept is None:
            return -(powers.logsumexp(0) - math.log(self.particles)).mean() / rest
        powers = kept.spread(powers)
        powers = torch.where(kept.draws, powers, torch.full_like(powers, -torch.inf))
        some = kept.draws.any(0)
        bound = (powers[:, some].logsumexp(0) - kept.draws.sum(0)[some].to(powers).log()) / rest
        return -(bound + kept.log_share[some]).mean()


@dataclass(frozen=True)
class AlphaJS:
    """The UQ-VAE's objective: skewed Jensen-Shannon divergence plus reverse KL, by the bound that its authors minimise.

        JS_a(q || p) = a KL(q || m) + (1 - a) KL(p || m),    m = (1 - a) q + a p
        (1/a) JS_a(q || p) + KL(q || p) <= (1 - a)/a KL(p || q) + KL(q || p) - log(1 - a)/a
        loss = (1 - a)/a E_p[-log q(z | y)] - E_q[log p(z, y) - log q(z | y)]

    Derived here: m >= (1 - a) q gives KL(q || m) <= -log(1 - a) and KL(p || m) <= KL(p || q) - log(1 - a); a times the one
    and 1 - a times the other, divided by a, is the second line. KL(p || q) and KL(q || p) differ from the two terms of
    the loss by what the guide does not change, so the loss has the bound's gradient and is least at q = p. The bound is not
    sharp there: by convexity of the KL, a KL(q || p) + (1 - a)^2/a KL(p || q) bounds (1/a) JS_a as well, without a constant.
    So small a is mostly the forward KL, a towards 1 the reverse one. Needs pairs, so a ``Simulator``.

    Source: Goh, Sheriffdeen, Wittmer, Bui-Thanh, arXiv:1912.04212; Nielsen, arXiv:1009.4004 (the family).

    Args:
        alpha: a, between 0 and 1.
        particles: draws a data set and step for the ELBO.

    Raises:
        ValueError: a number out of range, or what ``ELBO`` and ``ForwardKL`` refuse.
    """

    alpha: float = 0.5
    particles: int = 1

    def __post_init__(self) -> None:
        real("alpha", self.alpha, 0.0, 1.0, "a number between 0 and 1")
        whole("particles", self.particles, 1, MOST)

    @property
    def forward_weight(self) -> float:
        """Weight (1 - a)/a of the forward KL; that of the reverse KL is one."""
        return (1 - self.alpha) / self.alpha

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the weighted sum a data set."""
        terms = ((self.forward_weight, ForwardKL()), (1.0, ELBO(self.particles)))
        return Mixture(terms)(model, guide, batch)


@dataclass(frozen=True)
class MMD:
    """Squared maximum mean discrepancy between pairs (z, y) of the model and (z' ~ q(z | y), y) of the guide, unbiased.

        1/(n (n - 1)) sum_{i != j} k(x_i, x_j) + k(x'_i, x'_j) - 2 k(x_i, x'_j),    k(x, x') = mean_s exp(-|x - x'|^2 / 2 (s m)^2)

    x is (whitened unconstrained z, standardised y), m the median distance among the model's pairs. Leaving i = j out of the
    cross term keeps it unbiased although both sides share their data.

    Source: Gretton et al., A kernel two-sample test, JMLR 13 (2012), lemma 6.

    Args:
        scales: s, factors on the median distance.

    Raises:
        ValueError: no pairs, or a guide that is not from ``amortize``.
    """

    scales: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        if not isinstance(self.scales, Sequence) or isinstance(self.scales, str | bytes) or not self.scales:
            raise ValueError(f"scales: got {shown(self.scales)}, expected positive numbers, at least one")
        for scale in self.scales:
            real("scales", scale, 0.0, expected="positive numbers")

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the estimate of one batch, which can be negative."""
        theirs, own = paired_draws(guide, batch)
        median = _distances(theirs, theirs)[~torch.eye(len(theirs), dtype=torch.bool, device=theirs.device)].median()
        widths = 2 * (torch.tensor(self.scales).to(theirs) * median).square()

        def kernel(a: Tensor, b: Tensor) -> Tensor:
            return (-_distances(a, b).square().unsqueeze(-1) / widths).exp().mean(-1)

        return _discrepancy(kernel, theirs, own)


@dataclass(frozen=True)
class EnergyDistance:
    """Energy distance between pairs (z, y) of the model and (z' ~ q(z | y), y) of the guide, unbiased.

        1/(n (n - 1)) sum_{i != j} 2 |x_i - x'_j| - |x_i - x_j| - |x'_i - x'_j|

    in the coordinates of ``MMD``, of which it is the one with kernel -|x - x'|; it has no bandwidth.

    Source: Szekely & Rizzo, Energy statistics, J. Stat. Plan. Inference 143 (2013); Sejdinovic et al., arXiv:1207.6076.

    Raises:
        ValueError: no pairs, or a guide that is not from ``amortize``.
    """

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the estimate of one batch, which can be negative."""
        return _discrepancy(lambda a, b: -_distances(a, b), *paired_draws(guide, batch))


@dataclass(frozen=True)
class SlicedWasserstein:
    """Squared Wasserstein-2 distance of random projections of pairs (z, y) and (z' ~ q(z | y), y).

        mean_l mean_i (sorted(x t_l)_i - sorted(x' t_l)_i)^2,    t_l uniform on the unit sphere, anew at each step

    in the coordinates of ``MMD``. Unlike that, it is biased: between n draws of the same law it is of order 1/n, and a
    slightly too narrow guide has the smaller value.

    Source: Bonneel, Rabin, Peyre, Pfister, J. Math. Imaging Vis. 51 (2015); bias: Bellemare et al., arXiv:1705.10743.

    Args:
        projections: directions a step.

    Raises:
        ValueError: no pairs, or a guide that is not from ``amortize``.
    """

    projections: int = 64

    def __post_init__(self) -> None:
        whole("projections", self.projections, 1, MOST)

    def __call__(self, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch) -> Tensor:
        """Return the mean over directions."""
        theirs, own = paired_draws(guide, batch)
        directions = torch.nn.functional.normalize(torch.randn(theirs.shape[-1], self.projections).to(theirs), dim=0)
        return ((theirs @ directions).sort(0).values - (own @ directions).sort(0).values).square().mean()


def paired_draws(guide: Callable[..., Any], batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the model's pairs (z, y) and the guide's (z', y), each (n, D + number of data), the second differentiable.

    z in the guide's whitened coordinates, y standardised as the guide's encoder sees it, with the mask where there is one;
    a guide without encoder is of one data set, and the pairs are z alone.

    Raises:
        ValueError: the batch holds no unknowns or a single pair, or the guide is not from ``amortize``.
    """
    owner = getattr(guide, "__self__", guide)  # the driver may pass guide.forward
    if not isinstance(owner, AmortizedGuide):
        raise ValueError(f"guide: got {shown(guide)}, expected one from amortize for a distance between draws")
    if not batch.latents or (batch.datasets or 1) < 2:
        got = f"{batch.datasets or 1} data sets {'with' if batch.latents else 'without'} their unknowns"
        raise ValueError(f"data: got {got}, expected a Simulator, or pairs, at least two, for a distance between draws")
    theirs, _ = owner.whitened(batch.latents)
    own = owner.density(batch.data, batch.refined).rsample()
    if owner.encoder is None:
        return theirs, own
    values, mask = owner.encoder.inputs(batch.data)
    seen = [values.chunk(2, -1)[0].to(own), *([] if mask is None else [mask.to(own)])]  # the other half are scores
    return torch.cat([theirs, *seen], -1), torch.cat([own, *seen], -1)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # the quicker way by a matrix product loses the short distances in single precision
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _discrepancy(kernel: Callable[[Tensor, Tensor], Tensor], theirs: Tensor, own: Tensor) -> Tensor:
    """Return mean_{i != j} k(x_i, x_j) + k(x'_i, x'_j) - 2 k(x_i, x'_j)."""
    terms = kernel(theirs, theirs) + kernel(own, own) - 2 * kernel(theirs, own)
    return (terms.sum() - terms.diagonal().sum()) / (len(terms) * (len(terms) - 1))
