"""Where the states of a surrogate live: fixed directions from solves or from the residual, or a learnt trunk."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ...core.require import floats, function, shown, whole, widths
from ..problem import Problem, Unknowns

SMALLEST = 1e-12  # of the largest singular value: below it dr/du counts as singular
WAVES = (1, 2, 4)


def mlp(sizes: Sequence[int], dtype: torch.dtype, seed: int) -> nn.Sequential:
    """Return linear layers of the given sizes with SiLU between them, their weights drawn from ``seed``."""
    whole("seed", seed, 0, 2**63 - 1)
    layers: list[nn.Module] = []
    with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
        torch.manual_seed(seed)
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b, dtype=dtype), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


class Basis(nn.Module):
    """Centre m and directions b_k of states: u = m + sum_k c_k b_k, with coefficients of order one.

    Attributes:
        centre: m, flattened, shape (n,).
        shape: shape of one state.
        directions: number of the b_k.
    """

    centre: Tensor

    def __init__(self, centre: Tensor, directions: int) -> None:
        super().__init__()
        self.shape = tuple(centre.shape)
        self.directions = directions
        self.register_buffer("centre", centre.detach().flatten().clone())

    def forward(self) -> Tensor:
        """Return the directions, shape (directions, n)."""
        raise TypeError(f"{type(self).__name__} has no forward: a Basis returns its directions")


class FixedBasis(Basis):
    """Directions that are not learnt, from solved states or from the residual.

    Args:
        centre: m, shape (*state).
        rows: b_k, shape (directions, n).

    Raises:
        ValueError, TypeError: shapes or dtypes that do not fit.
    """

    rows: Tensor

    def __init__(self, centre: Tensor, rows: Tensor) -> None:
        floats("centre", centre)
        super().__init__(centre, len(floats("rows", rows, centre.numel())))
        self.register_buffer("rows", rows.detach().clone())

    @classmethod
    def of_states(cls, u: Tensor, modes: int | None = None) -> FixedBasis:
        """Take mean and principal components of solved states (proper orthogonal decomposition).

            u_i - m = sum_k U_ik s_k v_k,     b_k = s_k v_k / sqrt(N - 1)

        Args:
            u: states, shape (N, *state).
            modes: number of components; None keeps all.

        Raises:
            ValueError: fewer than two states, or ``modes`` beyond what they span.
        """
        floats("u", u)
        if u.dim() < 2 or len(u) < 2:
            raise ValueError(f"u: got shape {tuple(u.shape)}, expected (N, *state) with N of at least 2")
        centre = u.mean(0)
        _, values, vectors = torch.linalg.svd((u - centre).flatten(1), full_matrices=False)
        most = int((values > SMALLEST * values[0]).sum())
        if not most:
            raise ValueError(f"u: got {len(u)} states that are all equal, expected states that vary")
        if modes is not None and whole("modes", modes, 1) > most:
            raise ValueError(f"modes: got {modes}, expected at most {most}, what the {len(u)} states span")
        kept = most if modes is None else modes
        return cls(centre, (values[:kept, None] * vectors[:kept]) / math.sqrt(len(u) - 1))

    @classmethod
    def of_residual(cls, problem: Problem, z: Unknowns, like: Tensor, modes: int | None = None) -> FixedBasis:
        """Take the directions that the residual at ``z`` resists least; nothing but residuals is called.

            J = dr/du (0, z) = U S V',     m = -J^-1 r(0, z),     b_k = |m| sqrt(s_min / s_k) v_k

        m is the solution at z of a linear problem, and one Newton step from zero towards that of another. For the
        symmetric J of an energy the b_k are orthonormal in it up to a factor, so the mesh no longer shows in the
        training.

        Args:
            problem: supplies the residual.
            z: unknowns at a typical place, e.g. the prior mean, without batch dimension.
            like: any state, shape (*state), for shape and dtype.
            modes: number of directions; None keeps all.

        Raises:
            ValueError: dr/du is singular, the state at z is zero, or ``modes`` is beyond the size of a state.
        """
        centre, (_, values, vectors) = _linearised(problem, z, like)
        if not bool(centre.any()):
            raise ValueError(
                f"z: got {shown(z)} whose state is zero, expected a typical one, whose size sets the scale"
            )
        if modes is not None and whole("modes", modes, 1) > len(values):
            raise ValueError(f"modes: got {modes}, expected at most {len(values)}, the size of a state")
        order = values.argsort()[:modes]
        scale = (values[order[0]] / values[order]).sqrt()[:, None]
        return cls(centre, centre.norm() * scale * vectors[order])

    def forward(self) -> Tensor:
        """Return the directions, shape (directions, n)."""
        return self.rows


class Trunk(Basis):
    """Directions that are learnt as functions of the coordinates: the trunk of a DeepONet.

        b_k(x) = |m|_rms w(x) t_k(x, sin pi x, cos pi x, sin 2 pi x, ..., cos 4 pi x) / sqrt(directions)

    t is a perceptron and w a given function that is zero where the state is held, so that boundary values are exact
    at every point, not at the nodes alone. x is scaled to [0, 1] in each direction.

    Args:
        coordinates: of the entries of the state, shape (n, dimension) or (n,).
        centre: m, shape (n,): any state, e.g. that of ``FixedBasis.of_residual``.
        directions: width of the trunk's output.
        cutoff: w, from coordinates (..., dimension) to (...); None takes 1.
        hidden: widths of its layers.
        seed: of its initial weights; torch's generator is put back afterwards.

    Raises:
        ValueError, TypeError: an argument does not fit.

    Source: Lu, Jin, Pang, Zhang, Karniadakis, arXiv:1910.03193; hard boundary values: Lagaris, Likas, Fotiadis (1998).
    """

    coordinates: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        coordinates: Tensor,
        centre: Tensor,
        directions: int = 64,
        cutoff: Callable[[Tensor], Tensor] | None = None,
        hidden: Sequence[int] = (64, 64),
        seed: int = 0,
    ) -> None:
        floats("centre", centre)
        super().__init__(centre, whole("directions", directions, 1, 10**6))
        places = floats("coordinates", coordinates)
        places = places[:, None] if places.dim() == 1 else places
        if places.dim() != 2 or len(places) != centre.numel():
            expected = f"({centre.numel()}, dimension), one row for each entry of the state"
            raise ValueError(f"coordinates: got shape {tuple(coordinates.shape)}, expected {expected}")
        if cutoff is not None:
            function("cutoff", cutoff)
        self.cutoff = cutoff
        self.register_buffer("coordinates", places.to(centre))
        self.register_buffer("low", self.coordinates.amin(0))
        self.register_buffer("high", self.coordinates.amax(0))
        self.scale = float(centre.square().mean().sqrt()) or 1.0
        inputs = places.shape[1] * (1 + 2 * len(WAVES))
        self.net = mlp([inputs, *widths("hidden", hidden), directions], centre.dtype, seed)

    def at(self, x: Tensor) -> Tensor:
        """Return the directions at points x, shape (..., dimension) -> (directions, ...)."""
        floats("x", x, self.coordinates.shape[1], like=self.centre)
        inside = (x - self.low) / (self.high - self.low).clamp_min(torch.finfo(x.dtype).tiny)
        waves = [g(k * math.pi * inside) for k in WAVES for g in (torch.sin, torch.cos)]
        values = self.scale / math.sqrt(self.directions) * self.net(torch.cat([inside, *waves], -1))
        return (values if self.cutoff is None else values * self.cutoff(x)[..., None]).movedim(-1, 0)

    def forward(self) -> Tensor:
        """Return the directions at the coordinates, shape (directions, n)."""
        return self.at(self.coordinates)


def jacobian(problem: Problem, z: Unknowns, u: Tensor) -> Tensor:
    """Return dr/du at one state, shape (n, n), by one backward pass for each entry of the residual."""
    found = torch.autograd.functional.jacobian(lambda v: problem.residual(v.reshape(u.shape), z).flatten(), u.flatten())
    return found.detach()  # type: ignore[union-attr]


def _linearised(problem: Problem, z: Unknowns, like: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Newton's step from zero and the singular value decomposition of dr/du there."""
    if not callable(getattr(problem, "residual", None)):
        raise TypeError(f"problem: got {shown(problem)}, expected a Problem with residual")
    zero = torch.zeros_like(floats("like", like, like=z if isinstance(z, Tensor) else None))
    if not zero.numel():
        raise ValueError(f"like: got shape {tuple(like.shape)}, expected a state")
    left, values, right = torch.linalg.svd(jacobian(problem, z, zero))
    if not bool(values[-1] > SMALLEST * values[0]):
        raise ValueError(f"problem: got {shown(problem)}, expected a dr/du at zero that can be inverted")
    step = -(right.T @ ((left.T @ problem.residual(zero, z).detach().flatten()) / values))
    return step.reshape(like.shape), (left, values, right)
