"""Modules by the names that they had in version 0.1: each still imports, and says where its contents are now."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = __name__.split(".", 1)[0]
_FIT = ("checkpoint", "guard", "loop", "options", "parameters", "resume", "source_checks", "stages")
_FEM = (
    *("assembly", "autograd", "compiled", "forms", "integrand", "lock", "logdet", "require", "sensors"),
    "tables",
)
MOVED: dict[str, tuple[str, ...]] = {
    "guides.alone": ("core.global_state",),
    "guides.arguments": ("core.arguments",),
    "guides.atomic": ("core.files",),
    "guides.batches": ("core.broadcasting",),
    "guides.nodes": ("core.traces",),
    "guides.require": ("core.require",),
    "guides.sites": (
        *("core.sites", "core.prototype", "core.simulate", "core.plates", "core.global_state", "core.arguments"),
    ),
    "guides.spread": ("core.spread",),
    "guides.supports": ("core.model_spec",),
    "guides.traces": ("core.traces",),
    "guides.unconstrained": ("core.model_spec",),
    "guides.encoder": ("guides.encoders.base",),
    "guides.flows": ("guides.families.flows",),
    "guides.linearise": ("guides.refine.first_order",),
    "guides.preconditioned": ("guides.state.preconditioned",),
    "guides.prior": ("guides.families.prior",),
    "guides.residual": ("guides.state.residual",),
    "physics.require": ("core.require",),
    **{f"physics.fem_{name}": (f"physics.fem.{name}",) for name in _FEM},
    **{f"physics.{name}": (f"physics.ode.{name}",) for name in ("adaptive", "fixed_step", "hamiltonian", "tableaux")},
    **{f"physics.ode_{name}": (f"physics.ode.{name}",) for name in ("equation", "failures", "gradient")},
    "physics.fem_selected": ("physics.selected_inverse",),
    "physics.linear_ode": ("physics.ode.linear",),
    "physics.elliptic1d": ("physics.elliptic.interval",),
    "physics.elliptic2d": ("physics.elliptic.rectangle",),
    "physics.galerkin": ("physics.elliptic.galerkin",),
    "physics.collocation": ("physics.elliptic.collocation",),
    "physics.surrogate_basis": ("physics.surrogate.basis",),
    "data_command": ("command.data",),
    "draws_file": ("command.draws_file",),
    "endings": ("command.endings",),
    "figures": ("report.figures",),
    "figures_grey_box": ("report.figures_grey_box",),
    "figures_images": ("report.figures_images",),
    "labels": ("report.labels",),
    "report_grey_box": ("report.grey_box",),
    "report_page": ("report.page",),
    **{f"inference.{name}": (f"inference.fit.{name}",) for name in _FIT},
    "inference.data": ("inference.fit.sources",),
    "inference.fit_support": ("inference.fit.support",),
    "inference.distil": ("inference.objectives.draws",),
    "inference.divergences": ("inference.objectives.divergences",),
    "inference.grey_box": ("inference.objectives.grey_box",),
    "inference.stock": ("inference.objectives.stock",),
    "inference.reference": ("inference.references.result",),
    "inference.reference_grid": ("inference.references.quadrature",),
    "inference.reference_hmc": ("inference.references.hamiltonian",),
    "inference.reference_nuts": ("inference.references.no_u_turn",),
    "inference.reference_pcn": ("inference.references.crank_nicolson",),
    "inference.reference_smc": ("inference.references.tempering",),
    "inference.blocks": ("inference.calibration.blocks",),
    "inference.calibrate": ("inference.calibration.over_prior",),
    "inference.calibration_input": ("inference.calibration.inputs",),
    "inference.calibration_plot": ("inference.calibration.plot",),
    "inference.contraction": ("inference.calibration.contraction",),
    "inference.data_checks": ("inference.calibration.many_data_sets",),
    "inference.posterior_sbc": ("inference.calibration.around_data",),
    "inference.sbc": ("inference.calibration.sbc",),
    "inference.tarp": ("inference.calibration.expected_coverage",),
    "inference.verdict": ("inference.calibration.verdict",),
    "inference.densities": ("inference.density.densities",),
    "inference.entries": ("inference.density.entries",),
    "inference.gradient_check": ("inference.density.gradient_check",),
    "inference.latents": ("inference.density.latents",),
    "inference.precision": ("inference.density.precision",),
    "inference.rejected": ("inference.density.rejected",),
    "inference.shares": ("inference.density.shares",),
    "inference.scale": ("inference.density.scale",),
    "inference.ascent": ("inference.modes.ascent",),
    "inference.laplace": ("inference.modes.gaussian",),
    "inference.point_estimate": ("inference.modes.point",),
    "inference.closed_forms": ("inference.evaluation.closed_forms",),
    "inference.reconstruction": ("inference.evaluation.reconstruction",),
    "inference.site_errors": ("inference.evaluation.site_errors",),
}


class _Moved(ModuleType):
    """A module whose attributes are those of others, to be read and to be set."""

    def __init__(self, name: str, homes: Sequence[str]) -> None:
        super().__init__(name)
        self.__dict__.update(__homes__=homes, __before__={})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._home(name), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__"):
            self.__dict__[name] = value
            return
        home = self._home(name)
        self.__dict__["__before__"].setdefault(name, getattr(home, name))
        setattr(home, name, value)

    def __delattr__(self, name: str) -> None:
        """Put back what was there before it was set."""
        setattr(self._home(name), name, self.__dict__["__before__"].pop(name))

    def _home(self, name: str) -> ModuleType:
        homes = self.__dict__["__homes__"]
        for home in map(import_module, homes):
            if not name.startswith("__") and hasattr(home, name):
                return home
        raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'; it has moved to {', '.join(homes)}")


class _Loader(Loader):
    """Makes the module of an old name."""

    def __init__(self, homes: Sequence[str]) -> None:
        self.homes = [f"{PACKAGE}.{home}" for home in homes]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(f"{spec.name} has moved: import from {', '.join(self.homes)}", DeprecationWarning, stacklevel=2)
        return _Moved(spec.name, self.homes)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: all is looked up when it is asked for."""


class _Finder(MetaPathFinder):
    """Finds the modules of ``MOVED``, and nothing else; asked after all others."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        homes = MOVED.get(fullname.removeprefix(f"{PACKAGE}.")) if fullname.startswith(f"{PACKAGE}.") else None
        return None if homes is None else ModuleSpec(fullname, _Loader(homes))


def install() -> None:
    """Let old names be found, once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
