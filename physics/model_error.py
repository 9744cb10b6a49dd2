"""The error of a model at its sensors, and the likelihood that carries it."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor, nn

from ..core.require import floats, shown
from .problem import Unknowns
from .surrogate.problem import Surrogate


class ModelError(nn.Module):
    """What the sensors of the exact model read beyond those of the model in use: e ~ N(mean, covariance).

        y = H u + e + noise     so     y ~ N(H u + mean, s_y^2 I + covariance)

    ``observe(..., error=...)`` is that likelihood.

    Args:
        mean: shape (n_y,).
        covariance: shape (n_y, n_y), symmetric, positive semidefinite.

    Raises:
        ValueError, TypeError: shapes that do not fit, or a matrix that is no covariance.

    Source: enhanced error model: Kaipio, Somersalo, J. Comput. Appl. Math. 198 (2007) 493.
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        super().__init__()
        sensors = floats("mean", mean, None).shape[-1]
        floats("covariance", covariance, sensors, sensors)
        if mean.dim() != 1 or covariance.dim() != 2:
            got = tuple(mean.shape), tuple(covariance.shape)
            raise ValueError(f"mean, covariance: got shapes {got}, expected (n,) and (n, n)")
        if not bool(torch.isfinite(mean).all() and torch.isfinite(covariance).all()):
            raise ValueError("mean, covariance: got an entry that is not finite, expected finite numbers")
        spread = covariance.diagonal().clamp_min(0.0).sqrt()
        spread = torch.where(spread > 0, spread, 1.0)  # sensors may have different units
        correlation = covariance / spread[:, None] / spread
        symmetric = torch.allclose(correlation, correlation.T, rtol=1e-4, atol=1e-6)
        if not symmetric or bool(torch.linalg.eigvalsh(correlation)[0] < -1e-5):
            raise ValueError(f"covariance: got {shown(covariance)}, expected a symmetric positive semidefinite matrix")
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("covariance", covariance.detach().clone())


def error_covariance(surrogate: Surrogate, z: Unknowns, u: Tensor | None = None) -> ModelError:
    """Return mean and covariance of a surrogate's error at the sensors, H F(z) - H u_net(z), over held-out unknowns.

    Args:
        surrogate: a trained one.
        z: unknowns that it was not trained on, leading dimension N.
        u: their solves; None makes them.

    Raises:
        ValueError: no more draws than sensors, which leaves the covariance singular; or one without a finite solve.
    """
    if not isinstance(surrogate, Surrogate):
        raise TypeError(f"surrogate: got {shown(surrogate)}, expected a Surrogate")
    with torch.no_grad():
        solved = surrogate.solve(z)
        exact = surrogate.problem.solve(z) if u is None else floats("u", u)
        if exact.shape != solved.shape:
            raise ValueError(
                f"u: got shape {tuple(exact.shape)}, expected {tuple(solved.shape)}, one state for each draw"
            )
        error = (surrogate.observe(exact) - surrogate.observe(solved)).flatten(1)
    if len(error) <= error.shape[1]:
        raise ValueError(f"z: got {len(error)} draws, expected more than the {error.shape[1]} sensors")
    lost = int((~torch.isfinite(error).all(-1)).sum())
    if lost:
        raise ValueError(f"z: got {lost} of {len(error)} draws without a finite solve, expected none; leave them out")
    return ModelError(error.mean(0), error.T.cov().reshape(error.shape[1], -1))


class SeenMultivariateNormal(MultivariateNormal):
    """A multivariate normal of which some entries are not seen: they are drawn, and count for nothing in the density.

    ``loc`` and ``scale_tril`` are those of the density: an unseen entry is an independent one of mean zero and variance
    1 / (2 pi), whose log density at its mean is zero. Draws come from ``full``.

    Args:
        loc: shape (..., n).
        covariance: shape (..., n, n).
        seen: boolean, True where observed, shape (..., n).
    """

    def __init__(self, loc: Tensor, covariance: Tensor, seen: Tensor, validate_args: bool | None = None) -> None:
        seen = seen.expand(torch.broadcast_shapes(seen.shape, loc.shape))
        both = seen[..., :, None] & seen[..., None, :]
        alone = torch.diag_embed((~seen).to(loc) / (2 * math.pi))
        reduced = torch.where(both, covariance, 0.0) + alone
        super().__init__(torch.where(seen, loc, 0.0), covariance_matrix=reduced, validate_args=validate_args)
        self.seen = seen
        self.full = MultivariateNormal(loc, covariance_matrix=covariance, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Return the distribution with another batch shape."""
        new = self.__new__(type(self))
        new.seen, new.full = self.seen, self.full.expand(batch_shape)
        return super().expand(batch_shape, new)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Return draws of all entries."""
        return self.full.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of the seen entries, shape (...)."""
        return super().log_prob(torch.where(self.seen, value, self.loc))
