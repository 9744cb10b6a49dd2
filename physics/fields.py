"""Gaussian random fields of few unknowns: the truncated Karhunen-Loeve expansion."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..core.require import MOST, floats, numbers, real, shown, stored, whole

COVARIANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "exponential": lambda s: torch.exp(-s),
    "squared_exponential": lambda s: torch.exp(-0.5 * s.square()),
    "matern32": lambda s: (1 + math.sqrt(3) * s) * torch.exp(-math.sqrt(3) * s),
    "matern52": lambda s: (1 + math.sqrt(5) * s + 5 / 3 * s.square()) * torch.exp(-math.sqrt(5) * s),
}


class KarhunenLoeve(nn.Module):
    """A Gaussian field by its leading modes: z -> mean + sum_k sqrt(l_k) phi_k z_k with z ~ N(0, I).

    The modes solve the quadrature form of the covariance's eigenproblem,

        sum_j c(x_i, x_j) w_j phi_k(x_j) = l_k phi_k(x_i),      sum_j w_j phi_k(x_j) phi_m(x_j) = delta_km,

    with c(x, x') = sd^2 rho(|x - x'| / length): rho(s) = exp(-s) (exponential), exp(-s^2/2)
    (squared_exponential), (1 + sqrt3 s) exp(-sqrt3 s) (matern32), (1 + sqrt5 s + 5 s^2 / 3) exp(-sqrt5 s)
    (matern52). Each mode's sign is fixed by its first point where it is not small; eigenvalues that coincide
    (a square's symmetry) still leave a rotation among their modes free.

    Args:
        points: where the field is evaluated, shape (n, dimension) or (n,); its dtype is the field's.
        modes: number of unknowns d, at most n.
        length: correlation length, in units of the points.
        covariance: one of "exponential", "squared_exponential", "matern32", "matern52".
        weights: quadrature weights, shape (n,); None gives each point 1/n.
        standard_deviation: of the untruncated field.
        mean: a number or shape (n,).

    Raises:
        ValueError: an argument does not fit.

    Source: Ghanem & Spanos, Stochastic Finite Elements (1991), section 2.3.

    Example:
        >>> field = KarhunenLoeve((torch.arange(64) + 0.5) / 64, modes=8, length=0.3)
        >>> field(torch.zeros(5, 8)).shape
        torch.Size([5, 64])
        >>> round(field.variance_kept, 2)
        0.91
    """

    points: Tensor
    weights: Tensor
    mean: Tensor
    eigenvalues: Tensor
    eigenfunctions: Tensor
    basis: Tensor

    def __init__(
        self,
        points: Tensor,
        modes: int,
        length: float,
        covariance: str = "exponential",
        weights: Tensor | None = None,
        standard_deviation: float = 1.0,
        mean: float | Tensor = 0.0,
    ):
        super().__init__()
        if not isinstance(points, Tensor):
            raise TypeError(f"points: got {shown(points)}, expected floats (n, dimension)")
        points = points[:, None] if points.dim() == 1 else points
        if (
            points.dim() != 2
            or not points.is_floating_point()
            or not stored(points)
            or points.numel() > MOST
            or not bool(torch.isfinite(points).all())
        ):
            raise ValueError(f"points: got {shown(points)}, expected finite floats (n, dimension)")
        n, dtype = points.shape[0], points.dtype
        if not isinstance(covariance, str) or covariance not in COVARIANCES:
            raise ValueError(f"covariance: got {shown(covariance)}, expected one of {', '.join(COVARIANCES)}")
        if whole("modes", modes, 1) > n:
            raise ValueError(f"modes: got {modes}, expected 1 to {n}, the number of points")
        length = real("length", length)
        standard_deviation = real("standard_deviation", standard_deviation)
        weights = numbers("weights", 1.0 / n if weights is None else weights, f"{n} positive numbers")
        weights = weights.expand(n).clone() if weights.dim() == 0 else weights
        if weights.shape != (n,) or not bool((weights > 0).all()):
            raise ValueError(f"weights: got shape {tuple(weights.shape)}, expected {n} positive numbers")
        mean = numbers("mean", mean, f"a number or {n} of them")
        if mean.dim() and mean.shape != (n,):
            raise ValueError(f"mean: got shape {tuple(mean.shape)}, expected a number or ({n},)")

        x, root = points.double(), weights.double().sqrt()
        correlation = COVARIANCES[covariance](torch.cdist(x, x) / length)
        values, vectors = torch.linalg.eigh(standard_deviation**2 * root[:, None] * correlation * root)
        values, vectors = values.flip(0)[:modes].clamp_min(0.0), vectors.flip(1)[:, :modes]
        functions = (vectors / root[:, None]).T
        functions = functions * _sign(functions)[:, None]

        self.variance_kept = float(values.sum() / (standard_deviation**2 * weights.double().sum()))
        """Share of the field's integrated variance in the modes kept, between 0 and 1."""
        self.register_buffer("points", points)
        self.register_buffer("weights", weights.to(dtype))
        self.register_buffer("mean", mean.to(dtype))
        self.register_buffer("eigenvalues", values.to(dtype))
        self.register_buffer("eigenfunctions", functions.to(dtype))
        self.register_buffer("basis", (values.sqrt()[:, None] * functions).to(dtype))

    @property
    def modes(self) -> int:
        """Number of unknowns d."""
        return self.basis.shape[0]

    def forward(self, z: Tensor) -> Tensor:
        """Return the field's values at the points, shape (..., n), for z of shape (..., d)."""
        if floats("z", z, self.modes).dtype != self.basis.dtype:
            raise TypeError(f"z: got {z.dtype}, expected {self.basis.dtype}, the dtype of the points")
        return self.mean + z @ self.basis

    def extra_repr(self) -> str:
        return f"points={self.points.shape[0]}, modes={self.modes}, variance_kept={self.variance_kept:.3f}"


def _sign(functions: Tensor) -> Tensor:
    """Sign of each row's first entry above a tenth of its largest (symmetric extrema would tie)."""
    magnitude = functions.abs()
    first = (magnitude > 0.1 * magnitude.amax(-1, keepdim=True)).to(torch.int8).argmax(-1)
    return functions.gather(-1, first[:, None]).squeeze(-1).sign()
