"""Small models, guides, problems and files that the arguments are made of, each made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from physzoo import guides, physics
from physzoo.inference.references import result as reference
from physzoo.models import registry
from physzoo.physics.elliptic import Elliptic2D, sines
from physzoo.physics.ode import LinearODE

DOUBLE = torch.float64


DESIGN = torch.tensor([[1.0, 0.5], [0.2, 1.0], [1.0, 1.0]], dtype=DOUBLE)


Y = torch.tensor([0.7, -0.3, 1.1], dtype=DOUBLE)


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
    return {
        name: tuple(problem.coordinates(name).shape[:1]) if name in ("k", "source") else ()
        for name in ("k", "source", "reaction", "flux")
    }


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


def alone_in_pyro(call: Callable[[], Any]) -> Any:
    """Call a guide as Pyro does, without leaving its parameters in Pyro's store."""
    with pyro.get_param_store().scope():
        return call()
