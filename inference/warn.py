"""One warning for what cannot be trusted, of a category of its own, so that it can be silenced or made an error."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path


class TrustWarning(UserWarning):
    """A result came out, and its own diagnostics say that it cannot be trusted; the text says what to do."""


_ROOMS = ("inference", "guides", "physics", "models")
_OWN = (*(str(Path(__file__).parents[1] / room) for room in _ROOMS), contextlib.__file__.removesuffix(".py"))

FEW = 0.3  # share of effective draws below which a guide's draws are not taken for the posterior's


def warn(text: str) -> None:
    """Warn at the line outside this package that led here."""
    warnings.warn(text, TrustWarning, skip_file_prefixes=_OWN)


def warn_of_weights(k_hat: float, argument: str, share: float = 1.0) -> None:
    """Warn once of importance weights whose k-hat is not below 0.7, or that leave a small share of effective draws.

    A guide that is far too wide has weights that can be trusted and draws that are not the posterior's.
    """
    if k_hat < 0.7 and share < FEW:
        warn(
            f"{argument}: got draws of which {share:.0%} are effective by their importance weights, expected over {FEW:.0%}: they are "
            "not the posterior's; fit longer, take a richer family, or draw many and use importance_resample",
        )
    if not k_hat < 0.7:
        warn(
            f"{argument}: got k-hat {k_hat:.2f}, expected below 0.7: these weights cannot be trusted; fit longer, take a richer "
            "family, start from laplace, or draw by hmc, nuts or smc instead",
        )
