"""Any form written in UFL as a differentiable torch operation through dolfinx."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...core.require import floats, function, one_of, real, shown, whole
from ..problem import Problem, Unknowns
from .arguments import back, flat
from .require import require_dolfinx

__all__ = ["FEMProblem", "NewtonOptions", "require_dolfinx"]

if TYPE_CHECKING:
    import ufl
    from dolfinx import fem

    from .tables import TabulatedResidual


@dataclass(frozen=True)
class NewtonOptions:
    """When Newton's method stops.

    Attributes:
        max_iterations: steps after which a sample counts as failed.
        tolerance: the largest entry of the last step, relative to the largest entry of the state; in a mixed space for each
            of its parts, which may be in other units.

    Raises:
        ValueError, TypeError: a number out of range.
    """

    max_iterations: int = 30
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        whole("max_iterations", self.max_iterations, 1)
        real("tolerance", self.tolerance)


class FEMProblem(Problem):
    """A boundary value problem given by a UFL residual F(u, z; v) = 0 for all test functions v.

    The state is the vector of **free** degrees of freedom, those without a Dirichlet condition, in ascending
    order: ``solve`` returns them, ``observe``, ``residual`` and ``logdet`` take them, and ``full`` adds the
    boundary values. With test functions phi_i of the free dofs,

        residual   r_i(u, z) = F(u, z; phi_i),
        solve      r(u, z) = 0 by one linear solve or Newton's method; u0 is what ``u`` holds at construction,
        gradient   J^T lambda = g,  dz = -(dF/dz)^T lambda  with the factorisation of J = dr/du that solve
        left, logdet     log|det J|, derivatives from J^-1 on the sparsity pattern (``selected_inverse``).

    z maps names to tensors: a field (``fem.Function``) has shape (..., dofs), a scalar constant (...), a
    vector constant (..., components). A single tensor serves where there is one parameter. Leading dimensions
    broadcast; the samples are solved one after another, in float64 on the CPU, and the result has the dtype
    and device of what came. The residual takes all samples at once, without dolfinx (``fem_tables``). Everything
    is differentiable once in u, z and the target residual. Dirichlet values are fixed at construction.

    The problem owns ``u`` and the form's parameters: it overwrites their values. It belongs to one thread. As
    MPI starts when dolfinx is imported, process pools must spawn; ``from_builder`` makes a problem that can
    be pickled. A copy (``copy.deepcopy``) is the same object, since nothing in it can be trained. Up to the
    backward pass the first 256 samples of a call that needs gradients keep their factorisations.

    Args:
        form: residual form, linear in its one test function.
        u: the state in it, an unknown of one space without subspaces in other meshes.
        parameters: name -> the ``fem.Function`` or ``fem.Constant`` of the form that is unknown.
        bcs: Dirichlet conditions.
        sensors: points (m, dimension) where u is read, or a sparse matrix (m, dofs); None makes ``observe``
        fail.
        linear: whether F is affine in u; None finds out from the form.
        quadrature_degree: on every measure; None keeps stated ones and fixes the others at UFL's largest
            estimate for the form (differing degrees in a form and its derivative spoil the gradient).
        newton: when Newton's method stops.
        on_failure: "raise" a SolveError, or "reject": a failed sample is NaN without a gradient.

    Raises:
        ImportError: dolfinx is missing.
        TypeError, ValueError: an argument does not fit the form.

    Source: adjoint of a discretised equation: Hinze, Pinnau, Ulbrich, Ulbrich, Optimization with PDE
        Constraints (2009), section 1.6; Farrell, Ham, Funke, Rognes, SIAM J. Sci. Comput. 35, C369 (2013).
    """

    free_dofs: Tensor
    boundary_values: Tensor
    sensor_dofs: Tensor
    sensor_weights: Tensor
    state_event_dim = 1

    def __init__(
        self,
        form: ufl.Form,
        u: fem.Function,
        parameters: Mapping[str, fem.Function | fem.Constant],
        bcs: Sequence[fem.DirichletBC] = (),
        sensors: Any = None,
        linear: bool | None = None,
        quadrature_degree: int | None = None,
        newton: NewtonOptions | None = None,
        on_failure: Literal["raise", "reject"] = "raise",
    ) -> None:
        super().__init__()
        require_dolfinx()
        from . import assembly as fem_assembly
        from . import forms as fem_forms

        one_of("on_failure", on_failure, ("raise", "reject"))
        one_of("linear", linear, (None, True, False))
        if quadrature_degree is not None:
            whole("quadrature_degree", quadrature_degree, 0, 100)
        if newton is not None and not isinstance(newton, NewtonOptions):
            raise TypeError(f"newton: got {shown(newton)}, expected NewtonOptions")
        fem_forms.check_problem(form, u, parameters, bcs)
        form = fem_forms.fix_degree(form, quadrature_degree)
        self.on_failure = on_failure
        self._builder: tuple[Callable[..., FEMProblem], tuple] | None = None
        self._system = fem_assembly.System(form, u, parameters, bcs, linear, newton or NewtonOptions())
        self.parameter_shapes = {name: self._event_shape(p) for name, p in parameters.items()}
        self._register(sensors)

    @staticmethod
    def _event_shape(parameter: Any) -> tuple[int, ...]:
        return parameter.x.array.shape if hasattr(parameter, "x") else tuple(parameter.ufl_shape)

    def _register(self, sensors: Any) -> None:
        """Store H and the place of the boundary values: buffers that follow ``.to``, not in state_dict."""
        from . import sensors as fem_sensors

        system = self._system
        place = np.empty(system.n_dofs, dtype=np.int64)
        place[np.concatenate([system.free, system.fixed])] = np.arange(system.n_dofs)
        buffers = {"free_dofs": system.free, "boundary_values": system.start[system.fixed], "_place": place}
        if sensors is not None:
            buffers["sensor_dofs"], buffers["sensor_weights"] = fem_sensors.sensor_table(system.space, sensors)
        for name, array in buffers.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)

    def solve(self, z: Unknowns, residual: Tensor | None = None) -> Tensor:
        """Return the free dofs u, shape (..., free dofs), with r(u, z) = ``residual`` (zero where not given).

        Raises:
            SolveError: singular Jacobian, no convergence, or parameters that are not finite; names sample and
            values. ValueError, TypeError: z or residual do not fit.
        """
        from .autograd import Solve

        _no_forward_mode()
        if residual is not None:
            floats("residual", residual, self.free_dofs.numel())
        tensors, shape, like = flat(self, z, residual)
        target = (None,) if residual is None else ()
        out = Solve.apply(self._system, shape, self.on_failure == "reject", *target, *tensors)
        return back(out, shape, like)

    def residual(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return r_i(u, z) = F(u, z; phi_i), shape (..., free dofs); no solve. u holds the free dofs.

        Batched torch operations over tables, in the dtype and on the device of u and z, as often differentiable as
        needed, if the form has dx measures and nodal elements; else dolfinx assembles sample by sample, in float64.
        """
        floats("u", u, self.free_dofs.numel())
        tensors, shape, like = flat(self, z, u, as_they_are=self.tabulated)
        if self._tables is not None:
            state, *values = tensors
            return back(self._tables(state, dict(zip(self.parameter_shapes, values, strict=True))), shape, like)
        from .autograd import Residual

        _no_forward_mode()
        return back(Residual.apply(self._system, *tensors), shape, like)

    @property
    def tabulated(self) -> bool:
        """Whether ``residual`` takes all samples at once, by tables."""
        return self._tables is not None

    @cached_property
    def _tables(self) -> TabulatedResidual | None:
        """Tables of the form; None where it holds what they do not."""
        from .integrand import UnsupportedForm
        from .tables import TabulatedResidual

        try:
            return TabulatedResidual(self._system)
        except UnsupportedForm:
            return None

    def logdet(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return log|det dr/du|, shape (...), -inf where singular; its gradient takes dx and ds measures."""
        from .autograd import LogDeterminant

        _no_forward_mode()
        floats("u", u, self.free_dofs.numel())
        tensors, shape, like = flat(self, z, u)
        return back(LogDeterminant.apply(self._system, *tensors), shape, like)

    def observe(self, u: Tensor) -> Tensor:
        """Return the state at the sensors, shape (..., sensors); point by point for vectors."""
        if "sensor_dofs" not in self._buffers:
            raise ValueError("sensors: got None, expected points or a sparse matrix where observe is called")
        values = self.full(u)[..., self.sensor_dofs]
        return (values * self.sensor_weights.to(values.dtype)).sum(-1)

    def full(self, u: Tensor) -> Tensor:
        """Return all dofs, shape (..., dofs): the free ones u and the Dirichlet values."""
        floats("u", u, self.free_dofs.numel())
        fixed = self.boundary_values.to(u.dtype).expand(*u.shape[:-1], -1)
        return torch.cat([u, fixed], -1)[..., self._buffers["_place"]]

    def restrict(self, full: Tensor) -> Tensor:
        """Return the free dofs of a vector of all dofs, shape (..., free dofs)."""
        return floats("full", full, self._buffers["_place"].numel())[..., self.free_dofs]  # type: ignore[union-attr]

    def to_function(self, u: Tensor) -> fem.Function:
        """Return one sample's state as a new ``fem.Function``, for plotting and output."""
        from dolfinx import fem

        if floats("u", u, self.free_dofs.numel()).dim() != 1:
            raise ValueError(f"u: got shape {tuple(u.shape)}, expected one sample, ({self.free_dofs.numel()},)")
        function: Any = fem.Function(self._system.space)
        function.x.array[:] = self.full(u).detach().cpu().numpy()
        return function

    def coordinates(self, name: str | None = None) -> Tensor:
        """Return where the dofs of a field lie, shape (points, dimension): of a parameter or of the state."""
        space = self._space(name)
        return torch.from_numpy(space.tabulate_dof_coordinates()[:, : space.mesh.geometry.dim].copy())

    def volumes(self, name: str | None = None) -> Tensor:
        """Return the integral of each basis function of a scalar field, shape (dofs,): quadrature weights."""
        import ufl
        from dolfinx import fem

        from .compiled import compile_form

        space = self._space(name)
        if space.value_shape:
            raise ValueError(f"name: got {name!r} of shape {tuple(space.value_shape)}, expected a scalar field")
        form: Any = compile_form(ufl.TestFunction(space) * ufl.dx)
        return torch.from_numpy(fem.assemble_vector(form).array.copy())

    def _space(self, name: str | None) -> Any:
        fields = {key: value for key, value in self._system.parameters.items() if hasattr(value, "x")}
        one_of("name", name, (None, *fields))
        field: Any = self._system.u if name is None else fields[name]
        return field.function_space

    def tangent(self, z: Unknowns, direction: Unknowns) -> tuple[Tensor, Tensor]:
        """Return u = F(z) and its directional derivative du = -J^-1 (dF/dz) dz for one sample, no gradients.

        Costs one solve and one more substitution: what Gauss-Newton and adjoint tests need.
        """
        values, shape, like = flat(self, z)
        steps, shape_of_step, _ = flat(self, direction)
        if shape or shape_of_step:
            raise ValueError(f"z, direction: got leading shapes {shape}, {shape_of_step}, expected one sample")
        u, du = self._system.tangent([v[0].detach().numpy() for v in values], [v[0].detach().numpy() for v in steps])
        return torch.from_numpy(u).to(like), torch.from_numpy(du).to(like)

    @property
    def linear(self) -> bool:
        """Whether the residual is affine in the state."""
        return self._system.linear

    def __deepcopy__(self, memo: dict) -> FEMProblem:
        return self

    @staticmethod
    def from_builder(build: Callable[..., FEMProblem], *arguments: Any) -> FEMProblem:
        """Return ``build(*arguments)``, which pickles as that call: for other processes."""
        function("build", build)
        problem = build(*arguments)
        if not isinstance(problem, FEMProblem):
            raise TypeError(f"build: got a function that returns {shown(problem)}, expected a FEMProblem")
        problem._builder = build, arguments
        return problem

    def __reduce__(self) -> Any:
        if self._builder is None:
            raise TypeError("a FEMProblem holds compiled forms and cannot be pickled: make it by from_builder")
        build, arguments = self._builder
        return FEMProblem.from_builder, (build, *arguments)


def _no_forward_mode() -> None:
    if torch._C._are_functorch_transforms_active():  # type: ignore[attr-defined]
        raise RuntimeError("a FEMProblem has no forward-mode derivative; its tangent takes one sample")
