"""Calibration where it matters: around one observed data set."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from ...core.arguments import Data, repeated
from ...core.global_state import alone, seeded, unchecked
from ...core.model_spec import UnconstrainedSites, Whitening
from ...core.plates import plain, plated
from ...core.require import LONGEST, check_size, flag, function, named, one_of, real, seed_number, whole
from ...core.traces import nodes, trace_of
from ...guides import Table, amortize
from ...guides.families.densities import FAMILIES
from ..density.densities import data_log_probs, draw, site_log_probs, total
from ..fit.driver import fit
from ..fit.options import FitOptions
from ..fit.sources import DataSets
from ..importance import smoothed
from ..objectives.standard import ELBO, Reweighted
from ..warn import warn_of_weights
from .over_prior import calibrate
from .result import Calibration


class Augmented:
    """The model of a second data set after a first one: p(z, y | y_obs) up to a constant.

        log p(z) + log p(y_obs | z) + log p(y | z)

    Virtual observables and factors belong to the unknowns, so they count once.

    Args:
        model: a Pyro model of one data set.
        data: the arguments with the first data set.
        sites: its unknowns.
    """

    def __init__(self, model: Callable[..., Any], data: Data, sites: UnconstrainedSites) -> None:
        self.model, self.data, self.nesting = model, dict(data), sites.nesting
        self.latents = tuple(block.name for block in sites.blocks)
        self.__signature__ = inspect.signature(model.forward if isinstance(model, nn.Module) else model)

    def __call__(self, **data: Any) -> Any:
        """Sample the unknowns, weigh them by the first data set, and run the model on the second."""
        with poutine.block(expose=list(self.latents)):
            first = trace_of(self.model, self.data)
        latents = {name: nodes(first)[name]["value"] for name in self.latents}
        terms = data_log_probs(first, site_log_probs(first, self.nesting))
        weight = total({name: term for name, term in terms.items() if name in self.data})
        # the model's own plates stand to the right of those around it
        pyro.factor("first_data_set", weight.reshape(weight.shape + (1,) * self.nesting))
        with poutine.block(hide=list(self.latents)):
            return poutine.condition(self.model, data=latents)(**data)


@alone()
def posterior_sbc(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Data,
    *,
    datasets: int = 128,
    draws: int = 100,
    family: str = "spline",
    steps: int = 400,
    particles: int = 8,
    learning_rate: float = 1e-2,
    wake: int = 0,
    widen: float = 1.0,
    seed: int = 0,
    progress: bool = True,
) -> Calibration:
    """Check a way of fitting on data sets that look like the observed one.

        z*_i ~ p(z | y_obs),  y_i ~ p(y | z*_i):   z*_i is a draw from p(z | y_obs, y_i)

    so its rank among draws of a fit to (y_obs, y_i) is uniform if the fit is calibrated near y_obs. The truths come from
    ``guide`` by smoothed, systematic importance resampling; all refits run as one plated fit, each data set with free
    parameters of its own behind a shared family.

    Args:
        model: a Pyro model without plates of its own around its observed sites.
        guide: a guide fitted to ``data``; good enough for importance resampling.
        data: the arguments of the observed data set.
        datasets: number of replicated data sets.
        draws: draws per data set for the ranks.
        family: guide family of the refits.
        steps: steps of the plated fit.
        particles: draws a data set and step.
        learning_rate: its initial step size.
        wake: steps after those of the ELBO, by reweighted wake-sleep (``Reweighted``); for a guide that was fitted so.
        widen: negative control: the refits' draws are stretched about their mean by this factor.
        seed: seed of everything.
        progress: show progress.

    Returns:
        A ``Calibration`` whose truths are posterior draws; its contraction is the second data set's over the first's.

    Raises:
        ValueError: too few of the guide's draws have weight, or a number out of range.

    Warns:
        TrustWarning: k-hat of the guide is not below 0.7, or there are fewer than 100 data sets.

    Source: Saeilynoja, Schmitt, Buerkner, Vehtari, arXiv:2502.03279.
    """
    for name, number, least in (("datasets", datasets, 2), ("draws", draws, 2), ("steps", steps, 1), ("wake", wake, 0)):
        whole(name, number, least, LONGEST)
    whole("particles", particles, 1, 10**6)
    flag("progress", progress)
    named("data", data)
    one_of("family", family, list(FAMILIES))
    real("widen", widen, 0.0, expected="a positive factor")
    widen = float(widen)
    seed_number(seed)
    function("guide", guide)
    check_size(datasets=datasets, draws=draws)
    sites = UnconstrainedSites(model, data)
    pool = draw(model, guide, data, 16 * datasets, seed=seed)
    log_w, k_hat = smoothed(pool.log_p, pool.log_q)
    warn_of_weights(float(k_hat), "guide")
    with seeded(seed + 1):
        weights = torch.as_tensor(log_w).exp()
        # systematic resampling: unbiased, as draws with replacement are, and no draw comes twice unless its weight asks for it
        heights = (torch.arange(datasets) + torch.rand(())) / datasets
        rows = torch.searchsorted(weights.cumsum(0) / weights.sum(), heights.to(weights)).clamp(max=len(weights) - 1)
    distinct = len(rows.unique())
    if distinct < datasets / 4:
        raise ValueError(
            f"guide: got {distinct} truths for {datasets} data sets, expected at least a quarter as many: it is too far from "
            "the posterior"
        )
    truths = {name: value[rows] for name, value in pool.values.items()}
    replicated = _replicate(model, data, truths, sites, datasets, seed + 2)
    given = {name: value for name, value in data.items() if name not in sites.observed}
    batch = {**replicated, **repeated(given, datasets)}
    augmented = Augmented(model, data, sites)
    flat, _ = sites.flatten(pool.values)
    # two data sets like the observed one hold twice the information: half the posterior covariance
    start = _start(flat, weights.to(flat.dtype))
    # free vectors for location and Cholesky factor of each data set, and eight more for the family's shape
    width = sites.size * (sites.size + 3) // 2 + 8
    table = Table(data, width, sets=datasets)
    refit = amortize(augmented, table, family, example=data, whitening=start, simulations=0, seed=seed)
    options = FitOptions(learning_rate=learning_rate, seed=seed, max_skipped=20, progress=progress)
    fit(augmented, refit, DataSets(batch), ELBO(particles), options, steps=steps)
    if wake:
        fit(augmented, refit, DataSets(batch), Reweighted(), options, steps=wake)
    found = calibrate(
        augmented,
        refit,
        pairs={**truths, **replicated},
        given=given,
        draws=draws,
        widen=widen,
        chunk=datasets * draws,
        seed=seed + 3,
        progress=False,
    )
    # its prior is the posterior of the observed data, whose density is known up to a factor only
    return replace(found, information=None)


def _start(flat: Tensor, weights: Tensor) -> Whitening:
    """Return mean and half the covariance of weighted draws (S, d); of the draws alone where few weigh anything."""
    tril, info = torch.linalg.cholesky_ex(_covariance(flat, weights) / 2)
    if int(info) or not bool(torch.isfinite(tril).all()):
        return Whitening(flat.mean(0), torch.linalg.cholesky(_covariance(flat, None) / 2))
    return Whitening((weights / weights.sum()) @ flat, tril)


def _covariance(flat: Tensor, weights: Tensor | None) -> Tensor:
    """Covariance of rows (S, d), (d, d) for one coordinate as well."""
    return flat.T.cov(aweights=weights).reshape(flat.shape[-1], flat.shape[-1])


def _replicate(
    model: Callable[..., Any],
    data: Data,
    truths: dict[str, Tensor],
    sites: UnconstrainedSites,
    datasets: int,
    seed: int,
) -> dict[str, Tensor]:
    given = {name: value for name, value in data.items() if name not in sites.observed}
    conditioned = poutine.condition(plated(model, sites.nesting, None, datasets), data=sites.padded(truths))
    with seeded(seed), torch.no_grad(), poutine.block(), unchecked():
        trace = trace_of(conditioned, given)
    return {name: plain(nodes(trace)[name], (datasets,)) for name in sites.observed if name in data}
