"""The cache of compiled forms: what a process that died left half done is cleared away, so that nobody waits for it.

FFCx writes ``libffcx_*.c``, compiles, and then writes ``libffcx_*.c.cached``; who finds the first without the second waits for
the second. Here whoever compiles holds a shared lock on one file, which ends with the process: he who gets it alone knows that
nobody compiles.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl: Any = None

NAME = "physzoo.lock"
QUIET = 3.0  # seconds for which nothing must have been written: other programs compile without our lock


@contextlib.contextmanager
def compiling(cache: Path) -> Iterator[None]:
    """Hold the lock of a folder while a form is compiled; first clear away what is stale there.

    Raises:
        RuntimeError: the folder cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeError(
            f"finite elements: got no folder for compiled forms ({cache}: {error.strerror}), expected one that can be written: "
            "set XDG_CACHE_HOME"
        ) from error
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a folder that is only read may hold all forms
            file = stack.enter_context(open(cache / NAME, "a"))
            if _locked(file, alone=True):
                clear(cache)
            _locked(file, alone=False)
        yield


def _locked(file: Any, alone: bool) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
    except OSError:  # somebody compiles, or the file system has no locks
        return False
    return True


def clear(cache: Path) -> list[Path]:
    """Remove the sources whose compilation was not finished, once nothing was written for a while; return which."""
    removed = []
    for source in cache.glob("libffcx_*.c"):
        if source.with_suffix(".c.cached").exists():
            continue
        with contextlib.suppress(FileNotFoundError):
            while (left := QUIET - (time.time() - _last_written(source))) > 0 and not source.with_suffix(
                ".c.cached"
            ).exists():
                time.sleep(min(max(left, 0.05), QUIET))
            if not source.with_suffix(".c.cached").exists():
                source.unlink()
                removed.append(source)
    return removed


def _last_written(source: Path) -> float:
    """When any file of this form was written last; a time in the future, of another clock, counts as long ago."""
    times = [path.stat().st_mtime for path in source.parent.glob(f"{source.stem}*")]
    latest = max(times, default=0.0)
    return latest if latest <= time.time() else 0.0
