"""Own Runge-Kutta steps: the numbers of torchdiffeq, and compiled ones the numbers of those that are not."""

import copy
import itertools
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torchdiffeq import odeint

from physzoo.physics.ode import ODEProblem
from physzoo.physics.ode.fixed_step import TABLEAUX, integrate


def swing(t: Tensor, u: Tensor) -> Tensor:
    return torch.stack([u[..., 1], -u[..., 0].sin() + torch.cos(3.0 * t)], -1)


@pytest.mark.parametrize("method", list(TABLEAUX))
@pytest.mark.parametrize("substeps", [1, 3])
def test_steps_are_those_of_torchdiffeq(method: str, substeps: int) -> None:
    start = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    knots = torch.tensor([0.0, 0.1, 0.25, 0.3], dtype=torch.float64)
    fine = torch.cat([torch.linspace(a, b, substeps + 1)[:-1] for a, b in itertools.pairwise(knots)])
    fine = torch.cat([fine.double(), knots[-1:]])
    other = odeint(swing, start, fine, method=method)
    assert isinstance(other, Tensor)
    got = integrate(swing, start, knots, method, substeps)
    torch.testing.assert_close(got, other[::substeps], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", list(TABLEAUX))
def test_weights_and_nodes_are_consistent(method: str) -> None:
    nodes, rows, weights = TABLEAUX[method]
    assert sum(weights) == pytest.approx(1.0)
    assert [sum(row) for row in rows] == pytest.approx(list(nodes))


class Pull(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.strength = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, t: Tensor, u: Tensor, z: dict[str, Tensor]) -> Tensor:
        return -self.strength * z["rate"][..., None] * u


class Switched(Pull):
    """Twice as strong from one of the times on: no step may see the other side."""

    def forward(self, t: Tensor, u: Tensor, z: dict[str, Tensor]) -> Tensor:
        return super().forward(t, u, z) * torch.where(t >= 0.5, 2.0, 1.0)


def test_a_compiled_problem_solves_alike_and_its_copy_has_its_own_parameters() -> None:
    times = torch.linspace(0.0, 1.0, 5)
    z = {"rate": torch.linspace(0.5, 1.5, 70), "initial_state": torch.ones(70, 2)}
    plain, compiled = ODEProblem(Switched(), times), ODEProblem(Switched(), times, compile=True)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        torch.testing.assert_close(compiled.solve(z), plain.solve(z), rtol=1e-6, atol=1e-6)
        other = copy.deepcopy(compiled)
        other.rhs.strength.fill_(2.0)  # type: ignore[union-attr]
        torch.testing.assert_close(other.solve(z), plain.solve({**z, "rate": 2 * z["rate"]}), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(compiled.solve(z), plain.solve(z), rtol=1e-6, atol=1e-6)


def test_a_parallel_gradient_is_the_same_compiled_or_not() -> None:
    times, rate = torch.linspace(0.0, 1.0, 5), torch.linspace(0.5, 1.5, 70, requires_grad=True)
    found = []
    for compiled in (False, True):
        problem = ODEProblem(Pull(), times, gradient="parallel", compile=compiled)
        path = problem.solve({"rate": rate, "initial_state": torch.ones(70, 2)})
        found.append(torch.autograd.grad(path.square().sum(), [rate, *problem.parameters()]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_compiled_runs_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda _: broken)
    problem = ODEProblem(Pull(), [0.0, 0.5, 1.0], compile=True)
    z = {"rate": torch.ones(80), "initial_state": torch.ones(80, 1)}
    with torch.no_grad(), pytest.warns(UserWarning, match=r"runs as it is \(no compiler\)"):
        path = problem.solve(z)
    assert float((path[:, -1] - torch.tensor(-1.0).exp()).abs().max()) < 1e-3
    with torch.no_grad(), warnings.catch_warnings():  # once is enough
        warnings.simplefilter("error", UserWarning)
        problem.solve(z)


@dataclass
class Unhashable:
    rate: float

    def __call__(self, t: Tensor, u: Tensor, z: dict[str, Tensor]) -> Tensor:
        return -self.rate * u


def test_an_equation_need_not_be_hashable_and_the_method_may_change() -> None:
    problem, z = ODEProblem(Unhashable(1.0), [0.0, 0.5, 1.0], compile=True), {"initial_state": torch.ones(80, 1)}
    with torch.no_grad():
        assert float((problem.solve(z)[:, -1] - torch.tensor(-1.0).exp()).abs().max()) < 1e-3
        problem.method = "euler"
        assert float((problem.solve(z)[:, -1] - 0.25).abs().max()) < 1e-6


def test_times_that_float32_cannot_tell_apart_are_refused() -> None:
    times = [2e7, 2e7 + 0.3, 2e7 + 1.5]
    words = r"in torch\.float32, .*expected times further apart, a later start, or .* torch\.float64"
    z = {"rate": torch.ones(()), "initial_state": torch.ones(1)}
    for options in ({"times": times}, {"times": times[1:2], "t0": times[0]}):
        with pytest.raises(ValueError, match=words):
            ODEProblem(Pull(), **options)
        problem = ODEProblem(Pull(), **options, dtype=torch.float64)
        with pytest.raises(ValueError, match=words):
            problem.solve(z)
        with pytest.raises(ValueError, match=words):
            problem.residual(torch.ones(len(options["times"]), 1), z)
        near = {name: torch.tensor(value, dtype=torch.float64) - times[0] for name, value in options.items()}
        exact = {name: value.double() for name, value in z.items()}
        expected = ODEProblem(Pull(), near["times"], float(near.get("t0", near["times"][0]))).solve(exact)
        torch.testing.assert_close(problem.solve(exact), expected)


def test_a_mistake_in_the_equation_is_told_by_itself() -> None:
    problem = ODEProblem(Pull(), [0.0, 0.5, 1.0], compile=True)
    with torch.no_grad(), pytest.raises(ValueError, match="expected also 'rate'"):
        problem.solve({"initial_state": torch.ones(80, 1)})


def test_compile_is_for_fixed_steps() -> None:
    with pytest.raises(ValueError, match="compile: got True with method 'dopri5', expected False"):
        ODEProblem(Pull(), [0.0, 1.0], method="dopri5", compile=True)
