"""Work sent to other processes leaves the sender's tensors where they are."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import torch

from physzoo.inference.processes import result, submit


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
