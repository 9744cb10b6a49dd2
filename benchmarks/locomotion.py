"""Measured strides of walking: the Hamiltonian grey box and the attentive planar flow against PCA and published numbers.

    python benchmarks/locomotion.py --source FOLDER [--seeds 11 12 13] [--only ROW ...] [--steps N] [--split valid|test|folds]

FOLDER holds train.npz and valid.npz (400 and 100 strides; and test.npz where there is one); without it synthetic strides
serve, and nothing is stored. "folds" is what settings were chosen by: five-fold cross-validation inside the training
strides. Angles in rad; a sum of squares is over the 303 angles of one stride; "physics_share" is 1 - (sum of squares of the
physics alone) / (that of the training mean). Every row is trained on strides made from the training strides alone
(models/stride_augmentation.py).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _grey_box import closed_form, summary
from _store import store, table_text
from torch import Tensor

from physzoo.inference.evaluation import evaluate, principal_components, training_mean
from physzoo.inference.fit import DataSets, FitOptions, fit, guide_last
from physzoo.inference.objectives import ELBO, GreyBoxELBO
from physzoo.models import locomotion, locomotion_attentive_flow
from physzoo.models.baselines import BlackBox, black_box_guide
from physzoo.models.datasets import gait_files
from physzoo.models.datasets import locomotion as synthetic
from physzoo.models.locomotion import Locomotion
from physzoo.models.locomotion_attentive_flow import ABLATION, AttentiveFlowLocomotion, guide_options
from physzoo.models.locomotion_guide import locomotion_guide
from physzoo.models.pca import PCA, SEEN, LinearCode, LinearPlusNetwork, SkipEncoder, start_at
from physzoo.models.stride_augmentation import augmented

CODE = 21
SOURCE = (
    "Takeishi & Kalousis, arXiv:2102.13156 and Akhtar, arXiv:2404.12267: measured on the authors' code after default trainings "
    "by third parties (grey box: best validation, 31 CPU minutes; planar flow: 57 epochs); .1567 is the second paper's own headline"
)
PUBLISHED: dict[str, dict[str, float]] = {
    "training mean": {"sum_of_squares": 3.859, "mae": 0.0875},
    "PCA 15": {"sum_of_squares": 0.1004, "mae": 0.0136},
    "PCA 18": {"sum_of_squares": 0.0679, "mae": 0.0111},
    "PCA 21": {"sum_of_squares": 0.0477, "mae": 0.0093},
    "network, no physics": {"sum_of_squares": 0.100},
    "network started at PCA, no physics": {"sum_of_squares": 0.037, "mae": 0.0082},
    "grey box": {"sum_of_squares": 0.076},
    "attentive flow, both": {"sum_of_squares": 0.1567},
    "attentive flow, flow": {"sum_of_squares": 0.300, "mae": 0.0238},
}


@dataclass(frozen=True)
class Line:
    """One row: builds (model, guide, objective) from training strides and a seed; how it is trained; of the ablation."""

    name: str
    kind: str
    training: Mapping[str, Any] = field(default_factory=dict)
    member: str = ""


def lines() -> list[Line]:
    """Every trained row."""
    ours, flow = locomotion.TRAINING, locomotion_attentive_flow.TRAINING
    first = {**ours, "finish": None}
    rows = [
        Line("grey box", "grey", ours),
        Line("grey box, without the last stage", "grey", first),
        Line("grey box, no regulariser", "grey", {**first, "objective": {}}),
        Line("network started at PCA, no physics", "pca", first),
        Line("network, no physics", "network", first),
        Line("attentive flow", "flow", flow),
    ]
    return rows + [Line(f"attentive flow, {member}", "flow", {**flow, "finish": None}, member) for member in ABLATION]


def build(line: Line, x: Tensor, seed: int) -> tuple[Any, Any, Any]:
    """Return model, guide and objective at their start."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return _build(line, x, seed)


def _build(line: Line, x: Tensor, seed: int) -> tuple[Any, Any, Any]:
    if line.kind in ("grey", "flow"):
        model = Locomotion() if line.kind == "grey" else AttentiveFlowLocomotion()
        options = line.training["guide"]
        if line.member:
            options = {**guide_options(line.member), "physics_steps": options["physics_steps"]}
        guide = locomotion_guide(model, {"x": x[0]}, data=x, seed=seed, **options)
        return model, guide, GreyBoxELBO(**line.training["objective"])
    started = line.kind == "pca"
    network = LinearPlusNetwork if started else None
    model = BlackBox(x.shape[1:], CODE, network=network)
    if not started:
        return model, black_box_guide(model, {"x": x[0]}, data=x, seed=seed), ELBO()
    found = PCA.fit(x, CODE)
    effect = found.sd[:, None] * found.axes
    code = LinearCode(found.axes / found.sd[:, None], -(found.axes @ found.mean) / found.sd, 0.013 / found.sd)
    network_of: Any = model.net
    network_of.set(found.mean, effect, torch.zeros(CODE), effect)
    with torch.no_grad():
        model.log_scale.fill_(math.log(0.013))
    encoder = SkipEncoder({"x": x[0]}, code, PCA.fit(x, min(SEEN, len(x) - 1)))
    guide = black_box_guide(model, {"x": x[0]}, data=x, seed=seed, encoder=encoder)
    start_at(guide, code)
    return model, guide, ELBO()


def train(
    line: Line, x: Tensor, seed: int, steps: int | None = None, corrupt: Callable[[Tensor], Tensor] | None = None
) -> tuple[Any, Any, float]:
    """Return trained model and guide and the CPU seconds, the start included; ``corrupt`` changes what it is trained on."""
    started, settings = time.process_time(), line.training
    model, guide, objective = build(line, x, seed)
    data = augmented(x, 20_000, seed)
    data = data if corrupt is None else corrupt(data)
    fit(
        model, guide, DataSets({"x": data}, batch_size=settings["batch_size"]), objective,
        steps=steps or settings["steps"], learning_rate=settings["learning_rate"], seed=seed, progress=False,
        max_skipped=10, warmup=0.02,
    )  # fmt: skip
    if settings.get("finish") is not None:
        guide_last(model, guide, settings["finish"], FitOptions(seed=seed, progress=False, max_skipped=10, warmup=0.02))
    return model, guide, time.process_time() - started


def judge(model: Any, guide: Any, train_x: Tensor, x: Tensor, seconds: float) -> dict[str, float]:
    """Return the numbers of one run."""
    found = evaluate(model, guide, {"x": x}, draws=64)
    numbers = {**found.flat(), "mae_degrees": math.degrees(found.mae), "cpu_seconds": seconds}
    if hasattr(model, "hamiltonian"):
        with torch.no_grad():
            alone = model.physics(guide.sample({"x": x}, 64)).mean(0)
        left = float((alone - x).square().sum((1, 2)).mean())
        numbers |= {
            "physics_sum_of_squares": left,
            "physics_share": 1 - left / training_mean(train_x, x).sum_of_squares,
        }
    return numbers


def folds(x: Tensor, count: int = 5) -> list[tuple[Tensor, Tensor]]:
    """Return (rest, fold) pairs of the strides."""
    parts = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).chunk(count)
    return [(x[torch.cat([p for j, p in enumerate(parts) if j != i])], x[part]) for i, part in enumerate(parts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="folder of train.npz and valid.npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--only", nargs="+", help="rows by name")
    parser.add_argument("--steps", type=int, help="fewer or more steps than the recipe's")
    parser.add_argument("--split", choices=("valid", "test", "folds"), default="valid")
    parser.add_argument("--name", default="locomotion", help="of the stored table; 'none' stores nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    splits = synthetic.generate(0) if given.source is None else gait_files.read(given.source)
    if given.split == "folds":
        pairs = folds(splits.train.x)
    else:
        split = splits.valid if given.split == "valid" else splits.test
        if split is None:
            raise SystemExit("split: got 'test', expected one that the source has")
        pairs = [(splits.train.x, split.x)]
    table = []
    for name, result in closed(*pairs[0]) if given.split != "folds" else ():
        table.append(closed_form(name, result, 0.0, PUBLISHED.get(name)))
    for line in lines():
        if given.only and line.name not in given.only:
            continue
        runs = []
        for known, held in pairs:
            for seed in given.seeds:
                model, guide, seconds = train(line, known, seed, given.steps)
                runs.append(judge(model, guide, known, held, seconds))
                print(line.name, seed, {k: round(v, 4) for k, v in runs[-1].items()}, flush=True)
        table.append(summary(line.name, runs, PUBLISHED.get(line.name)))
    if given.name == "none" or given.source is None:
        print(table_text(table))
        return
    store(given.name, table, split=given.split, seeds=given.seeds, data=splits.source, source=SOURCE, code=CODE)


def closed(known: Tensor, held: Tensor) -> list[tuple[str, Any]]:
    """Return the training mean and PCA of four sizes."""
    rows = [("training mean", training_mean(known, held))]
    return rows + [(f"PCA {k}", principal_components(known, held, k)) for k in (15, 17, 18, 21)]


if __name__ == "__main__":
    main()
