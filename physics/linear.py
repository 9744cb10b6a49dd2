"""Linear problems: the case in which everything has a closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.require import floats, shown
from .problem import Problem, Unknowns


class LinearProblem(Problem):
    """A linear system driven by its unknowns: A u = B z.

        F: u = A^-1 B z,      H: y = C u,      r(u, z) = A u - B z,      log|det dr/du| = log|det A|.

    The determinant is a constant: here virtual observables are exact without it.

    Args:
        stiffness: A, shape (n, n), invertible; kept dense with its inverse, so for small n.
        load: B, shape (n, d).
        sensors: C, shape (n_y, n).

    Raises:
        ValueError: shapes that do not fit, or a singular A.
    """

    stiffness: Tensor
    load: Tensor
    sensors: Tensor
    inverse: Tensor
    forward_map: Tensor
    log_determinant: Tensor
    state_event_dim = 1

    def __init__(self, stiffness: Tensor, load: Tensor, sensors: Tensor):
        super().__init__()
        for name, value in (("stiffness", stiffness), ("load", load), ("sensors", sensors)):
            floats(name, value)
            if value.dtype != stiffness.dtype or not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name}: got {shown(value)}, expected finite {stiffness.dtype} as stiffness")
        n = stiffness.shape[-1] if stiffness.dim() else 0
        for name, value, shape in (
            ("stiffness", stiffness, (n, n)),
            ("load", load, (n, -1)),
            ("sensors", sensors, (-1, n)),
        ):
            if value.dim() != 2 or any(want not in (-1, got) for got, want in zip(value.shape, shape, strict=True)):
                wanted = ", ".join("any" if size == -1 else str(size) for size in shape)
                raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected ({wanted})")
        inverse, info = torch.linalg.inv_ex(stiffness)
        if int(info) != 0:
            raise ValueError(f"stiffness: got a singular matrix of shape ({n}, {n}), expected an invertible one")
        self.register_buffer("stiffness", stiffness)
        self.register_buffer("load", load)
        self.register_buffer("sensors", sensors)
        self.register_buffer("inverse", inverse)
        self.register_buffer("forward_map", inverse @ load)
        self.register_buffer("log_determinant", torch.linalg.slogdet(stiffness).logabsdet)

    def solve(self, z: Unknowns, residual: Tensor | None = None) -> Tensor:
        """Return u = A^-1 (B z + ``residual``), shape (..., n)."""
        u = self._known(z) @ self.forward_map.T
        if residual is not None:
            self._known(residual, "residual", len(self.stiffness))
        return u if residual is None else u + residual @ self.inverse.T

    def observe(self, u: Tensor) -> Tensor:
        """Return C u, shape (..., n_y)."""
        return self._known(u, "u", len(self.stiffness)) @ self.sensors.T

    def residual(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return A u - B z, shape (..., n)."""
        return self._known(u, "u", len(self.stiffness)) @ self.stiffness.T - self._known(z) @ self.load.T

    def logdet(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return log|det A|, shape (...)."""
        u, z = self._known(u, "u", len(self.stiffness)), self._known(z)
        return self.log_determinant.expand(torch.broadcast_shapes(u.shape[:-1], z.shape[:-1]))

    def _known(self, value: Unknowns, name: str = "z", size: int | None = None) -> Tensor:
        found = floats(name, value, self.load.shape[-1] if size is None else size)
        if found.dtype != self.load.dtype:
            raise TypeError(f"{name}: got {found.dtype}, expected {self.load.dtype}, the dtype of the problem")
        return found
