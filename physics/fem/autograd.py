"""The finite-element operations as torch functions: a loop over samples around one assembled system.

``Solve`` takes (system, shape, reject, target, *values), ``Residual`` and ``LogDeterminant`` take (system, u, *values);
tensors are float64 on the CPU with one leading sample dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..problem import SolveError

if TYPE_CHECKING:
    from .assembly import System
    from .compiled import Factor


class KeptFactors:
    """Factorisations that a graph holds until backward; given back when the graph is dropped."""

    def __init__(self, system: System) -> None:
        self._system, self._factors = system, []

    def append(self, factor: Factor | None) -> None:
        self._factors.append(factor)

    def __getitem__(self, sample: int) -> Factor | None:
        return self._factors[sample]

    def __del__(self) -> None:
        for factor in self._factors:
            if factor is not None:
                self._system.release(factor)


def _describe(names: list[str], values: list[np.ndarray]) -> str:
    def one(name: str, value: np.ndarray) -> str:
        value = np.asarray(value)
        return f"{name} = {value:.6g}" if value.ndim == 0 else f"{name} in [{value.min():.6g}, {value.max():.6g}]"

    return ", ".join(one(name, value) for name, value in zip(names, values, strict=True))


def _samples(tensors: tuple[Tensor, ...]) -> list[list[np.ndarray]]:
    arrays = [tensor.detach().numpy() for tensor in tensors]
    return [[array[sample] for array in arrays] for sample in range(arrays[0].shape[0])]


def _at(sample: int, shape: tuple[int, ...]) -> str:
    return f"at sample {tuple(int(i) for i in np.unravel_index(sample, shape))}" if shape else "for the one sample"


def _pull_back(ctx: Any, pull: Callable[[int, list[str]], dict[str, np.ndarray]]) -> tuple[Any, ...]:
    """Gradients towards (u, *values) of a function of both; ``pull`` gives those of one sample."""
    system, (u, *values) = ctx.system, ctx.saved_tensors
    tensors = dict(zip(["", *system.parameters], (u, *values), strict=True))
    wanted = _wanted(list(tensors), ctx.needs_input_grad[1:])
    gradients = {name: torch.empty_like(tensors[name]) for name in wanted}
    for sample, (state, *value) in enumerate(_samples((u, *values))):
        system.set_parameters(value)
        system.set_state(state)
        for name, gradient in pull(sample, wanted).items():
            gradients[name].numpy()[sample] = gradient.reshape(gradients[name].shape[1:])
    return None, *(gradients.get(name) for name in tensors)


def _wanted(names: list[str], needs: tuple[bool, ...]) -> list[str]:
    return [name for name, needed in zip(names, needs, strict=True) if needed]


class Solve(torch.autograd.Function):
    """u with F(u, z) = target. Adjoint: J^T lambda = du, dz = -(dF/dz)^T lambda, dtarget = lambda."""

    @staticmethod
    def forward(
        ctx: Any, system: System, shape: tuple[int, ...], reject: bool, target: Tensor | None, *values: Tensor
    ) -> Tensor:
        names, factors = list(system.parameters), KeptFactors(system)
        keep = any(ctx.needs_input_grad)
        out = np.empty((values[0].shape[0], system.free.size))
        targets = None if target is None else target.detach().numpy()
        for sample, value in enumerate(_samples(values)):
            try:
                for name, array in zip(names, value, strict=True):
                    if not np.isfinite(array).all():
                        raise SolveError(f"{name}: expected finite values, got some that are not")
                system.set_parameters(value)
                room = sample < system.capacity
                factors.append(system.solve(None if targets is None else targets[sample], keep and room))
                out[sample] = system.state[system.free]
            except SolveError as error:
                if not reject:
                    raise SolveError(f"{error}, {_at(sample, shape)} with {_describe(names, value)}") from error
                factors.append(None)
                out[sample] = np.nan
        u = torch.from_numpy(out)
        ctx.system, ctx.factors, ctx.has_target = system, factors, target is not None
        ctx.save_for_backward(u, *values)
        return u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        system, (u, *values) = ctx.system, ctx.saved_tensors
        names = list(system.parameters)
        wanted = _wanted(names, ctx.needs_input_grad[4:])
        gradients = {name: np.zeros(value.shape) for name, value in zip(names, values, strict=True)}
        weights, grad_u = np.zeros(u.shape), grad_outputs[0].numpy()
        for sample, (state, *value) in enumerate(_samples((u, *values))):
            factor = ctx.factors[sample]
            if factor is None and np.isnan(state).any():
                continue  # rejected
            system.set_parameters(value)
            system.set_state(state)
            if factor is None:
                factor = system.factorise()
                weights[sample] = system.apply_inverse(factor, grad_u[sample], transposed=True)
                system.release(factor)
            else:
                weights[sample] = system.apply_inverse(factor, grad_u[sample], transposed=True)
            for name, gradient in system.pull_back(weights[sample], wanted).items():
                gradients[name][sample] -= gradient.reshape(gradients[name].shape[1:])
        target = torch.from_numpy(weights) if ctx.has_target else None
        parameters = (torch.from_numpy(gradients[name]) if name in wanted else None for name in names)
        return None, None, None, target, *parameters


class Residual(torch.autograd.Function):
    """r = F(u, z) on the free dofs, with vector-Jacobian products and no solve."""

    @staticmethod
    def forward(ctx: Any, system: System, u: Tensor, *values: Tensor) -> Tensor:
        out = np.empty(u.shape)
        for sample, (state, *value) in enumerate(_samples((u, *values))):
            system.set_parameters(value)
            system.set_state(state)
            out[sample] = system.residual()
        ctx.system = system
        ctx.save_for_backward(u, *values)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        weights, system = grad_outputs[0].numpy(), ctx.system
        return _pull_back(ctx, lambda sample, names: system.pull_back(weights[sample], names))


class LogDeterminant(torch.autograd.Function):
    """log|det dF/du| on the free dofs."""

    @staticmethod
    def forward(ctx: Any, system: System, u: Tensor, *values: Tensor) -> Tensor:
        keep = any(ctx.needs_input_grad)
        out, inverses = np.empty(u.shape[0]), []
        for sample, (state, *value) in enumerate(_samples((u, *values))):
            system.set_parameters(value)
            system.set_state(state)
            out[sample], inverse = system.logdet.evaluate()
            if keep:
                inverses.append(inverse)
        ctx.system, ctx.inverses = system, inverses
        ctx.save_for_backward(u, *values)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        weights, logdet = grad_outputs[0].numpy(), ctx.system.logdet

        def pull(sample: int, names: list[str]) -> dict[str, np.ndarray]:
            gradients = logdet.gradients(ctx.inverses[sample], names)
            return {name: weights[sample] * gradient for name, gradient in gradients.items()}

        return _pull_back(ctx, pull)
