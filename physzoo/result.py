"""What a run found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .inference.calibration.verdict import Calibration
from .inference.compare import Comparison
from .inference.evaluation.reconstruction import Evaluation
from .inference.fit.options import Fit
from .inference.references.result import Reference
from .task import Task

if TYPE_CHECKING:
    from xarray import DataTree


@dataclass(frozen=True)
class Result:
    """What a run found; parts of steps that were not run are ``None``."""

    task: Task
    fit: Fit
    posterior: DataTree
    reference: Reference | None
    nuts: Reference | None
    comparison: Comparison | None
    calibration: Calibration | None
    seconds: dict[str, float]
    evaluation: Evaluation | None = None
    corrected: Comparison | None = None  # the comparison once more, with importance weights where they are usable
