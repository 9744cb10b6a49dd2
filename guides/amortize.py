"""Amortised guides for any Pyro model: q(z | y) over the model's own latent sites, in their unconstrained space."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from math import prod
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from .encoder import Encoder
from .encoders import ENCODERS
from .families import FAMILIES, Family
from .plates import padded, unsqueezed
from .refine import GaussNewton, Refined, shifted
from .require import named, seed_number, shown, tensors, whole
from .sites import Data, simulate
from .unconstrained import UnconstrainedSites, Whitening

FEATURE_SETS = 2048  # simulated data sets by which the features of a refinement are standardised


class AmortizedGuide(PyroModule):
    """q(z | y): encoder, conditional family, whitening, then each site's own support.

        c = encoder(y),  w ~ family(c),  u = loc + L w,  z_k = T_k(u_k)

    with T_k the bijection from R^n to the support of site k, and log q carrying every log determinant. Call it with the
    model's arguments, for one data set or for a batch inside a plate; it samples every latent site of the model. With
    ``refinement`` the family's draw is first put at the Gauss-Newton approximation of this data set's posterior.
    Build it with ``amortize``.
    """

    loc: Tensor
    tril: Tensor

    def __init__(
        self,
        sites: UnconstrainedSites,
        encoder: Encoder | None,
        family: nn.Module,
        example: Data,
        refinement: GaussNewton | None = None,
    ) -> None:
        super().__init__()
        self.sites = sites
        self.encoder = encoder
        self.family = family
        self.refinement = refinement
        self._ndim = {name: value.ndim for name, value in example.items() if isinstance(value, Tensor)}
        self.register_buffer("loc", torch.zeros(sites.size))
        self.register_buffer("tril", torch.eye(sites.size))
        self.diagonal = True
        self.auxiliary = "_latent"

    def whiten(self, whitening: Whitening) -> AmortizedGuide:
        """Set the affine map between whitened and unconstrained coordinates and return the guide.

        Raises:
            ValueError: the sizes do not fit the model, or the map is singular or not finite.
        """
        _check_whitening(whitening)
        size = self.sites.size
        if whitening.loc.shape != (size,) or whitening.tril.shape != (size, size):
            got = (tuple(whitening.loc.shape), tuple(whitening.tril.shape))
            raise ValueError(f"whitening: got shapes {got}, expected ({size},) and ({size}, {size})")
        if not (
            torch.isfinite(whitening.loc).all()
            and torch.isfinite(whitening.tril).all()
            and (whitening.tril.diagonal() > 0).all()
        ):
            raise ValueError(
                "whitening: got a map that is not finite or has a diagonal entry <= 0, expected a Cholesky factor"
            )
        self.loc.copy_(whitening.loc)
        self.tril.copy_(whitening.tril)
        self.diagonal = bool((whitening.tril.tril(-1) == 0).all())
        return self

    def refined(self, data: Data) -> Refined | None:
        """Return the Gauss-Newton approximations of the posteriors of data sets, which nothing learnt changes; or None."""
        if self.refinement is None:
            return None
        return self.refinement(self.inputs(data), data, self._ndim, self._unwhiten)

    def density(self, data: Data, refined: Refined | None = None) -> dist.TorchDistribution:
        """Return q(w | y) in whitened coordinates, batch shape that of the data sets.

        Args:
            data: the model's arguments.
            refined: what ``refined(data)`` returns, where it is known already.
        """
        context, refined = self.context(data, refined)
        return self.family(context) if refined is None else shifted(self.family(context), refined)

    def context(self, data: Data, refined: Refined | None = None) -> tuple[Tensor, Refined | None]:
        """Return what the family is conditioned on, (..., C), and the Gauss-Newton approximations around which it stands.

        Args:
            data: the model's arguments.
            refined: what ``refined(data)`` returns, where it is known already.
        """
        named("data", data)
        if self.encoder is None:
            context = self.loc.new_zeros((*self._outer(data), 0))
        else:
            context = self.encoder(**data).to(self.loc.dtype)
        if self.refinement is None:
            return context, None
        found: Refined = refined or self.refinement(self.inputs(data), data, self._ndim, self._unwhiten)
        return self.refinement.head(torch.cat([context, found.features], -1)), found

    def inputs(self, data: Data) -> Tensor:
        """Return what the encoder sees of the data, flat: values, normal scores and the mask, (..., inputs).

        Raises:
            ValueError: the guide has no encoder.
        """
        if self.encoder is None:
            raise ValueError("encoder: got None, expected one (the guide is of one data set)")
        values, mask = self.encoder.inputs(data)
        return (values if mask is None else torch.cat([values, mask], -1)).to(self.loc.dtype)

    def forward(self, **data: Any) -> dict[str, Tensor]:
        """Sample every latent site; return their values."""
        density, nesting = self.density(data), self.sites.nesting
        if density.batch_shape:
            density = unsqueezed(density, nesting)
        w = pyro.sample(self.auxiliary, density, infer={"is_auxiliary": True})
        if nesting and w.ndim > nesting:
            w = w.reshape(w.shape[: w.ndim - 1 - nesting] + w.shape[-1:])
        values, ladjs = self.sites.constrain(self._unwhiten(w))
        log_scale = self.tril.diagonal().log().sum()
        for block in self.sites.blocks:
            log_density = -ladjs[block.name]
            if block is self.sites.blocks[0]:
                log_density = log_density - log_scale / prod(block.batch)
            value = values[block.name]
            with ExitStack() as stack:
                for name, size, dim in block.plates:
                    stack.enter_context(pyro.plate(name, size, dim=dim))
                room = nesting - len(block.batch)
                if room and value.ndim - len(block.unconstrained) > 0:
                    value, log_density = padded(value, log_density, room, len(block.batch))
                event = value.ndim - log_density.ndim
                delta = dist.Delta(value, log_density, event_dim=event)  # type: ignore[arg-type]
                pyro.sample(block.name, delta)
        return values

    def log_prob(self, values: Mapping[str, Tensor], data: Data, refined: Refined | None = None) -> Tensor:
        """Evaluate log q(z | y) at given constrained values.

        Args:
            values: latent site -> (..., *site shape), outer shape that of the data sets (or broadcasting with it).
            data: the model's arguments.
            refined: what ``refined(data)`` returns, where it is known already.

        Raises:
            ValueError: a site is missing.
        """
        w, ladj = self.whitened(values)
        return self.density(data, refined).log_prob(w) - ladj

    def whitened(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return w = L^-1 (T^-1(z) - loc), (..., D), at given constrained values, and log|det dz/dw|, (...).

        Args:
            values: latent site -> (..., *site shape).

        Raises:
            ValueError: a site is missing.
        """
        flat, ladj = self.sites.flatten(values)
        flat = flat.to(self.loc.dtype)
        if self.diagonal:
            w = (flat - self.loc) / self.tril.diagonal()
        else:
            w = torch.linalg.solve_triangular(self.tril, (flat - self.loc).unsqueeze(-1), upper=False).squeeze(-1)
        return w, self.tril.diagonal().log().sum() + ladj.to(self.loc.dtype)

    @torch.no_grad()
    def sample(self, data: Data, draws: int) -> dict[str, Tensor]:
        """Draw from q(z | y) without a trace or a model: site -> (draws, [B,] *site shape)."""
        whole("draws", draws, 1)
        w = self.density(data).rsample(torch.Size((draws,)))
        return self.sites.constrain(self._unwhiten(w))[0]

    @torch.no_grad()
    def whitening(self, data: Data, draws: int = 2000) -> Whitening:
        """Return mean and Cholesky factor of the covariance of q(z | y) for one data set, in unconstrained coordinates.

        With it a guide of that data set alone starts where this one ends:
        ``amortize(model, None, family, example=data, whitening=guide.whitening(data))``.

        Args:
            data: the model's arguments, one data set.
            draws: from which both are estimated; more than there are unknowns.

        Raises:
            ValueError: several data sets, or too few draws.
        """
        whole("draws", draws, self.sites.size + 2)
        if self._outer(data):
            raise ValueError(f"data: got {self._outer(data)} data sets, expected one")
        z = self._unwhiten(self.density(data).rsample(torch.Size((draws,)))).double()
        return Whitening(*(x.to(self.loc.dtype) for x in (z.mean(0), torch.linalg.cholesky(z.T.cov()))))

    def _unwhiten(self, w: Tensor) -> Tensor:
        if self.diagonal:
            return self.loc + self.tril.diagonal() * w
        return self.loc + w @ self.tril.mT

    def _outer(self, data: Data) -> tuple[int, ...]:
        for name, ndim in self._ndim.items():
            value = data.get(name)
            if isinstance(value, Tensor):
                return tuple(value.shape[: value.ndim - ndim])
        return ()


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
        whitening: fixed affine map in unconstrained space, e.g. from ``physzoo.inference.laplace``.
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
    from .sites import seeded

    whole("simulations", simulations, 0)
    whole("refine", refine, 0)
    seed_number(seed)
    if refine and (encoder is None or whitening is not None):
        got = "encoder None" if encoder is None else "a whitening of one data set"
        raise ValueError(f"refine: got {refine} with {got}, expected an amortised guide that starts at its prior")
    if whitening is not None:
        _check_whitening(whitening)
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
            raise ValueError(f"encoder: got '{encoder}', expected one of {', '.join(ENCODERS)}")
        return ENCODERS[encoder](example)
    raise TypeError(f"encoder: got {type(encoder).__name__}, expected a name, an Encoder or None")


def _family(family: Any) -> Any:
    if isinstance(family, str):
        if family not in FAMILIES:
            raise ValueError(f"family: got '{family}', expected one of {', '.join(FAMILIES)}")
        return FAMILIES[family]
    if not callable(family):
        raise TypeError(
            f"family: got {type(family).__name__}, expected a name or a callable (features, context) -> module"
        )
    return family


def _check_whitening(whitening: Any) -> None:
    if not isinstance(whitening, Whitening):
        raise TypeError(f"whitening: got {shown(whitening)}, expected a Whitening")
    tensors("whitening", {"loc": whitening.loc, "tril": whitening.tril})


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
        flat = flat[torch.isfinite(flat).all(-1)].to(guide.loc.dtype)
        if len(flat) > 1:
            guide.whiten(Whitening(flat.mean(0), torch.diag(flat.std(0).clamp_min(1e-8))))
    if guide.refinement is not None:
        shared = {n: v.expand(simulations, *v.shape) if isinstance(v, Tensor) else v for n, v in given.items()}
        whitened = (guide.sites.flatten(draws)[0].to(guide.loc.dtype) - guide.loc) / guide.tril.diagonal()
        inputs = guide.inputs({**shared, **draws})
        guide.refinement.regress(inputs, whitened)
        few = {n: v[:FEATURE_SETS] if isinstance(v, Tensor) else v for n, v in {**shared, **draws}.items()}
        few = {name: value for name, value in few.items() if name in guide._ndim}
        guide.refinement.standardise(
            guide.refinement(inputs[:FEATURE_SETS], few, guide._ndim, guide._unwhiten).features.flatten(0, -2)
        )


def _repeat(value: Any) -> Any:
    return value.unsqueeze(0) if isinstance(value, Tensor) else value
