"""One call with one bad value: a sentence, an acceptance, a raw error, or a hang."""

from __future__ import annotations

import io
import os
import signal
import threading
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro.poutine import runtime

from physzoo.models.contract import ContractError
from physzoo.physics import SolveError

from .legitimate import why
from .targets import Target

SECONDS = 5
VERDICTS = ("sentence", "accepted", "raw", "silent", "hang")


class Hang(BaseException):
    """The alarm."""


class Outcome(NamedTuple):
    """How a call ended."""

    verdict: str
    found: str


def _ring(*_: object) -> None:
    raise Hang


def state() -> dict[str, Any]:
    """What a call must leave as it was."""
    return {
        "dtype": torch.get_default_dtype(),
        "device": str(torch.get_default_device()),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "validation": torch.distributions.Distribution._validate_args,
        "handlers": len(runtime._PYRO_STACK),
        "parameters": sorted(pyro.get_param_store().keys()),
        "numpy": np.geterr(),
        "folder": os.getcwd(),
    }


def judged(target: Target, argument: str, value: str, make: Callable[[], Any]) -> Outcome:
    """Call a target with one argument replaced, and say how that ended."""
    before = state()
    previous = signal.signal(signal.SIGALRM, _ring)
    assert threading.current_thread() is threading.main_thread()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # progress bars
            warnings.simplefilter("ignore")
            target.function(**target.usual() | {argument: make()})
    except Hang:
        return Outcome("hang", f"more than {SECONDS} s")
    except Exception as error:  # whatever comes is judged
        outcome = _of_error(target, argument, error)
    else:
        reason = why(target.name, argument, value)
        outcome = Outcome("accepted", reason) if reason else Outcome("silent", "accepted")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    changed = [key for key, now in state().items() if now != before[key]]
    return Outcome("raw", f"changed {', '.join(changed)} ({outcome})") if changed else outcome


def _of_error(target: Target, argument: str, error: Exception) -> Outcome:
    text = str(error)
    own = type(error).__module__.startswith("physzoo")
    report = isinstance(
        error, SolveError | ContractError
    )  # tells what happened to a right input, or of all broken rules
    faults = [
        fault
        for fault, true in (
            ("kind", not own and type(error) not in (ValueError, TypeError)),
            ("lines", "\n" in text),
            ("length", not 0 < len(text) < 400 and not report),
            ("got", "got" not in text and not report),
            ("expected", "expected" not in text and not report),
            ("name", not any(name in text for name in (argument, *target.says.get(argument, ())))),
        )
        if true
    ]
    told = f"{type(error).__name__}: {text[:200]}"
    return Outcome("raw", f"{' '.join(faults)}: {told}") if faults else Outcome("sentence", told)
