"""The scale of every unknown, by which steps, floors and tolerances are measured: the prior's spread in unconstrained space."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core import spread as robust


def spread(draws: Tensor) -> Tensor:
    """Return the scale of prior draws (n, d) in each coordinate, (d,) in float64; draws that are not finite are left out.

    Raises:
        ValueError: the finite draws of a coordinate are all equal, or there are none.
    """
    found = draws.detach().double()
    found = found[torch.isfinite(found).all(-1)]
    if not len(found):
        raise ValueError(f"model: got no finite draw among {len(draws)} of its prior, expected some")
    still = found.amax(0) == found.amin(0)
    if bool(still.any()):
        raise ValueError(
            f"model: got a prior under which all draws of unconstrained coordinate {int(still.nonzero()[0])} are equal, expected "
            "a spread"
        )
    return robust.spread(found)[1]
