"""A network in the place of a solver: a Problem whose solve is learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...core.require import floats, shown, widths
from ..problem import Problem, Unknowns
from .basis import Basis, mlp

LEAST_VARIANCE = 1e-8  # of a principal component of the standardised unknowns: below it there is nothing to see


class Surrogate(Problem):
    """A problem whose solver is a network; sensors, residual and determinant stay those of the problem.

        solve(z) = exp(a(z)) (m + sum_k c_k(z) b_k),     (c, a) = MLP(W (z - z_mean))

    W standardises the principal components of the unknowns, as draws of them show (a nodal field of eight modes
    becomes eight numbers again). The basis (m, b_k) says what kind it is: components of solved states or of the
    residual (``FixedBasis``), or a network of the coordinates (``Trunk``: an operator network). The amplitude exp(a)
    costs one output; in elliptic problems, where the size of the state varies with the level of the coefficient, it
    halves the error. To use it instead of the solver:

        model.problem = surrogate

    ``physzoo.inference.surrogate.fit_surrogate`` trains it, from solves or from residuals alone, and freezes it.

    Args:
        problem: the problem that it stands for.
        z: draws of the unknowns as the problem takes them, leading dimension N.
        basis: where its states live.
        hidden: widths of the perceptron's layers.
        seed: of its initial weights; torch's generator is put back afterwards.

    Raises:
        ValueError, TypeError: an argument does not fit.

    Source: the network of the residual alone: Zhu, Zabaras, Koutsourelakis, Perdikaris, arXiv:1901.06314; from solves in
        a reduced basis: Hesthaven, Ubbiali, J. Comput. Phys. 363 (2018) 55.
    """

    shift: Tensor
    whiten: Tensor

    def __init__(
        self, problem: Problem, z: Unknowns, basis: Basis, hidden: Sequence[int] = (128, 128), seed: int = 0
    ) -> None:
        super().__init__()
        if not all(callable(getattr(problem, name, None)) for name in ("solve", "observe", "residual", "logdet")):
            raise TypeError(f"problem: got {shown(problem)}, expected a Problem")
        if not isinstance(basis, Basis):
            raise TypeError(f"basis: got {shown(basis)}, expected a Basis: FixedBasis or Trunk")
        self.problem, self.basis = problem, basis
        self.state_event_dim = len(basis.shape)
        self.by_name = isinstance(z, Mapping)
        if self.by_name and not z:
            raise ValueError("z: got no unknowns, expected draws of at least one")
        self._shapes = _shapes(z)
        if any(not value.numel() for value in (z.values() if isinstance(z, Mapping) else (z,))):
            raise ValueError(f"z: got {shown(z)}, expected draws of at least one number")
        flat = self._flat(z)
        if flat.dim() != 2 or len(flat) < 2:
            raise ValueError(f"z: got {shown(z)}, expected draws with a leading dimension of at least 2")
        shift, whiten = _whitening(flat.double())
        self.register_buffer("shift", shift.to(basis.centre))
        self.register_buffer("whiten", whiten.to(basis.centre))
        self.net = mlp([whiten.shape[1], *widths("hidden", hidden), basis.directions + 1], basis.centre.dtype, seed)
        with torch.no_grad():  # so that training starts near the centre
            for parameter in self.net[-1].parameters():
                parameter.mul_(0.1)

    def solve(self, z: Unknowns, residual: Tensor | None = None) -> Tensor:
        """Return the network's state, shape (..., *state).

        Raises:
            ValueError: a residual is given: only the solver itself, ``self.problem``, has a right-hand side.
        """
        if residual is not None:
            raise ValueError(f"residual: got {shown(residual)}, expected None: a surrogate solves r(u, z) = 0 only")
        out = self.net((self._flat(z) - self.shift) @ self.whiten)
        u = out[..., -1:].exp() * (self.basis.centre + out[..., :-1] @ self.basis())
        return u.reshape(*u.shape[:-1], *self.basis.shape)

    def observe(self, u: Tensor) -> Tensor:
        """Return what the problem's sensors read, shape (..., n_y)."""
        return self.problem.observe(u)

    def residual(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return the problem's residual r(u, z)."""
        return self.problem.residual(u, z)

    def logdet(self, u: Tensor, z: Unknowns) -> Tensor:
        """Return the problem's log|det dr/du|, shape (...)."""
        return self.problem.logdet(u, z)

    def _flat(self, z: Unknowns) -> Tensor:
        """Unknowns side by side, shape (..., d)."""
        if isinstance(z, Mapping) != self.by_name:
            expected = f"a mapping with {', '.join(self._shapes)}" if self.by_name else "a tensor"
            raise TypeError(f"z: got {shown(z)}, expected {expected}, as in the draws")
        named = z if isinstance(z, Mapping) else {"z": z}
        if set(named) != set(self._shapes):
            raise ValueError(f"z: got {', '.join(sorted(named))}, expected {', '.join(sorted(self._shapes))}")
        parts = [_event(name, named[name], shape) for name, shape in self._shapes.items()]
        outer = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*outer, part.shape[-1]) for part in parts], -1)


def _shapes(z: Unknowns) -> dict[str, tuple[int, ...]]:
    """Shape of one draw by name; a tensor is called "z"."""
    named = z if isinstance(z, Mapping) else {"z": z}
    of = {name: f"z[{name!r}]" if isinstance(z, Mapping) else name for name in named}
    return {name: tuple(floats(of[name], value).shape[1:]) for name, value in named.items()}


def _event(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    floats(name, value, *shape)
    return value.reshape(*value.shape[: value.dim() - len(shape)], -1) if shape else value[..., None]


def _whitening(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and the matrix (d, k) that makes the components of draws (N, d) that vary independent and of variance 1."""
    if not bool(torch.isfinite(flat).all()):
        raise ValueError("z: got an entry that is not finite, expected finite draws")
    sd = flat.std(0)
    if not bool((sd > 0).any()):
        raise ValueError("z: got draws that are all equal, expected draws that vary")
    inverse = torch.where(sd > 0, 1 / sd, 0.0)
    values, vectors = torch.linalg.eigh(((flat - flat.mean(0)) * inverse).T.cov().reshape(len(sd), len(sd)))
    kept = values > LEAST_VARIANCE * values[-1]
    return flat.mean(0), inverse[:, None] * vectors[:, kept] / values[kept].sqrt()


def unit_cube_cutoff(x: Tensor) -> Tensor:
    """Return prod_i 4 x_i (1 - x_i), zero on the border of the unit cube and one in its middle, (..., d) -> (...)."""
    floats("x", x, None)
    return (4 * x * (1 - x)).prod(-1)
