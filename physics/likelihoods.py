"""The two likelihoods of physics-informed models: data seen through noise, and residuals seen as zero."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import ExpTransform

from ..core.require import one_of, shown
from .likelihood_checks import FAMILIES, _check, _check_error
from .model_error import ModelError, SeenMultivariateNormal
from .problem import Problem, Unknowns


class SolverWarning(RuntimeWarning):
    """Some samples had no solution and were given log-density -inf."""


def observe(
    name: str,
    mean: Tensor,
    noise: float | Tensor,
    obs: Tensor | None = None,
    mask: Tensor | None = None,
    family: str = "normal",
    df: float | Tensor | None = None,
    event_dim: int = 1,
    error: ModelError | None = None,
) -> Tensor:
    """Observe data through noise: the likelihood p(y | mean, noise) as one Pyro site.

        normal      y = mean + noise e,             e ~ N(0, 1)
        lognormal   log y = log(mean) + noise e,    e ~ N(0, 1)
        student_t   y = mean + noise e,             e ~ t_df

    A masked-out entry contributes exactly zero to the density and to its gradient, whatever obs holds there
    (NaN included). A sample whose mean is not finite (a rejected solve; for lognormal also a mean that is not
    positive) gets log-density -inf from the factor ``f"{name}_rejected"`` and no gradient; without obs its
    simulated data are NaN. Batch neighbours are untouched.

    With ``error``, what is known of the error of the mean itself (a surrogate's, say), the normal family becomes

        y = mean + m_e + e,    e ~ N(0, noise^2 I + C_e).

    Args:
        name: the site.
        mean: what the sensors read without noise, shape (..., *event); for lognormal the median.
        noise: scale, a positive number or a tensor (fixed, learnt or sampled) that broadcasts against mean: a
            sampled scalar enters as ``noise[..., None]``, with as many ``None`` as there are event dimensions (without
            them, as many samples as sensors cannot be told from one noise a sensor). In units of the data; for lognormal
            relative.
        obs: the data, shape (..., *event); None simulates them.
        mask: boolean, True where observed; broadcasts against obs.
        family: "normal", "lognormal" or "student_t".
        df: degrees of freedom of student_t.
        event_dim: number of trailing dimensions that one data set has.
        error: m_e and C_e, e.g. from ``error_covariance``; for the normal family with one event dimension.

    Returns:
        The data, given or simulated, shape (..., *event).

    Raises:
        ValueError, TypeError: an argument does not fit; the message names the site. What takes a pass over
            the data (their positivity, their finiteness, the sign of a noise tensor) is checked while Pyro's
            validation is on.
    """
    _check(name, mean, noise, obs, mask, family, df, event_dim)
    if error is not None:
        _check_error(name, mean, error, family, event_dim)
    rejected = _rejected(mean, family, event_dim)
    simulated_nowhere = rejected is not None and obs is None
    if rejected is not None:
        warnings.warn(f"site '{name}': samples without a solution got log-density -inf", SolverWarning, stacklevel=2)
        inside = ~rejected[(...,) + (None,) * event_dim]
        mean = torch.where(inside, mean, math.nan if simulated_nowhere else 1.0)
        mask = inside if mask is None else inside & mask
    if obs is not None and mask is not None:
        # 1 is inside every family's support; a NaN would survive in the gradient of the masked branch.
        obs = torch.where(mask, obs, 1.0)
    validate = False if simulated_nowhere else None
    if error is not None:
        likelihood: Any = _correlated(mean, noise, error, mask, validate)
    else:
        likelihood = _distribution(mean, noise, family, df, validate)
        likelihood = (likelihood if mask is None else likelihood.mask(mask)).to_event(event_dim)
    try:
        value = pyro.sample(name, likelihood, obs=obs)
    except RuntimeError as failure:
        if "ultiple sample sites named" not in str(failure) and "already in the trace" not in str(failure):
            raise
        raise ValueError(f"name: got {name!r}, which another site of the model has, expected a new name") from None
    if rejected is not None:
        weight = torch.zeros(rejected.shape, dtype=mean.dtype, device=mean.device)
        pyro.factor(f"{name}_rejected", weight.masked_fill(rejected, -math.inf))
    return value


def virtual_observables(
    name: str,
    problem: Problem,
    u: Tensor,
    z: Unknowns,
    scale: float | Tensor,
    corrected: bool = True,
    event_dim: int | None = None,
) -> Tensor:
    """Observe the residual as zero: 0 ~ N(r(u, z), scale^2); nothing is solved here, but a guide of u may solve.

    Integrating u out of N(0; r(u, z), scale^2) p(y | u) as scale -> 0 leaves p(y | z) / |det dr/du|, not p(y
    | z): the virtual observable rewards parameters to which the residual is insensitive (a small stiffness),
    and with few sensors the mass runs away. The correction adds the factor

        f"{name}_logdet" = log|det dr/du|,

    after which the marginal posterior of z is the forward model's up to O(scale^2), where the prior of u is flat near
    the solutions u = F(z); any other leaves a factor p_u(F(z)). Use ``corrected=False`` only to show the difference, or
    where z is not inferred and r is affine in u: there the factor is a constant.

    Args:
        name: the site of the residual.
        problem: supplies ``residual(u, z)`` and ``logdet(u, z)``.
        u: state, shape (..., *state).
        z: unknowns.
        scale: s_r > 0, in units of the residual (for a weak form: of the nodal load f h).
        corrected: whether to add the determinant.
        event_dim: trailing dimensions of one residual; by default ``problem.state_event_dim``, or 1 without
            it.

    Returns:
        The residual r(u, z), shape (..., *state).

    Raises:
        ValueError, TypeError: as ``observe``.

    Source: Glyn-Davies et al., arXiv:2409.06560, section 4 (virtual observables); the determinant is
        physzoo's.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"name: got {shown(name)}, expected the name of a site")
    if not all(callable(getattr(problem, method, None)) for method in ("residual", "logdet")):
        raise TypeError(f"site '{name}': problem: got {shown(problem)}, expected a Problem with residual and logdet")
    one_of(f"site '{name}': corrected", corrected, (True, False))
    if event_dim is None:
        event_dim = int(getattr(problem, "state_event_dim", 1))
    r = problem.residual(u, z)
    observe(name, r, scale, obs=torch.zeros_like(r), event_dim=event_dim)
    if corrected:
        pyro.factor(f"{name}_logdet", problem.logdet(u, z))
    return r


def _normal(mean: Tensor, noise: float | Tensor, df: float | Tensor | None, validate: bool | None):
    return dist.Normal(mean, noise, validate_args=validate)


def _lognormal(mean: Tensor, noise: float | Tensor, df: float | Tensor | None, validate: bool | None):
    # not dist.LogNormal: it checks its normal base whatever validate_args says
    base = dist.Normal(mean.log(), noise, validate_args=validate)
    return dist.TransformedDistribution(base, [ExpTransform()], validate_args=validate)


def _student_t(mean: Tensor, noise: float | Tensor, df: float | Tensor | None, validate: bool | None):
    return dist.StudentT(df, mean, noise, validate_args=validate)


_FAMILIES: dict[str, Callable[..., TorchDistribution]] = dict(
    zip(FAMILIES, (_normal, _lognormal, _student_t), strict=True)
)


def _distribution(
    mean: Tensor, noise: float | Tensor, family: str, df: float | Tensor | None, validate: bool | None
) -> TorchDistribution:
    return _FAMILIES[family](mean, noise, df, validate)


def _correlated(mean: Tensor, noise: float | Tensor, error: ModelError, mask: Tensor | None, validate: bool | None):
    variance = torch.as_tensor(noise, dtype=mean.dtype, device=mean.device).square()
    # no batch where the noise has none: one factorisation serves all samples
    variance = variance.expand(torch.broadcast_shapes(variance.shape, mean.shape[-1:]))
    covariance = error.covariance + torch.diag_embed(variance)
    loc = mean + error.mean
    if mask is None:
        return dist.MultivariateNormal(loc, covariance_matrix=covariance, validate_args=validate)
    return SeenMultivariateNormal(loc, covariance, mask, validate_args=validate)


def _rejected(mean: Tensor, family: str, event_dim: int) -> Tensor | None:
    """Which samples have no usable mean, shape (...); None where all have one."""
    mean = mean.detach()
    # One reduction settles the usual case; a sum that overflows only costs the second look.
    if math.isfinite(mean.sum()) and (family != "lognormal" or bool(mean.amin() > 0)):
        return None
    usable = torch.isfinite(mean)
    if family == "lognormal":
        usable = usable & (mean > 0)
    if bool(usable.all()):
        return None
    return ~(usable.flatten(-event_dim).all(-1) if event_dim else usable)
