"""Symbolic side of the finite elements: one quadrature degree, derivatives of a form, elements cut apart.

Imports dolfinx; ``problem.FEMProblem`` imports this module when a problem is built.
"""

# UFL and dolfinx annotate with unions of all that an operation might return.
# pyright: reportArgumentType=false, reportOptionalSubscript=false, reportOperatorIssue=false, reportOptionalIterable=false, reportAttributeAccessIssue=false, reportAssignmentType=false, reportReturnType=false, reportIndexIssue=false, reportUnhashable=false, reportCallIssue=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import basix
import basix.ufl
import numpy as np
import ufl
from dolfinx import fem
from ufl.algorithms import expand_derivatives
from ufl.algorithms.estimate_degrees import estimate_total_polynomial_degree
from ufl.algorithms.map_integrands import map_integrands

from ...core.require import shown

Parameter = fem.Function | fem.Constant


def check_problem(form: ufl.Form, u: fem.Function, parameters: Mapping[str, Parameter], bcs: Sequence) -> None:
    """Compare the parts of a problem with each other.

    Raises:
        TypeError, ValueError: a part does not fit.
    """
    if not isinstance(form, ufl.Form):
        raise TypeError(f"form: got {type(form).__name__}, expected a ufl.Form, the residual F(u, z; v)")
    if not isinstance(u, fem.Function):
        raise TypeError(f"u: got {type(u).__name__}, expected a dolfinx.fem.Function")
    arguments = form.arguments()
    if len(arguments) != 1 or arguments[0].ufl_function_space() != u.function_space:
        raise ValueError(f"form: got {len(arguments)} arguments, expected one test function, of the space of u")
    if u not in form.coefficients():
        raise ValueError("form: got no u, expected a residual that contains the state")
    if u.function_space.mesh.comm.size > 1:
        raise ValueError(
            f"u: got a mesh on {u.function_space.mesh.comm.size} processes, expected one: use MPI.COMM_SELF"
        )
    if not isinstance(parameters, Mapping):
        raise TypeError(f"parameters: got {shown(parameters)}, expected a mapping of names to functions and constants")
    if not parameters:
        raise ValueError("parameters: got none, expected at least one name with a function or constant of the form")
    known = (*form.coefficients(), *form.constants())
    for name, parameter in parameters.items():
        if not isinstance(parameter, Parameter):
            raise TypeError(f"parameter {name!r}: got {type(parameter).__name__}, expected a fem.Function or Constant")
        if parameter not in known or shares_values(parameter, u):
            raise ValueError(f"parameter {name!r}: got a function that the form does not hold as a parameter")
        if isinstance(parameter, fem.Constant) and len(parameter.ufl_shape) > 1:
            raise ValueError(f"parameter {name!r}: got shape {parameter.ufl_shape}, expected a scalar or a vector")
    names = list(parameters)
    for i, name in enumerate(names):
        twin = next((other for other in names[:i] if shares_values(parameters[other], parameters[name])), None)
        if twin is not None:
            raise ValueError(f"parameters: got one function as {twin!r} and as {name!r}, expected each once")
    check_conditions(u, parameters, bcs)


def check_conditions(u: fem.Function, parameters: Mapping[str, Parameter], bcs: Sequence) -> None:
    """Compare Dirichlet conditions with the state and the unknowns.

    Raises:
        TypeError, ValueError: a condition does not fit, or holds an unknown, whose changes it would not follow.
    """
    if isinstance(bcs, str | bytes) or not isinstance(bcs, Sequence):
        raise TypeError(f"bcs: got {shown(bcs)}, expected a sequence of dolfinx.fem.dirichletbc")
    for bc in bcs:
        if not isinstance(bc, fem.DirichletBC):
            raise TypeError(f"bcs: got {shown(bc)}, expected a dolfinx.fem.dirichletbc")
        if not u.function_space._cpp_object.contains(_core(bc.function_space)):
            raise ValueError("bcs: got a condition of another function space, expected that of u or a subspace of it")
        for name, parameter in (*parameters.items(), ("u", u)):
            if shares_values(bc.g, parameter):
                raise ValueError(
                    f"bcs: got the unknown {name!r} as boundary value, expected fixed values: Dirichlet values are read once, "
                    "at construction (put an unknown one into the form, by Nitsche's method or a lifting)"
                )


def shares_values(a: Any, b: Any) -> bool:
    """Whether two functions or constants hold their values in the same place: dolfinx wraps one object many times."""
    if _core(a) is _core(b):
        return True
    first, second = _values(a), _values(b)
    return first.size > 0 and second.size > 0 and bool(np.shares_memory(first, second))


def _core(value: Any) -> Any:
    return getattr(value, "_cpp_object", value)


def _values(value: Any) -> np.ndarray:
    found = value.x.array if hasattr(value, "x") else getattr(value, "value", ())
    return found if isinstance(found, np.ndarray) else np.zeros(0)


def fix_degree(form: ufl.Form, degree: int | None = None) -> ufl.Form:
    """Return the form with a stated quadrature degree on every integral.

    UFL estimates a degree for each form it compiles, and a derivative gets another one than its form: the
    assembled gradient is then not the gradient of the assembled residual (relative error 3e-4 on a Darcy
    problem). Derivatives inherit a stated degree. Without ``degree`` an integral keeps the degree its measure
    states, and the others get the largest one that UFL estimates for the form.
    """
    estimate = degree
    integrals = []
    for integral in form.integrals():
        metadata = dict(integral.metadata())
        stated = metadata.get("quadrature_degree", -1)
        if degree is not None or stated in (-1, None, "default"):
            if estimate is None:
                estimate = int(estimate_total_polynomial_degree(expand_derivatives(form), default_degree=1))
            metadata["quadrature_degree"] = estimate
        integrals.append(integral.reconstruct(metadata=metadata))
    return ufl.Form(integrals)


def is_zero(form: ufl.Form) -> bool:
    """Tell whether nothing is left of a form once its derivatives are taken."""
    return expand_derivatives(form).empty()


def jacobian(form: ufl.Form, u: fem.Function) -> ufl.Form:
    """Return the bilinear form dF/du."""
    return ufl.derivative(form, u, ufl.TrialFunction(u.function_space))


def depends_on(form: ufl.Form, function: Parameter) -> bool:
    """Tell whether a coefficient or constant is left in a form once its derivatives are taken."""
    form = expand_derivatives(form)
    return function in form.coefficients() or function in form.constants()


def weighted(form: ufl.Form, *functions: fem.Function) -> ufl.Form:
    """Return the functional with functions in place of the form's arguments, the test function first."""
    return ufl.replace(form, dict(zip(form.arguments(), functions, strict=True)))


def directional(form: ufl.Form, parameter: Parameter, direction: Parameter) -> ufl.Form:
    """Return dF/dp . direction, a form of the same rank."""
    if isinstance(parameter, fem.Function):
        return ufl.derivative(form, parameter, direction)
    variable = ufl.variable(parameter)
    form = ufl.replace(expand_derivatives(form), {parameter: variable})
    return map_integrands(lambda e: ufl.inner(ufl.diff(e, variable), direction), form)


def gradients(functional: ufl.Form, parameter: Parameter) -> list[ufl.Form]:
    """Return dM/dp of a functional M: one linear form for a field, one functional per entry of a constant."""
    if isinstance(parameter, fem.Function):
        return [ufl.derivative(functional, parameter, ufl.TestFunction(parameter.function_space))]
    variable = ufl.variable(parameter)
    replaced = ufl.replace(expand_derivatives(functional), {parameter: variable})
    indices = [()] if parameter.ufl_shape == () else [(i,) for i in range(parameter.ufl_shape[0])]

    def component(integrand, index):
        derivative = ufl.diff(integrand, variable)
        return derivative[index] if index else derivative

    return [map_integrands(lambda e, i=index: component(e, i), replaced) for index in indices]


def discontinuous(element):
    """Return the element with the same local basis and no coupling between cells.

    Raises:
        ValueError: the element's basis on a cell depends on how the cell is turned (edge and face elements).
    """
    if isinstance(element, basix.ufl._MixedElement):
        return basix.ufl.mixed_element([discontinuous(sub) for sub in element.sub_elements])
    if isinstance(element, basix.ufl._BlockedElement):
        sub, shape = discontinuous(element.sub_elements[0]), element.reference_value_shape
        return basix.ufl.blocked_element(sub, shape, element._has_symmetry if len(shape) == 2 else None)
    if not isinstance(element, basix.ufl._BasixElement):
        raise ValueError(f"logdet: elements with a local nodal basis (Lagrange, DG) are supported, got {element}")
    local = element.basix_element
    if not (local.dof_transformations_are_identity or local.dof_transformations_are_permutations):
        raise ValueError(f"logdet: an element whose basis does not depend on the cell's orientation, got {element}")
    if local.discontinuous:
        return element
    cut = basix.create_element(
        local.family,
        local.cell_type,
        local.degree,
        local.lagrange_variant,
        local.dpc_variant,
        True,
        dtype=local.dtype,
    )
    return basix.ufl.wrap_element(cut)


def cut_bilinear(form: ufl.Form, test: fem.Function, trial: fem.Function) -> ufl.Form:
    """Return the functional a(trial, test) of a bilinear form a, two functions in place of its arguments.

    With functions of the discontinuous space that hold W[:, l] and the l-th local basis function on each
    cell, the sum over l is sum_ij W_ij a(phi_j, phi_i).

    Raises:
        ValueError: the form has interior facet integrals, which couple cells.
    """
    form = expand_derivatives(form)
    if any(integral.integral_type().startswith("interior_facet") for integral in form.integrals()):
        raise ValueError("logdet: its gradient takes forms with dx and ds measures, got an interior facet measure dS")
    return weighted(form, test, trial)
