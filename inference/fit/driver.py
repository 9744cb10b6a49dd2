"""The driver: one training loop for every model, guide and objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyro.infer
from torch import nn

from ...core.global_state import alone, seeded
from ...core.require import function, shown
from ..density.shares import told_once
from ..objectives.standard import ELBO, Objective
from ..objectives.stock import from_pyro
from .loop import CheckpointWarning as CheckpointWarning
from .loop import DivergedWarning as DivergedWarning
from .loop import Fit, Loop
from .options import FitOptions
from .parameters import Parameters
from .sources import Source


@alone()
def fit(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Source,
    objective: Objective | pyro.infer.ELBO | None = None,
    options: FitOptions | None = None,
    **changes: Any,
) -> Fit:
    """Train model and guide together by stochastic gradients.

    Parameters of modules stay in the modules. Those that a function keeps by ``pyro.param`` live in Pyro's global store, as
    under ``SVI``: training starts from what the store holds of them and leaves the trained ones there. Interrupted at any
    moment, a fit with a checkpoint resumes to bit-equal parameters.

    A draw that the physics rejects (``on_failure="reject"``) has no weight in the loss, and a step without any other draw is
    skipped. Fits in several threads take turns.

    Args:
        model: a Pyro model of one data set.
        guide: a guide of it: from ``amortize``, one of Pyro's autoguides, or your own.
        data: the arguments of one data set; ``DataSets`` for many; a ``Simulator`` for fresh pairs at each step.
        objective: ``ELBO()`` by default; one of ``physzoo.inference.objectives``, ``.divergences``, ``.grey_box`` or
            ``.distil``, or one of Pyro's with a ``differentiable_loss``. ``TraceEnum_ELBO`` sums over discrete latent sites
            that the model marks by ``config_enumerate``; the guide leaves them out.
        options: settings; ``changes`` replaces single ones, e.g. ``fit(..., steps=500)``.

    Returns:
        The record of the fit.

    Raises:
        NonFiniteError: the loss or a gradient is not finite; the message names site and sample, and the last good
            state is in the modules and in the checkpoint.
        RejectedError: the physics rejects more than a half of the draws; a NonFiniteError.
        ValueError: an unusable model, guide, option or checkpoint.
        TypeError: an argument of another kind, or an unknown option.
    """
    options = _options(options, changes)
    objective = ELBO() if objective is None else from_pyro(objective)
    for name, value in (("model", model), ("guide", guide), ("objective", objective)):
        function(name, value)
    modules = {name: part for name, part in (("model", model), ("guide", guide)) if isinstance(part, nn.Module)}
    with told_once(), Parameters(modules, options.device) as parameters, seeded(options.seed):
        return Loop(model, guide, data, objective, options, parameters).run()


def _options(options: FitOptions | None, changes: dict[str, Any]) -> FitOptions:
    unknown = sorted(set(changes) - set(FitOptions.__dataclass_fields__))
    if unknown:
        raise TypeError(
            f"fit: got unknown options {', '.join(unknown)}, expected some of {', '.join(FitOptions.__dataclass_fields__)}"
        )
    options = FitOptions() if options is None else options
    if not isinstance(options, FitOptions):
        raise TypeError(f"options: got {shown(options)}, expected FitOptions")
    return replace(options, **changes)
