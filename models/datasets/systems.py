"""The systems with data of their own: how their splits are made, or read from the original files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import advection_diffusion, gait_files, galaxy, galaxy10, locomotion, pendulum, published
from .splits import Splits


@dataclass(frozen=True)
class System:
    """One system.

    Attributes:
        title: a few words.
        generate: seed -> simulated splits.
        read: path, seed -> splits of the original data.
        original: what ``read`` takes.
        hold_out: path, seed, covariate -> splits whose test holds the extremes of a covariate; None without covariates.
    """

    title: str
    generate: Callable[[int], Splits]
    read: Callable[[Path, int], Splits]
    original: str
    hold_out: Callable[[Path, int, str], Splits] | None = None


SYSTEMS = {
    "pendulum": System(
        "forced damped pendulum",
        pendulum.generate,
        published.read_pendulum,
        "a folder written by the published generator",
    ),
    "advection_diffusion": System(
        "advection and diffusion of heat on a line",
        advection_diffusion.generate,
        published.read_advection_diffusion,
        "a folder written by the published generator",
    ),
    "galaxy": System(
        "images of edge-on disk galaxies",
        galaxy.generate,
        galaxy10.read,
        "the HDF5 file of Galaxy10 SDSS",
    ),
    "locomotion": System(
        "joint angles of human walking",
        locomotion.generate,
        gait_files.read,
        "an .npz of strides, a SubjectN.mat, or a folder of either",
        gait_files.read,
    ),
}


def system(name: str) -> System:
    """Return the system called ``name``.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in SYSTEMS:
        raise ValueError(f"name: got '{name}', expected one of {', '.join(SYSTEMS)}")
    return SYSTEMS[name]
