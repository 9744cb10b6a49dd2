"""The two likelihoods of an animal with physics, by name."""

from __future__ import annotations

from typing import Literal

LikelihoodName = Literal["forward", "residual"]


def checked(likelihood: str) -> str:
    """Return the name.

    Raises:
        ValueError: it is neither.
    """
    if likelihood not in ("forward", "residual"):
        raise ValueError(f"likelihood: got {likelihood!r}, expected 'forward' or 'residual'")
    return likelihood
