"""A guide of the state without a solve: a learnt approximate inverse, and a few steps of residual minimisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from pyro import distributions as dist
from torch import Tensor

from ...core.global_state import seeded
from ...core.require import flag, function, real, seed_number, shown, whole, widths
from ..encoders.base import mlp
from .residual import StateGuide

PATTERN_SEED = 0
LARGEST = 10**5  # rows of A, and steps
NOISE = 100.0  # times the machine's precision: a direction of which less is new is rounding
SYMMETRIC_TO = 1e-6  # of the largest entry of dr/du


class Residual(Protocol):
    """What the guide needs of the physics: the residual."""

    def residual(self, u: Tensor, z: Any) -> Tensor: ...


@dataclass(frozen=True)
class _Operator:
    """The operator at one z: the physics' unknowns, r(0, z), the scaling D and the block's factor T."""

    z: Any
    at_zero: Tensor
    scaling: Tensor
    tril: Tensor


class PreconditionedGuide(StateGuide):
    """q(z | y) q(u | z) for a linear residual r = A(z) u - f(z), A symmetric positive definite, from products with A alone.

        u = m(z) + s_r B(z) e,                e ~ N(0, I)
        B = D V L^-1/2 N_theta(z) L^-1/2 V' D,    N_theta = [T T', 0; 0, I],    D = (diag A_0 / diag A(z))^1/2
        m_0 = 0,  m_{k+1} = m_k - w_k d_k,    d_k: B r(m_k, z), made orthogonal to the earlier ones in |A d|

    The target p(u | z) ~ exp(-|r|^2 / (2 s_r^2)) is N(A^-1 f, s_r^2 A^-1 A^-T), so B has to be A^-1. A_0 = V L V' is A at a
    reference z_0, factorised once, when the guide is built. Scaled by D its inverse is right for short waves whatever z; what
    is left is the lower triangular T(z), (modes, modes), that a network says for the longest waves. The entropy of q(u | z)
    is that of T and D: no determinant of A. Training by the reverse KL makes B the inverse; it starts at the scaled one.

    The mean adds ``steps`` steps that minimise |r| over the directions so far (w_k = <r, A d_k> / |A d_k|^2), so none of them
    makes the fit worse; the better B, the more each is worth. One step is B f but for its length.

    With ``energy=True`` the target is exp(-E / s_r^2) of an energy with dE/du = r, which is N(A^-1 f, s_r^2 A^-1) (Dirichlet's
    energy, or half a sum of squares that r is the gradient of): then u = m + s_r D V L^-1/2 [T, 0; 0, I] e, and the steps
    minimise E.

    A draw costs ``steps + colours + 1`` evaluations of the residual: diag A(z) is read off sums of columns of which no two
    meet in a row that belongs to one of them (2 colours for a bar, 3 or 4 for triangles, n for a dense A). The optimum does
    not depend on s_r: with ``scale`` (and the model's) as large as the load, mean and spread weigh alike and training is
    quick; set ``guide.scale`` to the one wanted afterwards.

    Args:
        guide_z: a guide of the unknowns that returns site values by name: the prior, to learn q(u | z) for all z; replace it
            (``guide.guide_z = ...``) by a guide of the posterior afterwards.
        problem: gives the residual.
        size: n, entries of the state.
        reference: z_0, e.g. the prior mean, shape (d,); its dtype is the guide's.
        scale: s_r.
        field: z -> what ``problem`` takes as its unknowns; None passes z.
        modes: how many of the longest waves the network corrects, at most n.
        steps: residual minimisations of the mean, at least one.
        hidden: widths of the network's layers.
        energy: whether r is the gradient of the energy in the target, and not itself what is squared there.
        state, unknowns: the sites of u and z.
        seed: of the network's initial weights; torch's generator is put back.

    Raises:
        ValueError: a number out of range, a residual that is not affine in u, or dr/du is not symmetric positive definite at
            the reference.
        TypeError: an argument of another kind.

    Source: D A_0^-1 D: Concus & Golub, SIAM J. Numer. Anal. 10 (1973) 1103; the steps: generalised conjugate residuals,
        Eisenstat, Elman & Schultz, SIAM J. Numer. Anal. 20 (1983) 345; reverse KL to a residual's density: Zhu, Zabaras,
        Koutsourelakis & Perdikaris, arXiv:1901.06314.
    """

    reference: Tensor
    waves: Tensor
    diagonal: Tensor
    stiffness: Tensor
    probes: Tensor
    below: Tensor

    def __init__(
        self,
        guide_z: Callable[..., Mapping[str, Tensor]],
        problem: Residual,
        size: int,
        reference: Tensor,
        scale: float,
        field: Callable[[Tensor], Any] | None = None,
        modes: int = 24,
        steps: int = 3,
        hidden: Sequence[int] = (128, 128),
        energy: bool = False,
        state: str = "u",
        unknowns: str = "z",
        seed: int = 0,
    ) -> None:
        super().__init__(guide_z, problem, state, unknowns, field)
        function("guide_z", guide_z)
        real("scale", scale, 0.0)
        whole("size", size, 1, LARGEST)
        whole("steps", steps, 1, LARGEST)
        whole("modes", modes, 1)
        flag("energy", energy)
        widths("hidden", hidden)
        seed_number(seed)
        if not isinstance(reference, Tensor) or reference.dim() != 1 or not reference.is_floating_point():
            raise TypeError(f"reference: got {shown(reference)}, expected floats of shape (d,)")
        self.size, self.scale, self.steps, self.energy = size, scale, steps, energy
        with torch.no_grad():
            matrix = self.matrix(reference)
            with seeded(PATTERN_SEED):
                other = self.matrix(reference + torch.randn_like(reference))
            values, vectors = _decomposed(matrix)
            self._check_affine(reference, matrix, vectors / values @ vectors.mT)
        pattern = (matrix.abs() > 1e-12 * matrix.abs().max()) | (other.abs() > 1e-12 * other.abs().max())
        self.modes = min(modes, size)
        self.register_buffer("reference", reference.clone())
        self.register_buffer("waves", vectors * values.rsqrt())
        self.register_buffer("stiffness", values)
        self.register_buffer("diagonal", matrix.diagonal().clone())
        self.register_buffer("probes", _colours(pattern).to(reference.dtype))
        self.register_buffer("below", torch.tril_indices(self.modes, self.modes, -1), persistent=False)
        with seeded(seed):
            self.net = mlp([len(reference), *hidden, self.modes * (self.modes + 1) // 2]).to(reference.dtype)
        with torch.no_grad():
            for parameter in self.net[-1].parameters():
                parameter.mul_(0.01)

    @property
    def evaluations(self) -> int:
        """Residual evaluations a draw."""
        return self.steps + len(self.probes) + 1

    def mean(self, z: Tensor) -> Tensor:
        """Return m(z), shape (..., n), for z of shape (..., d)."""
        return self._mean(self._operator(z))

    def factor(self, z: Tensor) -> Tensor:
        """Return C(z), shape (..., n, n): u = m(z) + C(z) e."""
        operator = self._operator(z)
        unit = torch.eye(self.size, dtype=self.waves.dtype, device=self.waves.device)
        columns = _Operator(None, operator.at_zero, operator.scaling[..., None, :], operator.tril[..., None, :, :])
        return self.scale * self._spread(columns, unit).mT

    def matrix(self, z: Tensor) -> Tensor:
        """Return dr/du at z, shape (..., n, n), from n + 1 evaluations of the residual."""
        unit = torch.eye(self.size, dtype=z.dtype, device=z.device)
        taken = self._taken(z[..., None, :])
        zero = self._problem[0].residual(unit.new_zeros(1, self.size), taken)
        return (self._problem[0].residual(unit, taken) - zero).mT

    def _check_affine(self, reference: Tensor, matrix: Tensor, inverse: Tensor) -> None:
        """Refuse a residual whose r(2 u) - 2 r(u) + r(0) is not zero at z_0, u the solution there or, where it is zero, one."""
        taken = self._taken(reference[None])
        at_zero = self._problem[0].residual(reference.new_zeros(1, self.size), taken)
        u = at_zero @ inverse if bool((at_zero != 0).any()) else torch.ones_like(at_zero)
        bent = self._problem[0].residual(2 * u, taken) - 2 * self._problem[0].residual(u, taken) + at_zero
        gap = float(bent.abs().max() / (matrix.abs().max() * u.abs().max()))
        if not gap < (1e-3 if reference.dtype == torch.float32 else 1e-8):
            raise ValueError(
                f"problem: got a residual that bends by {gap:.2g} of its slope, expected one affine in the state"
            )

    def _noise(self) -> dist.TorchDistribution:
        return dist.Normal(torch.zeros_like(self.stiffness), 1.0).to_event(1)

    def _state(self, e: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        operator = self._operator(z)
        return self._mean(operator) + self.scale * self._spread(operator, e), self._log_slope(operator)

    def _noise_of(self, u: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        operator = self._operator(z)
        white = ((u - self._mean(operator)) / (self.scale * operator.scaling)) @ self.waves * self.stiffness
        short, low = white[..., self.modes :], white[..., : self.modes, None]
        if self.energy:
            low = torch.linalg.solve_triangular(operator.tril, low, upper=False)[..., 0]
            return torch.cat([low, short], -1), self._log_slope(operator)
        low = torch.cholesky_solve(low, operator.tril)[..., 0]
        white = torch.cat([low, short], -1) * self.stiffness
        return white @ self.waves.mT / operator.scaling, self._log_slope(operator)

    def _operator(self, z: Tensor) -> _Operator:
        if torch.promote_types(z.dtype, self.reference.dtype) != self.reference.dtype:
            raise TypeError(f"{self.unknowns}: got {z.dtype}, expected {self.reference.dtype} as the reference's")
        problem = self._problem[0]
        taken = self._taken(z)
        at_zero = problem.residual(self.stiffness.new_zeros(*z.shape[:-1], self.size), taken)
        columns = problem.residual(self.probes, self._taken(z[..., None, :])) - at_zero[..., None, :]
        diagonal = (columns * self.probes).sum(-2)
        log_scale, below = self.net(z - self.reference).split([self.modes, self.below.shape[1]], -1)
        tril = torch.diag_embed(log_scale.exp())
        tril[..., self.below[0], self.below[1]] = below
        return _Operator(taken, at_zero, (self.diagonal / diagonal).sqrt(), tril)

    def _inverse(self, operator: _Operator, v: Tensor) -> Tensor:
        """B v."""
        white = (operator.scaling * v) @ self.waves
        low = operator.tril @ (operator.tril.mT @ white[..., : self.modes, None])
        white = torch.cat([low[..., 0], white[..., self.modes :]], -1)
        return operator.scaling * (white @ self.waves.mT)

    def _spread(self, operator: _Operator, e: Tensor) -> Tensor:
        """B e; in the energy form its root."""
        if not self.energy:
            return self._inverse(operator, e)
        e = e.expand(torch.broadcast_shapes(e.shape, operator.scaling.shape))
        low = (operator.tril @ e[..., : self.modes, None])[..., 0]
        return operator.scaling * (torch.cat([low, e[..., self.modes :]], -1) @ self.waves.mT)

    def _log_slope(self, operator: _Operator) -> Tensor:
        """log|det du/de|."""
        block = operator.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        root = operator.scaling.log().sum(-1) + block - 0.5 * self.stiffness.log().sum()
        return self.size * math.log(self.scale) + (1 if self.energy else 2) * root

    def _mean(self, operator: _Operator) -> Tensor:
        r = operator.at_zero
        u = torch.zeros_like(r)
        earlier: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for _ in range(self.steps):
            d = self._inverse(operator, r)
            image = self._problem[0].residual(d, operator.z) - operator.at_zero
            least = (image * (d if self.energy else image)).sum(-1, keepdim=True) * (
                NOISE * torch.finfo(r.dtype).eps
            ) ** 2
            for other, seen_image, seen, square in earlier:
                share = (image * seen).sum(-1, keepdim=True) / square
                d, image = d - share * other, image - share * seen_image
            against = d if self.energy else image
            square = (image * against).sum(-1, keepdim=True)
            new = square > least  # what is left of the direction is more than rounding
            square = torch.where(new, square, 1.0)
            length = torch.where(new, (r * against).sum(-1, keepdim=True) / square, 0.0)
            u, r = u - length * d, r - length * image
            earlier.append((d, image, against, square))
        return u


def _decomposed(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, smallest first, and eigenvectors of the reference operator."""
    gap = float((matrix - matrix.mT).abs().max() / matrix.abs().max())
    values, vectors = torch.linalg.eigh(matrix)
    if not gap < SYMMETRIC_TO or not bool(values[0] > 0):
        got = f"asymmetry {gap:.2g}, smallest eigenvalue {float(values[0]):.2g}"
        raise ValueError(f"problem: got dr/du with {got} at the reference, expected a symmetric positive definite one")
    return values, vectors


def _colours(pattern: Tensor) -> Tensor:
    """Sums of columns of which no two meet in a row that belongs to one of them, as rows of zeros and ones, (colours, n)."""
    touch = pattern | pattern.mT
    colour: list[int] = []
    for i in range(len(touch)):
        taken = {colour[j] for j in touch[i, :i].nonzero()[:, 0].tolist()}
        colour.append(next(c for c in range(i + 1) if c not in taken))
    return torch.nn.functional.one_hot(torch.tensor(colour)).T
