"""Problems, likelihoods and fields, each with cheap arguments that it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from physzoo import physics
from physzoo.physics.elliptic import Elliptic2D, sines
from physzoo.physics.grey_box import GreyBoxODE
from physzoo.physics.ode import LinearODE, PeriodicHamiltonian
from physzoo.physics.ode.hamiltonian import CanonicalMap
from physzoo.physics.ode.linear import Banded, exponential
from physzoo.physics.priors import TruncatedNormal

from .pieces import (
    DOUBLE,
    RATE,
    TIMES,
    arm,
    bar,
    basis,
    collocation,
    decay,
    fem,
    field_of,
    galerkin,
    linear,
    linear_ode,
    model_error,
    ode,
    of_fem,
    plate,
    surrogate,
    unknowns,
)
from .target import Target, given


def _of_methods(
    name: str, problem: Callable[[], Any], z: Callable[[], Any], says: tuple[str, ...] = ()
) -> list[Target]:
    """solve, observe, residual and logdet of a problem."""
    return [
        Target(
            f"{name}.solve", lambda z, residual=None: problem().solve(z, residual), lambda: {"z": z()}, says={"z": says}
        ),
        Target(f"{name}.observe", lambda u: problem().observe(u), lambda: {"u": problem().solve(z())}),
        *(
            Target(
                f"{name}.{method}",
                lambda u, z, method=method: getattr(problem(), method)(u, z),
                lambda: {"u": problem().solve(z()), "z": z()},
                ("u", "z"),
                says={"z": says},
            )
            for method in ("residual", "logdet")
        ),
    ]


def of_physics() -> list[Target]:
    grid = torch.linspace(0, 1, 5, dtype=DOUBLE)
    mean = torch.ones(3, dtype=DOUBLE)
    field = torch.zeros(2, dtype=DOUBLE)
    targets = [
        Target(
            "observe",
            physics.observe,
            given(name="height", mean=mean, noise=0.5, obs=mean),
            says={
                "mean": ("obs",),
                "event_dim": ("event dimensions",),
                "mask": ("height",),
                "obs": ("height",),
                "df": ("height",),
                "family": ("height",),
            },
        ),
        Target(
            "observe(student_t)",
            physics.observe,
            given(name="height", mean=mean, noise=0.5, obs=mean, family="student_t", df=4.0),
            ("df", "noise"),
        ),
        Target(
            "observe(error)",
            physics.observe,
            given(name="height", mean=mean, noise=0.5, obs=mean, error=model_error()),
            ("error", "noise", "mask"),
        ),
        Target(
            "virtual_observables",
            physics.virtual_observables,
            given(name="r", problem=bar(), u=torch.zeros(3, dtype=DOUBLE), z=torch.zeros(4, dtype=DOUBLE), scale=1.0),
            says={"scale": ("noise", "r:"), "event_dim": ("event dimensions",)},
        ),
        Target("ODEProblem", physics.ODEProblem, given(rhs=decay, times=TIMES)),
        Target(
            "ODEProblem(dopri5)",
            physics.ODEProblem,
            given(rhs=decay, times=TIMES, method="dopri5"),
            ("substeps", "rtol", "atol", "max_steps"),
        ),
        *_of_methods("ODEProblem", ode, lambda: RATE, ("rate", "initial_state")),
        Target(
            "ODEProblem.solve(rate)",
            lambda rate, initial_state: ode().solve({"rate": rate, "initial_state": initial_state}),
            given(**RATE),
            says={"initial_state": ("rhs",)},
        ),
        Target("LinearODE", LinearODE, given(generator=lambda z: torch.eye(2), times=TIMES)),
        *_of_methods("LinearODE", linear_ode, lambda: RATE, ("rate", "initial_state")),
        Target("LinearODE.at", lambda times: linear_ode().at(times), given(times=TIMES)),
        Target("exponential", exponential, given(matrix=torch.eye(2, dtype=DOUBLE))),
        Target("Banded", Banded, given(points=4)),
        Target("GreyBoxODE", GreyBoxODE, given(physics=decay, dynamics=decay, times=TIMES)),
        Target("CanonicalMap", CanonicalMap, given(freedoms=1, depth=1, width=2)),
        Target("PeriodicHamiltonian", PeriodicHamiltonian, given(multiples=(1,), period=1.0, depth=1, width=2)),
        Target("Elliptic1D", physics.Elliptic1D, given(log_conductivity=lambda z: z, sensors=[0.5], elements=4)),
        *_of_methods("Elliptic1D", bar, lambda: torch.zeros(4, dtype=DOUBLE), ("log_conductivity",)),
        Target("Elliptic2D", Elliptic2D, given(sensors=[0.3], cells=4, blocks=2)),
        *_of_methods("Elliptic2D", plate, lambda: torch.zeros(4, dtype=DOUBLE)),
        Target(
            "LinearProblem",
            physics.LinearProblem,
            given(
                stiffness=torch.eye(2, dtype=DOUBLE),
                load=torch.eye(2, dtype=DOUBLE),
                sensors=torch.eye(2, dtype=DOUBLE),
            ),
        ),
        *_of_methods("LinearProblem", linear, lambda: field),
        Target("PlanarArm", physics.PlanarArm, given(lengths=[1.0, 2.0])),
        *_of_methods("PlanarArm", arm, lambda: torch.full((3,), 0.3, dtype=DOUBLE)),
        Target("Collocation", physics.Collocation, given(modes=4, points=6)),
        *(
            Target(
                f"Collocation.{method}",
                lambda method=method, **a: getattr(collocation(), method)(**a),
                given(**usual),
                tuple(usual),
            )
            for method, usual in (
                ("conductivity", {"z": field, "x": grid}),
                ("state", {"c": torch.zeros(4, dtype=DOUBLE), "x": grid}),
                ("rows", {"z": field, "x": grid}),
                ("at_points", {"c": torch.zeros(4, dtype=DOUBLE), "z": field, "x": grid}),
            )
        ),
        *_of_methods("Collocation", collocation, lambda: torch.zeros(2, dtype=DOUBLE)),
        Target("Galerkin", physics.Galerkin, given(problem=bar(), basis=sines(3, 2, DOUBLE))),
        *_of_methods("Galerkin", galerkin, lambda: torch.zeros(4, dtype=DOUBLE), ("log_conductivity",)),
        Target("sines", sines, given(nodes=3, modes=2)),
        Target("KarhunenLoeve", physics.KarhunenLoeve, given(points=grid, modes=2, length=0.3)),
        Target("KarhunenLoeve()", lambda z: field_of()(z), given(z=field)),
        Target("TruncatedNormal", TruncatedNormal, given(loc=torch.zeros(2), scale=torch.ones(2), validate_args=True)),
        Target(
            "ModelError",
            physics.ModelError,
            given(mean=mean, covariance=torch.eye(3, dtype=DOUBLE)),
            says={"mean": ("covariance",)},
        ),
        Target("error_covariance", physics.error_covariance, lambda: {"surrogate": surrogate(), "z": unknowns()}),
        Target(
            "Surrogate",
            physics.Surrogate,
            lambda: {"problem": bar(), "z": unknowns(), "basis": basis(), "hidden": (4,)},
        ),
        *_of_methods("Surrogate", surrogate, lambda: torch.zeros(4, dtype=DOUBLE)),
        Target(
            "FixedBasis",
            physics.FixedBasis,
            given(centre=mean, rows=torch.eye(3, dtype=DOUBLE)),
            says={"centre": ("rows",)},
        ),
        Target("FixedBasis.of_states", physics.FixedBasis.of_states, lambda: {"u": bar().solve(unknowns())}),
        Target(
            "FixedBasis.of_residual",
            physics.FixedBasis.of_residual,
            lambda: {"problem": bar(), "z": unknowns()[0], "like": torch.zeros(3, dtype=DOUBLE)},
            says={"z": ("like",), "like": ("u:",)},
        ),
        Target(
            "Trunk",
            physics.Trunk,
            given(coordinates=grid[:, None], centre=torch.ones(5, dtype=DOUBLE), directions=2, hidden=(4,)),
            says={"centre": ("coordinates",)},
        ),
        Target("unit_cube_cutoff", physics.unit_cube_cutoff, given(x=grid[:, None])),
    ]
    return targets


def of_fem_problems() -> list[Target]:
    from physzoo.physics.fem import NewtonOptions

    def built(**changes: Any) -> Any:
        from fem_examples import reaction_diffusion

        return reaction_diffusion(cells=2, **changes)

    targets = [
        Target("NewtonOptions", NewtonOptions, given()),
        Target("FEMProblem", built, given(linear=None, quadrature_degree=None, newton=None, on_failure="raise")),
        *_of_methods("FEMProblem", fem, of_fem, ("k", "source", "reaction", "flux")),
        Target("FEMProblem.full", lambda u: fem().full(u), lambda: {"u": fem().solve(of_fem())}),
        Target(
            "FEMProblem.restrict",
            lambda full: fem().restrict(full),
            lambda: {"full": fem().full(fem().solve(of_fem()))},
        ),
        Target("FEMProblem.to_function", lambda u: fem().to_function(u), lambda: {"u": fem().solve(of_fem())}),
        Target("FEMProblem.coordinates", lambda name=None: fem().coordinates(name), given()),
        Target("FEMProblem.volumes", lambda name=None: fem().volumes(name), given()),
        Target(
            "FEMProblem.tangent",
            lambda z, direction: fem().tangent(z, direction),
            lambda: {"z": of_fem(), "direction": of_fem()},
            says={"z": ("k", "source", "reaction", "flux"), "direction": ("k", "source", "reaction", "flux")},
        ),
        Target("FEMProblem.from_builder", physics.FEMProblem.from_builder, given(build=built)),
    ]
    return targets
