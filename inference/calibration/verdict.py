"""The verdict on a sampler or guide: what its ranks, coverage, weights and contraction say together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..importance import USABLE
from .sbc import Array, Band, Effect

LEVELS = (0.5, 0.8, 0.95)
NO_CONTRACTION = 0.05  # a variance reduced by less than this is the prior's
ENOUGH = 100  # data sets, below which sd x 0.5 may pass
FLAT = 0.1  # nats: a log-likelihood that varies less over the draws carries no information


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
        dropped: data sets left out because their simulation or their fit failed, or gave numbers that are not finite.
        wider: scalar latents whose draws are wider than the prior, E[var(z | y)] > var(z), by more than chance: no posterior is.
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
    wider: tuple[str, ...] = ()

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
    def few(self) -> bool:
        """Whether there are too few data sets for a pass to mean anything."""
        return self.datasets < ENOUGH

    @property
    def failed(self) -> bool:
        """Whether something was found to be wrong; too few data sets neither pass nor fail."""
        return bool(self.rejected or self.wider) or (self.inconclusive and not self.few)

    @property
    def passed(self) -> bool:
        """Whether no quantity is rejected, no scalar is wider than the prior, and the check could have failed."""
        return not (self.rejected or self.wider or self.inconclusive or self.few)

    @property
    def verdict(self) -> str:
        """One line that a person can act on."""
        size = f"{self.datasets} data sets, {self.draws} draws each"
        size += f", {self.dropped} more dropped as failed" if self.dropped else ""
        if self.rejected:
            named = sorted(self.rejected, key=lambda name: name not in self.effects)
            parts = [self._complaint(name) for name in named[:3]]
            more = len(self.rejected) - len(parts)
            tail = f" and {more} more" if more > 0 else ""
            return f"not calibrated: {', '.join(parts)}{tail} ({size})"
        if self.wider:
            worst = min(self.wider, key=lambda name: self.contraction[name])
            return f"not calibrated: {worst} wider than the prior, contraction {self.contraction[worst]:.2f} ({size})"
        if self.few:
            least = min(self.adjusted.values())
            return f"too few data sets to tell, expected at least {ENOUGH}: smallest adjusted p {least:.2g}, none rejected ({size})"
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
        method = "linear" if np.isfinite(self.k_hat).all() else "nearest"  # nothing lies between infinities
        levels = (0.1, 0.5, 0.9) if len(self.k_hat) else ()
        quantiles = {str(level): float(np.quantile(self.k_hat, level, method=method)) for level in levels}
        return {
            "verdict": self.verdict,
            "passed": self.passed,
            "alpha": self.alpha,
            "datasets": self.datasets,
            "draws": self.draws,
            "dropped": self.dropped,
            "wider": list(self.wider),
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
        from .plot import plot_calibration

        return plot_calibration(self, path)


def _shares(pits: Array | None) -> dict[str, float]:
    return {} if pits is None else {str(level): float((pits < level).mean()) for level in LEVELS}
