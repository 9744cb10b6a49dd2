"""The calls that every model of the gallery goes through, and how each is judged.

A call is "right" where its answer agrees with the exact posterior, "warned" where it agrees not but says that it must not be
trusted, "refused" where it ends in one sentence, "wrong" otherwise: also by a traceback from inside.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import torch
import xarray as xr
from pyro.infer.autoguide import AutoNormal

import physzoo
from physzoo.core.global_state import unregistered
from physzoo.guides import FAMILIES
from physzoo.inference.density import Latents, in_double
from physzoo.inference.density.densities import paired_traces
from physzoo.inference.density.entries import pointwise
from physzoo.inference.density.precision import workable
from physzoo.inference.fit.guard import NonFiniteError
from physzoo.inference.importance import weights_of

from .case import Array, Case, Draws
from .judge import distance, tolerance

EXACT = 20_000
QUIET: dict[str, Any] = {"progress": False}
REFUSALS = (": refine: got", "lower learning_rate")  # of what a call does not serve, whatever the model
WARNINGS = ("k-hat", "R-hat", "effective", "diverg", "too few", "Pareto", "not to be trusted", "cannot be trusted")


@dataclass(frozen=True)
class Outcome:
    """What came of a call: "right", "warned", "refused" or "wrong", and a few words."""

    verdict: str
    found: str = ""


@dataclass
class Trial:
    """A case with what several calls share, each made once."""

    case: Case
    told: list[str] = field(default_factory=list)

    @cached_property
    def exact(self) -> Draws:
        assert self.case.exact is not None
        return self.case.exact(EXACT, np.random.default_rng(1))

    @cached_property
    def _laplace(self) -> tuple[Any, list[str]]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = physzoo.laplace(self.case.model, self.case.data, candidates=128, climbers=16, starts=2)
        return found, [str(w.message) for w in caught]

    @property
    def laplace(self) -> Any:
        """The Laplace approximation, made once; what it warned of is told in every call that starts there."""
        found, told = self._laplace
        for text in told:
            warnings.warn(text, stacklevel=2)
        return found

    @cached_property
    def precisely(self) -> tuple[Any, dict[str, Any], torch.dtype]:
        """Model and data in float64, and the precision in which the density can be evaluated there."""
        model, data = in_double(self.case.model, self.case.data)
        latents = Latents.of(model, data)
        at = latents.prior(model, data, 2, 0)
        return model, data, workable(lambda x: latents.log_density(model, x, data), at, torch.float64)

    @property
    def start(self) -> Any:
        """The Laplace approximation, or nothing where there is no mode."""
        return None if "laplace" in self.case.refused_by else self.laplace

    @cached_property
    def _guide(self) -> Any:
        return self.fitted("full")

    @property
    def guide(self) -> Any:
        """A full-rank Gaussian, fitted; with what its start warned of."""
        _ = self.start
        return self._guide

    @cached_property
    def tree(self) -> Any:
        return physzoo.posterior(self.case.model, self.guide, self.case.data, draws=4000)

    def fitted(self, family: str, steps: int = 300) -> Any:
        model, data = self.case.model, self.case.data
        guide = physzoo.amortize(model, None, family, example=data, whitening=self.start)
        physzoo.fit(model, guide, data, physzoo.ELBO(8), steps=steps, learning_rate=1e-2, **QUIET)
        return guide

    def judged(self, draws: Draws, effective: float, weights: Array | None = None) -> Outcome:
        far, stretch = distance(draws, self.exact, weights)
        allowed, stretched = tolerance(effective, EXACT)
        found = f"distance {far:.3f}, allowed {allowed:.3f}; width off {stretch:.3f}, allowed {stretched:.3f}"
        return Outcome("right" if far <= allowed and stretch <= stretched else "wrong", found)

    def weighted(self, guide: Any, draws: int = 4000) -> Outcome:
        """The guide's draws with their importance weights, or the warning that these cannot be trusted."""
        tree = physzoo.posterior(self.case.model, guide, self.case.data, draws=draws, prior=False)
        weights, shape = weights_of(tree)
        if not shape < 0.7:
            self.told.append(f"k-hat {shape:.2f}")
        return self.judged(posterior_of(tree), 1 / float((weights**2).sum()), weights)

    def chains(self, reference: Any) -> Outcome:
        draws = {name: value.reshape(-1, *value.shape[2:]) for name, value in reference.draws.items()}
        return self.judged_sites(draws, min(reference.ess, 1e5))

    def judged_sites(self, draws: Draws, effective: float) -> Outcome:
        """Judge the unknowns alone: samplers do not return derived quantities."""
        whole = self.exact
        self.exact = {name: value for name, value in whole.items() if name in draws}
        try:
            return self.judged(draws, effective)
        finally:
            self.exact = whole


def posterior_of(tree: Any) -> Draws:
    group = tree["posterior"].to_dataset()
    return {str(name): group[name].values.reshape(-1, *group[name].shape[2:]) for name in group.data_vars}


def family(name: str) -> Callable[[Trial], Outcome]:
    return lambda trial: trial.weighted(trial.guide if name == "full" else trial.fitted(name))


def amortised(name: str) -> Callable[[Trial], Outcome]:
    def call(trial: Trial) -> Outcome:
        model, data = trial.case.model, trial.case.data
        guide = physzoo.amortize(model, "mlp", name, example=data)
        given = {key: value for key, value in data.items() if key not in guide.sites.observed}
        source = physzoo.Simulator(128, given=given)
        physzoo.fit(model, guide, source, physzoo.ForwardKL(), steps=400, learning_rate=3e-3, **QUIET)
        return trial.weighted(guide)

    return call


def refined(trial: Trial) -> Outcome:
    """An untrained guide at the Gauss-Newton approximation of the posterior."""
    guide = physzoo.amortize(trial.case.model, "mlp", "full", example=trial.case.data, refine=2, simulations=512)
    return trial.weighted(guide)


def autoguide(trial: Trial) -> Outcome:
    model, data = trial.case.model, trial.case.data
    guide = AutoNormal(model)
    physzoo.fit(model, guide, data, steps=600, learning_rate=2e-2, **QUIET)
    return trial.weighted(guide)


def laplace(trial: Trial) -> Outcome:
    """At the mode the density is level, and its curvature is that by automatic differentiation."""
    latents = Latents.of(trial.case.model, trial.case.data)
    found = trial.laplace
    model, data, kind = trial.precisely
    with unregistered():
        height = lambda x: latents.log_density(model, x.to(kind), data).double()  # noqa: E731
        (slope,) = torch.autograd.grad(height(at := found.loc.clone().requires_grad_()), at)
        curvature = -torch.autograd.functional.hessian(height, found.loc)
    root = found.tril
    slope, shape = (root.T @ slope).norm().item(), root.T @ curvature @ root
    off = (shape - torch.eye(len(shape))).abs().max().item()
    return Outcome("right" if slope < 0.05 and off < 0.05 else "wrong", f"slope {slope:.1e}, curvature off {off:.1e}")


def hmc(trial: Trial) -> Outcome:
    start = trial.laplace
    options = {"chains": 20, "draws": 60, "warmup": 60, **QUIET}
    return trial.chains(physzoo.hmc(trial.case.model, trial.case.data, loc=start.loc, tril=start.tril, **options))


def nuts(trial: Trial) -> Outcome:
    return trial.chains(physzoo.nuts(trial.case.model, trial.case.data, chains=2, draws=200, warmup=150, **QUIET))


def pcn(trial: Trial) -> Outcome:
    return trial.chains(physzoo.pcn(trial.case.model, trial.case.data, chains=16, draws=200, warmup=600, **QUIET))


def smc(trial: Trial) -> Outcome:
    options = {"runs": 4, "particles": 300, "moves": 8, "final": 40, **QUIET}
    return trial.chains(physzoo.smc(trial.case.model, trial.case.data, **options))


def posterior(trial: Trial) -> Outcome:
    """The densities of the tree are those of its draws, evaluated one by one, and its likelihood sums to theirs."""
    tree, model, data = trial.tree, trial.case.model, trial.case.data
    latents = Latents.of(model, data)
    draws = {name: torch.as_tensor(value[:5]) for name, value in posterior_of(tree).items() if name in latents.shapes}
    log_p = tree["sample_stats/log_p"].values[0, :5]
    for row in range(5):
        x = latents.pack({name: value[row] for name, value in draws.items()})
        with unregistered():
            alone = float(latents.log_density(model, x, data) - latents.unpack(x)[1])
        if not np.isclose(alone, log_p[row], rtol=1e-3, atol=1e-3):
            return Outcome("wrong", f"log p {log_p[row]:.5g} in the tree, {alone:.5g} alone")
    missing = set(trial.exact) - set(posterior_of(tree))
    strange = set(tree["log_likelihood"].data_vars) - set(data)
    if missing or strange:
        return Outcome("wrong", f"missing {missing}, strange {strange}")
    return trial.weighted(trial.guide)


def compare(trial: Trial) -> Outcome:
    """Exact draws agree with others, and draws shrunk about their middle do not."""
    physzoo.compare(trial.tree, trial.exact, classify=False)
    other = trial.case.exact(4000, np.random.default_rng(7))  # type: ignore[misc]
    few = {name: value[:4000] for name, value in trial.exact.items()}
    same = physzoo.compare(other, few, classify=False)
    narrow = {name: np.median(value, 0) + 0.5 * (value - np.median(value, 0)) for name, value in other.items()}
    changed = physzoo.compare(narrow, few, classify=False)
    ratios = [value for value in changed.w1_sd.values() if np.isfinite(value)]
    good = max(same.w1_sd.values()) < 0.12 or max(same.w1_sd.values()) < 0.5 * max(ratios)
    return Outcome("right" if good and max(ratios) > max(same.w1_sd.values()) else "wrong", same.summary)


def calibrate(trial: Trial) -> Outcome:
    """A guide learnt from simulations; the same with half its spread is rejected."""
    model, data = trial.case.model, trial.case.data
    guide = physzoo.amortize(model, "mlp", "full", example=data)
    given = {key: value for key, value in data.items() if key not in guide.sites.observed}
    source = physzoo.Simulator(128, given=given)
    physzoo.fit(model, guide, source, physzoo.ForwardKL(), steps=300, learning_rate=3e-3, **QUIET)
    options = {"datasets": 200, "draws": 60, "given": given, **QUIET}
    narrow = physzoo.calibrate(model, guide, widen=0.4, **options)
    found = physzoo.calibrate(model, guide, **options)
    if narrow.passed or not narrow.rejected:
        return Outcome("wrong", f"spread x 0.4: {narrow.verdict}")
    return Outcome("right", found.verdict)


def loo(trial: Trial) -> Outcome:
    """The log predictive density of each entry left out, from weighted draws, against that of exact draws."""
    tree = physzoo.importance_resample(trial.tree, 2000)
    sites = list(tree["log_likelihood"].data_vars)
    found = sum(float(az.loo(tree, var_name=name).elpd) for name in sites)
    exact = _exact_loo(trial)
    close = abs(found - exact) < 0.3 + 0.05 * abs(exact)
    return Outcome("right" if close else "wrong", f"elpd {found:.3f}, exact {exact:.3f}")


def _exact_loo(trial: Trial) -> float:
    model, data, kind = trial.precisely
    latents = Latents.of(model, data)
    number = EXACT if max(value.numel() for value in data.values() if isinstance(value, torch.Tensor)) < 1e4 else 500
    values = {n: torch.as_tensor(trial.exact[n][:number]).to(kind) for n in latents.shapes}
    padded = latents.padded(values)

    def guide(**_: Any) -> None:
        for block in latents.blocks:
            pyro.sample(block.name, dist.Delta(padded[block.name], event_dim=len(block.shape) - len(block.batch)))

    with torch.no_grad(), unregistered():
        trace, _guide = paired_traces(model, guide, data, latents.nesting, number, None)
    total = 0.0
    for name in latents.observed:
        entries = pointwise(trace.nodes[name])
        log_prob = entries.log_prob.reshape(number, -1).double()
        seen = entries.seen.reshape(number, -1).any(0)
        total += float((-(torch.logsumexp(-log_prob, 0) - np.log(number)))[seen].sum())
    return total


def netcdf(trial: Trial) -> Outcome:
    tree = trial.tree
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "posterior.nc"
        tree.to_netcdf(path, engine="h5netcdf")
        with xr.open_datatree(path, engine="h5netcdf") as back:
            for group in tree.children:
                for name in tree[group].data_vars:
                    if not np.array_equal(tree[group][name].values, back[group][name].values, equal_nan=True):
                        return Outcome("wrong", f"{group}/{name} differs")
    return Outcome("right", f"{len(tree.children)} groups")


CALLS: dict[str, Callable[[Trial], Outcome]] = {
    **{f"amortize(None, {name})": family(name) for name in FAMILIES},
    "fit ELBO, AutoNormal": autoguide,
    "fit forward KL": amortised("full"),
    "fit forward KL, spline": amortised("spline"),
    "amortize(refine=2)": refined,
    "laplace": laplace,
    "hmc": hmc,
    "nuts": nuts,
    "pcn": pcn,
    "smc": smc,
    "posterior": posterior,
    "compare": compare,
    "calibrate": calibrate,
    "az.loo": loo,
    "netCDF": netcdf,
}


@contextmanager
def _heard(trial: Trial) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    trial.told += [str(w.message) for w in caught if any(word in str(w.message) for word in WARNINGS)]


def run(trial: Trial, call: str) -> Outcome:
    """Make a call of a case and say what came of it."""
    case = trial.case
    trial.told = []
    must_refuse = call in case.refused_by or (bool(case.refusal) and call not in case.served_by)
    try:
        with _heard(trial):
            outcome = CALLS[call](trial)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        sentence = isinstance(error, ValueError | TypeError | NonFiniteError) and "\n" not in text and len(text) < 400
        refused = sentence and ((must_refuse and case.refusal in text) or any(words in text for words in REFUSALS))
        return Outcome("refused" if refused else "wrong", " ".join(text.split())[:200])
    if must_refuse:
        return Outcome("wrong", f"not refused: {outcome.found}")
    if outcome.verdict == "wrong" and trial.told:
        return Outcome("warned", f"{outcome.found}; {trial.told[0][:120]}")
    return outcome
