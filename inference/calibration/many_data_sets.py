"""Does the model describe the data? Predictive and leave-one-out ranks of one data set."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyro import poutine

from ...core.arguments import Data
from ...core.global_state import alone
from ...core.prototype import prototype
from ...core.require import LONGEST, whole
from ...core.sites import observed_sites
from ..importance import FEWEST, USABLE, smoothed
from ..posterior import pointwise, posterior
from ..warn import TrustWarning, warn_of_weights
from .sbc import Array, uniformity

TRIES = 100


@dataclass(frozen=True)
class DataChecks:
    """Predictive ranks of the seen entries of each observed site.

    Attributes:
        predictive_pit: site -> P(y_rep < y_i | y) + U P(y_rep = y_i | y), (n,). It uses the data twice: too central, so a small
            p-value is strong evidence against the model and a large one is weak evidence for it.
        predictive_pvalue: site -> p-value of its uniformity.
        loo_pit: site -> the same given y without y_i, (n,); uniform if model and posterior are right.
        loo_pvalue: site -> p-value of its uniformity.
        loo_k_hat: site -> Pareto k-hat of each left-out entry, (n,); ranks with k-hat above 0.7 are not to
            be trusted.
        k_hat: Pareto k-hat of the guide's own importance weights, which correct it here.
    """

    predictive_pit: dict[str, Array]
    predictive_pvalue: dict[str, float]
    loo_pit: dict[str, Array]
    loo_pvalue: dict[str, float]
    loo_k_hat: dict[str, Array]
    k_hat: float

    def to_dict(self) -> dict[str, Any]:
        """Return the p-values and weights as plain numbers, ready for JSON."""
        return {
            "predictive_pvalue": self.predictive_pvalue,
            "loo_pvalue": self.loo_pvalue,
            "loo_usable": {name: float((found < USABLE).mean()) for name, found in self.loo_k_hat.items()},
            "k_hat": self.k_hat,
        }


@alone()
def data_checks(
    model: Callable[..., Any], guide: Callable[..., Any], data: Data, *, draws: int = 1000, seed: int = 0
) -> DataChecks:
    """Rank each datum among its predictions, given all data and given the others.

        w_s ~ p(z_s, y) / (q(z_s | y) p(y_i | z_s)),   LOO-PIT_i = sum_s w_s (1[y_rep,s,i < y_i] + U_i 1[y_rep,s,i = y_i])

    with U_i ~ U(0, 1), so that the ranks of counts are uniform as well, and Pareto-smoothed weights, which correct the guide as
    well as leave y_i out. Entries that a mask hides are skipped; an observed site whose entries are dependent (a multivariate
    normal) is skipped, for it has no entries to leave out.

    Args:
        model: a Pyro model of one data set.
        guide: a guide of it.
        data: one data set.
        draws: number of draws.
        seed: seed of draws and jitter.

    Warns:
        TrustWarning: k-hat of the guide's weights is not below 0.7.

    Raises:
        ValueError: fewer than 25 draws, no observed site with independent entries, or a model without a solution.

    Source: Gabry et al., arXiv:1709.01449; Vehtari, Gelman, Gabry, arXiv:1507.04544; Magnusson et al.,
        arXiv:1904.10679.
    """
    whole("draws", draws, FEWEST, LONGEST)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)  # told below, of the weights that are used here
        found = posterior(model, guide, data, draws=draws, seed=seed, prior=False)
    rng = np.random.default_rng(seed)
    log_p, log_q = (found[f"sample_stats/{name}"].to_numpy()[0] for name in ("log_p", "log_q"))
    pits: dict[str, Array] = {}
    loo: dict[str, Array] = {}
    k_hats: dict[str, Array] = {}
    for name, site in observed_sites(_solved(model, data)).items():
        entries = pointwise(site)
        value = site["value"]
        if entries.log_prob.shape != value.shape:
            continue
        seen = entries.seen.broadcast_to(value.shape).numpy().reshape(-1)
        actual = value.detach().double().numpy().reshape(-1)[seen]
        predicted = found[f"posterior_predictive/{name}"].to_numpy()[0].reshape(draws, -1)
        log_likelihood = found[f"log_likelihood/{name}"].to_numpy()[0].reshape(draws, -1)
        below, ties, u = predicted < actual, predicted == actual, rng.uniform(size=len(actual))
        solved = np.isfinite(log_likelihood)  # a draw without a solution predicts nothing and weighs nothing
        pits[name] = _inside((below.sum(0) + u * (ties.sum(0) + 1)) / (solved.sum(0) + 1), draws)
        left_out = np.where(solved, log_p[:, None] - np.where(solved, log_likelihood, 0.0), -np.inf)
        log_weights, k_hats[name] = smoothed(left_out, np.broadcast_to(log_q[:, None], below.shape))
        loo[name] = _inside((np.exp(log_weights) * (below + u * ties)).sum(0), draws)
    if not pits:
        raise ValueError("model: got no observed site with independent entries, expected one with y_i ~ p(y_i | z)")
    shape = float(smoothed(log_p, log_q)[1])
    warn_of_weights(shape, "guide")
    return DataChecks(
        predictive_pit=pits,
        predictive_pvalue={name: uniformity(values) for name, values in pits.items()},
        loo_pit=loo,
        loo_pvalue={name: uniformity(values) for name, values in loo.items()},
        loo_k_hat=k_hats,
        k_hat=shape,
    )


def _solved(model: Callable[..., Any], data: Data) -> poutine.Trace:
    """Trace the model at a draw of its prior that has a solution: elsewhere every entry is masked."""
    for seed in range(TRIES):
        trace = prototype(model, data, seed)
        if not any(f"{name}_rejected" in trace.nodes for name in trace.nodes):
            return trace
    raise ValueError(f"model: got no solution in {TRIES} draws of its prior, expected one")


def _inside(values: Array, draws: int) -> Array:
    """Keep ranks off 0 and 1, which S draws cannot tell from 1 / (S + 1)."""
    edge = 0.5 / (draws + 1)
    return np.clip(values, edge, 1 - edge)
