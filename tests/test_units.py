"""The unit of an unknown does not matter: the same seed gives the same draws in units from 1e-12 to 1e12, mixed as they come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

from physzoo.inference.calibration import calibrate_draws
from physzoo.inference.compare import c2st, compare
from physzoo.inference.density import Latents
from physzoo.inference.modes import laplace, laplace_mixture
from physzoo.inference.references import grid, hmc, nuts, pcn, smc

UNITS = ((1e-12, 1e12), (1e12, 1e-12), (1e-5, 1.0), (1.0, 1e5))
QUIET: dict[str, Any] = {"progress": False, "seed": 3}


@dataclass(frozen=True)
class Mixed:
    """a / s ~ N(0, 1), b / t ~ U(0, 1);  y = (exp(2 a / s), b / t - a / s) + 0.3 e: only the units change with s and t."""

    s: float = 1.0
    t: float = 1.0
    kind: torch.dtype = torch.float64

    def __call__(self, y: Tensor | None = None) -> None:
        zero = torch.zeros((), dtype=self.kind)
        a = pyro.sample("a", dist.Normal(zero, self.s)) / self.s
        b = pyro.sample("b", dist.Uniform(zero, zero + self.t)) / self.t
        pyro.sample("y", dist.Normal(torch.stack([(2 * a).exp(), b - a], -1), 0.3).to_event(1), obs=y)

    def data(self) -> dict[str, Tensor]:
        return {"y": torch.tensor([2.0, 0.5], dtype=self.kind)}


def of_laplace(model: Mixed, call: Callable[..., Any] = laplace, **options: Any) -> np.ndarray:
    found = call(model, model.data(), candidates=64, **options)
    unit = torch.tensor([model.s, 1.0], dtype=torch.float64)
    return torch.cat([(found.loc / unit)[None], found.tril / unit[:, None]]).numpy()


def drawn(reference: Any, model: Mixed) -> np.ndarray:
    return np.stack([reference.draws["a"] / model.s, reference.draws["b"] / model.t], -1)


def of_hmc(model: Mixed) -> np.ndarray:
    start = {"loc": torch.zeros(2).double(), "tril": torch.diag(torch.tensor([model.s, 1.0])).double()}
    found = hmc(model, model.data(), chains=4, draws=6, warmup=24, max_steps=4, **start, **QUIET)
    return drawn(found, model)


def of_nuts(model: Mixed) -> np.ndarray:
    initial = {
        "a": torch.tensor(0.3 * model.s, dtype=torch.float64),
        "b": torch.tensor(0.7 * model.t, dtype=torch.float64),
    }
    options = {"chains": 2, "draws": 5, "warmup": 12, "max_tree_depth": 3, "initial": initial}
    return drawn(nuts(model, model.data(), **options, **QUIET), model)


CALLS: dict[str, Callable[[Mixed], np.ndarray]] = {
    "laplace": lambda model: of_laplace(model, starts=1, climbers=4),
    "laplace_mixture": lambda model: of_laplace(model, laplace_mixture, starts=4),
    "hmc": of_hmc,
    "nuts": of_nuts,
    "pcn": lambda m: drawn(pcn(m, m.data(), chains=4, draws=10, warmup=40, thin=1, **QUIET), m),
    "smc": lambda m: drawn(smc(m, m.data(), runs=2, particles=16, moves=2, final=2, **QUIET), m),
    "grid": lambda m: np.array([grid(m, m.data(), points=31).sd[name] / s for name, s in (("a", m.s), ("b", m.t))]),
    "grid draws": lambda m: drawn(grid(m, m.data(), points=31).reference(Latents.of(m, m.data()), draws=20), m),
}


@cache
def in_unit_one(name: str, kind: torch.dtype) -> np.ndarray:
    return CALLS[name](Mixed(kind=kind))


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("name", CALLS)
def test_draws_are_the_same_in_any_unit(name: str, units: tuple[float, float]) -> None:
    found = CALLS[name](Mixed(*units))
    assert np.ptp(found) > 0.1
    np.testing.assert_allclose(found, in_unit_one(name, torch.float64), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["laplace", "hmc", "pcn", "smc"])
def test_float32_has_the_same_posterior_as_far_as_it_goes(name: str) -> None:
    found, expected = CALLS[name](Mixed(1e-12, 1e12, torch.float32)), in_unit_one(name, torch.float32)
    # a rounding may turn a decision: the first draws, before one did
    np.testing.assert_allclose(found[0], expected[0], rtol=0.02, atol=0.02)


def test_the_prior_spread_whitens_nuts_as_well_in_a_small_unit_as_in_unit_one() -> None:
    """From prior draws, without a start: step sizes in the whitened space are the same."""
    steps = []
    for unit in (1.0, 1e-9):
        model = Mixed(unit, 1.0)
        found = nuts(model, model.data(), chains=1, draws=4, warmup=30, max_tree_depth=4, **QUIET)
        steps.append(found.settings["step_size"])
    np.testing.assert_allclose(steps[1], steps[0], rtol=1e-3)


def test_unknowns_far_better_known_than_others_keep_their_sd() -> None:
    """Curvatures from 1e16 to 1 in one posterior, in the prior's units: none is taken for flat."""
    noise = torch.tensor([1e-8, 1e-4, 1.0]).double()

    def model(y: Tensor | None = None) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z, noise).to_event(1), obs=y)

    found = laplace(model, {"y": torch.tensor([0.3, -0.2, 0.1]).double()})
    exact = 1 / (1 + noise**-2)
    torch.testing.assert_close((found.tril @ found.tril.T).diagonal(), exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("unit", [1e-12, 1e-5, 1e5, 1e12])
def test_checks_and_comparisons_know_no_unit(unit: float) -> None:
    rng = np.random.default_rng(0)
    truths, noise = rng.normal(size=200), rng.normal(size=(50, 200))
    draws = 0.8 * truths + 0.6 * noise

    def checked(s: float) -> Any:
        return calibrate_draws({"z": s * truths}, {"z": s * draws}, seed=1)

    one, other = checked(1.0), checked(unit)
    assert one.adjusted == pytest.approx(other.adjusted)
    assert one.contraction == pytest.approx(other.contraction)
    a, b = rng.normal(size=(2, 200, 1))
    told = [compare({"z": s * a}, {"z": s * b}, classify=False).to_dict() for s in (1.0, unit)]
    assert told[0]["summary"] == told[1]["summary"]
    assert c2st(unit * a[:60], unit * b[:60] + unit) == c2st(a[:60], b[:60] + 1)
