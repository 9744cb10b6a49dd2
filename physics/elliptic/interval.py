"""The exact one-dimensional elliptic problem: a reference case in which every operation costs O(n)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...core.require import dtype_of_floats, floats, function, numbers, shown, whole
from ..problem import Problem, Unknowns

_GAUSS_POINTS = (-0.7745966692414834, 0.0, 0.7745966692414834)
_GAUSS_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)


class Elliptic1D(Problem):
    """Diffusion through a layered bar: -(k(x) u')' = f on (a, b), u(a) and u(b) given.

    log k is constant on each of n equal elements of width h, and u is piecewise linear, which is exact at the
    nodes (the Green's function of a node is itself piecewise linear). The state u holds the n - 1 interior
    nodal values. With fluxes q_e = k_e (u_e - u_{e-1}) / h the residual, one entry per interior node, is

        r_i = q_i - q_{i+1} - F_i,        F_i = integral of f v_i (v_i: hat function),

    that is r = A(z) u - F with A tridiagonal. Summing it from the left gives the solution without a matrix,

        q_e = q_1 - S_{e-1},  S_j = sum_{i<=j} F_i,  q_1 = (u_b - u_a + sum_e (h/k_e) S_{e-1}) / sum_e
        (h/k_e), u_j = u_a + sum_{e<=j} (h/k_e) q_e,         det A = prod_e (k_e/h) sum_e (h/k_e).

    Args:
        log_conductivity: field z -> log k at the element midpoints, shape (..., n); a module is registered.
        sensors: where u is read, shape (n_y,), anywhere in [a, b]; linear between nodes.
        elements: n.
        source: f as a number, as n element values, or as a function of x (three-point Gauss rule).
        boundary: u(a), u(b).
        domain: a, b.
        dtype: of the tables; None takes torch's default.

    Raises:
        ValueError: an argument does not fit.

    Source: Strang & Fix, An Analysis of the Finite Element Method (1973), section 1.

    Example:
        >>> problem = Elliptic1D(lambda z: z, sensors=[0.5], elements=4)
        >>> problem.observe(problem.solve(torch.zeros(4)))
        tensor([0.1250])
    """

    load: Tensor
    sensors: Tensor
    boundary: Tensor
    sensor_node: Tensor
    sensor_weight: Tensor
    state_event_dim = 1

    def __init__(
        self,
        log_conductivity: nn.Module | Callable[[Unknowns], Tensor],
        sensors: Sequence[float] | Tensor,
        elements: int = 64,
        source: float | Tensor | Callable[[Tensor], Tensor] = 1.0,
        boundary: tuple[float, float] = (0.0, 0.0),
        domain: tuple[float, float] = (0.0, 1.0),
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        function("log_conductivity", log_conductivity)
        elements = whole("elements", elements, 2, 10**8)
        dtype_of_floats(dtype)
        ends = numbers("domain", domain, "two increasing numbers")
        if ends.shape != (2,) or not ends[0] < ends[1]:
            raise ValueError(f"domain: got {shown(domain)}, expected two increasing numbers")
        left, right = ends.tolist()
        held = numbers("boundary", boundary, "two numbers")
        if held.shape != (2,):
            raise ValueError(f"boundary: got {shown(boundary)}, expected two numbers")
        positions = numbers("sensors", sensors, f"points in [{left}, {right}]")
        inside = (positions >= left) & (positions <= right)
        if positions.dim() != 1 or not len(positions) or not bool(inside.all()):
            got = shown(positions.tolist())
            raise ValueError(f"sensors: got {got}, expected at least one point in [{left}, {right}]")
        self.log_conductivity = log_conductivity
        self.elements = elements
        self.width = (right - left) / elements
        self.domain = (left, right)
        dtype = dtype or torch.get_default_dtype()
        place = (positions - left) / self.width
        node = place.floor().clamp_max(elements - 1)
        self.register_buffer("sensors", positions.to(dtype))
        self.register_buffer("sensor_node", node.long())
        self.register_buffer("sensor_weight", (place - node).to(dtype))
        self.register_buffer("boundary", held.to(dtype))
        self.register_buffer("load", self._load(source).to(dtype))

    @property
    def nodes(self) -> Tensor:
        """All n + 1 nodes, the boundary included."""
        return torch.linspace(*self.domain, self.elements + 1, dtype=self.load.dtype, device=self.load.device)

    @property
    def midpoints(self) -> Tensor:
        """The n element midpoints, where log k is wanted."""
        return (self.nodes[1:] + self.nodes[:-1]) / 2

    def solve(self, z: Unknowns, residual: Tensor | None = None) -> Tensor:
        """Return the interior nodal values u, shape (..., n - 1), with A(z) u = F + ``residual``."""
        if residual is not None:
            floats("residual", residual, self.elements - 1)
        resistance = self.width * torch.exp(-self._log_k(z))
        load = self.load if residual is None else self.load + residual
        passed = nn.functional.pad(load.cumsum(-1), (1, 0))
        drop = self.boundary[1] - self.boundary[0]
        first = (drop + (resistance * passed).sum(-1, keepdim=True)) / resistance.sum(-1, keepdim=True)
        return self.boundary[0] + (resistance * (first - passed)).cumsum(-1)[..., :-1]

    def observe(self, u: Tensor) -> Tensor:
        """Return u at the sensors, shape (..., n_y)."""
        nodal = self._with_boundary(floats("u", u, self.elements - 1))
        below, above = nodal[..., self.sensor_node], nodal[..., self.sensor_node + 1]
        return below + self.sensor_weight * (above - below)

    def residual(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return A(z) u - F, shape (..., n - 1), in units of the nodal load f h."""
        floats("u", u, self.elements - 1)
        flux = torch.exp(self._log_k(z)) * self._with_boundary(u).diff(dim=-1) / self.width
        return -flux.diff(dim=-1) - self.load

    def logdet(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return log det A(z), shape (...): sum_e log(k_e/h) + log sum_e (h/k_e)."""
        floats("u", u, self.elements - 1)
        log_rigidity = self._log_k(z) - torch.log(self.load.new_tensor(self.width))
        value = log_rigidity.sum(-1) + torch.logsumexp(-log_rigidity, -1)
        return value.expand(torch.broadcast_shapes(value.shape, u.shape[:-1]))

    def _log_k(self, z: Unknowns) -> Tensor:
        parts = z.values() if isinstance(z, Mapping) else (z,)
        for part in parts:
            floats("z", part)
        log_k = self.log_conductivity(z)
        if floats("log_conductivity(z)", log_k).shape[-1:] != (self.elements,):
            raise ValueError(f"log_conductivity(z): got shape {tuple(log_k.shape)}, expected (..., {self.elements})")
        return log_k

    def _with_boundary(self, u: Tensor) -> Tensor:
        ends = self.boundary.expand(*u.shape[:-1], 2)
        return torch.cat([ends[..., :1], u, ends[..., 1:]], -1)

    def _load(self, source: float | Tensor | Callable[[Tensor], Tensor]) -> Tensor:
        """F at the interior nodes, float64."""
        n, h = self.elements, self.width
        if callable(source):
            function("source", source)
            middle = torch.linspace(*self.domain, n + 1, dtype=torch.float64)[:-1] + h / 2
            xi = torch.tensor(_GAUSS_POINTS, dtype=torch.float64)
            found = numbers("source", source(middle[:, None] + h / 2 * xi), "a function of x to numbers")
            if found.dim() and found.shape != (n, 3):
                raise ValueError(f"source: got shape {tuple(found.shape)} of its values, expected that of x, ({n}, 3)")
            values = found.expand(n, 3) * torch.tensor(_GAUSS_WEIGHTS, dtype=torch.float64) * h
            falling, rising = (values * (1 - xi) / 2).sum(-1), (values * (1 + xi) / 2).sum(-1)
        else:
            element = numbers("source", source, f"a number, {n} of them, or a function of x")
            if element.dim() and element.shape != (n,):
                raise ValueError(f"source: got shape {tuple(element.shape)}, expected a number or ({n},)")
            falling = rising = element.expand(n) * h / 2
        return rising[:-1] + falling[1:]
