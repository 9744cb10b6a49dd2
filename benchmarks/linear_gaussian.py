"""B0: a linear Gaussian inverse problem, where the posterior, the evidence and the mean-field answers are known.

    python benchmarks/linear_gaussian.py

Reverse KL (ELBO) and forward KL (draws of the exact posterior as training pairs), full rank, mean field and spline flow.
KL is that of the fitted guide to the closed form, by 200,000 draws; variance errors are against the closed-form optimum of
the same family and direction. The posterior correlations of this problem reach 0.91.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from _store import store
from pyro.distributions import MultivariateNormal
from torch import Tensor

from physzoo.guides import amortize
from physzoo.inference.density.densities import draw
from physzoo.inference.fit import DataSets, fit
from physzoo.inference.fit.driver import FitOptions
from physzoo.inference.modes import laplace
from physzoo.inference.objectives import ELBO, ForwardKL
from physzoo.models.linear_gaussian import LinearGaussian, exact_posterior, thermometers

DRAWS, PAIRS = 200_000, 100_000
OPTIONS = FitOptions(steps=3000, learning_rate=0.02, progress=False)


def row(family: str, direction: str) -> dict[str, Any]:
    model, data = LinearGaussian(), thermometers()
    exact = exact_posterior(model, data["y"])
    posterior = MultivariateNormal(exact.mean, exact.covariance)
    guide = amortize(model, None, family, example=data, whitening=laplace(model, data) if family == "spline" else None)
    started = time.process_time()
    if direction == "reverse":
        fit(model, guide, data, ELBO(128), OPTIONS)
    else:
        z = posterior.sample((PAIRS,))
        fit(model, guide, DataSets({"y": data["y"].expand(PAIRS, -1)}, 512, {"z": z}), ForwardKL(), OPTIONS)
    seconds = time.process_time() - started
    draws = draw(model, guide, data, DRAWS, seed=5)
    z = draws.values["z"]
    log_p = posterior.log_prob(z)
    optimum = {"reverse": exact.reverse_variances, "forward": exact.forward_variances}[direction]
    variance = z.var(0)
    return {
        "family": family,
        "direction": direction,
        "kl_to_posterior": _mean(draws.log_q - log_p),
        "elbo_gap": exact.log_evidence.item() - _mean(draws.log_p - draws.log_q),
        "worst_variance_error": (variance / (optimum if family == "diagonal" else exact.forward_variances) - 1)
        .abs()
        .max()
        .item(),
        "worst_mean_error_sd": ((z.mean(0) - exact.mean) / exact.covariance.diagonal().sqrt()).abs().max().item(),
        "smallest_sd_ratio": (variance / exact.covariance.diagonal()).sqrt().min().item(),
        "cpu_seconds": seconds,
    }


def _mean(value: Tensor) -> float:
    return value.mean().item()


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [row(family, direction) for family in ("full", "diagonal", "spline") for direction in ("reverse", "forward")]
    levels = "full: KL < 0.01, ELBO gap < 0.02; diagonal: variances within 3 % of the known optimum; spline: KL < 0.02"
    store("linear_gaussian", rows, pass_levels=levels, draws=DRAWS)


if __name__ == "__main__":
    main()
