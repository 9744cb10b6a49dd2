"""The one place that loads dolfinx."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

OPTIONS, OURS = "PETSC_OPTIONS", "-no_signal_handler"
TAKEN = ("SIGPIPE", "SIGTERM", "SIGHUP")  # by PETSc and MPI, which end the process by an abort of their own


def order_mpi() -> None:
    """Load MPI the way that the wheel needs before ``import dolfinx``, which without it does not find libmpi."""
    with contextlib.suppress(ImportError):  # only the wheel has this
        import dolfinx_solver  # noqa: F401


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Leave signals to Python: PETSc would abort the process where a worker's pipe breaks, and MPI at the end of the terminal.

    What the user's program has handled or ignored stays so, also where dolfinx was loaded before.
    """
    before = os.environ.get(OPTIONS)
    os.environ[OPTIONS] = f"{before} {OURS}" if before else OURS
    try:
        yield
    finally:
        if before is None:
            del os.environ[OPTIONS]
        else:
            os.environ[OPTIONS] = before
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in TAKEN if hasattr(signal, name)):
                handler = signal.getsignal(number)  # what Python knows of, whatever C code has put in its place
                if handler is not None:
                    signal.signal(number, handler)


def require_dolfinx() -> Any:
    """Import and return dolfinx; signals stay as they were handled.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    with _own_signals():
        order_mpi()
        try:
            import dolfinx
        except ImportError as error:
            if "libmpi" in str(error):
                raise ImportError(
                    f"finite elements: got {error}, expected an MPI that dolfinx finds: import physzoo.physics.FEMProblem, or "
                    "mpi4py.MPI, before dolfinx"
                ) from error
            raise ImportError(
                "finite elements need dolfinx 0.11: install physzoo[fem] on Linux x86-64 (in the repository: "
                "pip install -e '.[fem]'), or the conda-forge package fenics-dolfinx elsewhere"
            ) from error
        return dolfinx
