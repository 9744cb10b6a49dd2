"""From the support of a latent site to unconstrained space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch.distributions import biject_to, constraints

CIRCULAR = ("VonMises", "SineBivariateVonMises", "SineSkewed")
TURN: Any = constraints.interval(-math.pi, math.pi)


def support_of(name: str, site: Mapping[str, Any]) -> Any:
    """Return the support of a latent site; of an angle, one turn of the circle.

    Torch gives angles the real line as support. Their density repeats itself there, so it has no integral: the circle is cut open
    at pi instead, where draws of these distributions end, too.

    Raises:
        ValueError: no bijection leads from R^n to the support.
    """
    distribution = site["fn"]
    support = TURN if circular(distribution) else distribution.support
    if support is TURN and distribution.event_dim:
        support = constraints.independent(support, distribution.event_dim)
    try:
        transform = biject_to(support)
        x = transform.inv(site["value"])
        transform.log_abs_det_jacobian(x, site["value"])
    except NotImplementedError:
        raise ValueError(
            f"model: latent site '{name}' has the support {support}, to which no bijection from R^n is known, expected another "
            "distribution (of a covariance: LKJCholesky and scales; of a point on a sphere: angles)"
        ) from None
    return support


def circular(distribution: Any) -> bool:
    """Whether the values of a distribution are angles."""
    while type(distribution).__name__ not in CIRCULAR:
        if hasattr(distribution, "transforms") or not hasattr(distribution, "base_dist"):
            return False
        distribution = distribution.base_dist
    return True
