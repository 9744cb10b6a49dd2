"""All models of the gallery."""

from __future__ import annotations

from . import data, plates, programs, supports

CASES = [*plates.CASES, *supports.CASES, *data.CASES, *programs.CASES]
