"""Boundary value problems as strangers write them: right in any unit, or refused in one sentence."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

pytest.importorskip("dolfinx_solver")
import dolfinx_solver  # noqa: F401
import ufl
from dolfinx import fem, mesh
from fem_examples import random_unknowns, reaction_diffusion, stokes
from mpi4py import MPI

from physzoo.physics.fem import FEMProblem, NewtonOptions
from physzoo.physics.fem.lock import NAME, clear, compiling

DOUBLE = torch.float64


class Square:
    """-div((1 + (u / size)^2) grad u) = c size / length^2 on a square, u = 0 on its border."""

    def __init__(self, length=1.0, size=1.0, cells=3, bent=False):
        self.domain = mesh.create_rectangle(MPI.COMM_SELF, [[0, 0], [length, length]], [cells, cells])
        self.space = fem.functionspace(self.domain, ("Lagrange", 1))
        self.u, self.c = fem.Function(self.space), fem.Constant(self.domain, 1.0)
        self.length, self.size, v = length, size, ufl.TestFunction(self.space)
        k = 1 + (self.u / fem.Constant(self.domain, size)) ** 2 if bent else 1
        load = fem.Constant(self.domain, size / length**2)
        self.form = (k * ufl.inner(ufl.grad(self.u), ufl.grad(v)) - self.c * load * v) * ufl.dx
        self.domain.topology.create_connectivity(1, 2)
        facets = mesh.exterior_facet_indices(self.domain.topology)
        self.border = fem.locate_dofs_topological(self.space, 1, facets)

    def problem(self, *conditions, parameters=None, **options):
        bcs = conditions or [fem.dirichletbc(0.0, self.border, self.space)]
        return FEMProblem(self.form, self.u, parameters or {"c": self.c}, list(bcs), **options)


@pytest.mark.parametrize("bent", [False, True])
@pytest.mark.parametrize(("length", "size"), [(1e-12, 1.0), (1e12, 1.0), (1.0, 1e-12), (1e-6, 1e12)])
def test_state_sensors_gradient_and_determinant_are_the_same_in_any_unit(length, size, bent):
    def found(length, size):
        sensors = length * np.array([[0.31, 0.43], [0.5, 0.77], [0.5, 0.5], [1.0, 0.2]])
        problem = Square(length, size, bent=bent).problem(sensors=sensors)
        c = torch.tensor(3.0, dtype=DOUBLE, requires_grad=True)
        u = problem.solve({"c": c})
        y = problem.observe(u) / size
        (slope,) = torch.autograd.grad(y[0], c)
        residual = problem.residual(1.1 * u.detach(), {"c": c}) / size
        return torch.cat([y, slope.reshape(1), residual, problem.logdet(u, {"c": c}).reshape(1)]).detach()

    torch.testing.assert_close(found(length, size), found(1.0, 1.0), rtol=1e-9, atol=1e-14)
    with pytest.raises(ValueError, match="expected points inside the mesh"):
        Square(length).problem(sensors=length * np.array([[1.001, 0.5]]))


def test_the_parts_of_a_mixed_space_have_units_of_their_own():
    """Newton's method of a flow whose pressure is 1e10 times the velocity: each is converged, as one more step shows."""
    problem = stokes()
    state = problem._system
    assert len(state._parts) == 2
    assert sum(len(part) for part in state._parts) == state.n_dofs
    state.linear = False
    state.newton = NewtonOptions(tolerance=1e-12)
    z = random_unknowns(problem)
    z["log_viscosity"] = z["log_viscosity"].detach() + 10 * np.log(10)
    z["force"] = 1e10 * z["force"].detach()
    u = problem.solve(z)
    assert problem.residual(u, z).abs().max() < 1e-12 * 1e10


def held_by_the_unknown(square, how):
    c, function = square.c, fem.Function(square.space)
    if how == "constant":
        return {"c": c}, fem.dirichletbc(c, square.border, square.space)
    square.form = square.form - function * ufl.TestFunction(square.space) * ufl.dx
    value = function if how == "function" else square.u
    return {"c": c, "f": function}, fem.dirichletbc(value, square.border)


@pytest.mark.parametrize(("how", "name"), [("constant", "'c'"), ("function", "'f'"), ("state", "'u'")])
def test_an_unknown_as_dirichlet_value_is_refused(how, name):
    square = Square()
    parameters, condition = held_by_the_unknown(square, how)
    with pytest.raises(ValueError, match=f"bcs: got the unknown {name} as boundary value, expected fixed values"):
        square.problem(condition, parameters=parameters)


def test_other_parts_that_do_not_belong_together_are_refused():
    square, other = Square(), Square()
    with pytest.raises(ValueError, match="bcs: got a condition of another function space"):
        square.problem(fem.dirichletbc(0.0, other.border, other.space))
    with pytest.raises(ValueError, match="parameters: got one function as 'c' and as 'd', expected each once"):
        square.problem(parameters={"c": square.c, "d": square.c})
    with pytest.raises(ValueError, match="parameter 'k': got a function that the form does not hold as a parameter"):
        square.problem(parameters={"c": square.c, "k": square.u})
    for bcs in ("left", 3, [3]):
        with pytest.raises(TypeError, match="bcs: got"):
            FEMProblem(square.form, square.u, {"c": square.c}, bcs)


@pytest.fixture(scope="module")
def problem():
    return reaction_diffusion()


WRONG = [
    None, 3, "u", [1.0], np.ones(12), torch.tensor(1.0), torch.ones(5), torch.ones(12).long(), torch.ones(12, dtype=torch.bool),
    torch.ones(12, dtype=torch.complex128), torch.ones(12, device="meta"), torch.ones(12).to_sparse(), torch.ones(0, 12)[:, :3],
]  # fmt: skip


@pytest.mark.parametrize("place", range(len(WRONG)))
def test_states_and_unknowns_that_are_none_are_refused(problem, place):
    z = {name: value.detach() for name, value in random_unknowns(problem).items()}
    for call in (
        problem.full,
        problem.restrict,
        problem.observe,
        problem.to_function,
        lambda bad: problem.residual(bad, z),
        lambda bad: problem.logdet(bad, z),
        lambda bad: problem.solve({**z, "k": bad}),
        lambda bad: problem.tangent(z, {**z, "source": bad}),
        lambda bad: FEMProblem.from_builder(bad) if not isinstance(bad, torch.Tensor) else problem.solve(bad),
    ):
        with pytest.raises((ValueError, TypeError), match="got") as caught:
            call(WRONG[place])
        assert len(str(caught.value)) < 300


def test_options_that_are_none_are_refused(problem):
    square = Square()
    for options in (
        {"sensors": "left"}, {"sensors": [[None, 1.0]]}, {"sensors": [[np.nan, 0.1]]}, {"sensors": torch.ones(1, 2, device="meta")},
        {"linear": "yes"}, {"quadrature_degree": 1.5}, {"newton": 3}, {"on_failure": np.ones(2)},
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=f"{next(iter(options))}: "):
            square.problem(**options)
    for options in ({"max_iterations": 0}, {"tolerance": -1.0}, {"tolerance": "small"}):
        with pytest.raises((ValueError, TypeError), match=next(iter(options))):
            NewtonOptions(**options)
    for name in (3, "flux", ["k"]):
        with pytest.raises(ValueError, match=r"name: got .*expected None, 'k' or 'source'"):
            problem.coordinates(name)


def test_forward_mode_is_refused_in_few_words(problem):
    z = {name: value.detach() for name, value in random_unknowns(problem).items()}
    with pytest.raises(RuntimeError, match=r"no forward-mode derivative; its tangent takes one sample$") as caught:
        torch.func.jvp(lambda k: problem.solve({**z, "k": k}), (z["k"],), (z["k"],))
    assert len(str(caught.value)) < 100  # what a guide's message has room for


def old(path):
    path.touch()
    os.utime(path, (time.time() - 60,) * 2)
    return path


def test_a_compilation_that_was_killed_is_cleared_away_and_one_that_runs_is_not(tmp_path):
    stale, done = old(tmp_path / "libffcx_forms_1.c"), old(tmp_path / "libffcx_forms_2.c")
    old(tmp_path / "libffcx_forms_2.c.cached")
    holder = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_SH); print(1, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", holder, str(tmp_path / NAME)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with compiling(tmp_path):  # somebody else compiles: all stays
            assert stale.exists()
        process.kill()
        process.wait()
    with compiling(tmp_path):
        assert not stale.exists()
        assert done.exists()


def test_a_form_is_compiled_after_a_killed_one(tmp_path, monkeypatch):
    from physzoo.physics.fem import compiled as fem_compiled

    square = Square()
    seen = []

    def compiled(form, jit_options):
        seen.append(sorted(path.name for path in tmp_path.glob("libffcx*")))
        if len(seen) == 1:
            raise RuntimeError(
                "Failed JIT compilation of form: JIT compilation timed out, probably due to a failed compile"
            )
        return "compiled"

    monkeypatch.setattr(fem_compiled.jit, "get_options", lambda: {"cache_dir": tmp_path})
    monkeypatch.setattr(fem_compiled.fem, "form", compiled)
    old(tmp_path / "libffcx_forms_1.c")
    assert fem_compiled.compile_form(square.form) == "compiled"
    assert seen == [[], []]
    assert clear(tmp_path) == []
    monkeypatch.setattr(fem_compiled, "PATIENCE", 1)
    seen.clear()
    with pytest.raises(RuntimeError, match=r"another process has been compiling for 5 s.*delete libffcx_\*\.c in "):
        fem_compiled.compile_form(square.form)


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (OSError("CompileError: command 'gcc' failed: No such file or directory"), "got no C compiler that works"),
        (
            RuntimeError("Failed JIT compilation of form: [Errno 30] Read-only file system"),
            "expected to write: set XDG_CACHE_HOME",
        ),
        (ValueError("Unknown element"), r"form: got one that dolfinx cannot compile \(Unknown element\)"),
    ],
)
def test_a_form_that_cannot_be_compiled_is_told_in_one_sentence(tmp_path, monkeypatch, failure, words):
    from physzoo.physics.fem import compiled as fem_compiled

    def broken(form, jit_options):
        raise failure

    monkeypatch.setattr(fem_compiled.jit, "get_options", lambda: {"cache_dir": tmp_path})
    monkeypatch.setattr(fem_compiled.fem, "form", broken)
    with pytest.raises((RuntimeError, ValueError), match=words) as caught:
        fem_compiled.compile_form(Square().form)
    assert len(str(caught.value)) < 300


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(RuntimeError, match=r"got no folder for compiled forms .*set XDG_CACHE_HOME"),
        compiling(tmp_path / "file" / "x"),
    ):
        pass
