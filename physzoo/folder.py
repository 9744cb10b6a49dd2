"""The folder of a run: what lies in it, whose it is, and how files get there."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = "physzoo-run-1"
SETTINGS, REPORT, CHECKPOINT = "settings.json", "report.json", "checkpoint.pt"
FINISHED = "finished.pt"  # after the last stage, where a training has two
POSTERIOR, REFERENCE, PAGE = "posterior.nc", "reference.npz", "report.html"
CALIBRATION, CALIBRATION_FIGURE = "calibration.json", "calibration.png"
REPORTED = (REPORT, PAGE, CALIBRATION, CALIBRATION_FIGURE)  # what is said of a posterior


class BadInput(ValueError):
    """A user's mistake: one sentence that names the argument, what came and what was expected."""


@dataclass(frozen=True)
class Folder:
    """A report folder.

    Args:
        path: where it stands.
    """

    path: Path

    @classmethod
    def claim(cls, path: str | Path, settings: Mapping[str, Any], resume: bool) -> Folder:
        """Take a new, empty or own folder for a run with these settings; nothing in it is removed.

        Raises:
            BadInput: a file, a folder with other things in it, the report of another animal, or, to be
                resumed, a run with other settings.
        """
        folder = cls(Path(path))
        found = folder.settings() if folder._in_use() else None
        if found is not None and found["name"] != settings["name"]:
            raise BadInput(f"--out: got '{path}', a report of {found['name']}, expected one of {settings['name']}")
        if resume and found is not None:
            for key, value in settings.items():
                if found.get(key) != value:
                    kept = found.get(key)
                    raise BadInput(f"--{key}: got {value}, expected {kept} as in '{path}', the run to be resumed")
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.write_json(SETTINGS, {"format": FORMAT, **settings})
        except OSError as error:
            raise BadInput(
                f"--out: got '{path}', expected a folder that can be written ({error.strerror or error})"
            ) from None
        return folder

    @classmethod
    def open(cls, path: str | Path, argument: str) -> Folder:
        """Return an existing folder of a run.

        Raises:
            BadInput: it is none.
        """
        folder = cls(Path(path))
        if not (folder.path / SETTINGS).is_file():
            raise BadInput(f"{argument}: got '{path}', expected a folder written by physzoo run or fit")
        folder.settings()
        return folder

    def _in_use(self) -> bool:
        if not self.path.exists():
            return False
        if not self.path.is_dir():
            raise BadInput(f"--out: got '{self.path}', a file, expected a folder")
        if not any(self.path.iterdir()):
            return False
        if not (self.path / SETTINGS).is_file():
            raise BadInput(
                f"--out: got '{self.path}', a folder that holds other files, expected a new one, an empty "
                "one or a physzoo report"
            )
        return True

    def settings(self) -> dict[str, Any]:
        """Return the settings that the run was started with.

        Raises:
            BadInput: the file is not one of physzoo.
        """
        try:
            found = json.loads((self.path / SETTINGS).read_text(encoding="utf-8"))
        except (ValueError, OSError):
            found = None
        if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("name"), str):
            raise BadInput(f"{SETTINGS}: got a file in '{self.path}' that physzoo did not write, expected its settings")
        return found

    def file(self, name: str) -> Path:
        """Return the path of a file in the folder."""
        return self.path / name

    def beside(self, name: str) -> AbstractContextManager[Path]:
        """Return a context with a path to write to, which is renamed to the file of that name."""
        from .guides.atomic import replacing  # that room loads torch, which ``physzoo --help`` does without

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
        with self.beside(name) as beside:
            tree.to_netcdf(beside, engine="h5netcdf")


def plain(value: Any) -> Any:
    """Return ``value`` in JSON's types: mappings, lists, numbers, strings; NaN and infinities as strings."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
