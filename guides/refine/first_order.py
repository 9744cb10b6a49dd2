"""A model's likelihood to first order in its unknowns, for many data sets at once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ...core.arguments import Data
from ...core.global_state import unchecked, unregistered
from ...core.traces import samples, trace_of


@dataclass(frozen=True)
class Linearised:
    """The observed sites around a point w: what a Gauss-Newton step needs.

        log p(y | w + d) = -cost + r'J d - |J d|^2 / 2 + ...,   J'J the expected Fisher information

    Attributes:
        jacobian: J, (B, n, D); zero where the model has no finite value or derivative.
        residual: r, (B, n), in units of the noise; zero there, too.
        cost: -log p(y | w) up to a constant of the data, (B,); infinite there.
    """

    jacobian: Tensor
    residual: Tensor
    cost: Tensor

    def rows(self, index: Tensor | slice) -> Linearised:
        """Return the data sets with these numbers."""
        return Linearised(self.jacobian[index], self.residual[index], self.cost[index])


def linearise(model: Callable[..., Any], values: Callable[[Tensor], Data], w: Tensor, data: Data) -> Linearised:
    """Run the model once for all data sets, with one forward-mode tangent for each unknown.

    Sites may be Normal, MultivariateNormal or StudentT, also through a fixed bijection (LogNormal), masked or scaled; the
    sum of all factors enters the cost alone.

    Args:
        model: a Pyro model of one data set.
        values: w of shape (B, D) -> the latent sites' values as the model takes them.
        w: where, (B, D).
        data: the model's arguments, B data sets.

    Raises:
        ValueError: an observed site of another kind, or an operation without forward-mode derivative.
    """
    wanted = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)

    def run(at: Tensor) -> tuple[Any, Any]:
        latents = dict(values(at))
        trace = trace_of(poutine.condition(model, data=latents), data)
        sites = {n: s for n, s in samples(trace) if n not in latents}
        found = {n: _read(n, s) for n, s in sites.items() if s["is_observed"]}
        return {n: pair[0] for n, pair in found.items()}, {n: pair[1] for n, pair in found.items()}

    def along(direction: Tensor) -> tuple[Any, Any, Any]:
        return torch.func.jvp(run, (w,), (direction,), has_aux=True)  # type: ignore[return-value]

    with torch.no_grad(), poutine.block(), unregistered(), _OwnParameters(), unchecked(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a rejected solve is nothing to tell of: the data set keeps its prior
        try:
            mapped = torch.func.vmap(along, out_dims=(None, 0, None), randomness="same")  # type: ignore[arg-type]
            at, slopes, fixed = mapped(wanted.unsqueeze(1).expand(-1, *w.shape))
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            raise  # a matter of this point, not of the model
        except (NotImplementedError, RuntimeError) as error:
            raise ValueError(
                "refine: got a model that forward-mode differentiation cannot follow "
                f"({str(error).strip().splitlines()[0][:220]}), expected plain torch operations (or refine=0)"
            ) from error
        parts = [_site(at[name], slopes[name], fixed[name], w, len(wanted)) for name in at]
    cost = torch.stack([part.cost for part in parts]).sum(0)
    jacobian = torch.cat([part.jacobian for part in parts], 1)
    residual = torch.cat([part.residual for part in parts], -1)
    usable = torch.isfinite(cost) & torch.isfinite(residual).all(-1) & torch.isfinite(jacobian).flatten(1).all(-1)
    return Linearised(
        torch.where(usable[:, None, None], jacobian, 0.0),
        torch.where(usable[:, None], residual, 0.0),
        torch.where(usable, cost, math.inf),
    )


class _OwnParameters(Messenger):
    """A module's parameters as they are: entered in Pyro's store they would be changed, which no transform allows."""

    def _pyro_param(self, msg: Any) -> None:
        own = msg["args"][1] if len(msg["args"]) > 1 else None
        if isinstance(own, torch.nn.Parameter) and msg["args"][0] not in pyro.get_param_store():
            msg["value"], msg["done"] = own, True


def _read(name: str, site: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what of a site depends on the unknowns, and what is fixed: its value, the weight of each entry."""
    value: Any = site["value"]
    masks, event = [], 0
    fn: Any = site["fn"]
    if type(fn).__name__ == "Unit":
        return {}, {"log_factor": fn.log_factor.detach()}
    while True:
        if hasattr(fn, "reinterpreted_batch_ndims"):
            event += fn.reinterpreted_batch_ndims
        elif isinstance(fn, dist.MaskedDistribution):
            masks.append((fn._mask, event))
        elif isinstance(fn, torch.distributions.TransformedDistribution):
            for transform in reversed(fn.transforms):
                value = transform.inv(value)
        else:
            break
        fn = fn.base_dist
    kind = type(fn)
    if not issubclass(kind, dist.Normal | dist.StudentT | dist.MultivariateNormal):
        raise ValueError(
            f"refine: got observed site '{name}' of {kind.__name__}, expected Normal, LogNormal, StudentT or "
            "MultivariateNormal (or refine=0)"
        )
    matrix = issubclass(kind, dist.MultivariateNormal)
    if hasattr(fn, "seen"):  # an entry that is not seen stands at its mean, zero, whatever its value
        value = torch.where(fn.seen, value, 0.0)
    fixed: dict[str, Tensor] = {"value": value.detach()}
    weight = None if site["scale"] in (None, 1.0) else torch.as_tensor(site["scale"])
    for mask, outside in [*masks, (site["mask"], 0)]:
        if mask is not None and mask is not True:
            mask = torch.as_tensor(mask)
            entries = mask.reshape(mask.shape + (1,) * (event + matrix - outside)).to(value.dtype)
            weight = entries if weight is None else weight * entries
    if weight is not None:
        fixed["weight"] = weight.detach()
    if matrix:
        return {"loc": fn.loc}, {**fixed, "tril": fn.scale_tril.detach()}
    if issubclass(kind, dist.StudentT):
        fixed["df"] = fn.df.detach()
    return {"loc": fn.loc, "scale": fn.scale}, fixed


def _site(
    at: dict[str, Tensor], slope: dict[str, Tensor], fixed: dict[str, Tensor], w: Tensor, count: int
) -> Linearised:
    """Whiten one site: residuals and slopes in units of the noise, terms of location and of scale."""
    if "log_factor" in fixed:
        nothing = w.new_zeros(len(w), 0)
        return Linearised(nothing.unsqueeze(-1).expand(-1, -1, count), nothing, -_rows(fixed["log_factor"], w))
    error = fixed["value"] - at["loc"]
    if "tril" in fixed:
        tril = fixed["tril"]
        r, moved = (
            torch.linalg.solve_triangular(tril, x.unsqueeze(-1), upper=False).squeeze(-1) for x in (error, slope["loc"])
        )
        return _weighted([(moved, r)], 0.5 * r.square() + tril.diagonal(dim1=-2, dim2=-1).log(), fixed, w)
    scale = at["scale"]
    t, moved, spread = error / scale, slope["loc"] / scale, slope["scale"] / scale
    if "df" in fixed:
        df = fixed["df"]
        place, share = ((df + 1) / (df + 3)).sqrt(), (2 * df / (df + 3)).sqrt()
        score = (df + 1) * t / (df + t.square())
        cost = 0.5 * (df + 1) * torch.log1p(t.square() / df) + scale.log()
        terms = [(moved * place, score / place), (spread * share, (score * t - 1) / share)]
    else:
        cost = 0.5 * t.square() + scale.log()
        terms = [(moved, t), (2**0.5 * spread, (t.square() - 1) / 2**0.5)]
    if not spread.any():
        terms = terms[:1]
    return _weighted(terms, cost, fixed, w)


def _weighted(terms: list[tuple[Tensor, Tensor]], cost: Tensor, fixed: dict[str, Tensor], w: Tensor) -> Linearised:
    weight = fixed.get("weight")
    if weight is not None:  # what is masked may be NaN
        cost = torch.where(weight > 0, weight * cost, 0.0)
        root = weight.sqrt()
        terms = [(torch.where(root > 0, root * j, 0.0), torch.where(root > 0, root * r, 0.0)) for j, r in terms]
    shape = torch.broadcast_shapes(cost.shape, (len(w), *(1,) * (cost.ndim - 1)))
    jacobian = [j.expand(len(j), *shape).reshape(len(j), len(w), -1).permute(1, 2, 0) for j, _ in terms]
    residual = [r.expand(shape).reshape(len(w), -1) for _, r in terms]
    total = cost.expand(shape).reshape(len(w), -1).sum(-1)
    return Linearised(torch.cat(jacobian, 1).to(w.dtype), torch.cat(residual, -1).to(w.dtype), total.to(w.dtype))


def _rows(x: Tensor, w: Tensor) -> Tensor:
    """Sum a factor of shape (), (B,) or (B, *plates) over its plates."""
    x = x.to(w.dtype).reshape(x.shape or (1,))
    return x.expand(len(w), *x.shape[1:]).reshape(len(w), -1).sum(-1)
