"""Checkpoints: written to the side and renamed, read without executing anything."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from ...core.files import replacing
from ...core.require import shown

FORMAT = "physzoo-checkpoint-1"


_UNREADABLE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error),
    *(RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AttributeError),
)


class CheckpointError(ValueError):
    """A file is not a checkpoint, or not one of this model and guide."""


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write a state of tensors, numbers and strings to ``path`` atomically.

    Raises:
        OSError: the file could not be written; the previous one is left as it was.
    """
    file = io.BytesIO()  # torch's own writing hides the reason when a disk is full
    torch.save({"format": FORMAT, **state}, file)
    with replacing(path) as beside:
        beside.write_bytes(file.getbuffer())


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain containers are read, nothing is executed.

    Raises:
        CheckpointError: there is no such file, or it is no checkpoint of physzoo.
    """
    if not isinstance(path, str | os.PathLike):
        raise CheckpointError(f"checkpoint: got {shown(path)}, expected the path of a file written by fit")
    try:
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"checkpoint: got '{str(path)[:160]}', expected a file written by fit")
        if not zipfile.is_zipfile(path):
            raise CheckpointError(f"checkpoint: '{path}' is not a physzoo checkpoint (not the archive that fit writes)")
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # torch reads tensors without looking at their checksums
        if broken is not None:
            raise CheckpointError(
                f"checkpoint: got '{path}', which is damaged at '{broken}', expected a file written by fit"
            )
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        if isinstance(error, CheckpointError):
            raise
        reason = str(error).split("\n", 1)[0][:120]
        got = str(path)[:160]
        raise CheckpointError(f"checkpoint: '{got}' is not a physzoo checkpoint, or is damaged ({reason})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint: '{path}' is not a physzoo checkpoint, expected the format {FORMAT}")
    return state
