"""Which of the values are none of a mistake: (targets, arguments, values, why)."""

from __future__ import annotations

from fnmatch import fnmatchcase

LEGITIMATE: list[tuple[str, str, str, str]] = []


def why(target: str, argument: str, value: str) -> str:
    """Return why a target takes a value, or "" where it must not."""
    for targets, arguments, values, reason in LEGITIMATE:
        if (
            any(fnmatchcase(target, pattern) for pattern in targets.split(" | "))
            and any(fnmatchcase(argument, pattern) for pattern in arguments.split(" | "))
            and value in values.split(" | ")
        ):
            return reason
    return ""
