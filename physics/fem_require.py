"""The one place that loads dolfinx."""

from __future__ import annotations

import contextlib
from typing import Any


def order_mpi() -> None:
    """Load MPI the way that the wheel needs before ``import dolfinx``, which without it does not find libmpi."""
    with contextlib.suppress(ImportError):  # only the wheel has this
        import dolfinx_solver  # noqa: F401


def require_dolfinx() -> Any:
    """Import and return dolfinx.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
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
