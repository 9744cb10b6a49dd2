"""Finite elements leave signals alone: PETSc's own handlers abort a process whose worker's pipe breaks, or that is asked to end."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("mpi4py")

FIRST = {
    "dolfinx by physzoo": "",
    "dolfinx before": "from mpi4py import MPI; import dolfinx",
}
SCRIPT = """
import os, signal
from physzoo.physics.fem import require_dolfinx
signal.signal(signal.SIGTERM, lambda *_: print("ours", flush=True))
require_dolfinx()
os.kill(os.getpid(), signal.SIGPIPE)  # which Python ignores
os.kill(os.getpid(), signal.SIGTERM)
assert "-no_signal_handler" not in os.environ.get("PETSC_OPTIONS", "")
read, write = os.pipe()
os.close(read)
try:
    os.write(write, b"x")
except BrokenPipeError:
    print("told", flush=True)
"""


@pytest.mark.parametrize("first", FIRST)
def test_signals_stay_with_the_program(first):
    found = subprocess.run([sys.executable, "-c", FIRST[first] + SCRIPT], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "ours\ntold\n"), found.stderr
