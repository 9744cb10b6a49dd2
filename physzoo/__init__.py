"""A zoo of physics-informed generative models in Pyro, each with a measured certificate of calibration.

    problem.solve(z) -> u        z unknowns, u state, y data
    problem.observe(u) -> y
    problem.residual(u, z) -> r  the notation that every animal shares

What most people need can be taken from here; each name is imported when it is first used, so that ``import
physzoo`` costs nothing and changes nothing. The rest is in its module, in one of the rooms ``physzoo.models``,
``physzoo.physics``, ``physzoo.guides`` and ``physzoo.inference``: ``physzoo.inference.grey_box.GreyBoxELBO``,
``physzoo.inference.reference_grid.grid``, ...
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .guides.amortize import amortize as amortize
    from .guides.unconstrained import Whitening as Whitening
    from .inference.calibrate import calibrate as calibrate
    from .inference.calibration import Calibration as Calibration
    from .inference.compare import compare as compare
    from .inference.data import DataSets as DataSets
    from .inference.data import Simulator as Simulator
    from .inference.divergences import MMD as MMD
    from .inference.divergences import AlphaJS as AlphaJS
    from .inference.divergences import EnergyDistance as EnergyDistance
    from .inference.divergences import Renyi as Renyi
    from .inference.divergences import SlicedWasserstein as SlicedWasserstein
    from .inference.fit import fit as fit
    from .inference.importance import importance_resample as importance_resample
    from .inference.laplace import laplace as laplace
    from .inference.laplace import laplace_mixture as laplace_mixture
    from .inference.objectives import ELBO as ELBO
    from .inference.objectives import ForwardKL as ForwardKL
    from .inference.objectives import Mixture as Mixture
    from .inference.options import FitOptions as FitOptions
    from .inference.posterior import posterior as posterior
    from .inference.posterior_sbc import posterior_sbc as posterior_sbc
    from .inference.reference import Reference as Reference
    from .inference.reference_hmc import hmc as hmc
    from .inference.reference_nuts import nuts as nuts
    from .inference.reference_pcn import pcn as pcn
    from .inference.reference_smc import smc as smc
    from .inference.surrogate import fit_surrogate as fit_surrogate
    from .models.contract import check_model as check_model
    from .models.registry import Animal as Animal
    from .models.registry import Quantity as Quantity
    from .models.registry import Recipe as Recipe
    from .models.registry import get as get
    from .models.registry import names as names
    from .models.registry import register as register
    from .physics.likelihoods import observe as observe
    from .physics.likelihoods import virtual_observables as virtual_observables
    from .physics.model_error import error_covariance as error_covariance
    from .physics.surrogate import Surrogate as Surrogate
    from .weights import load as load

_HOME = {
    "ELBO": "inference.objectives",
    "AlphaJS": "inference.divergences",
    "Animal": "models.registry",
    "Calibration": "inference.calibration",
    "DataSets": "inference.data",
    "EnergyDistance": "inference.divergences",
    "FitOptions": "inference.options",
    "ForwardKL": "inference.objectives",
    "MMD": "inference.divergences",
    "Mixture": "inference.objectives",
    "Quantity": "models.registry",
    "Recipe": "models.registry",
    "Reference": "inference.reference",
    "Renyi": "inference.divergences",
    "Simulator": "inference.data",
    "SlicedWasserstein": "inference.divergences",
    "Surrogate": "physics.surrogate",
    "Whitening": "guides.unconstrained",
    "amortize": "guides.amortize",
    "calibrate": "inference.calibrate",
    "check_model": "models.contract",
    "compare": "inference.compare",
    "error_covariance": "physics.model_error",
    "fit": "inference.fit",
    "fit_surrogate": "inference.surrogate",
    "get": "models.registry",
    "hmc": "inference.reference_hmc",
    "importance_resample": "inference.importance",
    "laplace": "inference.laplace",
    "laplace_mixture": "inference.laplace",
    "load": "weights",
    "names": "models.registry",
    "nuts": "inference.reference_nuts",
    "observe": "physics.likelihoods",
    "pcn": "inference.reference_pcn",
    "posterior": "inference.posterior",
    "posterior_sbc": "inference.posterior_sbc",
    "register": "models.registry",
    "smc": "inference.reference_smc",
    "virtual_observables": "physics.likelihoods",
}

__all__ = [
    "ELBO",
    "MMD",
    "AlphaJS",
    "Animal",
    "Calibration",
    "DataSets",
    "EnergyDistance",
    "FitOptions",
    "ForwardKL",
    "Mixture",
    "Quantity",
    "Recipe",
    "Reference",
    "Renyi",
    "Simulator",
    "SlicedWasserstein",
    "Surrogate",
    "Whitening",
    "__version__",
    "amortize",
    "calibrate",
    "check_model",
    "compare",
    "error_covariance",
    "fit",
    "fit_surrogate",
    "get",
    "hmc",
    "importance_resample",
    "laplace",
    "laplace_mixture",
    "load",
    "names",
    "nuts",
    "observe",
    "pcn",
    "posterior",
    "posterior_sbc",
    "register",
    "smc",
    "virtual_observables",
]
__version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("physzoo")
    elif name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    elif name in ("models", "physics", "guides", "inference", "weights", "task"):
        return import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module 'physzoo' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
