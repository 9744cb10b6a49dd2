"""Boundary value problems that the finite-element tests share; each builder returns a FEMProblem."""

import torch

from physzoo.physics.fem import FEMProblem


def _square(cells):
    import dolfinx.mesh
    from mpi4py import MPI

    square = dolfinx.mesh.create_unit_square(MPI.COMM_SELF, cells, cells)
    square.topology.create_connectivity(1, 2)
    return square


def reaction_diffusion(cells=3, nonlinear=False, **options):
    """Two fields, a scalar, Neumann and Dirichlet data; ``nonlinear``: diffusivity exp(k) (1 + u^2)."""
    import ufl
    from dolfinx import fem

    square = _square(cells)
    space = fem.functionspace(square, ("P", 1))
    u, k, v = fem.Function(space), fem.Function(space), ufl.TestFunction(space)
    source = fem.Function(fem.functionspace(square, ("DG", 0)))
    reaction, flux = fem.Constant(square, 0.0), fem.Constant(square, 0.0)
    x = ufl.SpatialCoordinate(square)
    diffusivity = ufl.exp(k) * (1 + u**2 if nonlinear else 1)
    form = diffusivity * ufl.dot(ufl.grad(u), ufl.grad(v)) * ufl.dx
    form += reaction * u * v * ufl.dx - source * v * ufl.dx - flux * ufl.sin(x[1]) * v * ufl.ds
    left = fem.locate_dofs_geometrical(space, lambda x: x[0] < 1e-9)
    value = fem.Function(space)
    value.interpolate(lambda x: 0.3 + x[1])
    parameters = {"k": k, "source": source, "reaction": reaction, "flux": flux}
    sensors = [[0.3, 0.4], [0.71, 0.2]]
    return FEMProblem(form, u, parameters, [fem.dirichletbc(value, left)], sensors, **options)


def advection(cells=3):
    """Unsymmetric: transport by an unknown constant velocity, a vector."""
    import ufl
    from dolfinx import fem

    square = _square(cells)
    space = fem.functionspace(square, ("P", 2))
    u, v = fem.Function(space), ufl.TestFunction(space)
    velocity = fem.Constant(square, (0.0, 0.0))
    form = (ufl.dot(ufl.grad(u), ufl.grad(v)) + ufl.dot(velocity, ufl.grad(u)) * v - v) * ufl.dx
    border = fem.locate_dofs_geometrical(space, lambda x: x[0] * (1 - x[0]) * x[1] < 1e-9)
    return FEMProblem(form, u, {"velocity": velocity}, [fem.dirichletbc(0.0, border, space)])


def stokes(cells=2):
    """A saddle point: flow through a channel, log-viscosity and body force unknown."""
    import basix.ufl
    import ufl
    from dolfinx import fem

    square = _square(cells)
    velocity = basix.ufl.element("P", "triangle", 2, shape=(2,))
    pressure = basix.ufl.element("P", "triangle", 1)
    space = fem.functionspace(square, basix.ufl.mixed_element([velocity, pressure]))
    state = fem.Function(space)
    (u, p), (v, q) = ufl.split(state), ufl.TestFunctions(space)
    log_viscosity = fem.Function(fem.functionspace(square, ("DG", 0)))
    force = fem.Constant(square, (0.0, 0.0))
    form = ufl.exp(log_viscosity) * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    form += (-p * ufl.div(v) - q * ufl.div(u) - ufl.dot(force, v)) * ufl.dx
    collapsed, _ = space.sub(0).collapse()
    walls = fem.locate_dofs_geometrical((space.sub(0), collapsed), lambda x: x[1] * (1 - x[1]) < 1e-9)
    no_slip = fem.dirichletbc(fem.Function(collapsed), walls, space.sub(0))
    return FEMProblem(form, state, {"log_viscosity": log_viscosity, "force": force}, [no_slip])


def random_unknowns(problem, batch=(), seed=0, scale=0.3):
    """Unknowns around 0.5, a mapping; float64 with gradients."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (0.5 + scale * torch.randn((*batch, *event), generator=generator, dtype=torch.float64)).requires_grad_()
        for name, event in problem.parameter_shapes.items()
    }
