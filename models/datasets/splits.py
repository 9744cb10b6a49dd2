"""What a system's data are: three splits of sequences or images, checked, and one file that holds them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from ...core.files import replacing

FORMAT = "physzoo-splits-1"
PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Split:
    """N data sets of one system; all of the same shape, so that they are one outer plate.

    Attributes:
        x: what was observed, (N, T, channels) for sequences, (N, channels, H, W) for images.
        times: (T,), the same for all sequences; None for images.
        truths: the unknowns that made each data set, where they are known, (N,) or (N, ...).
        covariates: what else is known of each data set, (N,).

    Raises:
        TypeError: an entry is no float32 or float64 tensor.
        ValueError: an entry is not finite, or its shape does not fit.
    """

    x: Tensor
    times: Tensor | None = None
    truths: Mapping[str, Tensor] = field(default_factory=dict)
    covariates: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self._entries():
            if not isinstance(value, Tensor) or value.dtype not in (torch.float32, torch.float64):
                got = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"{name}: got {got}, expected a tensor of float32 or float64")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name}: got an entry that is not finite, expected finite numbers")
        if self.x.dim() not in (3, 4) or not all(self.x.shape):
            got = tuple(self.x.shape)
            raise ValueError(f"x: got shape {got}, expected (N, T, channels) or (N, channels, H, W), none empty")
        if self.times is not None:
            if self.x.dim() != 3 or self.times.shape != self.x.shape[1:2]:
                got = tuple(self.times.shape)
                raise ValueError(
                    f"times: got shape {got}, expected ({self.x.shape[1]},) with x of shape (N, T, channels)"
                )
            if not bool((self.times.diff() > 0).all()):
                raise ValueError("times: got numbers that do not increase, expected increasing ones")
        for group in ("truths", "covariates"):
            for name, value in cast(Mapping[str, Tensor], getattr(self, group)).items():
                if value.shape[:1] != (len(self),) or (group == "covariates" and value.dim() != 1):
                    wanted = f"({len(self)}, ...)" if group == "truths" else f"({len(self)},)"
                    raise ValueError(f"{group}['{name}']: got shape {tuple(value.shape)}, expected {wanted}")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def data(self) -> dict[str, Tensor]:
        """The model's data argument: {"x": (N, ...)}."""
        return {"x": self.x}

    def rows(self, index: Tensor) -> Split:
        """Return the data sets with these numbers, in this order."""
        truths = {name: value[index] for name, value in self.truths.items()}
        return Split(self.x[index], self.times, truths, {name: value[index] for name, value in self.covariates.items()})

    def to(self, dtype: torch.dtype) -> Split:
        """Return the split in another floating-point dtype."""
        times = None if self.times is None else self.times.to(dtype)
        truths = {name: value.to(dtype) for name, value in self.truths.items()}
        return Split(
            self.x.to(dtype), times, truths, {name: value.to(dtype) for name, value in self.covariates.items()}
        )

    def _entries(self) -> Iterator[tuple[str, Tensor]]:
        yield "x", self.x
        if self.times is not None:
            yield "times", self.times
        for group in ("truths", "covariates"):
            for name, value in getattr(self, group).items():
                yield f"{group}['{name}']", value


@dataclass(frozen=True)
class Splits:
    """The splits of one system.

    Attributes:
        system: its name, e.g. "pendulum".
        train, valid, test: the splits; ``test`` is None where the source holds none.
        source: where the data come from.
        licence: under which terms.
        seed: of the generator or of the partition; None where the source fixed both.

    Raises:
        ValueError: the splits differ in more than the number of data sets.
    """

    system: str
    train: Split
    valid: Split
    test: Split | None
    source: str
    licence: str
    seed: int | None = None

    def __post_init__(self) -> None:
        wanted = _layout(self.train)
        for name, split in self.items():
            if _layout(split) != wanted:
                raise ValueError(f"{name}: got {_layout(split)}, expected {wanted} as in train")

    def items(self) -> Iterator[tuple[str, Split]]:
        """Yield name and split of those there are."""
        for name in PARTS:
            if getattr(self, name) is not None:
                yield name, getattr(self, name)

    def save(self, path: str | Path) -> None:
        """Write everything to one .npz, as float32, to the side and renamed."""
        about = {"format": FORMAT, **{key: getattr(self, key) for key in ("system", "source", "licence", "seed")}}
        arrays = {"about": np.array(json.dumps(about))}
        for part, split in self.items():
            split = split.to(torch.float32)
            arrays[f"{part}/x"] = split.x.numpy()
            if split.times is not None:
                arrays[f"{part}/times"] = split.times.numpy()
            for group in ("truths", "covariates"):
                for name, value in getattr(split, group).items():
                    arrays[f"{part}/{group}/{name}"] = value.numpy()
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez(file, **cast(Any, arrays))

    @classmethod
    def load(cls, path: str | Path, system: str | None = None) -> Splits:
        """Read what ``save`` wrote; nothing is unpickled.

        Args:
            path: the .npz.
            system: the name that the data must have; None takes any.

        Raises:
            ValueError: another file, a damaged one, or the data of another system.
        """
        wanted = "expected a file written by physzoo data"
        try:
            arrays = read_npz(path)
            about = json.loads(str(arrays["about"]))
            if not isinstance(about, dict) or about["format"] != FORMAT:
                raise KeyError("format")
            parts = {part: _split(arrays, part) for part in PARTS if f"{part}/x" in arrays}
            splits = cls(
                about["system"], parts["train"], parts["valid"], parts.get("test"),
                about["source"], about["licence"], about["seed"],
            )  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            reason = (
                error
                if isinstance(error, ValueError | TypeError) and not isinstance(error, json.JSONDecodeError)
                else ""
            )
            raise ValueError(f"path: got '{path}', {wanted}{f' ({reason})' if reason else ''}") from None
        if system not in (None, splits.system):
            raise ValueError(f"path: got '{path}' with the data of {splits.system}, expected those of {system}")
        return splits


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Return every array of an .npz; objects that would need unpickling are refused.

    Raises:
        ValueError: it is no readable .npz.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if isinstance(file, np.ndarray):
                raise ValueError("one array")
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise ValueError(f"got '{path}', which is not there, expected an .npz file") from None
    except (ValueError, OSError, EOFError, BadZipFile, KeyError, NotImplementedError) as error:
        reason = "objects that would need unpickling" if "pickle" in str(error) else "not a readable .npz"
        raise ValueError(f"got '{path}' ({reason}), expected an .npz file of numbers") from None


def _split(arrays: Mapping[str, np.ndarray], part: str) -> Split:
    found = {name.removeprefix(f"{part}/"): value for name, value in arrays.items() if name.startswith(f"{part}/")}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in found.items()}
    groups = {
        group: {name.removeprefix(f"{group}/"): v for name, v in tensors.items() if name.startswith(f"{group}/")}
        for group in ("truths", "covariates")
    }
    return Split(tensors["x"], tensors.get("times"), groups["truths"], groups["covariates"])


def _layout(split: Split) -> dict[str, Any]:
    """What all splits of one system share."""
    times = None if split.times is None else [round(t, 6) for t in split.times.tolist()]
    shapes = {name: tuple(value.shape[1:]) for name, value in split.truths.items()}
    return {"x": tuple(split.x.shape[1:]), "times": times, "truths": shapes, "covariates": sorted(split.covariates)}
