"""Pendulum and advection-diffusion data as the published generators write them, to be compared on the very same numbers.

A folder with, for each of train, valid and test, ``true_params_*.txt`` (a row for each sequence) and

    pendulum             data_*.txt (N, 50), parameters theta0, omega, gamma, A, f
    advection-diffusion  data_*.npy (N, 20, 50), parameters c, a, b

Source: the generators beside N. Takeishi, A. Kalousis, NeurIPS 2021, arXiv:2102.13156 (github.com/n-takeishi/phys-vae).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

from . import advection_diffusion, pendulum
from .splits import PARTS, Split, Splits

SOURCE = "written by the generator of Takeishi and Kalousis (2021), github.com/n-takeishi/phys-vae"
LICENCE = "MIT (of the generator)"


def read_pendulum(path: str | Path, seed: int = 0) -> Splits:
    """Return the published generator's pendulums, laid out as ``pendulum.generate`` does; the seed changes nothing.

    Raises:
        ValueError: a file is missing, or not what it should be.
    """
    names, frames = ("theta0", "omega", "gamma", "A", "f"), pendulum.FRAMES
    splits = []
    for part in PARTS:
        x = _table(Path(path) / f"data_{part}.txt", (frames,))
        splits.append(_split(x[..., None], pendulum.frame_times(frames), Path(path), part, names))
    return Splits("pendulum", *splits, source=SOURCE, licence=LICENCE)


def read_advection_diffusion(path: str | Path, seed: int = 0) -> Splits:
    """Return the published generator's temperatures, laid out as ``advection_diffusion.generate`` does.

    Raises:
        ValueError: a file is missing, or not what it should be.
    """
    frames, points = advection_diffusion.FRAMES, advection_diffusion.POINTS
    splits = []
    for part in PARTS:
        x = _table(Path(path) / f"data_{part}.npy", (points, frames)).swapaxes(1, 2)
        splits.append(_split(x, advection_diffusion.frame_times(frames), Path(path), part, ("c", "a", "b")))
    return Splits("advection_diffusion", *splits, source=SOURCE, licence=LICENCE)


def _split(x: np.ndarray, times: torch.Tensor, folder: Path, part: str, names: tuple[str, ...]) -> Split:
    file = folder / f"true_params_{part}.txt"
    parameters = _table(file, (len(names),))
    if len(parameters) != len(x):
        raise ValueError(f"source: got '{file}' with {len(parameters)} rows, expected {len(x)}, one for each sequence")
    truths = {name: torch.from_numpy(parameters[:, k].copy()) for k, name in enumerate(names)}
    try:
        return Split(torch.from_numpy(x.copy()), times, truths).to(torch.float32)
    except ValueError as error:
        raise ValueError(f"source: got '{folder}', whose {part} data do not fit: {error}") from None


def _table(file: Path, row: tuple[int, ...]) -> np.ndarray:
    """The numbers of a text or .npy file, (N, *row)."""
    if not file.is_file():
        raise ValueError(
            f"source: got '{file.parent}' without {file.name}, expected a folder of the published generator"
        )
    try:
        if file.suffix == ".npy":
            values = np.load(file, allow_pickle=False)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # an empty file is refused below
                values = np.loadtxt(file, ndmin=2)
    except (ValueError, OSError, EOFError):
        raise ValueError(
            f"source: got '{file}', which cannot be read, expected one row of numbers for each sequence"
        ) from None
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or values.shape[1:] != row or not len(values):
        got = getattr(values, "shape", "no array")
        raise ValueError(f"source: got '{file}' of shape {got}, expected {('N', *row)}".replace("'N'", "N"))
    return values
