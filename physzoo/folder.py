"""The folder of a run: what lies in it, whose it is, and how files get there."""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .command.paths import is_file, plain

FORMAT = "physzoo-run-1"
SETTINGS, REPORT, CHECKPOINT = "settings.json", "report.json", "checkpoint.pt"
FINISHED = "finished.pt"  # after the last stage, where a training has two
POSTERIOR, REFERENCE, PAGE = "posterior.nc", "reference.npz", "report.html"
CALIBRATION, CALIBRATION_FIGURE = "calibration.json", "calibration.png"
REPORTED = (REPORT, PAGE, CALIBRATION, CALIBRATION_FIGURE)  # what is said of a posterior
# in the order in which they are removed: what is made of another file goes before that file
MADE = (*REPORTED, REFERENCE, POSTERIOR, FINISHED, CHECKPOINT)
IDENTITY = ("name", "guide", "steps", "seed", "quick")  # two runs that agree in these find the same
LARGEST_SETTINGS = 100_000  # bytes; they have some hundreds
FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)


class BadInput(ValueError):
    """A user's mistake: one sentence that names the argument, what came and what was expected."""


def disk_is_full(error: BaseException) -> bool:
    """Whether an error says that a disk takes no more."""
    return isinstance(error, OSError) and error.errno in FULL


@dataclass(frozen=True)
class Folder:
    """A report folder.

    Args:
        path: where it stands.
    """

    path: Path

    @classmethod
    @contextmanager
    def claimed(
        cls, path: str | Path, settings: Mapping[str, Any], resume: bool = False, overwrite: bool = False
    ) -> Iterator[Folder]:
        """Hold a new, empty or own folder for a run with these settings; no other process gets it meanwhile.

        Args:
            path: the folder; it is made where it is missing.
            settings: what identifies the run.
            resume: whether to go on with what is there; nothing is removed.
            overwrite: whether what is there may be removed.

        Raises:
            BadInput: a file, a folder with other things in it or that is at work, the report of another animal, a run
                that is neither to be resumed nor to be written over or, to be resumed, one with other settings.
            OSError: the disk is full.
        """
        folder = cls(Path(path))
        made = folder._make()
        try:
            with folder.locked("--out"):
                folder._take(settings, resume, overwrite)
                made = []
                yield folder
        finally:
            _remove_empty(made)

    @classmethod
    def open(cls, path: str | Path, argument: str) -> Folder:
        """Return an existing folder of a run.

        Raises:
            BadInput: it is none.
        """
        folder = cls(Path(path))
        if not is_file(folder.path / SETTINGS):
            raise BadInput(f"{argument}: got '{path}', expected a folder written by physzoo run or fit")
        folder.settings()
        return folder

    @contextmanager
    def locked(self, argument: str) -> Iterator[None]:
        """Hold the folder for this process alone; the lock ends with the process, however that ends.

        Raises:
            BadInput: another process holds it.
        """
        try:
            import fcntl
        except ImportError:  # not on this system
            yield
            return
        handle = os.open(self.path, os.O_RDONLY)  # the folder itself: a lock file would be left behind
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise BadInput(
                        f"{argument}: got '{self.path}', in which another run is at work, expected a folder for each run"
                    ) from None
                warnings.warn(
                    f"{argument}: the file system of '{self.path}' has no locks; start no second run in it",
                    stacklevel=3,
                )
            yield
        finally:
            os.close(handle)

    def settings(self) -> dict[str, Any]:
        """Return the settings that the run was started with.

        Raises:
            BadInput: the file is not one of physzoo.
        """
        try:
            file = self.path / SETTINGS
            small = file.is_file() and file.stat().st_size <= LARGEST_SETTINGS
            found = json.loads(file.read_text(encoding="utf-8")) if small else None
        except (ValueError, OSError, RecursionError):
            found = None
        if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("name"), str):
            raise BadInput(f"{SETTINGS}: got a file in '{self.path}' that physzoo did not write, expected its settings")
        return found

    def file(self, name: str) -> Path:
        """Return the path of a file in the folder."""
        return self.path / name

    def beside(self, name: str) -> AbstractContextManager[Path]:
        """Return a context with a path to write to, which is renamed to the file of that name."""
        from .core.files import replacing

        return replacing(self.file(name))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file to the side and rename it."""
        with self.beside(name) as beside:
            beside.write_text(text, encoding="utf-8")

    def write_json(self, name: str, content: Any) -> None:
        """Write JSON to the side and rename it; numbers that are not finite become strings."""
        text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)
        self.write_text(name, text + "\n")

    def write_tree(self, name: str, tree: Any) -> None:
        """Write an ArviZ DataTree as netCDF, to the side and renamed."""
        blob = tree.to_netcdf(engine="h5netcdf")  # in memory: where a disk is full, HDF5 ends the process
        with self.beside(name) as beside:
            beside.write_bytes(blob)

    def refuse_mixed(self, name: str, held: Mapping[str, Any]) -> None:
        """Refuse a file that says of itself that it is of a run with other settings.

        Raises:
            BadInput: it does.
        """
        settings = self.settings()
        key = next((key for key in IDENTITY if key in held and held[key] != settings.get(key)), None)
        if key is not None:
            raise BadInput(
                f"DIR: got '{self.path}', whose {name} is of a run with {key} {held[key]!r} and whose {SETTINGS} says "
                f"{settings.get(key)!r}, expected the files of one run"
            )

    def _make(self) -> list[Path]:
        """Make the folder and return those that were missing, the innermost first."""
        missing: list[Path] = []
        try:
            missing = [path for path in (self.path, *self.path.parents) if not path.exists()]
            if self.path.exists() and not self.path.is_dir():
                raise BadInput(f"--out: got '{self.path}', a file, expected a folder")
            self.path.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            _remove_empty(missing)
            if isinstance(error, BadInput) or disk_is_full(error):
                raise
            raise self._unwritable(error) from None
        return missing

    def _unwritable(self, error: Exception) -> BadInput:
        reason = getattr(error, "strerror", None) or error
        return BadInput(f"--out: got '{self.path}', expected a folder that can be written ({reason})")

    def _take(self, settings: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
        """Check what lies in the folder, and write the settings."""
        held = self._own_files()
        found = self.settings() if held is not None else None
        if found is not None and found["name"] != settings["name"]:
            got, expected = found["name"], settings["name"]
            raise BadInput(f"--out: got '{self.path}', a report of {got}, expected one of {expected}")
        if resume and found is not None:
            for key, value in settings.items():
                if found.get(key) != value:
                    kept = found.get(key)
                    raise BadInput(f"--{key}: got {value}, expected {kept} as in '{self.path}', the run to be resumed")
        if held and not resume and not overwrite:
            what = "a finished run" if REPORT in held else "a fit" if POSTERIOR in held else "an unfinished fit"
            raise BadInput(
                f"--out: got '{self.path}', which holds {what}, expected --resume to go on with it, --overwrite to "
                "start anew, or another folder"
            )
        try:
            for path in self.path.glob(".*.tmp"):  # what a kill left half written
                path.unlink()
            if resume and found is not None:
                return
            with self.beside(SETTINGS) as beside:
                with beside.open("w", encoding="utf-8") as file:
                    file.write(json.dumps({"format": FORMAT, **settings}, indent=2) + "\n")
                    file.flush()
                    os.fsync(file.fileno())  # they are on the disk before anything goes
                for name in (*self._figures(), *(held or ())):
                    self.file(name).unlink(missing_ok=True)
        except OSError as error:
            if disk_is_full(error):
                raise
            raise self._unwritable(error) from None

    def _figures(self) -> list[str]:
        """Return the figures that the report there names."""
        try:
            named = json.loads(self.file(REPORT).read_text(encoding="utf-8"))["files"]
            return [name for name in named if Path(name).name == name and name.endswith(".png")]
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            return []

    def _own_files(self) -> list[str] | None:
        """Return which of MADE are there; ``None`` in an empty folder.

        Raises:
            BadInput: other things are there alone, or a folder or a pipe has the name of a file.
        """
        try:
            names = {path.name for path in self.path.iterdir() if not _half_written(path.name)}
        except OSError as error:
            raise self._unwritable(error) from None
        if names and (SETTINGS not in names or not is_file(self.path / SETTINGS)):
            raise BadInput(
                f"--out: got '{self.path}', a folder that holds other files, expected a new one, an empty "
                "one or a physzoo report"
            )
        odd = [name for name in names if name in MADE and not is_file(self.path / name)]
        if odd:
            raise BadInput(f"--out: got '{self.path}', in which {odd[0]} is no file, expected a physzoo report")
        return [name for name in MADE if name in names] if names else None


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _half_written(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def posterior_settings(path: Path) -> dict[str, Any]:
    """Return the settings that a posterior.nc says it is made with; empty where there is none or none is readable."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            held: dict[str, Any] = {key: file.attrs[key] for key in IDENTITY if key in file.attrs}
        return {key: value.item() if hasattr(value, "item") else value for key, value in held.items()}
    except (OSError, ValueError, RuntimeError, KeyError):
        return {}
