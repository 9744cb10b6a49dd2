"""The exact gradient of a fixed-step trajectory, all intervals at once instead of one after the other.

The discretised equation r_n = u_n - Phi(u_{n-1}; z) = 0 has a block-bidiagonal Jacobian. By the implicit function theorem

    lambda_n = g_n + A_{n+1}' lambda_{n+1},   A_n = dPhi/du at u_{n-1},     dz = sum_n lambda_n' dPhi(u_{n-1}; z)/dz.

The A_n and the last derivative are those of one batched step over all intervals; only the recursion, a product with a k x k
matrix, goes from interval to interval. The result is that of backpropagation through the solver, to rounding.

Source: discrete adjoint: Hinze, Pinnau, Ulbrich, Ulbrich, Optimization with PDE Constraints (2009), section 1.6.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Recursion(torch.autograd.Function):
    """Give a trajectory u, solved without a graph, the gradient of its steps.

    steps: Phi(u_{n-1}; z), (..., N, k), with a graph towards z; initial: (..., k); jacobians: A, (..., N, k, k), entry ij =
    dPhi_i/du_j; path: (..., M, k) with M = N, or N + 1 where the first state is the initial one.
    """

    @staticmethod
    def forward(ctx: Any, steps: Tensor, initial: Tensor, jacobians: Tensor, path: Tensor) -> Tensor:
        ctx.save_for_backward(jacobians)
        return path.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: the second derivative would lack the terms of A_n
            raise RuntimeError("gradient: got 'parallel' for a second derivative, expected gradient='unrolled'")
        (jacobians,), given = ctx.saved_tensors, grad_outputs[0]
        count = jacobians.shape[-3]
        first = given.shape[-2] - count
        weights = torch.empty_like(given[..., first:, :])
        below = given.new_zeros(given.shape[:-2] + given.shape[-1:])
        sources, matrices = given.unbind(-2), jacobians.unbind(-3)
        for n in reversed(range(count)):
            weight = sources[n + first] + below
            weights[..., n, :] = weight
            below = (weight.unsqueeze(-2) @ matrices[n]).squeeze(-2)
        return weights, below + sources[0] if first else below, None, None


def jacobian(steps: Tensor, before: Tensor) -> Tensor:
    """Return d steps_i / d before_j, (..., k, k), of steps that depend on their own entry of ``before`` alone."""
    rows = []
    for component in steps.unbind(-1):
        (row,) = torch.autograd.grad(component.sum(), before, retain_graph=True)
        rows.append(row)
    return torch.stack(rows, -2)
