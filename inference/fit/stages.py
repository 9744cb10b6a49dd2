"""What a training can do before and after its main fit: teach the guide by simulations, while the model stays as it is.

Both stages minimise the forward KL, -log q(z | x) at (z, x) drawn from the model, of a guide alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...core.global_state import seeded
from ..density.densities import count
from ..evaluation.reconstruction import robust_noise
from ..objectives.grey_box import DrawnCodesKL
from ..objectives.standard import ForwardKL, Objective
from .driver import Fit, fit
from .options import FitOptions
from .sources import Simulator


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
        guide.to(settings.device)
    return guide_last(model.physics_alone, guide.physics, stage, replace(settings, checkpoint=None, resume=False))


def guide_last(
    model: Any,
    guide: Any,
    stage: Mapping[str, Any],
    settings: FitOptions,
    given: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    around: Callable[[Objective], Objective] | None = None,
) -> Fit:
    """Fit the guide to simulations of the trained model, whose posterior it becomes.

    Args:
        model, guide: as the main fit left them.
        stage: {"steps":, "learning_rate":, "batch_size":}; "drawn_codes": True for ``DrawnCodesKL``; "seen_codes": True to
            take the codes of half of the simulations from those that the guide draws for ``data``; "robust_noise": True to
            set the model's noise first, by ``robust_noise`` of ``data``.
        settings: of the main fit, with a checkpoint of its own.
        given: what the model is given beside the observed sites, e.g. a mask.
        data: the data sets of the main fit, (N, ...) each.
        around: objective -> one that also counts or reports.
    """
    if stage.get("robust_noise"):
        settle_noise(model, guide, data or {}, settings.seed)
    changes = {"steps": stage["steps"], "learning_rate": stage["learning_rate"], "held_out": None, "patience": None}
    seen = codes_of(guide, data or {}, settings.seed) if stage.get("seen_codes") else None
    source = Simulator(stage["batch_size"], given=given, seen=seen)
    objective: Objective = DrawnCodesKL() if stage.get("drawn_codes") else ForwardKL()
    return fit(model, guide, source, objective if around is None else around(objective), replace(settings, **changes))


@torch.no_grad()
def settle_noise(model: Any, guide: Any, data: Mapping[str, Any], seed: int) -> None:
    """Set the noise of a grey-box model that learnt it to what most of the data show (``robust_noise``).

    Raises:
        ValueError: no data, or a model whose noise is not learnt.
    """
    if getattr(model, "noise", None) != "learnt":
        raise ValueError(f"model: got noise {getattr(model, 'noise', None)!r}, expected one that is 'learnt'")
    if not data:
        raise ValueError("data: got none, expected the data sets that show the noise")
    model.log_scale.fill_(math.log(robust_noise(model, guide, data, seed=seed)))


@torch.no_grad()
def codes_of(guide: Any, data: Mapping[str, Any], seed: int, rows: int = 1024) -> dict[str, Tensor]:
    """Return one draw of the codes of each data set: site -> (N, *site shape).

    Args:
        guide: guide of a grey-box model, with ``codes``.
        data: (N, ...) each.
        seed: of the draws.
        rows: data sets at a time.

    Raises:
        ValueError: no data.
        TypeError: the guide has no codes.
    """
    if getattr(guide, "codes", None) is None:
        raise TypeError(f"guide: got {type(guide).__name__} without codes, expected the guide of a grey-box model")
    if not data:
        raise ValueError("data: got none, expected the data sets whose codes are wanted")
    with seeded(seed):
        parts = [
            guide.codes.sample({name: value[at : at + rows] for name, value in data.items()}, 1)
            for at in range(0, count(data), rows)
        ]
    return {name: torch.cat([part[name].squeeze(0) for part in parts]) for name in parts[0]}
