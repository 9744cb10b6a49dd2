"""Baselines of grey-box models, trained and evaluated by the same driver: no physics, or a solver without physics.

    BlackBox     x ~ Normal(net(z), s)                                            codes alone ("NN-only")
    NeuralODE    du/dt = net(u, z[, t]),  x_n ~ Normal(first channels of u(t_n), s)    a solver, no physics ("NN+solver")

Both are ``GreyBox`` models whose four outputs are one and the same tensor, so that ``evaluate``, ``fit`` and every guide take
them as they are; they have no physics to regularise, so their objective is ``ELBO``. Physics alone, and physics with learnt parts
but without regularisers, are options of the animals and weights of 0 in ``GreyBoxELBO``. Closed forms (training mean, PCA)
are in inference/evaluation/closed_forms.py.

Source: the baselines of Takeishi & Kalousis, arXiv:2102.13156, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from ..guides.amortize import amortize
from ..guides.amortized_guide import AmortizedGuide
from ..physics.grey_box import Decoded
from ..physics.ode.problem import ODEProblem
from .grey_box import GreyBox, Noise
from .networks import mlp


class BlackBox(GreyBox):
    """Codes -> network -> x, of any event shape.

    Args:
        shape: of one x, e.g. (50, 1) or (3, 69, 69).
        code: length of z_A.
        hidden: widths of the network.
        scale, noise: as for ``GreyBox``.
        network: (code, numbers in x) -> module (..., code) -> (..., numbers in x), instead of a perceptron.

    Raises:
        ValueError: an empty shape, or what ``GreyBox`` refuses.
    """

    def __init__(
        self,
        shape: Sequence[int],
        code: int,
        hidden: Sequence[int] = (128, 128),
        scale: float = 0.05,
        noise: Noise = "learnt",
        network: Any = None,
    ) -> None:
        shape = tuple(shape)
        if not shape or min(shape) < 1:
            raise ValueError(f"shape: got {shape}, expected the positive lengths of the dimensions of one x")
        super().__init__({"z_A": code}, scale, noise, event_dim=len(shape))
        self.shape = shape
        numbers = math.prod(shape)
        self.net: nn.Module = mlp([code, *hidden, numbers]) if network is None else network(code, numbers)

    def priors(self) -> Mapping[str, Any]:
        """There is no physics, so nothing."""
        return {}

    def decode(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Decoded:
        """Return the network's output as all four outputs, (..., *shape).

        Raises:
            ValueError: other times were asked for: a network without a clock has none.
        """
        if times is not None:
            raise ValueError("times: got other times, expected None: a BlackBox predicts at the times of the data only")
        x = self.net(z["z_A"]).unflatten(-1, self.shape)
        return Decoded(x, x, x, x)


class _Velocity(nn.Module):
    """du/dt by a network of state, code and, where wanted, time; of order 2, the first half of u moves by the second."""

    def __init__(self, states: int, code: int, hidden: Sequence[int], order: int, clock: bool) -> None:
        super().__init__()
        self.order, self.clock = order, clock
        self.net = mlp([states + code + clock, *hidden, states // order])

    def forward(self, t: Tensor, state: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        inputs = [state, z["code"]]
        if self.clock:
            inputs.append(t.expand(state.shape[:-1]).unsqueeze(-1))
        change = self.net(torch.cat(inputs, -1))
        return change if self.order == 1 else torch.cat([state[..., change.shape[-1] :], change], -1)


class NeuralODE(GreyBox):
    """An ordinary differential equation that is all network, with the initial state unknown.

    Args:
        times: t_1 ... t_T of the data.
        channels: of x; the first ones of the state.
        states: k; what is above ``channels`` is hidden.
        code: length of z_A, the parameters of the equation.
        hidden: widths of the network.
        order: 1, or 2 for a network that gives the acceleration: then the state is position and velocity.
        clock: whether the network sees the time; without, the equation can be extrapolated.
        start: prior sd of the initial state, one number or one for each state.
        scale, noise: as for ``GreyBox``.
        **options: of ``ODEProblem`` (method, substeps, gradient, t0).

    Raises:
        ValueError: states that are fewer than the channels, or odd for order 2; an order that is not 1 or 2.

    Source: Chen et al., arXiv:1806.07366.
    """

    start: Tensor

    def __init__(
        self,
        times: Any,
        channels: int = 1,
        states: int = 2,
        code: int = 3,
        hidden: Sequence[int] = (128, 128),
        order: int = 1,
        clock: bool = True,
        start: float | Sequence[float] = 1.0,
        scale: float = 0.05,
        noise: Noise = "learnt",
        **options: Any,
    ) -> None:
        if order not in (1, 2):
            raise ValueError(f"order: got {order!r}, expected 1 or 2")
        if not 1 <= channels <= states // order or states % order:
            raise ValueError(
                f"states: got {states} for {channels} channels and order {order}, expected {order} x channels"
            )
        super().__init__({"z_A": code}, scale, noise, event_dim=2)
        self.channels = channels
        velocity = _Velocity(states, code, hidden, order, clock)
        self.problem = ODEProblem(velocity, times, event_dims={"code": 1}, **options)
        self.options = {"event_dims": {"code": 1}, **options}
        self.register_buffer("start", torch.as_tensor(start).float().expand(states).clone())

    def priors(self) -> Mapping[str, Any]:
        """Return the prior of the initial state."""
        return {"initial_state": dist.Normal(torch.zeros_like(self.start), self.start).to_event(1)}  # type: ignore[attr-defined]

    def decode(self, z: Mapping[str, Tensor], times: Tensor | None = None) -> Decoded:
        """Return the trajectory as all four outputs, (..., T, channels)."""
        problem = self.problem
        if times is not None:
            kept = {**self.options, "t0": problem.t0, "dtype": problem.times.dtype}
            problem = ODEProblem(problem.rhs, times, **kept)
        x = problem.solve({"initial_state": z["initial_state"], "code": z["z_A"]})[..., : self.channels]
        return Decoded(x, x, x, x)


def black_box_guide(
    model: GreyBox,
    example: Mapping[str, Tensor],
    *,
    data: Tensor | None = None,
    encoder: Any = "mlp",
    family: Any = "full",
    simulations: int = 2048,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    **_: Any,
) -> AmortizedGuide:
    """Build q(all unknowns | x), called like ``cleansing_guide``: nothing to cleanse, so its other options have no effect.

    Args:
        model: a ``BlackBox`` or ``NeuralODE``.
        example: {"x": one data set, "mask": ...}.
        data: (N, *event) training data, by which the encoder is standardised; else the prior predictive.
        encoder, family, options, simulations, seed: as for ``amortize``.
    """
    guide = amortize(model, encoder, family, example=example, simulations=simulations, seed=seed, **(options or {}))
    if data is not None and guide.encoder is not None and guide.refinement is None:
        guide.encoder.standardise({"x": data})
    return guide
