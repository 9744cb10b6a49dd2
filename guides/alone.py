"""One call at a time: Pyro's handlers, settings and parameter store, and torch's generator, belong to the whole process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Lock:
    """A re-entrant lock that a forked process finds open, whoever held the lock in its parent."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        os.register_at_fork(after_in_child=self._open)

    def _open(self) -> None:
        self.lock = threading.RLock()


_LOCK = _Lock()


@contextmanager
def alone() -> Iterator[None]:
    """Let no other thread into a block that is alone; also a decorator, ``@alone()``, of a public function.

    Threads that call such functions at the same time take turns, so each gets what it gets by itself. A function that waits
    for threads which call others of them (by an ``executor``) must not be alone while it waits.
    """
    lock = _LOCK.lock  # the one that was taken, whatever a fork does meanwhile
    with lock:
        yield
