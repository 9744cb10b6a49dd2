"""Point sensors on a finite-element state: H as a sparse table. Imports dolfinx, see ``fem_assembly``."""

# UFL and dolfinx annotate with unions of all that an operation might return.
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sparse
from dolfinx import fem, geometry

from .fem_compiled import local_dofs
from .require import numbers


def interpolation_matrix(space: fem.FunctionSpace, points: Any) -> sparse.csr_array:
    """Return H with (H u)_m = u(x_m), shape (points x components, dofs), point by point for vectors.

    ``points`` has shape (m, dimension of the mesh's space).

    Raises:
        ValueError: a wrong shape, or a point outside the mesh.
    """
    mesh = space.mesh
    dimension = mesh.geometry.dim
    points = numbers("sensors", points, f"points (m, {dimension}) or a sparse matrix").numpy()
    if points.ndim != 2 or points.shape[1] != dimension:
        raise ValueError(f"sensors: expected points of shape (m, {dimension}), got {points.shape}")
    padded = np.zeros((points.shape[0], 3))
    padded[:, :dimension] = points
    tree = geometry.bb_tree(mesh, mesh.topology.dim, padding=1e-12)
    candidates = geometry.compute_collisions_points(tree, padded)
    colliding = geometry.compute_colliding_cells(mesh, candidates, padded)
    found = [colliding.links(m) for m in range(points.shape[0])]
    outside = [m for m, cells in enumerate(found) if len(cells) == 0]
    if outside:
        raise ValueError(f"sensors: expected points inside the mesh, got {points[outside[0]].tolist()} outside it")
    cells = np.array([links[0] for links in found], dtype=np.int32)
    probe = fem.Function(space)
    dofs = local_dofs(space)[cells]
    components = int(np.prod(probe.ufl_shape, dtype=int))
    matrix = sparse.lil_array((points.shape[0] * components, probe.x.array.size))
    for cell in np.unique(cells):  # evaluating unit vectors serves every element, mapped ones included
        here = np.flatnonzero(cells == cell)
        for dof in dofs[here[0]]:
            probe.x.array[dof] = 1.0
            values = np.reshape(probe.eval(padded[here], cells[here]), (here.size, components))
            probe.x.array[dof] = 0.0
            for component in range(components):
                matrix[here * components + component, dof] = values[:, component]
    return sparse.csr_array(matrix)


def sensor_table(space: fem.FunctionSpace, sensors) -> tuple[np.ndarray, np.ndarray]:
    """Return dofs and weights of the non-zeros of H, shape (rows, most in a row), padded by zeros.

    ``sensors`` are points (m, dimension) or H itself, a sparse matrix of shape (m, dofs).
    """
    if sparse.issparse(sensors):
        matrix = sparse.csr_array(sensors)
        dofs = space.dofmap.index_map.size_local * space.dofmap.index_map_bs
        if matrix.shape[1] != dofs or matrix.dtype.kind not in "iuf" or not np.isfinite(matrix.data).all():
            got = f"a matrix of {matrix.dtype}, shape {matrix.shape}"
            raise ValueError(f"sensors: got {got}, expected finite numbers (m, {dofs})")
    else:
        matrix = interpolation_matrix(space, sensors)
    counts = np.diff(matrix.indptr)
    columns = np.zeros((counts.size, max(int(counts.max(initial=0)), 1)), dtype=np.int64)
    weights = np.zeros(columns.shape)
    filled = np.arange(columns.shape[1]) < counts[:, None]
    columns[filled], weights[filled] = matrix.indices, matrix.data
    return columns, weights
