"""Synthetic disk galaxies, 32 x 32 pixels: reconstruction, and the disk's unknowns with their intervals, with all baselines.

    python benchmarks/galaxy.py [--seeds 11 12 13] [--ablate] [--only ROW ...] [--quick]

2,000 / 200 / 500 images of the generator (colour, centre, up to three neighbours, noise of sd .015: noise floor of the MAE
.0120); the 2,000 are trained on in all their eight symmetric positions. PCA has as many components as 21, or as the grey box
has numbers in its code. The grey box is trained from every seed, each baseline from the first. The angle's error and
intervals are those on the circle of period pi. 500 images say a coverage of 98 % to .6 points; "many" is the coverage of 2,000
more, of another seed. There are no published numbers to compare with: the source shows pictures.
Killed, it goes on where it was.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from _grey_box import Row, ablations, arguments, linear, table
from torch import nn

from physzoo.inference.evaluation import evaluate
from physzoo.models.baselines import BlackBox
from physzoo.models.datasets.galaxy import RANGES, generate
from physzoo.models.datasets.splits import Split
from physzoo.models.galaxy import TRAINING, Galaxy, WithAngle
from physzoo.models.galaxy_data import DATA, PERIOD, turned_split
from physzoo.models.image_networks import ImageEncoder

SIZE = 32
CODE, BLACK_CODE = 6, 21
BASELINES = 1  # trainings of each baseline
MANY, MANY_SEED = 2000, 9001
LENGTH = CODE * (SIZE // 4) ** 2


def main() -> None:
    given = arguments("galaxy", __doc__)
    plain_splits = DATA.splits(0)
    splits = replace(plain_splits, train=turned_split(plain_splits.train))
    full = Row("grey box", Galaxy, {"size": SIZE, "code": CODE}, TRAINING)
    facts: dict[str, Any] = {"pixels": SIZE, "code": LENGTH, "noise_floor_mae": 0.0120}
    if given.ablate:
        table("galaxy_ablation", ablations(full), splits, given, extra=disks, **facts)
        return
    plain = full.trained(objective={}, start=None, finish=None)
    black = {"shape": (3, SIZE, SIZE), "code": BLACK_CODE, "hidden": (256, 512)}
    rows = [
        full,
        Row("without regularisers", Galaxy, full.options, plain.training, most=BASELINES),
        Row("physics alone", Galaxy, {"size": SIZE, "code": 0}, plain.training, most=BASELINES),
        Row(
            "network, no physics",
            BlackBox,
            black,
            plain.trained(guide={"encoder": ImageEncoder}).training,
            most=BASELINES,
        ),
    ]
    table("galaxy", rows, splits, given, extra=disks, closed=linear(plain_splits, (BLACK_CODE, LENGTH)), **facts)


def disks(model: nn.Module, guide: Any, test: Split) -> dict[str, float]:
    """Error and coverage of the position angle, on its circle, and coverage on more images; none for a model without a disk."""
    if not isinstance(model, Galaxy):
        return {}
    many: Any = generate(MANY_SEED, (1, 1, MANY), SIZE).test
    found, more = judged(model, guide, test, ("angle",)), judged(model, guide, many, tuple(RANGES))
    own = {name: value for name, value in found.items() if name.startswith("angle")}
    return {**own, **{f"many_{name}": more[name] for name in (f"{site}_covered_95" for site in RANGES)}}


def judged(model: Galaxy, guide: Any, split: Split, sites: tuple[str, ...]) -> dict[str, float]:
    """Return errors and coverage of some unknowns of the disk, the angle among them."""
    truths = {site: split.truths[site] for site in sites}
    how: dict[str, Any] = {"periods": {"angle": PERIOD}, "draws": 1, "intervals": 200, "bound": 0}
    return evaluate(model, WithAngle(guide), split.data, truths=truths, **how).flat()


if __name__ == "__main__":
    main()
