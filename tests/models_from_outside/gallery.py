"""All models of the gallery."""

from __future__ import annotations

from . import data, plates, programs, supports, units

CASES = [*plates.CASES, *supports.CASES, *data.CASES, *programs.CASES, *units.CASES]
