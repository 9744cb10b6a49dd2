"""How a command ends: with an exit status and, where it is not good, one sentence on standard error; also by a signal."""

from __future__ import annotations

import errno
import os
import re
import select
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from types import FrameType
from typing import Any

import typer

from ..folder import BadInput, disk_is_full

GOOD, FAILED, BAD, BROKEN = range(4)
STATUSES = (
    "Exit status: 0 good, 1 a check failed (physzoo check), 2 bad input, 3 broken (a crash, a full disk, a fit that "
    "diverges), 130 stopped by Ctrl-C, 143 by SIGTERM. From 2 on with one sentence; PHYSZOO_DEBUG=1 adds the traceback."
)
DEBUG = "PHYSZOO_DEBUG"
STEP = "at step "  # what a note starts with that says where a run was when it ended
LONGEST = 80  # characters of one word of the user's that a sentence repeats
WAYS = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP, the end of the terminal"}


class Signals:
    """Lets every signal that asks for the end raise KeyboardInterrupt, after it has ended this process's workers.

    Only signals that nobody handles or ignores are taken, and only where Python allows that, in the main thread.

    Attributes:
        came: the signal that came, or ``None``.
    """

    def __init__(self) -> None:
        self.came: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for name in WAYS:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _stop(self, number: int, _: FrameType | None) -> None:
        self.came = signal.Signals(number)
        if "multiprocessing" in sys.modules:
            from multiprocessing import active_children

            for worker in active_children():  # else a pool waits for the work that they have in hand
                worker.terminate()
        raise KeyboardInterrupt


def run(command: Callable[[], Any], words: Sequence[str]) -> int:
    """Run a command and return its exit status; what went wrong is told in one sentence.

    Args:
        command: what to do; what it returns is the status where it is a number.
        words: the command line, to say how to go on.
    """
    from ..inference.warn import TrustWarning

    _fill_closed_streams()
    with warnings.catch_warnings(), Signals() as signals:
        # a rejected draw (SolverWarning) is part of sampling, and a hopeless guide has infinite weights: the verdict tells
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.simplefilter("ignore", TrustWarning)
        warnings.showwarning = _tell_warning
        try:
            status = command()
            _flush()
        except BaseException as error:
            status = _ended(error, words, signals.came)
    return status if isinstance(status, int) else GOOD


def _ended(error: BaseException, words: Sequence[str], came: signal.Signals | None) -> int:
    """Tell why a command ended and return its status."""
    usage_error: Any = typer.BadParameter.__bases__[0]  # of all mistakes in arguments, wherever typer keeps it
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, usage_error):
        told: Any = error
        return complain(told.format_message(), BAD)
    if isinstance(error, BadInput):
        return complain(str(error), BAD)
    if isinstance(error, BrokenPipeError) and _reader_gone():
        _silence_output()
        return 128 + getattr(signal, "SIGPIPE", 13)  # whoever read the output has had enough, which is no fault
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    where = "".join(f" {note}" for note in getattr(error, "__notes__", [])[:1] if note.startswith(STEP))
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        stopped = came or signal.SIGINT
        return complain(f"stopped by {WAYS.get(stopped.name, stopped.name)}{where}; {_how_on(words)}", 128 + stopped)
    sentence = _broken(error, where)
    if sentence is None:
        return complain(str(error), BAD)
    try:
        _flush()
    except OSError:  # what is left in its buffer would fail once more
        _silence_output()
    hint = "" if os.environ.get(DEBUG) else f"; {DEBUG}=1 shows where"
    return complain(f"{sentence}; {_how_on(words)}{hint if not _expected(error) else ''}", BROKEN)


def _broken(error: BaseException, where: str) -> str | None:
    """Say what broke; ``None`` for a checkpoint that is not of this run, which is the user's mistake."""
    from ..inference.fit.checkpoint import CheckpointError
    from ..inference.fit.guard import NonFiniteError

    if isinstance(error, CheckpointError):
        return None
    if isinstance(error, NonFiniteError):
        return f"the fit stopped at {error}"
    first = str(error).strip().split("\n", 1)[0][:200]
    if disk_is_full(error):
        return f"the disk takes no more{where} ({first}), what was whole on it still is"
    return f"broken{where} by {type(error).__name__}{': ' if first else ''}{first}"


def _expected(error: BaseException) -> bool:
    return disk_is_full(error) or type(error).__name__ == "NonFiniteError"


def _how_on(words: Sequence[str]) -> str:
    """Say which command goes on with the work of this one."""
    again = [word for word in words if word not in ("--resume", "--overwrite")]
    if again[:1] and again[0] in ("run", "fit"):
        return f"go on with: {shlex.join(['physzoo', *again])} --resume"
    return "the same command starts it anew"


def complain(sentence: str, status: int) -> int:
    """Print one sentence on standard error and return the status."""
    text = " ".join(sentence.split())
    text = re.sub(rf"\S{{{2 * LONGEST},}}", lambda word: f"{word[0][:LONGEST]}...{word[0][-LONGEST // 4 :]}", text)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    if sys.stderr is not None:
        with suppress(OSError):  # nobody can be told
            print(f"physzoo: {text}", file=sys.stderr, flush=True)
    return status


def _tell_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    complain(f"warning: {message}", GOOD)


def _flush() -> None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        error.add_note(f"{STEP}'output'")
        raise


def _reader_gone() -> bool:
    """Whether nobody reads what goes to standard output."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):
        return False


def _silence_output() -> None:
    """Send what is still to be written to nowhere: Python would complain once more at its end."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fill_closed_streams() -> None:
    """Open the standard streams that the caller closed, so that no file of a run gets the number of one of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno == errno.EBADF:
                os.open(os.devnull, os.O_RDWR)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path that is no text must not end a run that is done
