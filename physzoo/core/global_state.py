"""What belongs to the whole process, put back as it was found: generators, checks, Pyro's store; and one call at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch.distributions import Distribution


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Run a block from ``seed`` and put torch's generators back afterwards; ``None`` leaves the generator alone."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def unchecked() -> Iterator[None]:
    """Switch Pyro's and torch's argument checks off for a block, and put them back as they were."""
    own = Distribution._validate_args
    with pyro.validation_enabled(False):
        try:
            yield
        finally:
            Distribution._validate_args = own


@contextmanager
def unregistered() -> Iterator[None]:
    """Leave Pyro's parameter store as it is found; also a decorator.

    Pyro enters a module's parameters there when the module is run, and a later ``SVI`` of another module with the same names
    would train those instead of its own.
    """
    store: Any = pyro.get_param_store()
    before = set(store.keys())
    try:
        yield
    finally:
        if store.keys() != before:
            # not by ``del store[name]``, which fails for a parameter that modules share: it stands there under two names
            for name in set(store.keys()) - before:
                store._params.pop(name)
                store._constraints.pop(name, None)
            store._param_to_name = {parameter: name for name, parameter in store._params.items()}


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
