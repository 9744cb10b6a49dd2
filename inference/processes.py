"""Work for other processes, sent by value.

torch hands tensors to a process by moving their storage into shared memory, which leaves NumPy views of the sender's
tensors pointing at freed memory. Plain pickling, in memory and between our own processes, copies them instead.

A worker ends with the process that sent the work, however that ends, and says nothing of Ctrl-C.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

_watched = False  # whether this process, a worker, watches its parent already


@contextmanager
def own_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of spawned processes of one thread each; an exception, Ctrl-C among them, ends them at once."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread)
    try:
        yield pool
    except BaseException:
        processes = list((getattr(pool, "_processes", None) or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:  # a chain takes minutes to come to an end of its own
            process.kill()
        for process in processes:
            process.join()
        raise
    pool.shutdown()


def submit(executor: Executor, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Submit a call; where the executor runs processes, the arguments and the result travel as copies."""
    if not isinstance(executor, ProcessPoolExecutor):
        return executor.submit(function, *arguments)
    blob = pickle.dumps((function, arguments))
    with _uninterrupted():  # a worker that this call starts inherits that Ctrl-C is ignored, while it imports
        return executor.submit(_call, blob)


def result(future: Future[Any]) -> Any:
    """Return what a submitted call returned."""
    value = future.result()
    return pickle.loads(value.blob) if isinstance(value, _Returned) else value


class _Returned:
    def __init__(self, value: Any) -> None:
        self.blob = pickle.dumps(value)


def _call(blob: bytes) -> _Returned:
    _settle()
    function, arguments = pickle.loads(blob)
    return _Returned(function(*arguments))


def _one_thread() -> None:
    import torch

    _settle(signal.SIG_IGN)  # own_pool ends its workers
    torch.set_num_threads(1)


def _settle(interrupted: signal.Handlers = signal.SIG_DFL) -> None:
    """Make this process a good worker: it is gone when its parent is; Ctrl-C ends it, or leaves it, without a traceback."""
    global _watched
    parent = multiprocessing.parent_process()
    if _watched or parent is None:
        return
    _watched = True
    tqdm.set_lock(threading.RLock())  # its own would be a semaphore that a killed process leaves behind
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, interrupted)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: Any) -> None:
    parent.join()
    os._exit(1)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back for the moment in which a process starts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
