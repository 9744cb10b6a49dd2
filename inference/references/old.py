"""The samplers by the names that ``physzoo`` had for them in version 0.1: each says what replaces it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps

from .crank_nicolson import pcn as _pcn
from .hamiltonian import hmc as _hmc
from .no_u_turn import nuts as _nuts
from .result import Reference
from .tempering import smc as _smc


def _old[**P](function: Callable[P, Reference], now: str) -> Callable[P, Reference]:
    @wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> Reference:
        text = (
            f"physzoo.{function.__name__}: call physzoo.reference(model, data, physzoo.{now}(...), start=...) instead"
        )
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return function(*args, **kwargs)

    return told


hmc = _old(_hmc, "HMC")
nuts = _old(_nuts, "NUTS")
pcn = _old(_pcn, "PCN")
smc = _old(_smc, "SMC")
