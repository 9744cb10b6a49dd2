"""Draws from files that a user names: report folders, posteriors (.nc) and references (.npz)."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py

from ..folder import POSTERIOR, BadInput
from ..inference.references.result import Reference
from .paths import is_file, is_folder

LARGEST = 2**32  # bytes that a file may declare; draws have a thousandth of that


def read_draws(path: Path, argument: str) -> Any:
    """Return the draws of a report folder, a posterior or a reference; of a netCDF file its group "posterior" alone.

    Raises:
        BadInput: the path is none of these, or the file is damaged or declares more than fits into memory.
    """
    file = path / POSTERIOR if is_folder(path) else path
    wrong = f"{argument}: got '{path}', expected a report folder, a posterior (.nc) or a reference (.npz)"
    if not is_file(file):
        raise BadInput(wrong)
    try:
        declared = _declared(file)
        if declared > LARGEST:
            raise BadInput(
                f"{argument}: got '{path}', which declares {declared} bytes of draws, expected at most {LARGEST}"
            )
        found = Reference.load(file) if file.suffix == ".npz" else _posterior(file)
        drawn = found.draws if isinstance(found, Reference) else found["posterior"].data_vars
        for site, value in drawn.items():
            if value.dtype.kind not in "iuf" or value.ndim < 2:
                raise BadInput(
                    f"{argument}: got '{path}' with '{site}' of {value.dtype} and shape {tuple(value.shape)}, expected real "
                    "numbers, chain by draw"
                )
        return found
    except BadInput:
        raise
    except Exception as error:  # a hostile file makes readers raise anything, MemoryError and RecursionError included
        raise BadInput(f"{wrong} ({type(error).__name__} while it was read)") from None


def _posterior(file: Path) -> Any:
    from xarray import DataTree, open_dataset

    # draws are numbers, whatever their unit is called
    options: Any = {"group": "posterior", "decode_times": False, "decode_timedelta": False, "phony_dims": "access"}
    with open_dataset(file, engine="h5netcdf", **options) as found:
        return DataTree.from_dict({"posterior": found.load()})


def _declared(file: Path) -> int:
    """Return how many bytes the file says that its draws have."""
    if file.suffix == ".npz":
        with zipfile.ZipFile(file) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    with h5py.File(file, "r") as tree:
        held: Any = tree["posterior"]
        return sum(entry.nbytes for entry in held.values() if isinstance(entry, h5py.Dataset))
