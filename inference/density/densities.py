"""Draws from a guide with the densities log p(z, y) and log q(z | y) of each: what every check and objective needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.condition_messenger import ConditionMessenger
from torch import Tensor

from ...core.arguments import Data, rows_of
from ...core.global_state import alone, seeded, unregistered
from ...core.plates import plain, plate_nesting, plated
from ...core.prototype import prototype
from ...core.require import shown, whole
from ...core.sites import latent_sites
from ...core.traces import nodes, samples, site_log_probs, total, trace_of

TRIES = 100  # draws of a guide's site, to see whether its support is the model's


@dataclass(frozen=True)
class Draws:
    """Draws from a guide: leading shape (S,) for one data set, (S, B) for B data sets.

    Attributes:
        values: latent site -> constrained values, (S, [B,] *site shape).
        log_p: joint log density log p(z, y) of each draw, (S, [B]).
        log_q: guide log density log q(z | y) of each draw, (S, [B]).
        log_likelihood: observed site -> log p(y | z) of each draw, (S, [B]).
        predictive: observed site -> replicated data, (S, [B,] *site shape); empty unless asked for; NaN where a
            draw has no solution.
    """

    values: dict[str, Tensor]
    log_p: Tensor
    log_q: Tensor
    log_likelihood: dict[str, Tensor]
    predictive: dict[str, Tensor] = field(default_factory=dict)


def one(data: Data) -> dict[str, Any]:
    """Return the first data set of a batch of data sets (every tensor has the data-set dimension first)."""
    return rows_of(data, 0)


def count(data: Data) -> int:
    """Return the number of data sets in a batch.

    Raises:
        ValueError: the tensors disagree, or there is none.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"data: got {shown(data)}, expected a mapping from the model's arguments to tensors")
    sizes = {name: len(value) if value.ndim else 0 for name, value in data.items() if isinstance(value, Tensor)}
    if not sizes or len(set(sizes.values())) > 1 or 0 in sizes.values():
        raise ValueError(
            f"data: got leading dimensions {shown(sizes)}, expected the same positive number of data sets in each tensor"
        )
    return next(iter(sizes.values()))


def check_guide(trace: poutine.Trace, sites: Mapping[str, Mapping[str, Any]], points: bool = False) -> None:
    """Refuse a guide that does not draw the latent sites of a model as the model has them.

    Args:
        trace: of the guide, on the arguments of one data set.
        sites: the model's latent sites, name to site of a trace.
        points: whether the guide may be a point estimate, as AutoDelta.

    Raises:
        ValueError: a site is missing, one of the guide's own, has another shape, or is drawn outside its support, as no number
            or as a point.
    """
    drawn = dict(samples(trace))
    if not points and drawn and all(type(site["fn"]).__name__ == "Delta" for site in drawn.values()):
        raise ValueError(
            "guide: got one that draws points alone (Delta sites), expected a distribution; a mode with its curvature is what "
            "laplace finds"
        )
    missing = [name for name in sites if name not in drawn]
    if missing:
        raise ValueError(
            f"guide: got a guide without the latent sites {', '.join(missing)}, expected every latent site of the model"
        )
    own_sites = [
        n for n, s in drawn.items() if n not in sites and not s["infer"].get("is_auxiliary") and not s["is_observed"]
    ]
    if own_sites:
        raise ValueError(
            f"guide: got site '{own_sites[0]}', which the model has not, expected the model's sites (a site that helps to draw "
            "these takes infer={'is_auxiliary': True})"
        )
    for name, site in sites.items():
        own = drawn[name]
        got, expected = tuple(own["value"].shape), tuple(site["value"].shape)
        if got != expected:
            raise ValueError(f"guide: got site '{name}' of shape {got}, expected {expected} as in the model")
        lost = own["value"][~torch.isfinite(own["value"])]
        if len(lost):
            raise ValueError(
                f"guide: got {float(lost[0])} in site '{name}', expected finite numbers: are its parameters "
                "finite, and the data that its encoder sees (a mask hides gaps from it)?"
            )
        if not own["fn"].support.is_discrete and type(own["fn"]).__name__ != "Delta":
            with seeded(0), torch.no_grad():
                inside = site["fn"].support.check(own["fn"].sample(torch.Size((TRIES,))))
            if not bool(inside.all()):
                raise ValueError(
                    f"guide: draws site '{name}' outside the model's support {site['fn'].support}, expected a distribution on it"
                )


class _At(ConditionMessenger):
    """Conditions sites on values with ``outer`` leading dimensions; a site outside the model's plates gets ones for them."""

    def __init__(self, values: Mapping[str, Tensor], nesting: int, outer: int) -> None:
        super().__init__(dict(values))
        self.values, self.nesting, self.outer = dict(values), nesting, outer

    def _pyro_sample(self, msg: Any) -> None:
        value = self.values.get(msg["name"])
        if value is not None:
            own = value.ndim - self.outer - msg["fn"].event_dim
            shape = value.shape
            self.data = {
                msg["name"]: value.reshape(shape[: self.outer] + (1,) * (self.nesting - own) + shape[self.outer :])
            }
        super()._pyro_sample(msg)


def conditioned(
    fn: Callable[..., Any], values: Mapping[str, Tensor], nesting: int, outer: int = 1
) -> Callable[..., Any]:
    """Return a model or guide whose sites have the given values; outer plates may stand inside or around it.

    Args:
        values: site -> values (..., *own shape).
        nesting: plates of the model's own, further left than which the outer ones are.
        outer: leading dimensions of the values.
    """

    def known(*args: Any, **data: Any) -> Any:
        with _At(values, nesting, outer):
            return fn(*args, **data)

    return known


def data_log_probs(trace: poutine.Trace, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return log p(y | z) of every site of data among ``site_log_probs``; factors weigh the unknowns and are no data.

    ``physzoo.observe`` masks a draw without a solution and says -inf in the factor ``f"{name}_rejected"``: it counts here.
    """
    found = nodes(trace)
    return {
        name: term + terms[f"{name}_rejected"] if f"{name}_rejected" in terms else term
        for name, term in terms.items()
        if found[name]["is_observed"] and type(found[name]["fn"]).__name__ != "Unit"
    }


def replicated(trace: poutine.Trace, name: str, terms: Mapping[str, Tensor]) -> Tensor:
    """Return y_rep ~ p(y | z) of a site of data; NaN where z has no solution, as ``physzoo.observe`` simulates it."""
    value = nodes(trace)[name]["fn"]().detach()
    rejected = terms.get(f"{name}_rejected")
    if rejected is None:
        return value
    nowhere = torch.isneginf(rejected)
    return value.masked_fill(nowhere.reshape(nowhere.shape + (1,) * (value.ndim - nowhere.ndim)), torch.nan)


def proper(log_density: Tensor) -> Tensor:
    """Put -inf where a log density is NaN or +inf: nothing is to be drawn there."""
    return log_density.masked_fill(~(log_density < torch.inf), -torch.inf)


def paired_traces(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Data,
    nesting: int,
    particles: int | None,
    datasets: int | None,
) -> tuple[poutine.Trace, poutine.Trace]:
    """Trace the guide, then the model replayed on the guide's values, inside the outer plates; differentiable."""
    guide_trace = trace_of(plated(guide, nesting, particles, datasets), data)
    replayed = poutine.replay(plated(model, nesting, particles, datasets), trace=guide_trace)
    model_trace = trace_of(replayed, data)
    return model_trace, guide_trace


@alone()
@unregistered()
def draw(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Data,
    samples: int,
    *,
    datasets: bool = False,
    predictive: bool = False,
    chunk: int = 32768,
    seed: int | None = None,
) -> Draws:
    """Draw z_s ~ q(z | y) and evaluate log p(z_s, y) and log q(z_s | y).

    Args:
        model: a Pyro model of one data set.
        guide: a guide of it; any Pyro guide, amortised or not.
        data: the model's arguments; with ``datasets`` every tensor has the data-set dimension first.
        samples: number of draws S per data set.
        datasets: whether ``data`` is a batch of B data sets.
        predictive: whether to replicate the data, y_rep ~ p(y | z_s).
        chunk: at most this many (draw, data set) pairs are evaluated at once.
        seed: seed; ``None`` goes on with torch's generator.

    Raises:
        ValueError: ``samples`` is not positive, or the batch is malformed.
    """
    whole("samples", samples, 1)
    whole("chunk", chunk, 1)
    sets = count(data) if datasets else None
    single = one(data) if datasets else data
    trace = prototype(model, single)
    sites, nesting = latent_sites(trace), plate_nesting(trace)
    names = list(sites)
    check_guide(prototype(guide, single, argument="guide"), sites)
    per_chunk = max(1, chunk // (sets or 1))
    parts = []
    with seeded(seed), torch.no_grad():
        for start in range(0, samples, per_chunk):
            size = min(per_chunk, samples - start)
            parts.append(_draw_chunk(model, guide, data, names, nesting, size, sets, predictive))
    return Draws(
        values={name: torch.cat([part.values[name] for part in parts]) for name in parts[0].values},
        log_p=torch.cat([part.log_p for part in parts]),
        log_q=torch.cat([part.log_q for part in parts]),
        log_likelihood={k: torch.cat([part.log_likelihood[k] for part in parts]) for k in parts[0].log_likelihood},
        predictive={k: torch.cat([part.predictive[k] for part in parts]) for k in parts[0].predictive},
    )


def _draw_chunk(
    model: Any, guide: Any, data: Data, names: list[str], nesting: int, size: int, sets: int | None, predictive: bool
) -> Draws:
    shape = (size,) if sets is None else (size, sets)
    model_trace, guide_trace = paired_traces(model, guide, data, nesting, size, sets)
    model_terms, guide_terms = site_log_probs(model_trace, nesting), site_log_probs(guide_trace, nesting)
    observed = data_log_probs(model_trace, model_terms)
    return Draws(
        values={n: plain(nodes(model_trace)[n], shape) for n in names},
        log_p=total(model_terms).expand(shape),
        log_q=total(guide_terms).expand(shape),
        log_likelihood={n: term.expand(shape) for n, term in observed.items()},
        predictive={n: replicated(model_trace, n, model_terms) for n in observed} if predictive else {},
    )


@unregistered()
def log_joint(
    model: Callable[..., Any],
    values: Mapping[str, Tensor],
    data: Data,
    *,
    datasets: bool = False,
    nesting: int | None = None,
) -> Tensor:
    """Evaluate log p(z, y) at given latent values; differentiable in them.

    Args:
        model: a Pyro model of one data set.
        values: latent site -> (S, [B,] *site shape) constrained values.
        data: the model's arguments; with ``datasets`` every tensor has the data-set dimension first.
        datasets: whether ``data`` is a batch.
        nesting: the model's own plate depth where it is known already.

    Returns:
        log p(z, y), shape (S, [B]).
    """
    sets = count(data) if datasets else None
    if nesting is None:
        nesting = plate_nesting(prototype(model, one(data) if datasets else data))
    samples = len(next(iter(values.values())))
    conditioned = poutine.condition(plated(model, nesting, samples, sets), data=dict(values))
    trace = trace_of(conditioned, data)
    return total(site_log_probs(trace, nesting)).expand((samples,) if sets is None else (samples, sets))
