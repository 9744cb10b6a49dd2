"""Galaxy10 SDSS: the 589 disk galaxies seen edge-on, without a bulge, from the HDF5 file of astroNN.

The file holds ``images`` (n, 69, 69, 3), 8-bit, and ``ans`` (n,), the class, 0 to 9; class 6 is taken. A later
edition (DECaLS) is also called Galaxy10.h5 in places; its images have 256 x 256 pixels and its class 6 are spirals.

Source: astroNN, https://astronn.readthedocs.io/en/latest/galaxy10sdss.html; images of the Sloan Digital Sky Survey,
classes of Galaxy Zoo.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from .partition import partition
from .splits import Split, Splits

SHAPE, CLASS, CLASSES = (69, 69, 3), 6, 10
TRAIN, VALID = 400, 100
SOURCE = "Galaxy10 SDSS (astroNN), class 6, disk, edge-on, no bulge; images SDSS, classes Galaxy Zoo"
LICENCE = "terms of SDSS and Galaxy Zoo: cite astroNN, SDSS and Galaxy Zoo, and check before redistributing"


def read_images(path: str | Path) -> Split:
    """Return the images of class 6, x (N, 3, 69, 69), pixel values 0 to 1, bands g, r, i.

    Raises:
        ValueError: no HDF5 file, another edition, or a damaged one.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            images, classes = file.get("images"), file.get("ans")
            if not isinstance(images, h5py.Dataset) or not isinstance(classes, h5py.Dataset):
                raise ValueError(
                    f"source: got '{path}' with {', '.join(map(str, file)) or 'nothing'} in it, expected the HDF5 file "
                    "of Galaxy10 SDSS with images and ans"
                )
            _check_edition(path, images, classes)
            labels = np.asarray(classes[()])
            if labels.dtype.kind not in "uif" or not np.isin(labels, range(CLASSES)).all():
                raise ValueError(f"source: got '{path}' with classes that are not 0 to 9, expected those of Galaxy10")
            rows = np.flatnonzero(labels == CLASS)
            if not len(rows):
                raise ValueError(f"source: got '{path}' without an image of class {CLASS}, expected some")
            # HDF5 picks single rows slowly: one block that holds them all, then the rows of it
            block = np.asarray(images[int(rows[0]) : int(rows[-1]) + 1])
    except FileNotFoundError:
        raise ValueError(f"source: got '{path}', which is not there, expected the HDF5 file of Galaxy10 SDSS") from None
    except OSError:
        raise ValueError(f"source: got '{path}', no readable HDF5 file, expected that of Galaxy10 SDSS") from None
    chosen = block[rows - rows[0]].transpose(0, 3, 1, 2)
    return Split(torch.from_numpy(np.ascontiguousarray(chosen)).float() / 255)


def read(path: str | Path, seed: int = 0) -> Splits:
    """Return the images in 400 for training, 100 for validation, the rest (89) for the test, drawn with ``seed``.

    Raises:
        ValueError: the file is none of Galaxy10 SDSS, or holds too few images of the class.
    """
    images = read_images(path)
    if len(images) <= TRAIN + VALID:
        got = f"got '{path}' with {len(images)} images of class {CLASS}"
        raise ValueError(f"source: {got}, expected more than {TRAIN + VALID} (Galaxy10 SDSS holds 589)")
    return Splits("galaxy", *partition(images, TRAIN, VALID, seed), source=SOURCE, licence=LICENCE, seed=seed)


def _check_edition(path: str | Path, images: Any, classes: Any) -> None:
    size = "69 x 69 pixels, 3 bands"
    if images.shape[1:] == (256, 256, 3):
        raise ValueError(
            f"source: got '{path}', the DECaLS edition of Galaxy10 (256 x 256 pixels, other classes), expected the "
            f"SDSS edition ({size})"
        )
    if images.shape[1:] != SHAPE:
        raise ValueError(f"source: got '{path}' with images of shape {images.shape}, expected (n, 69, 69, 3): {size}")
    if images.dtype != np.uint8:
        raise ValueError(f"source: got '{path}' with images of {images.dtype}, expected 8-bit pixel values")
    if classes.shape != images.shape[:1]:
        raise ValueError(
            f"source: got '{path}' with {classes.shape} classes for {images.shape[0]} images, expected one each"
        )
