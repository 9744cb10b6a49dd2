"""The steps of a run, announced and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .command.endings import STEP

if TYPE_CHECKING:
    pass

Say = Callable[[str], None]


class Clock:
    """Announces the steps of a run and keeps their times."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[Say]:
        """Time a step; the yielded function takes what is to be said about it."""
        words: list[str] = []
        started = time.perf_counter()
        try:
            yield words.append
        except BaseException as error:
            error.add_note(f"{STEP}'{step}'")
            raise
        self.seconds[step] = time.perf_counter() - started
        self.say(f"{step:<10} {self.seconds[step]:6.1f} s   {' '.join(words)}")
