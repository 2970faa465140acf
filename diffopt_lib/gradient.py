"""One switch for every iterative solver: how does what it found depend on what it was given?

- ``"implicit"``: as the equation residual(z, θ) = 0 says, whose root it is (:mod:`diffopt_lib.implicit`). Exact, at any
  order, in memory that does not grow with the iterations.
- ``"unroll"``: as the iterations do that led there. Exact for the iterate that was reached, converged or not; memory
  grows with their number, and the start gets a gradient.
- ``"one_step"``: as the last update alone does, in which everything but θ is held. Exact for methods that converge
  quadratically. Where an update contracts by a factor ρ < 1 its relative error is of the order of ρ (Bolte et al.
  2023); with momentum, or a memory of earlier steps, nothing bounds it.

Chapter: book/1_optimization/03_derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from torch import Tensor

from .autograd.opaque import opaque_function
from .implicit import Residual, attach
from .linear import LinearSolve, dense_solve
from .validate import check_option

Gradient = Literal["implicit", "unroll", "one_step"]
Update = Callable[[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]], Tensor]


def check_gradient(gradient: str, *more: str) -> None:
    """``gradient`` is one of the three, or of those that a solver has besides."""
    check_option("gradient", gradient, (*get_args(Gradient), *more))


def solve_differentiably(
    gradient: str,
    algorithm: Callable[..., tuple[Tensor, ...]],
    f: Callable[..., Tensor],
    z0: Tensor,
    theta: Sequence[Tensor],
    *,
    residual: Residual,
    solve: LinearSolve | None,
    update: Update,
    known: Callable[[tuple[Tensor, ...]], Sequence[Tensor]] = lambda rest: (),
) -> tuple[Tensor, ...]:
    """``z, *rest = algorithm(f, z0, *theta)``, with z as a function of θ as ``gradient`` has it; the rest is detached.

    Args:
        gradient: one of the three above.
        algorithm: an iterative solver, of tensors alone but for the function f; all its outputs have batch dimensions.
        f: what the algorithm solves, ``f(z, *theta)``, with nothing hidden in it.
        z0: where it starts, ``(*batch, n)``.
        theta: what the problem depends on.
        residual: ``residual(z, *theta)``, which is 0 at the solution.
        solve: of systems with its Jacobian, as :func:`diffopt_lib.implicit` takes it.
        update: ``update(z, theta, rest)``, what the last iteration added to z; differentiable in θ.
        known: of the rest, what ``residual`` takes after θ: what the algorithm found out, held in the derivative.
    """
    if gradient == "unroll":
        return algorithm(f, z0, *theta)
    z, *rest = opaque_function(algorithm, f, z0, *theta)
    if gradient == "implicit":
        z = attach(residual, solve or dense_solve, z, *theta, *known(tuple(rest)))
    else:
        z = z.detach()
        last = update(z, tuple(theta), tuple(rest))
        z = z + last - last.detach()  # the value stays z
    return (z, *rest)
