"""Calls from several threads take turns, and each gets what it gets by itself."""

import os
from concurrent.futures import ThreadPoolExecutor

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from physzoo.core.global_state import alone
from physzoo.inference.fit import Simulator, fit
from physzoo.inference.objectives import ForwardKL


def model(y=None):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(z, 0.5), obs=y)


class Linear(pyro.nn.PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.slope, self.log_s = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(0.0))

    def forward(self, y=None):
        pyro.sample("z", dist.Normal(self.slope * y, self.log_s.exp()))


def job(seed: int) -> list[float]:
    guide = Linear()
    fit(model, guide, Simulator(16), ForwardKL(), steps=20, seed=seed, learning_rate=0.05, progress=False)
    return [value.item() for value in guide.parameters()]


def test_fits_in_threads_are_those_of_one_after_the_other():
    pyro.clear_param_store()
    checks = torch.distributions.Distribution._validate_args
    want = [job(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(job, range(6))) == want
    assert torch.distributions.Distribution._validate_args == checks
    assert not dict(pyro.get_param_store())


def test_it_nests_and_is_open_in_a_forked_process():
    @alone()
    def inner() -> int:
        return 3

    with alone(), alone():
        assert inner() == 3
        child = os.fork()
        if not child:
            with ThreadPoolExecutor(1) as pool:
                os._exit(0 if pool.submit(inner).result(10) == 3 else 1)
        assert os.waitpid(child, 0)[1] == 0
