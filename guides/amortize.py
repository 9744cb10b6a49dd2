"""Amortised guides for any Pyro model, built from an encoder and a family by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.arguments import Data, repeated, rows_of
from ..core.global_state import alone, seeded
from ..core.model_spec import UnconstrainedSites, Whitening
from ..core.require import named, seed_number, shown, whole
from ..core.simulate import simulate
from ..core.spread import spread
from .amortized_guide import AmortizedGuide, check_whitening
from .encoders.base import Encoder
from .encoders.networks import ENCODERS
from .families.densities import FAMILIES, Family
from .refine.gauss_newton import GaussNewton

FEATURE_SETS = 2048  # simulated data sets by which the features of a refinement are standardised


@alone()
def amortize(
    model: Callable[..., Any],
    encoder: str | Encoder | type[Encoder] | None,
    family: str | Family = "spline",
    *,
    example: Data,
    whitening: Whitening | None = None,
    simulations: int = 2048,
    seed: int = 0,
    refine: int = 0,
    **options: Any,
) -> AmortizedGuide:
    """Build q(z | y) for any Pyro model from its own latent sites.

    The guide starts at the prior's moments in unconstrained space (from ``simulations`` draws of the prior predictive),
    or at ``whitening`` where one is given. For one data set pass ``encoder=None``.

    Args:
        model: a Pyro model of one data set, called with the names in ``example``; an observed site has the name of the
            argument that it conditions on.
        encoder: "mlp", "convolution", "attention", "set", an ``Encoder`` (class or instance), or ``None``.
        family: "diagonal", "low_rank", "full", "planar", "coupling", "iaf", "spline", or a callable (features, context) -> module
            that maps a context (..., C) to a Pyro distribution over R^features.
        example: the arguments of one data set (observed values, masks, covariates).
        whitening: fixed affine map in unconstrained space, e.g. from ``physzoo.laplace``.
        simulations: prior-predictive draws for the standardisation; 0 leaves values as they are.
        seed: seed of these draws and of the networks' initial weights; torch's generator is put back.
        refine: 0 for a network alone; K >= 1 for Gauss-Newton steps through the model (``GaussNewton``): K evaluations of
            the model and its Jacobian for each data set, and the family learns what they leave. Worth it where the
            posterior is much narrower than the prior; 2 is a good number. The guide then holds on to the model.
        **options: passed to the family ("transforms=6", "tail=10.0", "rank=3", ...).

    Returns:
        A guide with the signature of the model; also ``log_prob(values, data)`` and ``sample(data, draws)``.

    Raises:
        ValueError: an unknown encoder or family; a model without latent sites, or with discrete ones; ``refine`` for one data
            set, or for a likelihood that cannot be linearised.
        TypeError: an encoder or family of another type.

    Example:
        >>> guide = amortize(model, "mlp", "spline", example={"y": y})  # doctest: +SKIP
    """
    whole("simulations", simulations, 0)
    whole("refine", refine, 0, 1000)
    seed_number(seed)
    if refine and (encoder is None or whitening is not None):
        got = "encoder None" if encoder is None else "a whitening of one data set"
        raise ValueError(f"refine: got {refine} with {got}, expected an amortised guide that starts at its prior")
    if whitening is not None:
        check_whitening(whitening)
    named("example", example)
    build = _family(family)
    _check_options(family, build, options)
    sites = UnconstrainedSites(model, example)
    with seeded(seed):
        net = _encoder(encoder, example)
        density = build(sites.size, 0 if net is None else net.width, **options)
        refinement = None if not refine or net is None else GaussNewton(model, sites, net, example, refine)
    guide = AmortizedGuide(sites, net, density, example, refinement)
    dtype = next(
        (value.dtype for value in example.values() if isinstance(value, Tensor) and value.is_floating_point()), None
    )
    if dtype is not None:
        guide.to(dtype)
    if (whitening is None and simulations) or (net is not None and simulations):
        _standardise(guide, model, example, simulations, seed, whitening)
    if whitening is not None:
        guide.whiten(whitening)
    return guide


def _encoder(encoder: Any, example: Data) -> Encoder | None:
    if encoder is None or isinstance(encoder, Encoder):
        return encoder
    if isinstance(encoder, type) and issubclass(encoder, Encoder):
        return encoder(example)
    if isinstance(encoder, str):
        if encoder not in ENCODERS:
            raise ValueError(f"encoder: got {shown(encoder)}, expected one of {', '.join(ENCODERS)}")
        return ENCODERS[encoder](example)
    raise TypeError(f"encoder: got {type(encoder).__name__}, expected a name, an Encoder or None")


def _family(family: Any) -> Any:
    if isinstance(family, str):
        if family not in FAMILIES:
            raise ValueError(f"family: got {shown(family)}, expected one of {', '.join(FAMILIES)}")
        return FAMILIES[family]
    if not callable(family):
        raise TypeError(
            f"family: got {type(family).__name__}, expected a name or a callable (features, context) -> module"
        )
    return family


def _check_options(family: Any, build: Any, options: Mapping[str, Any]) -> None:
    """Refuse options that a family built by name does not know."""
    if not isinstance(family, str):
        return
    known = [name for name in inspect.signature(build).parameters if name not in ("features", "context")]
    for name in options:
        if name not in known:
            raise TypeError(
                f"{name}: got an option that family '{family}' does not know, expected {' or '.join(known) or 'none'}"
            )


@torch.no_grad()
def _standardise(
    guide: AmortizedGuide,
    model: Callable[..., Any],
    example: Data,
    simulations: int,
    seed: int,
    whitening: Whitening | None,
) -> None:
    given = {name: value for name, value in example.items() if name not in guide.sites.observed}
    given.pop("mask", None)
    draws = simulate(model, simulations, given, seed=seed, nesting=guide.sites.nesting)
    if guide.encoder is not None:
        guide.encoder.standardise({name: draws.get(name, _repeat(given.get(name))) for name in guide.encoder.names})
    if whitening is None:
        flat, _ = guide.sites.flatten(draws)
        flat = flat[torch.isfinite(flat).all(-1)]
        if len(flat) > 1:
            loc, scale = spread(flat)
            guide.whiten(Whitening(loc, torch.diag(scale)))
    if guide.refinement is not None:
        shared = repeated(given, simulations)
        whitened = (guide.sites.flatten(draws)[0].to(guide.loc.dtype) - guide.loc) / guide.tril.diagonal()
        inputs = guide.inputs({**shared, **draws})
        guide.refinement.regress(inputs, whitened)
        known = {name: value for name, value in {**shared, **draws}.items() if name in example}
        few = rows_of(known, slice(FEATURE_SETS))
        guide.refinement.standardise(
            guide.refinement(inputs[:FEATURE_SETS], few, guide._ndim, guide._unwhiten).features.flatten(0, -2)
        )


def _repeat(value: Any) -> Any:
    return value.unsqueeze(0) if isinstance(value, Tensor) else value
