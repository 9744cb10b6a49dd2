"""Posterior draws of some simulated data sets with every density that calibration needs, as plain arrays."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from ...core.arguments import Data
from ...core.global_state import alone, seeded, unchecked, unregistered
from ...core.plates import plated
from ...core.require import shown
from ...core.traces import trace_of
from ..arrays import as_given
from ..density.densities import conditioned, count, draw, one, site_log_probs, total
from ..density.latents import Latents
from ..posterior import sample

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Failed:
    """A fit that raised, or whose draws are not finite."""

    reason: str
    error: Exception | None = None


@dataclass(frozen=True)
class Block:
    """Draws (L, B, ...) of B data sets beside the truth (B, ...); None where a density is not known."""

    draws: dict[str, np.ndarray]
    free: np.ndarray
    log_joint: np.ndarray
    log_likelihood: np.ndarray
    log_q: np.ndarray | None
    log_joint_truth: np.ndarray | None
    log_likelihood_truth: np.ndarray | None
    log_q_truth: np.ndarray | None

    @staticmethod
    def join(blocks: Sequence[Block]) -> Block:
        """Put blocks side by side along the data sets."""
        joined: dict[str, Any] = {}
        for field in fields(Block):
            parts = [getattr(block, field.name) for block in blocks]
            if field.name == "draws":
                joined["draws"] = {name: np.concatenate([part[name] for part in parts], 1) for name in parts[0]}
            elif any(part is None for part in parts):
                joined[field.name] = None
            else:
                joined[field.name] = np.concatenate(parts, 0 if field.name.endswith("_truth") else 1)
        return Block(**joined)


@unregistered()
def guide_log_prob(guide: Callable[..., Any], values: Values, data: Data, nesting: int = 0) -> Tensor | None:
    """Return log q(z | y) at given values of B data sets, (B,), or None where the guide cannot tell.

    The guide's own ``log_prob(values, data)`` is asked first; a guide that samples its sites directly,
    without auxiliary sites, is scored by conditioning it.
    """
    own = getattr(guide, "log_prob", None)
    if callable(own):
        try:
            with torch.no_grad():
                return own(values, data)  # type: ignore[return-value]
        except (ValueError, NotImplementedError):  # a family whose inverse is not known
            return None
    sets = count(data)
    with torch.no_grad():
        trace = trace_of(conditioned(plated(guide, nesting, None, sets), values, nesting), data)
    nodes: dict[str, Any] = dict(poutine.util.prune_subsample_sites(trace).nodes)
    sites = {name: site for name, site in nodes.items() if site["type"] == "sample"}
    if set(sites) != set(values) or any(type(site["fn"]).__name__ == "Delta" for site in sites.values()):
        return None
    return total(site_log_probs(trace, nesting)).expand(sets)


@dataclass(frozen=True)
class Scoring:
    """How draws are made and scored.

    Attributes:
        model: scores draws and truths: the guide's own model, or the simulator in its place.
        latents: its latent sites; further sites of the guide are ignored.
        draws: L.
        widen: factor of the negative control.
        chunk: at most this many (draw, data set) pairs are evaluated at once.
        own: whether ``model`` is the guide's own, so that log q belongs to the same unknowns.
    """

    model: Callable[..., Any]
    latents: Latents
    draws: int
    widen: float
    chunk: int
    own: bool


def amortised_block(scoring: Scoring, guide: Callable[..., Any], data: Data, truths: Values | None) -> Block:
    """Draw from an amortised guide for a batch of B data sets and score draws and truths."""
    latents, sets = scoring.latents, count(data)
    if not scoring.own:
        values = sample(guide, data, scoring.draws, datasets=sets, nesting=latents.nesting)
        return _judged(scoring, data, truths, latents.plain(_known(values, latents), 2))
    found = draw(scoring.model, guide, data, scoring.draws, datasets=True, chunk=scoring.chunk)
    log_likelihood = sum(found.log_likelihood.values(), start=torch.zeros_like(found.log_p))
    values = latents.plain(found.values, 2)
    return _block(scoring, guide, data, truths, values, found.log_p, log_likelihood, found.log_q)


def refitted_block(
    scoring: Scoring, fit: Callable[[Data], Any], data: Data, truths: Values | None, seed: int
) -> Block | Failed:
    """Fit one data set and score its draws: the task of an executor, so everything in it can be pickled.

    ``fit(data)`` returns a guide, or draws: a mapping site -> (S, *site shape) or an ArviZ DataTree. Threads of an executor take
    turns, so that they find what one process finds.
    """
    only = one(data)
    with alone(), seeded(seed):
        try:
            fitted = fit(only)
        except Exception as error:
            return _failure(error)
        if not callable(fitted):
            values = _thinned(fitted, scoring.latents, scoring.draws)
            if not all(bool(torch.isfinite(value).all()) for value in values.values()):
                return Failed("draws that are not finite")
            return _judged(scoring, data, truths, {name: value.unsqueeze(1) for name, value in values.items()})
        try:
            with unchecked():  # a fit that diverged draws NaN
                return _of_guide(scoring, fitted, data, truths)
        except (ValueError, FloatingPointError, ArithmeticError, RuntimeError) as error:
            return _failure(error)


def _failure(error: Exception) -> Failed:
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # of a class that an executor cannot send
        return Failed(text[:160])
    return Failed(text[:160], error)


def _of_guide(scoring: Scoring, fitted: Callable[..., Any], data: Data, truths: Values | None) -> Block | Failed:
    """Draw from the guide of one data set, and score its draws."""
    latents, draws, only = scoring.latents, scoring.draws, one(data)
    if not scoring.own:
        values = latents.plain(_known(sample(fitted, only, draws, nesting=latents.nesting), latents), 1)
        if not all(bool(torch.isfinite(value).all()) for value in values.values()):
            return Failed("draws that are not finite")
        return _judged(scoring, data, truths, {name: value.unsqueeze(1) for name, value in values.items()})
    found = draw(scoring.model, fitted, only, draws, chunk=scoring.chunk)
    if not all(bool(torch.isfinite(value).all()) for value in found.values.values()):
        return Failed("draws that are not finite")
    values = {name: value.unsqueeze(1) for name, value in latents.plain(found.values, 1).items()}
    likelihood = sum(found.log_likelihood.values(), start=torch.zeros_like(found.log_p)).unsqueeze(1)
    log_p, log_q = found.log_p.unsqueeze(1), found.log_q.unsqueeze(1)
    return _block(scoring, fitted, data, truths, values, log_p, likelihood, log_q)


def _judged(scoring: Scoring, data: Data, truths: Values | None, values: Values) -> Block:
    """Score draws whose log q is not known."""
    log_joint, likelihood = scoring.latents.terms(scoring.model, values, data, datasets=True)
    return _block(scoring, None, data, truths, values, log_joint, likelihood, None)


def _known(values: Values, latents: Latents) -> Values:
    missing = set(latents.shapes) - set(values)
    if missing:
        raise ValueError(f"guide: got draws of {sorted(values)}, expected also {sorted(missing)} of the simulator")
    return {name: values[name] for name in latents.shapes}


def _thinned(fitted: Any, latents: Latents, draws: int) -> Values:
    """Return ``draws`` evenly spaced draws of a chain or sample, site -> (draws, *site shape)."""
    group = fitted["posterior"].to_dataset() if hasattr(fitted, "children") else fitted
    if not isinstance(group, Mapping):
        raise TypeError(f"fit: got {shown(fitted)} back, expected a guide, a mapping of draws or a DataTree")
    result = {}
    for name, shape in latents.shapes.items():
        if name not in group:
            raise ValueError(f"fit: got draws of {sorted(map(str, group))}, expected also the latent site '{name}'")
        value = group[name]
        array = (
            value if isinstance(value, Tensor) else torch.as_tensor(as_given(f"fit: draws of '{name}'", value).copy())
        )
        if tuple(array.shape[array.ndim - len(shape) :]) != tuple(shape):
            raise ValueError(
                f"fit: got draws of '{name}' of shape {tuple(array.shape)}, expected (..., {shown(tuple(shape))})"
            )
        array = array.reshape(-1, *shape)
        if len(array) < draws:
            raise ValueError(f"fit: got {len(array)} draws of '{name}', expected at least {draws}")
        result[name] = array[torch.linspace(0, len(array) - 1, draws).round().long()]
    return result


def _block(
    scoring: Scoring,
    guide: Callable[..., Any] | None,
    data: Data,
    truths: Values | None,
    values: Values,
    log_joint: Tensor,
    log_likelihood: Tensor,
    log_q: Tensor | None,
) -> Block:
    model, latents, widen = scoring.model, scoring.latents, scoring.widen
    free = latents.pack(values)
    at_truth = None if guide is None or truths is None else _truth_log_q(guide, latents, truths, data, free, widen)
    if widen != 1.0:
        free, values, log_q = _stretched(latents, values, free, log_q, widen)
        log_joint, log_likelihood = latents.terms(model, values, data, datasets=True)
    truth_joint = truth_likelihood = None
    if truths is not None:
        single = {name: value.unsqueeze(0) for name, value in truths.items()}
        truth_joint, truth_likelihood = (_numpy(term[0]) for term in latents.terms(model, single, data, datasets=True))
    return Block(
        draws={name: _numpy(value.double()) for name, value in values.items()},
        free=_numpy(free.double()),
        log_joint=_numpy(log_joint),
        log_likelihood=_numpy(log_likelihood),
        log_q=None if log_q is None else _numpy(log_q),
        log_joint_truth=truth_joint,
        log_likelihood_truth=truth_likelihood,
        log_q_truth=None if at_truth is None else _numpy(at_truth),
    )


def _stretched(
    latents: Latents, values: Values, free: Tensor, log_q: Tensor | None, widen: float
) -> tuple[Tensor, Values, Tensor | None]:
    """Stretch draws about their mean in unconstrained space: x' = m + c (x - m), log q' = log q - d log c
    there."""
    mean = free.mean(0)
    stretched = mean + widen * (free - mean)
    moved, log_det = latents.unpack(stretched)
    if log_q is not None:
        log_q = log_q + latents.unpack(free)[1] - free.shape[-1] * float(np.log(widen)) - log_det
    return stretched, moved, log_q


def _truth_log_q(
    guide: Callable[..., Any], latents: Latents, truths: Values, data: Data, free: Tensor, widen: float
) -> Tensor | None:
    if widen == 1.0:
        return guide_log_prob(guide, truths, data, latents.nesting)
    x, mean = latents.pack(truths), free.mean(0)
    origin, log_det = latents.unpack(mean + (x - mean) / widen)
    found = guide_log_prob(guide, origin, data, latents.nesting)
    return None if found is None else found + log_det - x.shape[-1] * float(np.log(widen)) - latents.unpack(x)[1]


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
