"""The public functions and constructors, each with cheap arguments that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

import physzoo
from physzoo import guides, physics, weights
from physzoo.guides.families import FAMILIES
from physzoo.inference import distil, reference, reference_grid, sbc
from physzoo.inference.calibration import calibrate_draws
from physzoo.inference.compare import c2st
from physzoo.inference.data import simulated_once
from physzoo.inference.data_checks import data_checks
from physzoo.inference.grey_box import GreyBoxELBO
from physzoo.inference.importance import k_hat, smoothed, weights_of
from physzoo.inference.laplace import laplace_mixture
from physzoo.inference.objectives import Reweighted
from physzoo.inference.point_estimate import point_estimate
from physzoo.inference.posterior import sample
from physzoo.inference.tarp import tarp
from physzoo.models import registry
from physzoo.models.contract import checks
from physzoo.physics.elliptic2d import Elliptic2D
from physzoo.physics.galerkin import sines
from physzoo.physics.grey_box import GreyBoxODE
from physzoo.physics.hamiltonian import CanonicalMap, PeriodicHamiltonian
from physzoo.physics.linear_ode import Banded, LinearODE, exponential
from physzoo.physics.priors import TruncatedNormal

DOUBLE = torch.float64
DESIGN = torch.tensor([[1.0, 0.5], [0.2, 1.0], [1.0, 1.0]], dtype=DOUBLE)
Y = torch.tensor([0.7, -0.3, 1.1], dtype=DOUBLE)


@dataclass(frozen=True)
class Target:
    """A function and arguments that it takes.

    Attributes:
        name: as it stands in the table.
        function: called by keywords.
        usual: makes arguments that are accepted.
        arguments: those that are replaced; by default all of the signature and of ``usual``.
        slow: (argument, value) that is right and takes long.
        says: argument -> other words that a sentence may name it by, e.g. the site or the key at fault.
        """

    name: str
    function: Callable[..., Any]
    usual: Callable[[], dict[str, Any]]
    arguments: tuple[str, ...] = ()
    says: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    slow: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.arguments:
            known = [
                name
                for name, one in inspect.signature(self.function).parameters.items()
                if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL, one.POSITIONAL_ONLY)
            ]
            object.__setattr__(self, "arguments", tuple(dict.fromkeys([*known, *self.usual()])))


class Line(PyroModule):
    """z ~ N(0, I), y ~ N(A z, 0.25 I)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("design", DESIGN.clone())

    def forward(self, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        z = pyro.sample("z", dist.Normal(self.design.new_zeros(2), 1.0).to_event(1))
        return physics.observe("y", z @ self.design.T, 0.5, obs=y, mask=mask)


@cache
def line() -> Line:
    return Line()


@cache
def amortised() -> Any:
    return guides.amortize(line(), "mlp", "full", example={"y": Y}, simulations=16)


@cache
def single() -> Any:
    return guides.amortize(line(), None, "full", example={"y": Y}, simulations=16)


@cache
def flow() -> Any:
    return guides.amortize(line(), "mlp", "spline", example={"y": Y}, simulations=16, transforms=1)


@cache
def tree() -> Any:
    return physzoo.posterior(line(), single(), {"y": Y}, draws=60)


@cache
def draws() -> dict[str, np.ndarray]:
    return {"z": np.random.default_rng(0).normal(size=(2, 60, 2))}


@cache
def of_reference() -> Any:
    return physzoo.Reference("nuts", draws(), reference.summarise(draws()))


@cache
def of_sets() -> Any:
    many = {"z": np.random.default_rng(0).normal(size=(2, 60, 3, 2))}
    return physzoo.Reference("hmc", many, reference.summarise(many), datasets=3)


def decay(t: Tensor, state: Tensor, z: Mapping[str, Tensor]) -> Tensor:
    return -z["rate"][..., None] * state


TIMES = [0.0, 1.0, 2.0]
RATE = {"rate": torch.tensor(1.0, dtype=DOUBLE), "initial_state": torch.ones(2, dtype=DOUBLE)}


@cache
def ode() -> Any:
    return physics.ODEProblem(decay, TIMES, dtype=DOUBLE)


@cache
def linear_ode() -> Any:
    return LinearODE(lambda z: -z["rate"][..., None, None] * torch.eye(2, dtype=DOUBLE), TIMES, dtype=DOUBLE)


@cache
def bar() -> Any:
    return physics.Elliptic1D(lambda z: z, [0.5], 4, dtype=DOUBLE)


@cache
def plate() -> Any:
    return Elliptic2D([0.3], 4, 2)


@cache
def linear() -> Any:
    eye = torch.eye(2, dtype=DOUBLE)
    return physics.LinearProblem(eye, eye, eye)


@cache
def collocation() -> Any:
    return physics.Collocation(4, 6, (0.0,), 2, dtype=DOUBLE)


@cache
def galerkin() -> Any:
    return physics.Galerkin(bar(), sines(3, 2, DOUBLE))


@cache
def arm() -> Any:
    return physics.PlanarArm([1.0, 1.0], DOUBLE)


@cache
def unknowns() -> Tensor:
    return torch.randn(12, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))


@cache
def basis() -> Any:
    return physics.FixedBasis.of_states(bar().solve(unknowns()), 2)


@cache
def surrogate() -> Any:
    return physics.Surrogate(bar(), unknowns(), basis(), (4,))


@cache
def model_error() -> Any:
    return physics.ModelError(torch.zeros(3, dtype=DOUBLE), torch.eye(3, dtype=DOUBLE))


@cache
def field_of() -> Any:
    return physics.KarhunenLoeve(torch.linspace(0, 1, 6, dtype=DOUBLE), 2, 0.3)


@cache
def whitening() -> Any:
    return guides.Whitening(torch.zeros(2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE))


def prior_of_bar(**_: Any) -> dict[str, Tensor]:
    return {"z": pyro.sample("z", dist.Normal(torch.zeros(4, dtype=DOUBLE), 1.0).to_event(1))}


@cache
def fem() -> Any:
    from fem_examples import reaction_diffusion

    return reaction_diffusion(cells=2)


def of_fem() -> dict[str, Tensor]:
    problem = fem()
    return {name: torch.zeros(shape, dtype=DOUBLE) for name, shape in _shapes_of_fem(problem).items()}


def _shapes_of_fem(problem: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(problem.coordinates(name).shape[:1]) if name in ("k", "source") else () for name in ("k", "source", "reaction", "flux")}


def fem_pieces() -> dict[str, Any]:
    problem = fem()
    system = problem.system if hasattr(problem, "system") else problem._system
    return system


@cache
def trained() -> Any:
    from physzoo.task import RunOptions, build_task

    return build_task(registry.get("linear_gaussian"), RunOptions(progress=False), None, 0)


@cache
def folder() -> Path:
    import tempfile

    return Path(tempfile.mkdtemp())


@cache
def reference_file() -> Path:
    return of_reference().save(folder() / "reference.npz")


def animal(**changes: Any) -> Any:
    usual: dict[str, Any] = {
        "name": "stranger", "title": "t", "physics": "p", "likelihoods": ("forward",), "model": Line, "data": dict,
        "quantities": {"z": registry.Quantity("z")}, "recipe": registry.Recipe(), "priors": {"z": "N"}, "source": "s",
    }  # fmt: skip
    return usual | changes


def registered(**changes: Any) -> Any:
    """Register an animal and let it go again."""
    before = dict(registry._ANIMALS)
    try:
        return registry.register(registry.Animal(**animal(**changes)))
    finally:
        registry._ANIMALS.clear()
        registry._ANIMALS.update(before)


def register(animal: Any) -> Any:
    before = dict(registry._ANIMALS)
    try:
        return registry.register(animal)
    finally:
        registry._ANIMALS.clear()
        registry._ANIMALS.update(before)


def given(**arguments: Any) -> Callable[[], dict[str, Any]]:
    """The arguments that are the same in every call."""
    return lambda: dict(arguments)


SITE = ("z", "y")
DATA = {"data": (*SITE, "model", "particles", "loc"), "model": ("data", "y", "z"), "guide": ("data", "y", "z"), "example": SITE, "latents": SITE}
BATCH = DATA | {"datasets": SITE}
QUIET = {"progress": False}
PAIR = ("z", "mean", "log_likelihood", "log_joint")


def _of_methods(name: str, problem: Callable[[], Any], z: Callable[[], Any], says: tuple[str, ...] = ()) -> list[Target]:
    """solve, observe, residual and logdet of a problem."""
    return [
        Target(f"{name}.solve", lambda z, residual=None: problem().solve(z, residual), lambda: {"z": z()}, says={"z": says}),
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


def alone_in_pyro(call: Callable[[], Any]) -> Any:
    """Call a guide as Pyro does, without leaving its parameters in Pyro's store."""
    with pyro.get_param_store().scope():
        return call()


def of_inference() -> list[Target]:
    data = {"y": Y}
    model = {"model": line(), "data": data}
    both = {"model": line(), "guide": amortised(), "data": data}
    rng = np.random.default_rng(0)
    truths, drawn = {"z": rng.normal(size=(6, 2))}, {"z": rng.normal(size=(5, 6, 2))}
    logs = (rng.normal(size=6), rng.normal(size=(5, 6)))
    options = {name: one.default for name, one in inspect.signature(physzoo.FitOptions).parameters.items()}
    options.pop("facts")
    return [
        Target("fit", physzoo.fit, given(**both, objective=physzoo.ELBO(), options=physzoo.FitOptions(steps=1, **QUIET)), ("model", "guide", "data", "objective", "options"), says=DATA, slow=(("options", "None"),)),
        Target(
            "fit(**options)",
            lambda **options: physzoo.fit(**both | {"guide": deepcopy(amortised())}, **options),
            given(**options | {"steps": 1} | QUIET, facts={}),
            says={"held_out": (*SITE, "data")},
        ),
        Target("FitOptions", physzoo.FitOptions, given()),
        Target("DataSets", physzoo.DataSets, given(data={"y": torch.zeros(4, 3, dtype=DOUBLE)}), says=DATA),
        Target("Simulator", physzoo.Simulator, given(), says={"given": SITE, "seen": SITE}),
        Target(
            "fit(DataSets)",
            lambda data, batch_size=2, latents=None: physzoo.fit(line(), amortised(), physzoo.DataSets(data, batch_size, latents), steps=1, **QUIET),
            given(data={"y": torch.zeros(4, 3, dtype=DOUBLE)}),
            says=DATA,
        ),
        Target(
            "fit(Simulator)",
            lambda batch_size=4, given=None, corrupt=None, seen=None: physzoo.fit(
                line(), amortised(), physzoo.Simulator(batch_size, given, corrupt, seen), physzoo.ForwardKL(), steps=1, **QUIET
            ),
            given(),
            says={"given": (*SITE, "data"), "seen": SITE},
        ),
        Target("simulated_once", simulated_once, given(model=line(), guide=amortised(), simulations=8), says=DATA | {"given": (*SITE, "data")}),
        Target("ELBO", physzoo.ELBO, given()),
        Target("ForwardKL", physzoo.fit, given(**{**both, "data": physzoo.Simulator(4)}, objective=physzoo.ForwardKL(), steps=1, **QUIET), ("data", "objective", "steps"), says=DATA),
        Target("Reweighted", Reweighted, given()),
        Target("Mixture", physzoo.Mixture, given(terms=((1.0, physzoo.ELBO()),))),
        Target("GreyBoxELBO", GreyBoxELBO, given()),
        Target("Renyi", physzoo.Renyi, given()),
        Target("AlphaJS", physzoo.AlphaJS, given()),
        Target("MMD", physzoo.MMD, given()),
        Target("SlicedWasserstein", physzoo.SlicedWasserstein, given()),
        Target("DrawsKL", distil.DrawsKL, given(draws={"z": torch.zeros(4, 2, dtype=DOUBLE)}), says={"draws": SITE}),
        Target("posterior", physzoo.posterior, given(**both, draws=3), says=DATA | {"dims": ("z",)}),
        Target("sample", sample, given(guide=amortised(), data=data, draws=3), says=DATA),
        Target("laplace", physzoo.laplace, given(**model, starts=1, climbers=2, candidates=4), says=DATA),
        Target("laplace_mixture", laplace_mixture, given(**model, starts=2, candidates=4), says=DATA),
        Target("point_estimate", point_estimate, given(**model, starts=1, climbers=2, candidates=4), says=DATA),
        Target("hmc", physzoo.hmc, given(**model, loc=torch.zeros(2, dtype=DOUBLE), tril=torch.eye(2, dtype=DOUBLE), chains=2, draws=4, warmup=20, **QUIET), says=BATCH),
        Target("nuts", physzoo.nuts, given(**model, chains=1, draws=4, warmup=2, **QUIET), says=DATA | {"initial": ("z",)}, slow=(("workers", "3"),)),
        Target("pcn", physzoo.pcn, given(**model, chains=2, draws=2, warmup=8, thin=1, **QUIET), says=BATCH),
        Target("smc", physzoo.smc, given(**model, runs=2, particles=12, moves=1, final=1, **QUIET), says=DATA),
        Target("grid", reference_grid.grid, given(**model, points=5), says=DATA),
        Target("total_variation", reference_grid.total_variation, given(p=np.full(4, 0.25), q=np.full(4, 0.25))),
        Target("compare", physzoo.compare, given(draws={"z": draws()["z"][0]}, reference={"z": draws()["z"][1]}), says={"draws": ("z",), "reference": ("z",)}),
        Target("c2st", c2st, given(draws=draws()["z"][0], reference=draws()["z"][1])),
        Target("calibrate", physzoo.calibrate, given(model=line(), guide=amortised(), datasets=4, draws=4, **QUIET), says=DATA | {"given": (*SITE, "mask"), "pairs": (*SITE, "model"), "simulator": ("pairs",)}),
        Target(
            "calibrate_draws",
            calibrate_draws,
            given(truths=truths, draws=drawn, log_likelihood=logs, log_joint=logs, log_q=logs),
            says={"truths": ("z",), "draws": ("z",)},
        ),
        Target(
            "posterior_sbc",
            physzoo.posterior_sbc,
            given(**{**both, "guide": single()}, datasets=4, draws=4, family="diagonal", steps=1, particles=1, **QUIET),
            says=DATA | {"learning_rate": ("guide",)},
        ),
        Target("data_checks", data_checks, given(**both, draws=60), says=DATA),
        Target("importance_resample", physzoo.importance_resample, lambda: {"tree": tree()}),
        Target("weights_of", weights_of, lambda: {"tree": tree()}),
        Target("smoothed", smoothed, given(log_p=rng.normal(size=30), log_q=rng.normal(size=30))),
        Target("k_hat", k_hat, given(log_p=rng.normal(size=30), log_q=rng.normal(size=30))),
        Target(
            "fit_surrogate",
            lambda **a: physzoo.fit_surrogate(physics.Surrogate(bar(), unknowns(), basis(), (4,)), **a),
            given(z=unknowns(), u=None, weight="energy", batch_size=4, options=None, steps=1, **QUIET),
        ),
        Target("fit_surrogate(surrogate)", physzoo.fit_surrogate, lambda: {"surrogate": physics.Surrogate(bar(), unknowns(), basis(), (4,)), "z": unknowns(), "steps": 1, **QUIET}, ("surrogate",)),
        Target("Reference", physzoo.Reference, given(method="nuts", draws=draws(), summary=reference.summarise(draws())), says={"draws": ("z",), "summary": ("mean",), "stats": ("stat",)}),
        Target("Reference.trusted", of_reference().trusted, given()),
        Target("Reference.save", of_reference().save, lambda: {"path": folder() / "a.npz"}),
        Target("Reference.load", physzoo.Reference.load, lambda: {"path": reference_file()}),
        Target("Reference.select", of_sets().select, given(index=1)),
        Target("Reference.thinned", of_reference().thinned, given(draws=4)),
        Target("Reference.tree", lambda coords=None, dims=None, units=None: of_reference().tree(coords=coords, dims=dims, units=units), given()),
        Target("summarise", reference.summarise, given(draws=draws()), says={"draws": ("z",)}),
        Target("pit", sbc.pit, given(truth=truths["z"], draws=drawn["z"], rng=np.random.default_rng(0)), says={"truth": ("draws",)}),
        Target("uniformity", sbc.uniformity, given(pits=np.linspace(0.05, 0.95, 10))),
        Target("effect", sbc.effect, given(pits=np.linspace(0.05, 0.95, 10))),
        Target("holm", sbc.holm, given(pvalues={"a": 0.2})),
        Target("ecdf_band", sbc.ecdf_band, given(count=10, probability=0.9, simulations=20)),
        Target("ecdf", sbc.ecdf, given(pits=np.linspace(0.05, 0.95, 10), points=np.linspace(0, 1, 5))),
        Target("interval_coverage", sbc.interval_coverage, given(pits=np.linspace(0.05, 0.95, 10), levels=[0.5])),
        Target("tarp", tarp, given(truths=truths["z"], draws=drawn["z"], rng=np.random.default_rng(0))),
    ]  # fmt: skip


def of_guides() -> list[Target]:
    data, example = {"y": Y}, {"y": Y, "mask": torch.ones(3, dtype=torch.bool)}
    encoders = {
        "MLP": guides.MLP, "Convolution": guides.Convolution, "Attention": guides.Attention,
        "MaskedSet": guides.MaskedSet, "Table": guides.Table,
    }  # fmt: skip
    of_family: dict[str, dict[str, Any]] = {
        "full": {}, "diagonal": {}, "low_rank": {"rank": 1}, "planar": {"layers": 2}, "coupling": {"transforms": 1, "hidden": (4,)},
        "spline": {"transforms": 1, "bins": 4, "hidden": (4,), "tail": None}, "iaf": {"transforms": 1, "hidden": (4,)},
    }  # fmt: skip
    targets = [
        Target("amortize", guides.amortize, given(model=line(), encoder="mlp", family="full", example=data, simulations=8), says=DATA),
        *(
            Target(
                f"amortize({family})",
                lambda family=family, **options: guides.amortize(line(), None, family, example=data, simulations=0, **options),
                given(**options),
                tuple(options),
            )
            for family, options in of_family.items()
            if options
        ),
        *(
            Target(f"FAMILIES['{name}']", build, given(features=2, context=0))
            for name, build in FAMILIES.items()
        ),
        *(Target(name, encoder, given(example=example), says=DATA) for name, encoder in encoders.items()),
        *(
            Target(f"{name}.forward", lambda y, mask, built=encoder(example): built(y=y, mask=mask), given(**example), ("y", "mask"))
            for name, encoder in encoders.items()
        ),
        Target("Encoder.standardise", lambda draws: guides.MLP(data).standardise(draws), given(draws={"y": torch.randn(5, 3, dtype=DOUBLE)}), says={"draws": SITE}),
        Target("AmortizedGuide.sample", amortised().sample, given(data=data, draws=2), says=DATA),
        Target("AmortizedGuide.log_prob", amortised().log_prob, given(values={"z": torch.zeros(2, dtype=DOUBLE)}, data=data), ("values", "data"), says=DATA | {"values": SITE}),
        Target("AmortizedGuide.whiten", lambda whitening: guides.amortize(line(), None, "full", example=data, simulations=0).whiten(whitening), lambda: {"whitening": whitening()}),
        Target("AmortizedGuide.whitening", amortised().whitening, given(data=data, draws=20), says=DATA),
        Target("AmortizedGuide()", lambda y, mask=None: alone_in_pyro(lambda: amortised()(y=y, mask=mask)), given(y=Y), ("y", "mask")),
        Target("Whitening+amortize", lambda loc, tril: guides.amortize(line(), None, "full", example=data, simulations=0, whitening=guides.Whitening(loc, tril)),
               given(loc=torch.zeros(2, dtype=DOUBLE), tril=torch.eye(2, dtype=DOUBLE)), says={"loc": ("whitening",), "tril": ("whitening",)}),
        Target("UnconstrainedSites", guides.UnconstrainedSites, given(model=line(), example=data), says=DATA),
        Target("UnconstrainedSites.constrain", guides.UnconstrainedSites(line(), data).constrain, given(flat=torch.zeros(2, dtype=DOUBLE))),
        Target("UnconstrainedSites.flatten", guides.UnconstrainedSites(line(), data).flatten, given(values={"z": torch.zeros(2, dtype=DOUBLE)}), says={"values": SITE}),
        Target("RelaxedBase", guides.RelaxedBase, lambda: {"guide": flow(), "data": data}, says=DATA),
        Target("ResidualGuide", guides.ResidualGuide, given(guide_z=prior_of_bar, problem=bar(), residual_shape=(3,), scale=0.1)),
        Target("PreconditionedGuide", guides.PreconditionedGuide, given(guide_z=prior_of_bar, problem=bar(), size=3, reference=torch.zeros(4, dtype=DOUBLE), scale=0.1, modes=2, steps=1, hidden=(4,)), says={"reference": ("log_conductivity", "u:", "z:"), "field": ("z:",)}),
    ]  # fmt: skip
    return targets


def of_physics() -> list[Target]:
    grid = torch.linspace(0, 1, 5, dtype=DOUBLE)
    mean = torch.ones(3, dtype=DOUBLE)
    field = torch.zeros(2, dtype=DOUBLE)
    targets = [
        Target("observe", physics.observe, given(name="height", mean=mean, noise=0.5, obs=mean), says={"mean": ("obs",), "event_dim": ("event dimensions",), "mask": ("height",), "obs": ("height",), "df": ("height",), "family": ("height",)}),
        Target("observe(student_t)", physics.observe, given(name="height", mean=mean, noise=0.5, obs=mean, family="student_t", df=4.0), ("df", "noise")),
        Target("observe(error)", physics.observe, given(name="height", mean=mean, noise=0.5, obs=mean, error=model_error()), ("error", "noise", "mask")),
        Target("virtual_observables", physics.virtual_observables, given(name="r", problem=bar(), u=torch.zeros(3, dtype=DOUBLE), z=torch.zeros(4, dtype=DOUBLE), scale=1.0), says={"scale": ("noise", "r:"), "event_dim": ("event dimensions",)}),
        Target("ODEProblem", physics.ODEProblem, given(rhs=decay, times=TIMES)),
        Target("ODEProblem(dopri5)", physics.ODEProblem, given(rhs=decay, times=TIMES, method="dopri5"), ("substeps", "rtol", "atol", "max_steps")),
        *_of_methods("ODEProblem", ode, lambda: RATE, ("rate", "initial_state")),
        Target("ODEProblem.solve(rate)", lambda rate, initial_state: ode().solve({"rate": rate, "initial_state": initial_state}), given(**RATE), says={"initial_state": ("rhs",)}),
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
        Target("LinearProblem", physics.LinearProblem, given(stiffness=torch.eye(2, dtype=DOUBLE), load=torch.eye(2, dtype=DOUBLE), sensors=torch.eye(2, dtype=DOUBLE))),
        *_of_methods("LinearProblem", linear, lambda: field),
        Target("PlanarArm", physics.PlanarArm, given(lengths=[1.0, 2.0])),
        *_of_methods("PlanarArm", arm, lambda: torch.full((3,), 0.3, dtype=DOUBLE)),
        Target("Collocation", physics.Collocation, given(modes=4, points=6)),
        *_of_methods("Collocation", collocation, lambda: torch.zeros(2, dtype=DOUBLE)),
        Target("Galerkin", physics.Galerkin, given(problem=bar(), basis=sines(3, 2, DOUBLE))),
        *_of_methods("Galerkin", galerkin, lambda: torch.zeros(4, dtype=DOUBLE), ("log_conductivity",)),
        Target("sines", sines, given(nodes=3, modes=2)),
        Target("KarhunenLoeve", physics.KarhunenLoeve, given(points=grid, modes=2, length=0.3)),
        Target("KarhunenLoeve()", lambda z: field_of()(z), given(z=field)),
        Target("TruncatedNormal", TruncatedNormal, given(loc=torch.zeros(2), scale=torch.ones(2), validate_args=True)),
        Target("ModelError", physics.ModelError, given(mean=mean, covariance=torch.eye(3, dtype=DOUBLE)), says={"mean": ("covariance",)}),
        Target("error_covariance", physics.error_covariance, lambda: {"surrogate": surrogate(), "z": unknowns()}),
        Target("Surrogate", physics.Surrogate, lambda: {"problem": bar(), "z": unknowns(), "basis": basis(), "hidden": (4,)}),
        *_of_methods("Surrogate", surrogate, lambda: torch.zeros(4, dtype=DOUBLE)),
        Target("FixedBasis", physics.FixedBasis, given(centre=mean, rows=torch.eye(3, dtype=DOUBLE)), says={"centre": ("rows",)}),
        Target("FixedBasis.of_states", physics.FixedBasis.of_states, lambda: {"u": bar().solve(unknowns())}),
        Target("FixedBasis.of_residual", physics.FixedBasis.of_residual, lambda: {"problem": bar(), "z": unknowns()[0], "like": torch.zeros(3, dtype=DOUBLE)}, says={"z": ("like",), "like": ("u:",)}),
        Target("Trunk", physics.Trunk, given(coordinates=grid[:, None], centre=torch.ones(5, dtype=DOUBLE), directions=2, hidden=(4,)), says={"centre": ("coordinates",)}),
        Target("unit_cube_cutoff", physics.unit_cube_cutoff, given(x=grid[:, None])),
    ]  # fmt: skip
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
        Target("FEMProblem.restrict", lambda full: fem().restrict(full), lambda: {"full": fem().full(fem().solve(of_fem()))}),
        Target("FEMProblem.to_function", lambda u: fem().to_function(u), lambda: {"u": fem().solve(of_fem())}),
        Target("FEMProblem.coordinates", lambda name=None: fem().coordinates(name), given()),
        Target("FEMProblem.volumes", lambda name=None: fem().volumes(name), given()),
        Target("FEMProblem.tangent", lambda z, direction: fem().tangent(z, direction), lambda: {"z": of_fem(), "direction": of_fem()}, says={"z": ("k", "source", "reaction", "flux"), "direction": ("k", "source", "reaction", "flux")}),
        Target("FEMProblem.from_builder", physics.FEMProblem.from_builder, given(build=built)),
    ]  # fmt: skip
    return targets


def of_the_zoo() -> list[Target]:
    from physzoo.task import Budget, RunOptions

    return [
        Target("check_model", physzoo.check_model, given(model=line(), data={"y": Y}, skip=()), ("data", "raises", "skip"), says=DATA),
        Target("check_model(guide)", physzoo.check_model, given(model=line(), data={"y": Y}, guide=single()), ("model", "guide"), says=DATA),
        Target("checks", checks, given(models=[(line(), {"y": Y})]), says=DATA),
        Target("register", register, lambda: {"animal": registry.Animal(**animal())}),
        Target("Animal", registered, animal),
        Target("Quantity", registry.Quantity, given(label="x")),
        Target("Recipe", registry.Recipe, given()),
        Target("get", physzoo.get, given(name="linear_gaussian")),
        Target("weights.load", weights.load, given(name="pendulum")),
        Target("weights.save", weights.save, lambda: {"task": trained(), "facts": {}, "folder": folder()}),
        Target("RunOptions", RunOptions, given()),
        Target("Budget", Budget, given()),
        Target("Budget.of", Budget.of, given(quick=True)),
    ]  # fmt: skip


@cache
def targets() -> tuple[Target, ...]:
    """All of them, those of finite elements only where they are installed."""
    found = [*of_inference(), *of_guides(), *of_physics(), *of_the_zoo()]
    try:
        from physzoo.physics.fem_require import require_dolfinx

        require_dolfinx()
    except ImportError:
        return tuple(found)
    return (*found, *of_fem_problems())
