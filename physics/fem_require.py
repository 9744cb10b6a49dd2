"""The one place that loads dolfinx."""

from __future__ import annotations

import contextlib
from typing import Any


def require_dolfinx() -> Any:
    """Import and return dolfinx.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    with contextlib.suppress(ImportError):  # only the wheel has it, and needs it first: it orders MPI
        import dolfinx_solver  # noqa: F401
    try:
        import dolfinx
    except ImportError as error:
        raise ImportError(
            "finite elements need dolfinx 0.11: install physzoo[fem] on Linux x86-64 (in the repository: "
            "pip install -e '.[fem]'), or the conda-forge package fenics-dolfinx elsewhere"
        ) from error
    return dolfinx
