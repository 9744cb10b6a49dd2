"""A guide over a model's own latent sites, in their unconstrained space: q(z | y)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from math import prod
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from ..core.arguments import Data
from ..core.model_spec import UnconstrainedSites, Whitening
from ..core.require import named, shown, tensors, whole
from .encoders.base import Encoder
from .plates import padded, unsqueezed
from .refine.gauss_newton import GaussNewton, Refined, shifted


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
        check_whitening(whitening)
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
        self.diagonal = _is_diagonal(self.tril)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.diagonal = _is_diagonal(self.tril)

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
        plates: dict[str, Any] = {}  # one object a name: a plate announces itself when it is made
        for block in self.sites.blocks:
            log_density = -ladjs[block.name]
            if block is self.sites.blocks[0]:
                log_density = log_density - log_scale / prod(block.batch)
            value = values[block.name]
            with ExitStack() as stack:
                for name, size, dim in block.plates:
                    if name not in plates:
                        plates[name] = pyro.plate(name, None if size < 0 else size, dim=dim)
                    stack.enter_context(plates[name])
                room = nesting - len(block.batch)
                if room and value.ndim > len(block.shape):
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
        named("data", data)
        whole("draws", draws, self.sites.size + 2)
        if self._outer(data):
            raise ValueError(f"data: got {self._outer(data)} data sets, expected one")
        z = self._unwhiten(self.density(data).rsample(torch.Size((draws,)))).double()
        return Whitening(
            *(x.to(self.loc.dtype) for x in (z.mean(0), torch.linalg.cholesky(torch.atleast_2d(z.T.cov()))))
        )

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


def _is_diagonal(tril: Tensor) -> bool:
    return bool((tril.tril(-1) == 0).all())


def check_whitening(whitening: Any) -> None:
    """Refuse what is no whitening of tensors of numbers."""
    if not isinstance(whitening, Whitening):
        raise TypeError(f"whitening: got {shown(whitening)}, expected a Whitening")
    tensors("whitening", {"loc": whitening.loc, "tril": whitening.tril})
    for name, value in (("loc", whitening.loc), ("tril", whitening.tril)):
        if not value.is_floating_point():
            raise TypeError(f"whitening['{name}']: got {shown(value)}, expected floats")
