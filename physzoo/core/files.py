"""Files appear whole or not at all.

This room is the lowest that all those may look into that write files.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; what was written is flushed to disk and renamed to ``path``.

    A kill, a full disk or an exception leaves what stood at ``path`` as it was. The folder is made where it is missing.

    Raises:
        OSError: the file could not be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")  # one name, so that what a kill leaves is written over by the next
    try:
        yield beside
        with beside.open("r+b") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """Refuse a path to which ``replacing`` could not write; a disk that is full is no reason.

    Raises:
        ValueError: its folder cannot be made or written to, or the name is too long or no name.
    """
    try:
        beside = Path(path).with_name(f".{Path(path).name}.tmp")
        beside.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("ab"):
            pass
        beside.unlink()
        if Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ValueError(
            f"got {str(path)[:120]!r}, expected the path of a file that can be written ({reason[:80]})"
        ) from None
