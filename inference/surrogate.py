"""Train a network for the state, q(u | z), from solves or from residuals: a model, a guide, and the driver of every fit.

    p(u, r = 0 | z)   the residual as energy, u flat          q(u | z) = N(u_net(z), s^2)
    solves            forward KL:  -E log q(u | z)            at pairs z, u = F(z)
    residuals         reverse KL:  -E log p(u, r = 0 | z)     at u ~ q(u | z), no solve

Source: Zhu, Zabaras, Koutsourelakis, Perdikaris, arXiv:1901.06314; Vadeboncoeur et al., arXiv:2208.04856.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor

from ..core.global_state import alone
from ..core.require import one_of, real, shown, tensor, whole
from .fit.driver import Fit, fit
from .fit.options import FitOptions
from .fit.sources import DataSets
from .objectives.standard import ELBO, ForwardKL

Unknowns = Tensor | Mapping[str, Tensor]
Weight = Literal["energy", "preconditioned", "plain"]
WEIGHTS = ("energy", "preconditioned", "plain")
FLAT = 1e3  # sd of the state's prior, in units of the state's size
SPREAD = 1e-3  # s of q(u | z), in the same units


class Network(Protocol):
    """What is needed of a surrogate: its solve, the residual that it delegates, and the centre of its states."""

    basis: Any
    state_event_dim: int
    by_name: bool

    def solve(self, z: Any) -> Tensor: ...
    def residual(self, u: Tensor, z: Any) -> Tensor: ...


class StateModel(PyroModule):
    """p(u, r = 0 | z): a flat state and its residual seen as zero, weighed in one of three ways.

        energy           exp(-J(u, z) / T),   J = u . (r(u, z) + r(0, z)) / 2,   T = t^2 m'A m
        preconditioned   0 ~ N(P r(u, z), t^2 |m|^2 / n),   P = (dr/du)^-1 at the mean of the unknowns
        plain            0 ~ N(r(u, z), t^2 |r(0, z)|^2 / n)

    with t the tolerance and m the centre of the surrogate's states. J is the energy u'A u / 2 - F'u of a linear problem
    r = A u - F with symmetric A: its excess over the minimum is the error in the energy norm, so that no condition
    number stands between the loss and the error. In the plain residual its square does, and the error of the state
    stays many times larger after as many steps (benchmarks/surrogate.py).

    Args:
        surrogate: supplies the residual and the centre.
        z: draws of the unknowns, leading dimension N.
        weight: how the residual is weighed.
        tolerance: t > 0.

    Raises:
        ValueError: an unknown weight, or an energy where there is none: r not affine in u, or dr/du not symmetric
            or not definite.
    """

    def __init__(self, surrogate: Network, z: Unknowns, weight: Weight = "energy", tolerance: float = 1e-2) -> None:
        super().__init__()
        one_of("weight", weight, WEIGHTS)
        real("tolerance", tolerance, 0.0)
        self.weight, self.tolerance = weight, tolerance
        self._surrogate = (surrogate,)  # kept out of the modules: the guide owns what is trained
        centre = surrogate.basis.centre.reshape(surrogate.basis.shape)
        self.register_buffer("like", torch.zeros_like(centre), persistent=False)
        self.size = float(centre.square().mean().sqrt())
        middle = named(z, lambda value: value.mean(0))
        scale = tolerance * self.size
        if weight != "plain":
            jacobian = self._jacobian(middle)
        if weight == "preconditioned":
            self.register_buffer("inverse", torch.linalg.inv(jacobian), persistent=False)
        elif weight == "energy":
            self._check_energy(jacobian, centre, middle)
            flat = centre.flatten()
            scale = tolerance**2 * float(flat @ jacobian @ flat)
        else:
            scale = tolerance * float(self._residual(self.like, middle).square().mean().sqrt())
        self.register_buffer("scale", centre.new_tensor(scale), persistent=False)

    def forward(self, **z: Tensor) -> Tensor:
        """Sample the state and weigh its residual; z by name, "z" where it has none."""
        dims = self.like.dim()
        flat = dist.Normal(self.like, FLAT * self.size).to_event(dims)
        u = pyro.sample("state", flat)
        r = self._residual(u, z).flatten(-dims)
        if self.weight == "energy":
            at_zero = self._residual(torch.zeros_like(u), z).flatten(-dims)
            pyro.factor("energy", -0.5 * (u.flatten(-dims) * (r + at_zero)).sum(-1) / self.scale)
        else:
            r = r @ self.inverse.T if self.weight == "preconditioned" else r
            pyro.sample("r", dist.Normal(r, self.scale).to_event(1), obs=torch.zeros_like(r))
        return u

    def _residual(self, u: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        return self._surrogate[0].residual(u, _as_taken(self._surrogate[0], z))

    def _jacobian(self, z: Mapping[str, Tensor]) -> Tensor:
        def residual(v: Tensor) -> Tensor:
            return self._residual(v.reshape(self.like.shape), z).flatten()

        return torch.autograd.functional.jacobian(residual, self.like.flatten())  # type: ignore[return-value]

    def _check_energy(self, jacobian: Tensor, u: Tensor, z: Mapping[str, Tensor]) -> None:
        size = float(jacobian.abs().max())
        curved = self._residual(2 * u, z) - 2 * self._residual(u, z) + self._residual(self.like, z)
        tolerance = 1e-3 if jacobian.dtype == torch.float32 else 1e-8
        if float((jacobian - jacobian.T).abs().max()) > tolerance * size:
            raise ValueError("weight: got 'energy' for a dr/du that is not symmetric, expected 'preconditioned'")
        if float(curved.abs().max()) > tolerance * size * float(u.abs().max()):
            raise ValueError("weight: got 'energy' for a residual that is not affine in u, expected 'preconditioned'")
        low, high = torch.linalg.eigvalsh(jacobian)[[0, -1]].tolist()
        if not low * high > 0:
            got = f"'energy' for a dr/du with eigenvalues from {low:.2g} to {high:.2g}, whose energy has no minimum"
            raise ValueError(f"weight: got {got}, expected 'preconditioned'")


class StateGuide(PyroModule):
    """q(u | z) = N(u_net(z), s^2), s a thousandth of the state's size and not learnt.

    Args:
        surrogate: u_net.
    """

    def __init__(self, surrogate: Any) -> None:
        super().__init__()
        self.surrogate = surrogate
        self.spread = SPREAD * float(surrogate.basis.centre.square().mean().sqrt())

    def forward(self, **z: Tensor) -> Tensor:
        """Sample the state."""
        return pyro.sample("state", self._density(z))

    def log_prob(self, values: Mapping[str, Tensor], data: Mapping[str, Any]) -> Tensor:
        """Return log q(u | z) at given states, shape (...)."""
        return self._density(data).log_prob(values["state"])

    def _density(self, z: Mapping[str, Tensor]) -> dist.TorchDistribution:
        return dist.Normal(self.surrogate.solve(_as_taken(self.surrogate, z)), self.spread).to_event(
            self.surrogate.state_event_dim
        )


@alone()
def fit_surrogate(
    surrogate: Any,
    z: Unknowns,
    u: Tensor | None = None,
    *,
    weight: Weight = "energy",
    batch_size: int = 256,
    options: FitOptions | None = None,
    **changes: Any,
) -> Fit:
    """Train a surrogate in place and freeze it, so that no later fit of a guide moves it.

    Args:
        surrogate: a ``physzoo.physics.Surrogate``.
        z: draws of the unknowns, leading dimension N. Draws cost nothing where no solve goes with them: take many.
        u: their states, problem.solve(z), shape (N, *state); None trains from the residual alone.
        weight: how the residual is weighed, where it is what trains: "energy" for linear problems with a symmetric
            operator, "preconditioned" for the others; "plain" is there for comparison.
        batch_size: unknowns a step, at most N.
        options, changes: as for ``fit``.

    Raises:
        ValueError, TypeError: as ``fit``, and where the weight does not fit the problem.
    """
    if not all(hasattr(surrogate, part) for part in ("solve", "net", "basis")):
        raise TypeError(f"surrogate: got {shown(surrogate)}, expected a Surrogate")
    one_of("weight", weight, WEIGHTS)
    whole("batch_size", batch_size, 1)
    _check_unknowns(z, u)
    model, guide = StateModel(surrogate, z, weight if u is None else "plain"), StateGuide(surrogate)
    data = named(z, lambda value: value)
    size = min(batch_size, len(next(iter(data.values()))))
    source = DataSets(data, size, None if u is None else {"state": u})
    network = [*surrogate.net.parameters(), *surrogate.basis.parameters()]
    for parameter in network:
        parameter.requires_grad_(True)
    options = options if options is not None else FitOptions(steps=4000, learning_rate=2e-3, clip_norm=None)
    found = fit(model, guide, source, ELBO() if u is None else ForwardKL(), options, **changes)
    surrogate.requires_grad_(False).eval()  # Pyro warns of frozen weights in training mode
    return found


def _check_unknowns(z: Any, u: Any) -> None:
    """Refuse what is no batch of finite draws, or states of another number.

    Raises:
        TypeError, ValueError: it is.
    """
    parts = {**z, "u": u} if isinstance(z, Mapping) else {"z": z, "u": u}
    if u is None:
        del parts["u"]
    if not isinstance(z, Mapping | Tensor) or not parts:
        raise TypeError(f"z: got {shown(z)}, expected a tensor of draws or a mapping from names to them")
    for key, value in parts.items():
        name = key if key in ("z", "u") else f"z[{key!r}]"
        tensor(name, value)
        if not value.is_floating_point():
            raise TypeError(f"{name}: got {shown(value)}, expected a floating-point tensor of draws")
        if not value.ndim or not len(value) or not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"{name}: got {shown(value)} or an entry that is not finite, expected finite draws (N, ...)"
            )
    if len({len(value) for value in parts.values()}) > 1:
        sizes = {name: len(value) for name, value in parts.items()}
        raise ValueError(f"z, u: got {shown(sizes)} draws, expected as many of each")


def named(z: Unknowns, change: Any) -> dict[str, Tensor]:
    """Return unknowns by name, each changed; a tensor is called "z"."""
    parts = z if isinstance(z, Mapping) else {"z": z}
    return {name: change(value) for name, value in parts.items()}


def _as_taken(surrogate: Network, z: Mapping[str, Any]) -> Any:
    """The unknowns as the problem takes them."""
    return dict(z) if surrogate.by_name else z["z"]
