"""What a training can do before and after its main fit: teach the guide by simulations, while the model stays as it is.

Both stages minimise the forward KL, -log q(z | x) at (z, x) drawn from the model, of a guide alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .data import Simulator
from .fit import Fit, fit
from .grey_box import DrawnCodesKL
from .objectives import ForwardKL, Objective
from .options import FitOptions


def physics_first(model: Any, guide: Any, stage: Mapping[str, Any], settings: FitOptions) -> Fit:
    """Fit the guide of the physics to simulations of the physics alone, before any data are seen.

    A learnt part that meets data before the physics can be inferred from them learns to paint what the physics would have
    explained, and need not give it back.

    Args:
        model: a grey-box model, with ``physics_alone``.
        guide: its guide, with ``physics``.
        stage: {"steps":, "learning_rate":, "batch_size":}.
        settings: of the main fit. This stage leaves no checkpoint: a fit that resumes from its own has it behind itself.
    """
    if settings.device is not None:
        model.to(settings.device)
    return guide_last(model.physics_alone, guide.physics, stage, replace(settings, checkpoint=None, resume=False))


def guide_last(
    model: Any,
    guide: Any,
    stage: Mapping[str, Any],
    settings: FitOptions,
    given: Mapping[str, Any] | None = None,
    around: Callable[[Objective], Objective] | None = None,
) -> Fit:
    """Fit the guide to simulations of the trained model, whose posterior it becomes.

    Args:
        model, guide: as the main fit left them.
        stage: {"steps":, "learning_rate":, "batch_size":}, and "drawn_codes": True for ``DrawnCodesKL``.
        settings: of the main fit, with a checkpoint of its own.
        given: what the model is given beside the observed sites, e.g. a mask.
        around: objective -> one that also counts or reports.
    """
    changes = {"steps": stage["steps"], "learning_rate": stage["learning_rate"], "held_out": None, "patience": None}
    source = Simulator(stage["batch_size"], given=given)
    objective: Objective = DrawnCodesKL() if stage.get("drawn_codes") else ForwardKL()
    return fit(model, guide, source, objective if around is None else around(objective), replace(settings, **changes))
