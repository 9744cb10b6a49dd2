"""What holds for every test: one thread, and nothing global changed by what it called."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pyro
import pytest
import torch
from torch.distributions import Distribution


def global_state() -> dict[str, Any]:
    """What a library must leave as it found it."""
    return {
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "torch's checks": Distribution._validate_args,
        **{f"pyro setting {name}": value for name, value in pyro.settings.get().items()},
    }


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file stays on one worker, so that what its tests share is made once; a test with a group of its own need not."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_counts() -> Iterator[None]:
    """A shell's background job ignores Ctrl-C, and so would every process that a test starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors are slower on two threads than on one, and far slower where the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _nothing_global_changed(_one_thread: None) -> Iterator[None]:
    before = global_state()
    yield
    after = global_state()
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert not changed, f"the test left {changed} behind"
