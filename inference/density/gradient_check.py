"""Does the gradient of a likelihood reach the unknowns? A solver outside torch, or a ``.detach()``, cuts it off in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from pyro import poutine
from torch import Tensor

from ...core.arguments import Data
from ...core.global_state import seeded, unchecked, unregistered
from ...core.prototype import prototype
from ...core.sites import latent_sites
from ...core.traces import site_log_probs, total, trace_of

MOST = 8  # unknowns that are looked at
_checked: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@unregistered()
@unchecked()
def check_gradients(model: Callable[..., Any], data: Data) -> None:
    """Refuse a model of whose likelihood no gradient reaches an unknown that the likelihood depends on; once for each model.

    Raises:
        ValueError: it is such a model.
    """
    if _known(model):
        return
    try:
        first, second = (prototype(model, data, seed, subsampled=True) for seed in (0, 1))
        values, others = ({name: site["value"] for name, site in latent_sites(t).items()} for t in (first, second))
        for name in list(values)[:MOST]:
            if not values[name].is_floating_point() or others[name].shape != values[name].shape:
                continue
            at = {**values, name: values[name].clone().requires_grad_()}
            here, there = _likelihood(model, data, at), _likelihood(model, data, {**values, name: others[name]})
            if here is None or there is None or not bool(torch.isfinite(here) & torch.isfinite(there)):
                continue
            slope = torch.autograd.grad(here, at[name], allow_unused=True)[0] if here.requires_grad else None
            depends = abs(float(here.detach() - there.detach())) > 1e-6 * (1 + abs(float(there.detach())))
            if depends and (slope is None or not bool(slope.any())):
                raise ValueError(
                    f"model: got data that depend on '{name}' without a gradient that reaches it (a .detach(), or a solver outside "
                    "torch?), expected torch operations; smc, pcn and ForwardKL need no gradient"
                )
    except ArithmeticError:
        return  # a solver that fails for one of the draws
    _known(model, True)


def _known(model: Any, passed: bool = False) -> bool:
    """Whether a model has passed; what cannot be remembered is looked at each time."""
    try:
        if passed:
            _checked[model] = True
        return model in _checked
    except TypeError:
        return False


def _likelihood(model: Callable[..., Any], data: Data, values: dict[str, Tensor]) -> Tensor | None:
    with seeded(0), torch.enable_grad(), poutine.block(), poutine.condition(data=values):
        trace = trace_of(model, data)
    terms = {name: term.sum() for name, term in site_log_probs(trace, 0).items() if name not in values}
    return total(terms) if terms else None
