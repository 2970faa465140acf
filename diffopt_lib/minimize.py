"""Batched minimisers of a smooth f(y; x), and the derivative of the minimiser.

    y*(x) = argmin_y f(y; x)                                                                       (1)

is a root of R(y, x) = ∇_y f(y; x), so :mod:`diffopt_lib.implicit` gives ∂y*/∂x = −(∇²_yy f)⁻¹ ∇²_yx f. The methods
that find y* are in :mod:`diffopt_lib.descent`. Here is the loop around them, in which every element of the batch
converges on its own and leaves the batch when it has.

Chapters: book/1_optimization/01_argmin and 03_derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from .closure import make_explicit
from .descent import METHODS, Memory, Method
from .implicit import implicit
from .linear import LinearSolve
from .objective import Objective
from .opaque import opaque
from .solution import OnFailure, Solution, SolverError, failed_indices, mark_failures
from .validate import check_option, check_problem, expand_batch

Gradient = Literal["implicit", "unroll", "one_step"]


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
            over get their gradient too.
        y0: initial guess, ``(*batch, n)`` or ``(n,)``. A guess that is a minimiser costs no step.
        x: context tensors, batched or shared, of the dtype of y0 where they are floating point.
        method: ``"newton"``, damped, with a trust region where the Hessian is indefinite: few iterations of O(n³);
            ``"lbfgs"``, O(n) memory and time per iteration; ``"gradient_descent"``, with momentum and restarts. Only
            Newton's method looks at curvature: a guess at a saddle or a maximum is a stationary point for the others.
        gradient: how y* depends on x. ``"implicit"`` is the exact derivative of (1) at any order. ``"unroll"``
            differentiates the iterations (step lengths held), and alone gives y0 a gradient. ``"one_step"``
            differentiates the last update only: exact for Newton's method, elsewhere biased in proportion to how slowly
            the method contracts (Bolte et al. 2023).
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
    check_option("gradient", gradient, ("implicit", "unroll", "one_step"))
    check_option("on_failure", on_failure, ("raise", "nan", "return"))
    check_problem(y0, x)
    f, hidden, value = make_explicit(f, y0, *x)
    y0, x = expand_batch(y0, value), (*x, *hidden)
    if tolerance is None:
        tolerance = 1e-9 if y0.dtype == torch.float64 else 1e-4
    chosen = METHODS[method]()
    limit = chosen.max_iterations if max_iterations is None else max_iterations

    def algorithm(f, y0, *x):
        return descend(f, y0, x, chosen, tolerance, limit, on_failure)

    run = algorithm if gradient == "unroll" else lambda f, *tensors: opaque(algorithm, f, *tensors)
    y, residual, iterations, converged, *memory = run(f, y0, *x)
    if gradient == "implicit":
        y = implicit(partial(_gradient, f), y, *x, solve=solve)
    elif gradient == "one_step":
        y = _one_step(f, y, x, chosen, tuple(memory))
    y = mark_failures(y, converged, on_failure)
    return Solution(y, f(y, *x), converged, iterations, residual.detach())


def _gradient(f: Callable[..., Tensor], y: Tensor, *x: Tensor) -> Tensor:
    return torch.func.grad(lambda y: f(y, *x).sum())(y)


def _one_step(f: Callable[..., Tensor], y: Tensor, x: tuple[Tensor, ...], method: Method, memory: Memory) -> Tensor:
    """y* with the derivative of the method's last update y* − P ∇f(y*; x), in which y* and P are held."""
    y = y.detach()
    batch, n = y.shape[:-1], y.shape[-1]
    memory = tuple(m.reshape((-1, *m.shape[len(batch) :])) for m in memory)
    objective = Objective(f, tuple(t.detach() for t in x), batch)

    def update(g):
        return method.direction(objective, y.reshape(-1, n), g.reshape(-1, n), memory).reshape(y.shape)

    g = _gradient(f, y, *x)
    return y + update(g) - update(g.detach())  # the value stays y*


def descend(
    f: Callable[..., Tensor],
    y0: Tensor,
    x: tuple[Tensor, ...],
    method: Method,
    tolerance: float,
    max_iterations: int,
    on_failure: OnFailure,
) -> tuple[Tensor, ...]:
    """Iterate until every element has converged or failed.

    Returns (y, residual, iterations, converged, *memory), each with the batch dimensions of y0.
    """
    batch, n = y0.shape[:-1], y0.shape[-1]
    objective = Objective(f, x, batch)
    y = y0.reshape(-1, n)
    value, g = objective.value_and_gradient(y)
    memory = method.start(y, g)
    residual = _largest_entry(g)
    converged = residual <= tolerance
    if converged.any():
        converged &= method.is_minimum(objective, y)
    index = torch.arange(len(y), device=y.device)
    finished: list[tuple[Tensor, ...]] = []

    for k in range(max_iterations + 1):
        unbounded = (_largest_entry(y) > 1e12) | (value < -1e20)
        undefined = ~(torch.isfinite(value) & torch.isfinite(residual)) & ~unbounded
        stop = converged | unbounded | undefined | (k == max_iterations)
        if stop.any() or len(y) == 0:
            iterations = torch.full_like(index, k)
            converged = converged & ~unbounded & ~undefined
            everything = (index, y, residual, iterations, converged, unbounded, undefined, *memory)
            finished.append(tuple(t[stop] for t in everything))
            keep = ~stop
            if not keep.any():
                break
            objective = objective.select(keep, y)
            index, y, value, g, residual = (t[keep] for t in (index, y, value, g, residual))
            memory = tuple(m[keep] for m in memory)
        last = y
        y, memory, predicted = method.step(objective, y, value, g, memory)
        y, value, g = _step_back(objective, last, y)
        last_residual, residual = residual, _largest_entry(g)
        # The next decrease of f would drown in rounding, and the gradient has stopped falling: no better can be had.
        rounding = 10 * torch.finfo(y.dtype).eps * value.abs()
        exhausted = (predicted <= rounding) & (residual > 0.5 * last_residual)
        converged = (residual <= tolerance) | exhausted

    index, *columns = (torch.cat(pieces) for pieces in zip(*finished, strict=True))
    order = index.argsort()
    columns = [c[order].reshape((*batch, *c.shape[1:])) for c in columns]
    y, residual, iterations, converged, unbounded, undefined = columns[:6]
    if on_failure == "raise" and not converged.all():
        _raise_failed(residual, iterations, ~converged, unbounded, undefined, tolerance)
    return y, residual, iterations, converged, *columns[6:]


def _step_back(objective: Objective, last: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y, f and ∇f, with y moved halfway back to the last iterate as long as ∇f is not finite there.

    A step can end on the edge of where f is smooth, with f still finite: y log y at 0 has slope −∞.
    """
    for _ in range(50):
        value, g = objective.value_and_gradient(y)
        edge = torch.isfinite(value) & ~torch.isfinite(_largest_entry(g))
        if not edge.any():
            break
        y = torch.where(edge.unsqueeze(-1), (last + y) / 2, y)
    return y, value, g


def _largest_entry(v: Tensor) -> Tensor:
    return v.detach().abs().amax(-1)


def _raise_failed(
    residual: Tensor, iterations: Tensor, failed: Tensor, unbounded: Tensor, undefined: Tensor, tolerance: float
) -> None:
    """Raise for the worst kind of failure that occurred, naming the elements of that kind."""
    if unbounded.any():
        raise SolverError(
            "f seems to be unbounded below: the iterates left every reasonable bound.", failed_indices(unbounded)
        )
    if undefined.any():
        first = iterations[undefined].min().item()
        raise SolverError(f"f or its gradient is not finite (at iteration {first}).", failed_indices(undefined))
    raise SolverError(
        f"no convergence to a gradient of {tolerance:.1e} in {iterations[failed].max().item()} iterations "
        f"(it is {residual[failed].max().item():.1e}).",
        failed_indices(failed),
    )
