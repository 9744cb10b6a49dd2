"""Point sensors on a finite-element state: H as a sparse table. Imports dolfinx, see ``assembly``."""

# UFL and dolfinx annotate with unions of all that an operation might return.
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sparse
from dolfinx import fem, geometry

from ...core.require import numbers
from .compiled import local_dofs

ROUNDING = 1e-10  # of the extent of a mesh: how far outside the box of a cell a point may lie
TOLERANCE = 1e-9  # of a cell: how far outside of it
# How far a place is beyond the upper faces of a reference cell; the default is that of the prism.
_BEYOND: dict[str, Callable[[np.ndarray], float]] = {
    **dict.fromkeys(("interval", "triangle", "tetrahedron"), lambda x: float(x.sum() - 1)),
    **dict.fromkeys(("quadrilateral", "hexahedron"), lambda x: float(x.max() - 1)),
    "pyramid": lambda x: float(max(x[0], x[1]) + x[2] - 1),
}


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
    corners = mesh.geometry.x
    tree = geometry.bb_tree(mesh, mesh.topology.dim, padding=ROUNDING * float(np.ptp(corners, 0).max()))
    candidates = geometry.compute_collisions_points(tree, padded)
    cells = np.array([_cell_of(mesh, padded[m], candidates.links(m)) for m in range(points.shape[0])], dtype=np.int32)
    if (cells < 0).any():
        outside = points[np.flatnonzero(cells < 0)[0]].tolist()
        raise ValueError(f"sensors: expected points inside the mesh, got {outside} outside it")
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


def _cell_of(mesh: Any, point: np.ndarray, candidates: np.ndarray) -> int:
    """Return which cell a point is in, -1 for none, judged in the coordinates of the reference cell: they have no unit.

    dolfinx compares distances with a fixed number, which finds wrong cells in a mesh of micrometres.
    """
    if mesh.topology.dim != mesh.geometry.dim:  # a surface in space has no coordinates for a point beside it
        near = geometry.squared_distance(mesh, mesh.topology.dim, candidates, np.tile(point, (len(candidates), 1)))
        size = float(np.ptp(mesh.geometry.x, 0).max())
        return int(candidates[near.argmin()]) if near.size and near.min() <= (TOLERANCE * size) ** 2 else -1
    best, least = -1, TOLERANCE
    places = mesh.geometry.dofmaps[0]
    beyond = _BEYOND.get(mesh.basix_cell().name, lambda x: max(x[0] + x[1] - 1, x[-1] - 1))
    dimension = mesh.geometry.dim
    for cell in candidates:
        corners = mesh.geometry.x[places[cell]][:, :dimension]
        inside = mesh.geometry.cmaps[0].pull_back(point[None, :dimension], corners)[0]
        found = max(-inside.min(), beyond(inside))
        if found < least:
            best, least = int(cell), float(found)
    return best


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
