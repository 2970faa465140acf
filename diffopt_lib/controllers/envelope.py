"""The derivative of an optimal value needs no linear solve.

With the Lagrangian L(z; θ) of a problem, z its solution and multipliers, the optimal value is L(z*(θ); θ), and since
∂L/∂z = 0 at z*, the chain rule leaves

    dL/dθ = ∂L/∂θ (z*; θ)                                                                         (1)

(the envelope theorem). Its own derivative does depend on that of z*: (1) is a function of z* and θ.

Source: Milgrom & Segal, Envelope theorems for arbitrary choice sets, 2002. Chapter: book/2_differentiable/10_control.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..autograd.closure import pull_back, vary
from ..autograd.forward_mode import forward_rule
from ..autograd.precision import without_autocast


def optimal_value(lagrangian: Callable[..., Tensor], z: Tensor, *theta: Tensor) -> Tensor:
    """lagrangian(z, *theta) ``(*batch,)`` with the derivative (1); the Lagrangian closes over nothing."""
    return _OptimalValue.apply(lagrangian, z, *theta)


class _OptimalValue(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(lagrangian, z, *theta):
        return lagrangian(z, *theta)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.lagrangian, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    @without_autocast
    def backward(ctx, g):
        tensors = ctx.saved_tensors
        free = [i for i, t in enumerate(tensors) if i and t.is_floating_point() and ctx.needs_input_grad[1 + i]]
        return None, *pull_back(ctx.lagrangian, tensors, free, g)

    @staticmethod
    @without_autocast
    def jvp(ctx, _lagrangian, _z, *theta_dot):
        with forward_rule(ctx) as tensors:
            moving = [1 + i for i, dot in enumerate(theta_dot) if dot is not None]
            value, pull = torch.func.vjp(vary(ctx.lagrangian, tensors, moving), *(tensors[i] for i in moving))
            _, push = torch.func.vjp(pull, torch.zeros_like(value))  # the transpose of a transpose
            return push(tuple(theta_dot[i - 1] for i in moving))[0]
