"""Are the steps of a fixed-step solver short enough? Some samples again, with steps half as long."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from . import fixed_step
from .equation import RightHandSide, velocity
from .failures import Named, StepSizeWarning, halved_steps
from .unknowns import flattened

DOUBLED = 8  # samples that are solved again with steps half as long
TOO_FAR = 0.1  # off, relative to the largest magnitude that a component has had so far
TOO_LARGE = 2.0  # times the largest magnitude: steps too long for the equation to stay bounded


def check_steps(
    rhs: RightHandSide,
    event_dims: Mapping[str, int],
    unknowns: Mapping[str, Tensor],
    path: Tensor,
    batch: torch.Size,
    knots: Tensor,
    how: tuple[str, int, bool],
) -> None:
    """Warn where steps half as long give another trajectory, in the median of some samples.

    Args:
        rhs: the equation.
        event_dims: number of own dimensions of each unknown that is not a scalar.
        unknowns: of the batch shape.
        path: what was found, (*batch, T, k).
        batch: the batch shape.
        knots: the start and the times.
        how: method, substeps, and whether the user chose these.
    """
    method, substeps, given = how
    rows = torch.linspace(0, max(batch.numel() - 1, 0), min(batch.numel(), DOUBLED), device=path.device).long()
    part = Named({name: flattened(event_dims, value, name, batch)[rows] for name, value in unknowns.items()})
    try:
        fine = fixed_step.integrate(velocity(rhs, part), part["initial_state"], knots, method, 2 * substeps)
    except (RuntimeError, IndexError, ValueError):  # an equation for batches of other shapes alone
        return
    fine = fine.movedim(0, -2)[..., -path.shape[-2] :, :]
    off, growth = halved_steps(path.reshape(-1, *path.shape[-2:])[rows], fine)
    if growth > TOO_LARGE or (off > TOO_FAR and not given):
        warnings.warn(
            f"ODEProblem: {method} with substeps={substeps} is off by at least {off:.0%} of the state (steps half "
            "as long show it), expected less: give more substeps=, or method='dopri5'",
            StepSizeWarning,
            stacklevel=5,
        )
