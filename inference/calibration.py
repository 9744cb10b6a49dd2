"""The verdict on a sampler or guide: what its ranks, coverage, weights and contraction say together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .importance import USABLE, k_hat
from .latents import scalar_names
from .sbc import Array, Band, Effect, ecdf_band, effect, holm, interval_coverage, pit, uniformity
from .tarp import tarp

LEVELS = (0.5, 0.8, 0.95)
NO_CONTRACTION = 0.05  # a variance reduced by less than this is the prior's
FLAT = 0.1  # nats: a log-likelihood that varies less over the draws carries no information

Pair = tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True)
class Calibration:
    """Simulation-based calibration over N data sets with L draws each.

    Attributes:
        pits: test quantity -> PIT values (N,): every scalar latent, log_likelihood, log_joint, log_q and
            tarp, as given.
        pvalues: p-value of uniformity per quantity.
        adjusted: the same after Holm over all quantities; the decision rests on these.
        effects: shift, width and ECDF distance per scalar latent.
        band: simultaneous 95 % band of each ECDF.
        coverage: level -> share of truths inside the highest-density region of q; empty where log q at the
            truth is not known.
        interval_coverage: scalar latent -> level -> share of truths inside the central interval.
        k_hat: Pareto k-hat per data set (N,); empty without densities.
        contraction: scalar latent -> 1 - E[var(z | y)] / var(z), in unconstrained space where supports are
            known.
        nlpd: mean of -log q(z* | y); None where log q is not known.
        information: mean of log q(z* | y) - log p(z*), nats learnt; None where it is not known.
        flatness: median sd of the log-likelihood over the draws of a data set; None without it.
        alpha: level of the decision.
        draws: L.
        dropped: data sets left out because their simulation failed.
    """

    pits: dict[str, Array]
    pvalues: dict[str, float]
    adjusted: dict[str, float]
    effects: dict[str, Effect]
    band: Band
    coverage: dict[float, float]
    interval_coverage: dict[str, dict[float, float]]
    k_hat: Array
    contraction: dict[str, float]
    nlpd: float | None
    information: float | None
    flatness: float | None
    alpha: float
    draws: int
    dropped: int = 0

    @property
    def datasets(self) -> int:
        """Number of data sets N."""
        return len(next(iter(self.pits.values())))

    @property
    def ranks(self) -> dict[str, np.ndarray]:
        """Ranks 0..L of the truth per quantity, (N,)."""
        top = self.draws
        return {name: np.minimum((u * (top + 1)).astype(int), top) for name, u in self.pits.items()}

    @property
    def rejected(self) -> list[str]:
        """Quantities whose adjusted p-value is below alpha, the worst first."""
        return sorted((n for n, p in self.adjusted.items() if p < self.alpha), key=lambda n: self.pvalues[n])

    @property
    def inconclusive(self) -> bool:
        """Whether the draws are as wide as the prior although nothing shows that the data carry no
        information.

        The prior passes every rank test of the parameters: a pass without contraction proves nothing.
        """
        if max(self.contraction.values()) >= NO_CONTRACTION:
            return False
        return self.flatness is None or self.flatness > FLAT

    @property
    def passed(self) -> bool:
        """Whether no quantity is rejected and the check could have failed."""
        return not self.rejected and not self.inconclusive

    @property
    def verdict(self) -> str:
        """One line that a person can act on."""
        size = f"{self.datasets} data sets, {self.draws} draws each"
        if self.rejected:
            named = sorted(self.rejected, key=lambda name: name not in self.effects)
            parts = [self._complaint(name) for name in named[:3]]
            more = len(self.rejected) - len(parts)
            tail = f" and {more} more" if more > 0 else ""
            return f"not calibrated: {', '.join(parts)}{tail} ({size})"
        if self.inconclusive:
            return f"inconclusive: the draws are as wide as the prior, which passes any rank test ({size})"
        worst = min(self.adjusted, key=lambda name: self.adjusted[name])
        low, high = min(self.contraction.values()), max(self.contraction.values())
        learnt = f"contraction {low:.2f} to {high:.2f}" if high >= NO_CONTRACTION else "the data carry no information"
        weights = f", median k-hat {np.median(self.k_hat):.2f}" if len(self.k_hat) else ""
        if self.flatness is None:
            weights += ", sharpness not tested without a log-likelihood"
        smallest = f"smallest adjusted p {self.adjusted[worst]:.2g} ({worst})"
        return f"calibrated: {smallest}, {learnt}{weights} ({size})"

    def _complaint(self, name: str) -> str:
        found = self.effects.get(name)
        chance = f"p {self.adjusted[name]:.1g}" if self.adjusted[name] > 1e-12 else "p < 1e-12"
        if found is None:
            return f"{name} ({chance})"
        width = f"{'narrow' if found.width < 1 else 'wide'}, sd x {found.width:.2f}"
        return f"{name} ({chance}, shifted {found.shift:+.2f} sd, {width})"

    def to_dict(self) -> dict[str, Any]:
        """Return verdict, sizes, p-values, effects, coverages, contraction, NLPD, information and quantiles of k-hat for JSON.

        PIT values, bands, flatness and the k-hat of each data set are left out.
        """
        quantiles = {str(q): float(np.quantile(self.k_hat, q)) for q in (0.1, 0.5, 0.9)} if len(self.k_hat) else {}
        return {
            "verdict": self.verdict,
            "passed": self.passed,
            "alpha": self.alpha,
            "datasets": self.datasets,
            "draws": self.draws,
            "dropped": self.dropped,
            "pvalues": self.pvalues,
            "adjusted": self.adjusted,
            "effects": {name: vars(found) for name, found in self.effects.items()},
            "coverage": {str(level): share for level, share in self.coverage.items()},
            "interval_coverage": {
                name: {str(level): share for level, share in shares.items()}
                for name, shares in self.interval_coverage.items()
            },
            "tarp_coverage": _shares(self.pits.get("tarp")),
            "k_hat_quantiles": quantiles,
            "k_hat_usable": float((self.k_hat < USABLE).mean()) if len(self.k_hat) else None,
            "contraction": self.contraction,
            "nlpd": self.nlpd,
            "information": self.information,
        }

    def plot(self, path: str | Path) -> Path:
        """Draw the check as one PNG and return its path."""
        from .calibration_plot import plot_calibration

        return plot_calibration(self, path)


def calibrate_draws(
    truths: Mapping[str, ArrayLike],
    draws: Mapping[str, ArrayLike],
    *,
    log_likelihood: Pair | None = None,
    log_joint: Pair | None = None,
    log_q: Pair | None = None,
    quantities: Mapping[str, Pair] | None = None,
    unconstrained: Pair | None = None,
    alpha: float = 0.01,
    seed: int = 0,
    dropped: int = 0,
) -> Calibration:
    """Check posterior draws of N simulated data sets against the truths they were simulated from.

    For any sampler: amortised guides, repeated fits, NUTS. Draws must be close to independent (thin a
    chain). Each pair is (at the truth (N,), at the draws (L, N)).

    Args:
        truths: latent -> (N, *site shape).
        draws: latent -> (L, N, *site shape).
        log_likelihood: log p(y | z). Give it: of all quantities only this one tells the posterior from the
            prior.
        log_joint: log p(z, y).
        log_q: log q(z | y). The first entry may be None where log q at the truth is not known.
        quantities: further data-dependent test quantities.
        unconstrained: the same truths (N, d) and draws (L, N, d) in unconstrained space, column k belonging
            to scalar k; contraction and TARP are taken there, where a heavy-tailed prior does not rule them.
        alpha: family-wise level of the decision.
        seed: seed of jitter and reference points.
        dropped: number of data sets left out beforehand, for the record.

    Raises:
        ValueError: shapes do not fit, names differ, or N < 2.
    """
    flat_truths, flat_draws, names = _flatten(truths, draws)
    rng = np.random.default_rng(seed)
    columns = pit(flat_truths, flat_draws, rng)
    pits = {name: columns[:, index] for index, name in enumerate(names)}
    effects = {name: effect(values) for name, values in pits.items()}
    intervals = {name: interval_coverage(values, LEVELS) for name, values in pits.items()}
    given = {"log_likelihood": log_likelihood, "log_joint": log_joint, "log_q": log_q, **(quantities or {})}
    for name, pair in given.items():
        if pair is not None and pair[0] is not None:
            pits[name] = pit(pair[0], pair[1], rng)
    space = (flat_truths, flat_draws) if unconstrained is None else unconstrained
    free_truths, free_draws = np.asarray(space[0], float), np.asarray(space[1], float)
    pits["tarp"] = tarp(free_truths, free_draws, rng)
    pvalues = {name: uniformity(values) for name, values in pits.items()}
    regions = pits.get("log_q")
    spread = None if log_likelihood is None else _spread(np.asarray(log_likelihood[1], float))
    return Calibration(
        pits=pits,
        pvalues=pvalues,
        adjusted=holm(pvalues),
        effects=effects,
        band=ecdf_band(len(flat_truths)),
        coverage={} if regions is None else {level: float((regions > 1 - level).mean()) for level in LEVELS},
        interval_coverage=intervals,
        k_hat=_weights(log_joint, log_q),
        contraction=_contraction(free_truths, free_draws, names),
        nlpd=None if log_q is None or log_q[0] is None else float(-np.mean(np.asarray(log_q[0], float))),
        information=_information(log_likelihood, log_joint, log_q),
        flatness=spread,
        alpha=alpha,
        draws=len(flat_draws),
        dropped=dropped,
    )


def _flatten(truths: Mapping[str, ArrayLike], draws: Mapping[str, ArrayLike]) -> tuple[Array, Array, list[str]]:
    if set(truths) != set(draws) or not truths:
        raise ValueError(f"draws: got latents {sorted(draws)}, expected those of truths, {sorted(truths)}")
    at_truth = {name: np.asarray(value, float) for name, value in truths.items()}
    at_draws = {name: np.asarray(draws[name], float) for name in truths}
    for name, value in at_draws.items():
        if value.shape[1:] != at_truth[name].shape:
            raise ValueError(f"draws['{name}']: got shape {value.shape}, expected (L, *{at_truth[name].shape})")
        if value.shape[1] < 2:
            raise ValueError(f"truths['{name}']: got {value.shape[1]} data sets, expected at least 2")
    names = scalar_names({name: value.shape[1:] for name, value in at_truth.items()})
    flat_truths = np.concatenate([value.reshape(len(value), -1) for value in at_truth.values()], -1)
    flat_draws = np.concatenate([value.reshape(*value.shape[:2], -1) for value in at_draws.values()], -1)
    return flat_truths, flat_draws, names


def _contraction(truths: Array, draws: Array, names: list[str]) -> dict[str, float]:
    if truths.shape[1] != len(names):  # a simplex loses an entry: its free coordinates carry no scalar's name
        names = [f"x[{index}]" for index in range(truths.shape[1])]
    values = 1 - draws.var(0, ddof=1).mean(0) / truths.var(0, ddof=1) if len(draws) > 1 else np.zeros(len(names))
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _spread(log_likelihood: Array) -> float:
    """Return the median sd of log p(y | z) over draws; those without a solution, -inf, are left out."""
    found = np.where(np.isfinite(log_likelihood), log_likelihood, np.nan)
    return float(np.median([np.nanstd(column) for column in found.T if np.isfinite(column).any()] or [np.nan]))


def _weights(log_joint: Pair | None, log_q: Pair | None) -> Array:
    if log_joint is None or log_q is None or len(np.asarray(log_q[1])) < 25:
        return np.empty(0)
    return k_hat(log_joint[1], log_q[1])


def _information(log_likelihood: Pair | None, log_joint: Pair | None, log_q: Pair | None) -> float | None:
    if log_likelihood is None or log_joint is None or log_q is None or log_q[0] is None:
        return None
    log_prior = np.asarray(log_joint[0], float) - np.asarray(log_likelihood[0], float)
    return float(np.mean(np.asarray(log_q[0], float) - log_prior))


def _shares(pits: Array | None) -> dict[str, float]:
    return {} if pits is None else {str(level): float((pits < level).mean()) for level in LEVELS}
