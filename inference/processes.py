"""Work for other processes, sent by value.

torch hands tensors to a process by moving their storage into shared memory, which leaves NumPy views of the sender's
tensors pointing at freed memory. Plain pickling, in memory and between our own processes, copies them instead.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any


def submit(executor: Executor, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Submit a call; where the executor runs processes, the arguments and the result travel as copies."""
    if not isinstance(executor, ProcessPoolExecutor):
        return executor.submit(function, *arguments)
    return executor.submit(_call, pickle.dumps((function, arguments)))


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
