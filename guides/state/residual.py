"""Guides for residual likelihoods: the unknowns by any guide, the state given the unknowns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from ...core.require import function, real, shown, widths


class Solvable(Protocol):
    """What the guide needs of the physics: the state of a given residual, the residual, its determinant."""

    def solve(self, z: Any, residual: Tensor | None = None) -> Tensor: ...
    def residual(self, u: Tensor, z: Any) -> Tensor: ...
    def logdet(self, u: Tensor, z: Any) -> Tensor: ...


class StateGuide(PyroModule):
    """q(z | y) q(u | z): the unknowns by any guide, the state as a map u(e, z) of Gaussian noise e.

        log q(u | z) = log N(e; m, diag s^2) - log|det du/de|

    A kind of guide gives the noise and the map both ways: ``_noise``, ``_state`` and ``_noise_of``.
    A draw whose state was not to be had (NaN, where the physics rejects) gets the state 0 and log q = inf: its weight
    p / q is zero, as the forward likelihood's would be.

    Args:
        guide_z: a guide of the unknowns alone that returns site values by name.
        problem: the physics; the model owns it and its buffers.
        state: the state's site.
        unknowns: site that the physics takes as z; None passes the mapping of all.
        field: z -> what the physics takes, where that is not z.
    """

    def __init__(
        self,
        guide_z: Callable[..., Mapping[str, Tensor]],
        problem: Any,
        state: str,
        unknowns: str | None,
        field: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__()
        function("guide_z", guide_z)
        if field is not None:
            function("field", field)
        if not callable(getattr(problem, "residual", None)):
            raise TypeError(f"problem: got {shown(problem)}, expected physics with a residual")
        for name, value in (("state", state), ("unknowns", unknowns)):
            if not (isinstance(value, str) and value) and not (value is None and name == "unknowns"):
                raise TypeError(f"{name}: got {shown(value)}, expected the name of a site")
        self.guide_z = guide_z
        # Kept out of the modules: the model owns the problem, the field and their buffers.
        self._problem, self._field = (problem,), (field,)
        self.state = state
        self.unknowns = unknowns

    def forward(self, **data: Any) -> dict[str, Tensor]:
        """Sample every unknown and the state; return their values."""
        values = dict(self.guide_z(**data))
        e = pyro.sample(f"_{self.state}_residual", self._noise(), infer={"is_auxiliary": True})
        u, log_slope = self._state(e, self._z(values))
        dims = self._noise().event_dim
        solved = u.isfinite().flatten(u.dim() - dims).all(-1) & log_slope.isfinite()
        infer: Any = {}
        if not bool(solved.all()):
            u = torch.where(solved[(...,) + (None,) * dims], u, 0.0)
            log_slope = torch.where(solved, log_slope, -torch.inf)  # of no weight against any model
            if all(bool(value.isfinite().all()) for value in (e, *values.values())):  # else the guide has broken down
                infer = {"rejected": ~solved}
        delta: Any = dist.Delta(u, log_density=-log_slope, event_dim=dims)  # type: ignore[arg-type]
        return {**values, self.state: pyro.sample(self.state, delta, infer=infer)}

    def log_prob(self, values: Mapping[str, Tensor], data: Mapping[str, Any]) -> Tensor:
        """Evaluate log q(z, u | y) at given values, where ``guide_z`` can score its own.

        Args:
            values: latent site -> (..., *site shape), the state among them.
            data: the model's arguments.

        Raises:
            TypeError: ``guide_z`` has no ``log_prob``.
        """
        score = getattr(self.guide_z, "log_prob", None)
        if score is None:
            got = type(self.guide_z).__name__
            raise TypeError(f"guide_z: got {got} without log_prob, expected a guide that scores values")
        e, log_slope = self._noise_of(values[self.state], self._z(values))
        others = {name: value for name, value in values.items() if name != self.state}
        return score(others, data) + self._noise().log_prob(e) - log_slope

    def _noise(self) -> dist.TorchDistribution:
        raise TypeError(f"{type(self).__name__} has no _noise: a StateGuide defines _noise, _state and _noise_of")

    def _state(self, e: Tensor, z: Any) -> tuple[Tensor, Tensor]:
        """The state of given noise, and log|det du/de|."""
        raise TypeError(f"{type(self).__name__} has no _state: a StateGuide defines _noise, _state and _noise_of")

    def _noise_of(self, u: Tensor, z: Any) -> tuple[Tensor, Tensor]:
        """The noise of a given state, and log|det du/de|."""
        raise TypeError(f"{type(self).__name__} has no _noise_of: a StateGuide defines _noise, _state and _noise_of")

    def _z(self, values: Mapping[str, Tensor]) -> Any:
        return values if self.unknowns is None else values[self.unknowns]

    def _taken(self, z: Any) -> Any:
        """What the physics takes as its unknowns."""
        return z if self._field[0] is None else self._field[0](z)


class ResidualGuide(StateGuide):
    """q(z | y) q(u | z): the unknowns by any guide, the state u = F(z, e) with a Gaussian residual e.

        e ~ N(m, diag s^2),   r(u, z) = e,   log q(u | z) = log N(r(u, z); m, s^2) + log|det dr/du|

    m and s are learnt; they start at 0 and ``scale``. As s_r -> 0 the posterior of u given z is N(0, s_r^2)
    in e, so the guide starts where it should end, whatever the stiffness; a mean field in u itself has to
    resolve the condition number of dr/du.

    e knows neither z nor the data. Where s_r is so large that the data move the residual, q(z) is too narrow:
    it leaves out what s_r adds to the sensors' noise. Keep the state's spread from s_r well below that noise.

    Args:
        guide_z: a guide of the unknowns alone that returns site values by name, e.g. ``amortize`` of the same
            model with a forward likelihood.
        problem: solves for the state of a given residual.
        residual_shape: shape of one residual, e.g. (63,).
        scale: start of s, the model's residual scale s_r.
        state: the state's site.
        unknowns: site that ``problem`` takes as z; None passes the mapping of all.
        field: z -> what ``problem`` takes as its unknowns; None passes z.

    Raises:
        ValueError: a scale or an entry of the shape that is not positive.
        TypeError: an argument of another kind, or physics that cannot do what the guide needs.
    """

    def __init__(
        self,
        guide_z: Callable[..., Mapping[str, Tensor]],
        problem: Solvable,
        residual_shape: tuple[int, ...],
        scale: float,
        state: str = "u",
        unknowns: str | None = "z",
        field: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(guide_z, problem, state, unknowns, field)
        real("scale", scale, 0.0)
        if not callable(getattr(problem, "solve", None)) or not callable(getattr(problem, "logdet", None)):
            raise TypeError(f"problem: got {shown(problem)}, expected physics with solve, residual and logdet")
        widths("residual_shape", residual_shape)
        self.scale = scale
        dtype = next((p.dtype for p in guide_z.parameters()), None) if isinstance(guide_z, nn.Module) else None
        self.location = nn.Parameter(torch.zeros(residual_shape, dtype=dtype))
        self.log_scale = nn.Parameter(torch.zeros(residual_shape, dtype=dtype))

    def _noise(self) -> dist.TorchDistribution:
        # In units of the starting scale, so that one learning rate fits e and the rest of the guide.
        return dist.Normal(self.scale * self.location, self.scale * self.log_scale.exp()).to_event(self.location.dim())

    def _state(self, e: Tensor, z: Any) -> tuple[Tensor, Tensor]:
        taken = self._taken(z)
        u = self._problem[0].solve(taken, residual=e)
        return u, -self._problem[0].logdet(torch.where(u.isfinite(), u, 0.0), taken)

    def _noise_of(self, u: Tensor, z: Any) -> tuple[Tensor, Tensor]:
        taken = self._taken(z)
        return self._problem[0].residual(u, taken), -self._problem[0].logdet(u, taken)
