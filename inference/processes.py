"""Work for other processes, sent by value.

torch hands tensors to a process by moving their storage into shared memory, which leaves NumPy views of the sender's
tensors pointing at freed memory. Plain pickling, in memory and between our own processes, copies them instead.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection, parent_process
from typing import Any

import torch


def submit(executor: Executor, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Submit a call; where the executor runs processes, the arguments and the result travel as copies."""
    if not isinstance(executor, ProcessPoolExecutor):
        return executor.submit(function, *arguments)
    with _interrupts_blocked():
        return executor.submit(_call, pickle.dumps((function, arguments)))


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Start workers that no Ctrl-C reaches, who would all print where they are: whoever started them ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_worker() -> None:
    """Give a worker one thread, and let it end with the process that started it, however that ends."""
    torch.set_num_threads(1)
    parent = parent_process()
    if parent is not None:

        def watch() -> None:
            connection.wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def result(future: Future[Any]) -> Any:
    """Return what a submitted call returned."""
    value = future.result()
    return pickle.loads(value.blob) if isinstance(value, _Returned) else value


class _Returned:
    def __init__(self, value: Any) -> None:
        self.blob = pickle.dumps(value)


def _call(blob: bytes) -> _Returned:
    function, arguments = pickle.loads(blob)
    return _Returned(function(*arguments))
