"""Work sent to other processes leaves the sender's tensors where they are."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from physzoo.inference.processes import own_pool, result, submit


def test_numpy_views_survive_a_process_pool():
    value = torch.arange(6, dtype=torch.float64)
    view = value.numpy()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert result(submit(pool, torch.sum, value)).item() == 15.0
    assert not value.is_shared()
    np.testing.assert_array_equal(view, np.arange(6.0))


def test_threads_take_what_cannot_be_pickled():
    with ThreadPoolExecutor(1) as pool:
        assert result(submit(pool, lambda x: x + 1, 1)) == 2


def test_an_exception_ends_the_workers_of_a_pool_at_once():
    workers = []

    def interrupted():
        with own_pool(1) as pool:
            submit(pool, time.sleep, 3600)
            workers.extend(pool._processes.values())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [worker.is_alive() for worker in workers] == [False]


SCRIPT = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from physzoo.inference.processes import result, submit
if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    print(result(submit(pool, os.getpid)), flush=True)
    result(submit(pool, time.sleep, 3600))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=["kill", "Ctrl-C"])
def test_workers_are_gone_with_their_parent_and_say_nothing(tmp_path, sent):
    script = tmp_path / "parent.py"
    script.write_text(SCRIPT)
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    worker = int(parent.stdout.readline())
    if sent == signal.SIGINT:
        os.killpg(parent.pid, sent)  # as a terminal does
    else:
        parent.kill()
    _, said = parent.communicate()
    assert said.count("Traceback") == (sent == signal.SIGINT)  # the parent's own
    while gone(worker) is False:  # a hang is pytest's to end
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody waits for may stay as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.is_file() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z"
