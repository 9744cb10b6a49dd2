"""A function of the public API and arguments that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any


@dataclass(frozen=True)
class Target:
    """A function and arguments that it takes.

    Attributes:
        name: as it stands in the table.
        function: called by keywords.
        usual: makes arguments that are accepted.
        arguments: those that are replaced; by default all of the signature and of ``usual``.
        slow: (argument, value) that is right and takes long.
        says: argument -> other words that a sentence may name it by, e.g. the site or the key at fault.
    """

    name: str
    function: Callable[..., Any]
    usual: Callable[[], dict[str, Any]]
    arguments: tuple[str, ...] = ()
    says: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    slow: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.arguments:
            known = [
                name
                for name, one in inspect.signature(self.function).parameters.items()
                if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL, one.POSITIONAL_ONLY)
            ]
            object.__setattr__(self, "arguments", tuple(dict.fromkeys([*known, *self.usual()])))

    def inputs(self, values: Iterable[str]) -> list[tuple[str, str]]:
        """Return every argument with every value, but for what is right and takes long."""
        return [pair for pair in product(self.arguments, values) if pair not in self.slow]


def given(**arguments: Any) -> Callable[[], dict[str, Any]]:
    """The arguments that are the same in every call."""
    return lambda: dict(arguments)


SITE = ("z", "y")


DATA = {
    "data": (*SITE, "model", "particles", "loc"),
    "model": ("data", "y", "z"),
    "guide": ("data", "y", "z"),
    "example": SITE,
    "latents": SITE,
}


BATCH = DATA | {"datasets": SITE}


QUIET = {"progress": False}
