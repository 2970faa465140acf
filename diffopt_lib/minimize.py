"""Batched minimisers of a smooth f(y; x), and the derivative of the minimiser.

    y*(x) = argmin_y f(y; x)                                                                       (1)

is a root of R(y, x) = ∇_y f(y; x), so :mod:`diffopt_lib.implicit` gives ∂y*/∂x = −(∇²_yy f)⁻¹ ∇²_yx f. The methods
that find y* are in :mod:`diffopt_lib.descent`, and so is the loop around them, in which every element of the batch
converges on its own and leaves the batch when it has.

Chapters: book/1_optimization/01_argmin and 03_derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from .autograd.closure import make_explicit
from .autograd.precision import full_precision
from .batch.function import start_batch
from .descent.loop import descend
from .descent.methods import METHODS, Method
from .descent.objective import Objective
from .gradient import Gradient, check_gradient, solve_differentiably
from .linear import LinearSolve
from .solution import OnFailure, Solution, mark_failures
from .validate import check_callable, check_limits, check_option, check_problem


@full_precision
def argmin(
    f: Callable[..., Tensor],
    y0: Tensor,
    *x: Tensor,
    method: Literal["newton", "lbfgs", "gradient_descent"] = "newton",
    gradient: Gradient = "implicit",
    tolerance: float | None = None,
    max_iterations: int | None = None,
    on_failure: OnFailure = "raise",
    solve: LinearSolve | None = None,
) -> Solution:
    """A local minimiser of f(·; x) for every element of the batch, eq. (1), found from y0.

    Args:
        f: ``f(y, *x)`` returns ``(*batch,)``, twice differentiable in y and written with torch operations that
            ``torch.func`` can differentiate. Element b of it may depend on y through y[b] only. Tensors that f closes
            over get their gradient too. Under ``torch.autocast`` f is evaluated with autocast off, a network inside it
            too: cast to float32 what f closes over and was computed in half precision outside.
        y0: initial guess, ``(*batch, n)`` or ``(n,)``. A guess that is a minimiser costs no step.
        x: context tensors, batched or shared, of the dtype of y0 where they are floating point.
        method: ``"newton"``, damped, with a trust region where the Hessian is indefinite: few iterations of O(n³);
            ``"lbfgs"``, O(n) memory and time per iteration; ``"gradient_descent"``, with momentum and restarts. Only
            Newton's method looks at curvature: a guess at a saddle or a maximum is a stationary point for the others.
        gradient: how y* depends on x. ``"implicit"`` is the exact derivative of (1) at any order. ``"unroll"``
            differentiates the iterations (step lengths held), and alone gives y0 a gradient. ``"one_step"``
            differentiates the last update only: exact for Newton's method, elsewhere biased. See
            :mod:`diffopt_lib.gradient`.
        tolerance: converged when max |∇_y f| ≤ tolerance. Default 1e-9 in float64 and 1e-4 in float32. Where rounding
            in f keeps the gradient above it, an element whose predicted decrease is below rounding counts as converged.
        max_iterations: default 100, 500 and 5000 for the three methods.
        on_failure: ``"raise"``; ``"nan"`` marks the failed elements and their gradients NaN; ``"return"`` hands back
            the last iterate with ``converged`` False.
        solve: the adjoint solver that :func:`diffopt_lib.implicit` takes, for structured or very large problems.

    Returns:
        :class:`Solution` with ``y`` ``(*batch, n)`` and ``value`` ``(*batch,)`` differentiable. An empty batch gives
        an empty solution.

    Raises:
        ValueError: bad shapes, dtypes, NaN or infinite input, unknown options.
        SolverError: f is unbounded below, not finite at the guess, or max_iterations was not enough.
    """
    check_option("method", method, METHODS)
    check_gradient(gradient)
    check_option("on_failure", on_failure, ("raise", "nan", "return"))
    check_limits(tolerance, max_iterations)
    if solve is not None:
        check_callable("solve", solve)
    check_problem(f, y0, x)
    f, hidden, value = make_explicit(f, y0, *x)
    x = (*x, *hidden)
    y0 = start_batch(f, y0, x, value)
    if tolerance is None:
        tolerance = 1e-9 if y0.dtype == torch.float64 else 1e-4
    chosen = METHODS[method]()
    limit = chosen.max_iterations if max_iterations is None else max_iterations

    def algorithm(f: Callable[..., Tensor], y0: Tensor, *x: Tensor) -> tuple[Tensor, ...]:
        return descend(f, y0, x, chosen, tolerance, limit, on_failure)

    y, residual, iterations, converged, *_ = solve_differentiably(
        gradient,
        algorithm,
        f,
        y0,
        x,
        residual=partial(_gradient, f),
        solve=solve,
        update=partial(_last_update, f, chosen),
    )
    y = mark_failures(y, converged, on_failure)
    return Solution(y, f(y, *x), converged, iterations, residual.detach())


def _gradient(f: Callable[..., Tensor], y: Tensor, *x: Tensor) -> Tensor:
    return torch.func.grad(lambda y: f(y, *x).sum())(y)


def _last_update(
    f: Callable[..., Tensor], method: Method, y: Tensor, x: tuple[Tensor, ...], rest: tuple[Tensor, ...]
) -> Tensor:
    """The method's update −P ∇f(y*; x), in which y* and P are held."""
    batch, n = y.shape[:-1], y.shape[-1]
    memory = tuple(m.reshape((-1, *m.shape[len(batch) :])) for m in rest[3:])
    objective = Objective.of(f, tuple(t.detach() for t in x), y)
    g = _gradient(f, y, *x)
    return method.direction(objective, y.reshape(-1, n), g.reshape(-1, n), memory).reshape(y.shape)
