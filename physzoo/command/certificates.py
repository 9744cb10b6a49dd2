"""The certificates that come with the package: what was measured of each animal."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def certificates() -> dict[str, dict[str, Any]]:
    """Return the certificates that come with the package, animal -> certificate, empty if there are none."""
    packaged = files("physzoo.models").joinpath("data/certificates.json")
    if not packaged.is_file():
        return {}
    found = json.loads(packaged.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def certificate(found: dict[str, Any] | None) -> str:
    """Return a certificate in a few words, "-" where there is none."""
    if not found:
        return "-"
    parts = [status(found)] if isinstance(found.get("c2st"), float) else []
    parts += [str(found[key]) for key in ("calibration", "date", "command") if found.get(key)]
    return ", ".join(parts) or "-"


def status(found: dict[str, Any] | None) -> str:
    """Return what a certificate says, in two words."""
    if not found:
        return "-"
    return f"C2ST {found['c2st']:.3f}" if isinstance(found.get("c2st"), float) else "measured"
