"""Does reconstruction get better when features are set to noise? Three kinds of noise, 0 to 50 % of the features.

    python benchmarks/noise_study.py [--system NAME] [--source FOLDER] [--seeds 11 12 13] [--train] [--steps N]

The error is that of the reconstruction from corrupted data to the *clean* data, in units of x, on the validation split.
"at test" corrupts what a model sees that was trained on clean data; with --train the same corruption also stands in the
training data. Kinds, each on a share of the features of a data set:

    gaussian     the feature becomes its training mean plus Normal(0, 1) times its training sd
    impulse      the feature becomes the smallest or largest value that its channel has in the training data
    structured   half of the share: a drop-out, an interval in one channel that reads 0; half: a linear drift up to one
                 channel sd over an interval in one channel

Models are trained without their last stage, on simulations, which would not be corrupted. PCA of the same code size and the
training mean are rows of every table. Killed, it goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import _grey_box as grey_box
import torch
from _store import Rows, store
from torch import Tensor

from physzoo.core.global_state import seeded
from physzoo.inference.evaluation.reconstruction import evaluating
from physzoo.models.datasets.splits import Splits
from physzoo.models.pca import PCA

KINDS = ("gaussian", "impulse", "structured")
Corruption = Callable[[Tensor], Tensor]
SHARES = (0.0, 0.05, 0.1, 0.25, 0.5)


@dataclass(frozen=True)
class Studied:
    """One system: its splits, its code size, and (training x, corruption, seed, steps) -> (model, guide), trained."""

    splits: Callable[[Path | None], Splits]
    code: int
    train: Callable[[Tensor, Corruption | None, int, int | None], tuple[Any, Any]]


def locomotion() -> Studied:
    """Walking; the training strides are augmented before they are corrupted."""
    import locomotion as walking

    from physzoo.models.datasets import gait_files
    from physzoo.models.datasets import locomotion as synthetic

    def splits(source: Path | None) -> Splits:
        return synthetic.generate(0) if source is None else gait_files.read(source)

    def train(clean: Tensor, corruption: Corruption | None, seed: int, steps: int | None) -> tuple[Any, Any]:
        line = next(line for line in walking.lines() if line.name == "grey box, without the last stage")
        return walking.train(line, clean, seed, steps, corruption)[:2]

    return Studied(splits, walking.CODE, train)


def simulated(name: str) -> Studied:
    """A system with a generator."""
    script = import_module(name)
    row, (seed_of_data, code) = script.grey_box(), {"pendulum": (0, 9), "advection_diffusion": (5, 11)}[name]

    def splits(source: Path | None) -> Splits:
        if source is not None:
            raise SystemExit(f"--source: got '{source}', expected none: the data of {name} are simulated")
        return script.data.generate(seed_of_data)

    def train(clean: Tensor, corruption: Corruption | None, seed: int, steps: int | None) -> tuple[Any, Any]:
        how = "" if corruption is None else " {kind} {share}".format(**corruption.keywords)  # type: ignore[attr-defined]
        chosen = row.trained(finish=None)  # its simulations are not corrupted
        chosen = chosen if steps is None else chosen.trained(steps=steps)
        chosen = replace(chosen, name=f"noise study{how}{'' if steps is None else f' {steps} steps'}")
        every = splits(None)
        x = clean if corruption is None else corruption(clean)
        seen = replace(every, train=replace(every.train, x=x))
        return grey_box.train(chosen, seen, seed, grey_box.RUNS / name)[:2]

    return Studied(splits, code, train)


SYSTEMS: dict[str, Callable[[], Studied]] = {
    "locomotion": locomotion,
    "pendulum": partial(simulated, "pendulum"),
    "advection_diffusion": partial(simulated, "advection_diffusion"),
}


def corrupt(x: Tensor, kind: str, share: float, like: Tensor, seed: int = 0) -> Tensor:
    """Return x (N, T, channels) with a share of its features set to noise.

    Args:
        kind: one of ``KINDS``.
        share: part of the features of each data set, 0 to 1.
        like: training data, by which means, deviations and extremes are set.
        seed: of the noise.

    Raises:
        ValueError: another kind, or a share outside [0, 1].
    """
    if kind not in KINDS:
        raise ValueError(f"kind: got {kind!r}, expected one of {', '.join(KINDS)}")
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share: got {share!r}, expected a number from 0 to 1")
    generator = torch.Generator().manual_seed(seed)
    if kind == "structured":
        return _structured(x, share, like, generator)
    count = round(share * x[0].numel())
    rank = torch.rand(len(x), x[0].numel(), generator=generator).argsort(-1).argsort(-1)
    hit = (rank < count).reshape(x.shape)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    if kind == "gaussian":
        return torch.where(hit, like.mean(0) + like.std(0) * noise, x)
    return torch.where(hit, torch.where(noise > 0, like.amax((0, 1)), like.amin((0, 1))), x)


def _structured(x: Tensor, share: float, like: Tensor, generator: torch.Generator) -> Tensor:
    out, (times, channels) = x.clone(), x.shape[1:]
    sd = like.std((0, 1))
    length = round(share * times * channels / 2)
    for row in out:
        for drift in (False, True):
            left = length
            for channel in torch.randperm(channels, generator=generator).tolist():
                size = min(left, times)
                if not size:
                    break
                first = int(torch.randint(times - size + 1, (), generator=generator))
                if drift:
                    sign = 1.0 if torch.rand((), generator=generator) > 0.5 else -1.0
                    row[first : first + size, channel] += sign * sd[channel] * torch.linspace(0, 1, size, dtype=x.dtype)
                else:
                    row[first : first + size, channel] = 0.0
                left -= size
    return out


def error(model: Any, guide: Any, seen: Tensor, clean: Tensor) -> float:
    """Return the MAE of the mean of 32 decoded draws of q(z | seen) to the clean data."""
    with seeded(0), torch.no_grad(), evaluating(model, guide):
        full = model.decode(guide.sample({"x": seen}, 32)).full.mean(0)
    return float((full - clean).abs().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=tuple(SYSTEMS), default="locomotion")
    parser.add_argument("--source", type=Path, help="the measured data, where the system has any")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument(
        "--train", action="store_true", help="corrupt the training data too (a model for each kind and share)"
    )
    parser.add_argument("--steps", type=int, help="fewer or more steps than the recipe's")
    given = parser.parse_args()
    torch.set_num_threads(1)
    studied = SYSTEMS[given.system]()
    splits = studied.splits(given.source)
    known, clean = splits.train.x, splits.valid.x
    found = PCA.fit(known, studied.code)
    clean_model = cache(lambda seed: studied.train(known, None, seed, given.steps))
    measured = Rows(f"noise_study_{given.system}")
    mark = f"{float(known.double().square().sum()):.6g}"  # rows of other data are not taken over
    table = []
    for kind in KINDS:
        for share in SHARES:
            seen = corrupt(clean, kind, share, known, seed=1)
            scores = (seen.flatten(1) - found.mean) @ found.axes.T
            linear = (found.mean + scores @ found.axes).reshape(clean.shape)

            def errors(seed: int, kind: str = kind, share: float = share, seen: Tensor = seen) -> dict[str, Any]:
                values = {"at_test": error(*clean_model(seed), seen, clean)}
                if given.train:
                    dirty = partial(corrupt, kind=kind, share=share, like=known, seed=100 + seed)
                    pair = studied.train(known, dirty, seed, given.steps) if share else clean_model(seed)
                    values["in_training_too"] = error(*pair, seen, clean)
                return values

            made = [
                measured.add((kind, share, seed, given.steps, given.train, mark), partial(errors, seed))
                for seed in given.seeds
            ]
            table.append(
                {
                    "noise": kind,
                    "share": share,
                    "training_mean": float((known.mean(0) - clean).abs().mean()),
                    f"pca_{studied.code}": float((linear - clean).abs().mean()),
                    **{k: v for column in made[0] for k, v in _spread(column, [one[column] for one in made]).items()},
                }
            )
    rising = {
        kind: {
            column: all(a <= b for a, b in pairwise(values))
            for column in ("at_test", "in_training_too")
            if len(
                values := [
                    row[column] for row in table if row["noise"] == kind and row["share"] <= 0.25 and column in row
                ]
            )
        }
        for kind in KINDS
    }
    store(f"noise_study_{given.system}", table, seeds=given.seeds, error_never_falls_up_to_25_percent=rising,
          source="the claim: Akhtar, arXiv:2404.12267: error falls up to 25 % of features set to noise")  # fmt: skip
    measured.done()


def _spread(name: str, values: list[float]) -> dict[str, float]:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return {name: mean}
    return {name: mean, f"{name}_sd": (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5}


if __name__ == "__main__":
    main()
