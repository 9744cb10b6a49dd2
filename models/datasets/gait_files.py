"""Measured strides: from .npz files, and from the SubjectN.mat files of the published collection.

.npz: ``angles`` (n, 3, T), hip, knee, ankle in rad, and of each stride ``foot`` (0 right, 1 left), ``speed`` m/s,
``stride_length`` m, ``step_width`` m, ``cadence`` steps/min, where they are there.

.mat: struct ``s`` with the struct array ``Data``; of each entry with ``Task`` "Walking", rows 4, 7 and 10 of ``Ang``
(degrees) are hip, knee and ankle, ``Foot`` is "RX" on the right, and ``speed``, ``strideLength``, ``stepWidth``,
``cadence`` are numbers. The subject's number, from the file's name, becomes a covariate.

Source: T. Lencioni, I. Carpinella, M. Rabuffetti, A. Marzegan, M. Ferrarin, Human kinematic, kinetic and EMG data
during different walking and stair ascending and descending tasks, Sci. Data 6:309 (2019), figshare collection
10.6084/m9.figshare.c.4494755.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .locomotion import COVARIATES, JOINTS, resampled, stride_times
from .partition import hold_out, partition
from .splits import PARTS, Split, Splits, read_npz

SOURCE = "Lencioni et al., Sci. Data 6:309 (2019), figshare collection 10.6084/m9.figshare.c.4494755"
LICENCE = "CC BY 4.0 as quoted by third parties: attribute, and check before redistributing"
TASK, ROWS = "Walking", (3, 6, 9)
_FIELDS = {"speed": "speed", "stride_length": "strideLength", "step_width": "stepWidth", "cadence": "cadence"}
_TRAIN, _VALID, _ALL = 400, 100, 844


def read(path: str | Path, seed: int = 0, held_out: str | None = None) -> Splits:
    """Return measured strides, x (N, 101, 3) in rad, with their covariates.

    A folder with train.npz and valid.npz keeps its splits; without test.npz there is no test split. Everything
    else is one set of strides: 400 for training, 100 for validation, the rest for the test (of fewer than 844
    strides the same shares), drawn with ``seed``.

    Args:
        path: an .npz, a SubjectN.mat, or a folder of either.
        seed: of the partition.
        held_out: a covariate; its lowest and highest 15 % are the test then, of all the strides there are.

    Raises:
        ValueError: nothing there, another file, angles in degrees where rad are due, or too few strides.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"source: got '{path}', which is not there, expected .npz or .mat files of strides")
    parts: dict[str, Split] = {}
    if path.is_dir() and (path / "train.npz").is_file() and (path / "valid.npz").is_file():
        parts = {part: read_strides(path / f"{part}.npz") for part in PARTS if (path / f"{part}.npz").is_file()}
        if held_out is None:
            test = parts.get("test")
            return Splits("locomotion", parts["train"], parts["valid"], test, source=SOURCE, licence=LICENCE)
    strides = _joined(list(parts.values()) or [read_file(file) for file in _files(path)])
    try:
        if held_out is not None:
            split = hold_out(strides, held_out, seed)
        else:
            train, valid = (min(most, round(len(strides) * most / _ALL)) for most in (_TRAIN, _VALID))
            split = partition(strides, train, valid, seed)
    except ValueError as error:
        raise ValueError(
            f"source: got '{path}' with {len(strides)} strides, which cannot be parted ({error})"
        ) from None
    return Splits("locomotion", *split, source=SOURCE, licence=LICENCE, seed=seed)


def read_file(path: Path) -> Split:
    """Return the strides of one .npz or .mat.

    Raises:
        ValueError: it is neither, or not what it should be.
    """
    return read_subject(path) if path.suffix == ".mat" else read_strides(path)


def read_strides(path: str | Path) -> Split:
    """Return the strides of an .npz.

    Raises:
        ValueError: no such file, no ``angles`` of shape (n, 3, T) in rad, or covariates that do not fit.
    """
    try:
        arrays = read_npz(path)
        if "angles" not in arrays:
            raise ValueError(
                f"got '{path}' with {', '.join(arrays) or 'nothing'} in it, expected angles (n, 3, T) in rad"
            )
        angles = arrays["angles"]
        if angles.ndim != 3 or angles.shape[1] != len(JOINTS) or not len(angles) or angles.dtype.kind != "f":
            got = f"{angles.dtype} of shape {angles.shape}"
            raise ValueError(f"got '{path}' with angles {got}, expected floats (n, 3, T): hip, knee, ankle")
        return _split(str(path), angles, {name: arrays[name] for name in COVARIATES if name in arrays})
    except ValueError as error:
        raise ValueError(f"source: {error}") from None


def read_subject(path: str | Path) -> Split:
    """Return the strides of level walking of one SubjectN.mat.

    Raises:
        ValueError: no such file, another one, or a stride that lacks a field.
    """
    from scipy.io import loadmat

    wanted = "expected a SubjectN.mat of the collection: struct s with Data"
    try:
        content = loadmat(str(path), appendmat=False, squeeze_me=True, struct_as_record=False)
        entries = np.atleast_1d(content["s"].Data)
    except (KeyError, AttributeError):
        raise ValueError(f"source: got '{path}' without s.Data, {wanted}") from None
    except NotImplementedError:
        raise ValueError(f"source: got '{path}', a MATLAB 7.3 file, {wanted}, saved for version 7 or older") from None
    except Exception as error:  # the reader meets damaged files with whatever its parser stumbles over
        raise ValueError(f"source: got '{path}', which cannot be read ({type(error).__name__}), {wanted}") from None
    number = re.search(r"(\d+)$", Path(path).stem)
    strides: list[np.ndarray] = []
    rows: list[dict[str, float]] = []
    for j, entry in enumerate(entries, 1):
        if getattr(entry, "Task", None) != TASK:
            continue
        try:
            angles = np.asarray(entry.Ang, dtype=np.float64)
            if angles.ndim != 2 or angles.shape[0] <= max(ROWS):
                raise ValueError(f"Ang of shape {angles.shape}")
            strides.append(np.deg2rad(resampled(angles[list(ROWS)])))
            values = {name: float(getattr(entry, field)) for name, field in _FIELDS.items()}
            rows.append(
                {"foot": float(entry.Foot != "RX"), **values, **({"subject": float(number[1])} if number else {})}
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"source: got '{path}' with a stride Data({j}) that does not fit ({error}), expected Ang with at least "
                f"10 rows, Foot and {', '.join(_FIELDS.values())}"
            ) from None
    if not strides:
        raise ValueError(f"source: got '{path}' without a stride of level walking, expected entries with Task '{TASK}'")
    covariates = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    try:
        return _split(str(path), np.stack(strides), covariates)
    except ValueError as error:
        raise ValueError(f"source: {error}") from None


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    subjects = [file for file in path.glob("*.mat") if re.fullmatch(r"Subject\d+", file.stem)]
    files = sorted(subjects, key=lambda file: int(file.stem.removeprefix("Subject"))) or sorted(path.glob("*.npz"))
    if not files:
        raise ValueError(f"source: got '{path}', a folder without strides, expected SubjectN.mat or .npz files in it")
    return files


def _split(path: str, angles: np.ndarray, covariates: dict[str, Any]) -> Split:
    if not np.isfinite(angles).all():
        raise ValueError(f"got '{path}' with an angle that is not finite, expected finite angles")
    if np.abs(angles).max() > math.pi:
        raise ValueError(f"got '{path}' with an angle of {np.abs(angles).max():.3g}, expected rad (are these degrees?)")
    try:
        known = {name: torch.as_tensor(np.asarray(value), dtype=torch.float32) for name, value in covariates.items()}
        x = torch.as_tensor(resampled(angles), dtype=torch.float32).mT.contiguous()
        return Split(x, stride_times().float(), covariates=known)
    except (TypeError, ValueError) as error:
        raise ValueError(f"got '{path}', which does not fit: {error}") from None


def _joined(splits: list[Split]) -> Split:
    """All strides as one split, with the covariates that every file has."""
    shared = [name for name in splits[0].covariates if all(name in split.covariates for split in splits)]
    covariates = {name: torch.cat([split.covariates[name] for split in splits]) for name in shared}
    return Split(torch.cat([split.x for split in splits]), splits[0].times, covariates=covariates)
