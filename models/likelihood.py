"""The two likelihoods of an animal with physics: the state is solved for, or free and held by its residual."""

from __future__ import annotations

from typing import Any, Literal, get_args

import pyro
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor

from ..physics import ModelError, Problem, Unknowns, observe, virtual_observables

LikelihoodName = Literal["forward", "residual"]

STATE_SCALE = 100.0


def at_least_one(name: str, sensors: int) -> int:
    """Return the number of sensors.

    Raises:
        ValueError: there is none.
    """
    if sensors < 1:
        raise ValueError(f"{name}: got {sensors}, expected at least 1 (mask all of them to observe nothing)")
    return sensors


class ForwardOrResidual(PyroModule):
    """What follows the prior of z: the state u, sites ``u`` and ``r`` where it is free, and the sensors, site ``y``.

        forward    u = F(z),                           y ~ Normal(H u, s_y)
        residual   u ~ Normal(0, S), S large,          y ~ Normal(H u, s_y),    0 ~ Normal(r(u, z), s_r),  |det dr/du|

    A subclass samples z and returns ``self.observed(z, y, mask)``. Of a model with the forward likelihood ``problem`` may
    be replaced by a surrogate, and ``error`` by what is known of its error. What cannot be solved gets log-density -inf where
    the problem rejects (``on_failure="reject"``), and a ``SolveError`` where it does not.

    Args:
        problem: solves, observes, and has the residual.
        likelihood: "forward" or "residual".
        state: shape of u.
        noise: s_y, in units of y.
        residual_scale: s_r, in units of the residual.
        corrected: whether to add the factor |det dr/du|; without it the posterior is another one.
        state_scale: S, in units of u. Over states up to |u| the prior of u varies by up to n/2 (|u| / S)^2 nat, n the
            number of entries.

    Raises:
        ValueError: an unknown likelihood.
    """

    problem: Any  # a Problem, with what its own kind has beside it

    def __init__(
        self,
        problem: Problem,
        likelihood: LikelihoodName,
        state: tuple[int, ...],
        *,
        noise: float,
        residual_scale: float,
        corrected: bool = True,
        state_scale: float = STATE_SCALE,
    ) -> None:
        super().__init__()
        if likelihood not in get_args(LikelihoodName):
            raise ValueError(f"likelihood: got {likelihood!r}, expected 'forward' or 'residual'")
        self.problem, self.likelihood, self.state = problem, likelihood, state
        self.noise, self.residual_scale, self.corrected = noise, residual_scale, corrected
        self.state_scale = state_scale
        self.error: ModelError | None = None  # of a surrogate, where problem is one

    def observed(self, z: Unknowns, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Solve for u, or sample it and observe its residual as zero; observe y, or simulate it; return u."""
        if self.likelihood == "forward":
            u = self.problem.solve(z)
        else:
            like = z if isinstance(z, Tensor) else next(iter(z.values()))
            # Flat near the solutions, yet proper, so that it can be drawn from.
            flat = dist.Normal(like.new_zeros(self.state), self.state_scale)
            u = pyro.sample("u", flat.to_event(len(self.state)))
            virtual_observables("r", self.problem, u, z, self.residual_scale, corrected=self.corrected)
        error = self.error if self.likelihood == "forward" else None  # a free state has no error of a solver
        observe("y", self.problem.observe(u), self.noise, obs=y, mask=mask, error=error)
        return u
