"""Synthetic disk galaxies, 32 x 32 pixels: reconstruction, and the disk's unknowns with their intervals, with all baselines.

    python benchmarks/galaxy.py [--seeds 11 12 13] [--ablate] [--only ROW ...] [--quick]

2,000 / 200 / 500 images of the generator (colour, centre, up to three neighbours, noise of sd .015: noise floor of the MAE
.0120). The angle's error and intervals are those on the circle of period pi. There are no published numbers to compare
with: the source shows pictures. Killed, it goes on where it was.
"""

from __future__ import annotations

import time
from typing import Any

from _grey_box import Row, ablations, arguments, closed_form, table
from torch import nn

from physzoo.inference.closed_forms import principal_components, training_mean
from physzoo.inference.reconstruction import evaluate
from physzoo.models.baselines import BlackBox
from physzoo.models.datasets import galaxy as data
from physzoo.models.datasets.splits import Split, Splits
from physzoo.models.galaxy import PERIOD, TRAINING, Galaxy, WithAngle

SIZES, SIZE = (2000, 200, 500), 32
UNKNOWNS = ("I0", "A", "e", "angle")
CODE = 16


def main() -> None:
    given = arguments("galaxy", __doc__)
    splits = data.generate(0, SIZES, SIZE)
    full = Row("grey box", Galaxy, {"size": SIZE, "code": CODE}, TRAINING)
    facts: dict[str, Any] = {"pixels": SIZE, "code": CODE, "noise_floor_mae": 0.0120}
    if given.ablate:
        table("galaxy_ablation", ablations(full), splits, given, extra=disks, **facts)
        return
    plain = full.trained(objective={})
    black = {"shape": (3, SIZE, SIZE), "code": CODE + 5, "hidden": (256, 512)}
    rows = [
        full,
        Row("code of length 2", Galaxy, {"size": SIZE, "code": 2}, TRAINING),
        Row("without regularisers", Galaxy, full.options, plain.training),
        Row("physics alone", Galaxy, {"size": SIZE, "code": 0}, plain.training),
        Row("network, no physics", BlackBox, black, plain.training),
    ]
    table("galaxy", rows, splits, given, extra=disks, closed=linear(splits), **facts)


def linear(splits: Splits) -> list[dict[str, Any]]:
    """The training mean, and PCA of the code's size and of the size with the unknowns of the disk."""
    train, test = splits.train.x, (splits.test or splits.valid).x
    lines, started = [], time.process_time()
    lines.append(closed_form("training mean", training_mean(train, test), time.process_time() - started))
    for code in (CODE, CODE + 5):
        started = time.process_time()
        found = principal_components(train, test, code)
        lines.append(closed_form(f"PCA {code}", found, time.process_time() - started))
    return lines


def disks(model: nn.Module, guide: Any, test: Split) -> dict[str, float]:
    """Errors and coverage of the disk's unknowns, the angle on its circle; none for a model without a disk."""
    if not isinstance(model, Galaxy):
        return {}
    truths = {name: test.truths[name] for name in UNKNOWNS}
    found = evaluate(model, WithAngle(guide), test.data, truths=truths, periods={"angle": PERIOD}, bound=0)
    return {name: value for name, value in found.flat().items() if name.startswith(UNKNOWNS)}


if __name__ == "__main__":
    main()
