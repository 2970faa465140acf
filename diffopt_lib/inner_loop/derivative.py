"""The derivative of a minimum that an inner loop has reached: no step of the loop takes part in it.

At the minimum w* of the inner objective f(w; θ) the gradient ∇_w f is zero, and :mod:`diffopt_lib.implicit` has

    ∂w*/∂θ = −(∇²_ww f)⁻¹ ∇²_wθ f,        ∇²_ww f = ∇² loss + decay + prox                              (1)

One linear system for each backward pass, solved by conjugate gradients: products with the Hessian, never the matrix.
What (1) gives at a point that is no minimum is the derivative of nothing, so the gradient that is left is measured
first. Its scale is what the gradient was at the start, or what it would change by if the curvature at w* held all the
way to w = 0, whichever is larger: ‖∇f(w_K)‖ / max(‖∇f(w₀)‖, ‖∇²f(w_K) w_K‖) does not know the units of the loss, and
is small at a minimum from which the loop has only just started.

Source: Rajeswaran et al. 2019, lemma 1 and eq. 6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor
from torch.func import vjp

from ..autograd.closure import Substitute
from ..autograd.opaque import opaque_function
from ..implicit import attach
from ..linear import LinearOperator, LinearSolve
from ..unroll import Optimizer, State, run, tensors_of

Objective = Callable[..., Tensor]


@dataclass(frozen=True)
class System:
    """A linear system with the Hessian that a backward pass has solved.

    Attributes:
        products: with how many vectors the Hessian was multiplied; the iterations of conjugate gradients.
        residual: ‖H x − b‖ / ‖b‖ of what came out, ``(*batch,)``.
    """

    products: int
    residual: Tensor


@dataclass
class Recorded:
    """A linear solver that keeps a record of every system."""

    solve: LinearSolve
    systems: list[System] = field(default_factory=list)

    def __call__(self, operator: LinearOperator, b: Tensor) -> Tensor:
        products = 0

        def counted(v: Tensor) -> Tensor:
            nonlocal products
            products += 1
            return operator.matvec(v)

        x = self.solve(replace(operator, matvec=counted), b)
        size = b.norm(dim=-1)
        error = (operator.matvec(x) - b).norm(dim=-1) / torch.where(size > 0, size, 1)
        self.systems.append(System(products, error.detach()))
        return x


def minimum(
    f: Objective, optimizer: Optimizer, state: State, x: Sequence[Tensor], steps: int, first: int, solve: LinearSolve
) -> tuple[State, Tensor]:
    """The state after ``steps`` updates, its y with the derivative (1) in x; the relative gradient ``(*batch,)``."""
    hyperparameters = tensors_of(optimizer, state[0])
    if any(t.requires_grad for t in hyperparameters):
        raise ValueError(
            'the optimizer has a tensor that requires a gradient, and with gradient="implicit" it has none: a minimum '
            "does not depend on the steps that led there. Detach it, or differentiate the steps"
        )
    a, b = len(state) - 1, len(state) - 1 + len(x)

    def objective(y: Tensor, *tensors: Tensor) -> Tensor:  # of all the tensors that the algorithm needs
        return f(y, *tensors[a:b])

    def algorithm(f: Objective, y0: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad(), Substitute(hyperparameters, tensors[b:]):
            reached = run(f, optimizer, first, first + steps, (y0, *tensors[:a]), tensors)
            return *reached, _relative_gradient(partial(gradient, f), y0, reached[0], tensors)

    y0, *memory = (t.detach() for t in state)
    y, *memory, residual = opaque_function(algorithm, objective, y0, *memory, *x, *hyperparameters)
    return (attach(partial(gradient, f), solve, y, *x), *memory), residual


def gradient(f: Objective, y: Tensor, *x: Tensor) -> Tensor:
    """∇_y f, ``(*batch, n)``."""
    return torch.func.grad(lambda y: f(y, *x).sum())(y)


def _relative_gradient(gradient: Callable[..., Tensor], y0: Tensor, y: Tensor, x: Sequence[Tensor]) -> Tensor:
    left, pull = vjp(lambda y: gradient(y, *x), y)
    (curvature,) = pull(y)
    size = left.norm(dim=-1)
    scale = torch.maximum(gradient(y0, *x).norm(dim=-1), curvature.norm(dim=-1))
    return size / torch.where(scale > 0, scale, torch.where(size > 0, size, 1))
