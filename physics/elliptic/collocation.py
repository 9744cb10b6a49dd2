"""The strong form of the one-dimensional elliptic problem, held at points that are drawn afresh: no mesh."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ...core.require import dtype_of_floats, finite, floats, numbers, real, shown, whole
from ..problem import Problem, Unknowns

QUADRATURE = 64  # Gauss points: exact for polynomials to degree 127


class Collocation(Problem):
    """-(k u')' = f on (-1, 1), u(-1) = u(1) = 0, k = log(1 + exp(sum_j z_j T_j(x))) + floor, T_j Chebyshev.

    The state is a polynomial that keeps the boundary conditions by itself,

        u(x) = sum_{j=1}^{m} c_j b_j(x),       b_j = integral of the Legendre polynomial P_j from -1 to x,

    (1 - x^2 times a polynomial of degree j - 1), and the residual at a point x is that of the strong form,

        r(x; c, z) = -(k u'' + k' u')(x) - f,     linear in c.

    At P points there are more residuals than coefficients. Marginalised over points uniform on (-1, 1) the sum of squares is

        E_x sum r^2 = c' G c - 2 g' c + const,   G = P E_x[a a'],   g = P E_x[a f],   a_j = -(k b_j'' + k' b_j'),

    half of which is the energy, exp(-E / s_r^2) is N(G^-1 g, s_r^2 G^-1), and its gradient G c - g, by Gauss quadrature, is the
    weighted residual of this ``Problem``: the equation tested with the a_j. ``at_points`` is the residual before.

    Args:
        modes: m.
        points: P.
        sensors: where u is read, in [-1, 1].
        unknowns: number of Chebyshev coefficients z, T_0 .. T_{unknowns - 1}.
        source: f.
        floor: least conductivity.
        dtype: of the tables; None takes torch's default.

    Raises:
        ValueError, TypeError: a number out of range.

    Source: the coefficient, the hard boundary conditions and the random points: random-grid neural processes, Vadeboncoeur
        et al., arXiv:2301.11040; here with u(-1) = u(1) = 0 and f = 1.
    """

    places: Tensor
    weights: Tensor
    sensors: Tensor
    state_event_dim = 1

    def __init__(
        self,
        modes: int = 16,
        points: int = 30,
        sensors: Sequence[float] = (0.0,),
        unknowns: int = 5,
        source: float = 1.0,
        floor: float = 0.1,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.modes, self.points, self.unknowns = (
            whole(name, value, 1) for name, value in (("modes", modes), ("points", points), ("unknowns", unknowns))
        )
        self.source = finite("source", source)
        self.floor = real("floor", floor)
        places, weights = np.polynomial.legendre.leggauss(QUADRATURE)
        dtype_of_floats(dtype)
        dtype = dtype or torch.get_default_dtype()
        self.register_buffer("places", torch.as_tensor(places).to(dtype))
        self.register_buffer("weights", torch.as_tensor(weights / 2).to(dtype))  # of the mean over (-1, 1)
        seen = numbers("sensors", sensors, "points in [-1, 1]")
        if seen.dim() != 1 or not len(seen) or not bool((seen.abs() <= 1).all()):
            raise ValueError(f"sensors: got {shown(seen.tolist())}, expected at least one point in [-1, 1]")
        self.register_buffer("sensors", seen.to(dtype))

    def conductivity(self, z: Tensor, x: Tensor) -> Tensor:
        """Return k at the points x, shape (..., points), for z of shape (..., unknowns)."""
        coefficients = floats("z", z, self.unknowns, like=_points(x))
        return nn.functional.softplus(coefficients @ _chebyshev(x, self.unknowns)[0]) + self.floor

    def state(self, c: Tensor, x: Tensor) -> Tensor:
        """Return u at the points x, shape (..., points), for c of shape (..., m)."""
        return floats("c", c, self.modes, like=_points(x)) @ _integrated_legendre(x, self.modes)[0]

    def rows(self, z: Tensor, x: Tensor) -> Tensor:
        """Return a(x; z), shape (..., points, m): r = a c - f."""
        values, slopes = _chebyshev(_points(x), self.unknowns)
        field = floats("z", z, self.unknowns, like=x) @ values
        slope = torch.sigmoid(field) * (z @ slopes)
        k = nn.functional.softplus(field) + self.floor
        _, first, second = _integrated_legendre(x, self.modes)
        return -(k[..., None] * second.mT + slope[..., None] * first.mT)

    def at_points(self, c: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """Return r at the points x, shape (..., points)."""
        return (self.rows(z, x) @ floats("c", c, self.modes, like=x)[..., None])[..., 0] - self.source

    def normal_equations(self, z: Unknowns) -> tuple[Tensor, Tensor]:
        """Return G, (..., m, m), and g, (..., m)."""
        rows = self.rows(floats("z", z, self.unknowns), self.places)
        weighted = self.points * self.weights[:, None] * rows
        return weighted.mT @ rows, self.source * weighted.sum(-2)

    def solve(self, z: Unknowns, residual: Tensor | None = None) -> Tensor:
        """Return the coefficients c, shape (..., m), with G c - g = ``residual`` (zero, the least energy, where not given)."""
        matrix, load = self.normal_equations(z)
        load = load if residual is None else load + floats("residual", residual, self.modes, like=load)
        return torch.linalg.solve(matrix, load[..., None])[..., 0]

    def observe(self, u: Tensor) -> Tensor:
        """Return u at the sensors, shape (..., n_y)."""
        return self.state(floats("u", u, self.modes, like=self.sensors), self.sensors)

    def residual(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return G u - g, shape (..., m)."""
        matrix, load = self.normal_equations(z)
        return (matrix @ floats("u", u, self.modes, like=self.places)[..., None])[..., 0] - load

    def logdet(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return log det G, shape (...)."""
        floats("u", u, self.modes)
        value = torch.linalg.slogdet(self.normal_equations(z)[0])[1]
        return value.expand(torch.broadcast_shapes(value.shape, u.shape[:-1]))


def _points(x: Tensor) -> Tensor:
    if floats("x", x, None).dim() != 1:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected points (n,)")
    return x


def _chebyshev(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """T_j and T_j' at x, each (count, points)."""
    values, slopes = [torch.ones_like(x), x], [torch.zeros_like(x), torch.ones_like(x)]
    for _ in range(count - 2):
        slopes.append(2 * values[-1] + 2 * x * slopes[-1] - slopes[-2])
        values.append(2 * x * values[-1] - values[-2])
    return torch.stack(values[:count]), torch.stack(slopes[:count])


def _integrated_legendre(x: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """b_j, b_j' = P_j and b_j'' for j = 1 .. count at x, each (count, points)."""
    p, slopes = [torch.ones_like(x), x], [torch.zeros_like(x), torch.ones_like(x)]
    for j in range(1, count + 1):
        slopes.append((2 * j + 1) * p[j] + slopes[j - 1])
        p.append(((2 * j + 1) * x * p[j] - j * p[j - 1]) / (j + 1))
    values = [(p[j + 1] - p[j - 1]) / (2 * j + 1) for j in range(1, count + 1)]
    return torch.stack(values), torch.stack(p[1 : count + 1]), torch.stack(slopes[1 : count + 1])
