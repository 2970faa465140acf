"""The linear–quadratic regulator as a differentiable layer.

    min Σ_{t=1..T} ½ τ_tᵀ C_t τ_t + c_tᵀ τ_t   s.t.  x_{t+1} = F_t τ_t + f_t (t < T),  x_1 = x_init          (1)

over τ_t = (x_t, u_t). With a multiplier λ_t for the equation that makes x_t, the optimality conditions are

    R = ( C_t τ_t + c_t + F_tᵀ λ_{t+1} − (λ_t, 0),    x_init − x_1,    F_t τ_t + f_t − x_{t+1} ) = 0           (2)

with λ_{T+1} = 0: a symmetric linear system in (τ, λ). The Riccati recursion factorises it, :mod:`.riccati`. Its adjoint
is the same system, so a gradient is one more sweep with the factorisation that found the solution: a linear–quadratic
problem itself, in which the cotangents of τ take the place of c.

Chapter: book/2_differentiable/10_control. Source: Amos et al., Differentiable MPC, 2018, §3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ..autograd.opaque import opaque
from ..autograd.precision import full_precision
from ..batch.columns import as_columns
from ..batch.products import contract, times
from ..batch.shapes import flatten
from ..implicit import attach
from ..linear import LinearOperator
from ..solution import SOLVED, STUCK, UNDEFINED, mark_failures, raise_failed
from ..validate import check_option
from .arguments import check_problem
from .envelope import optimal_value
from .riccati import Factor, Sweep, factorise, refine, sweep


@dataclass(frozen=True)
class LQRSolution:
    """The solution of a batch of linear–quadratic problems.

    Attributes:
        x: states, ``(*batch, T, n)``, the first of which is x_init.
        u: controls, ``(*batch, T, m)``.
        cost: the optimal value, ``(*batch,)``. Its gradient alone costs no linear solve (envelope theorem).
        costate: λ_t, the slope of the cost-to-go in x_t, ``(*batch, T, n)``. These four carry gradients.
        converged, iterations, residual: ``(*batch,)``. The residual is the largest entry of (2), relative to the terms
            that were added up in its coordinate.
        status: ``(*batch,)``, int64: 1 solved, 4 drowned in rounding, 5 without a unique minimum.
    """

    x: Tensor
    u: Tensor
    cost: Tensor
    costate: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor
    status: Tensor


@full_precision
def lqr(
    x_init: Tensor,
    C: Tensor,
    c: Tensor,
    F: Tensor,
    f: Tensor | None = None,
    *,
    horizon: int | None = None,
    on_failure: Literal["raise", "nan"] = "raise",
) -> LQRSolution:
    """Solve eq. (1) of this module for every element of a batch; differentiable in all five arguments, at any order.

    Time is the dimension in front of the matrices and vectors. An argument without batch dimensions may lack it, if it
    is the same at all times; one with batch dimensions then has a time of 1. So C is ``(*batch, T or 1, n + m, n + m)``
    or ``(n + m, n + m)``, and not ``(T, *batch, ·, ·)`` as in mpc.pytorch. Nothing is copied to be broadcast: C and F
    that the batch shares are factorised once.

    The arithmetic is in float64 whatever the dtype of the arguments, which is the dtype of the result.

    Args:
        x_init: the first state, ``(*batch, n)``.
        C, c: the cost, ``(*batch, T, n + m, n + m)``, of which only the symmetric part counts, and
            ``(*batch, T, n + m)``.
        F, f: the dynamics, ``(*batch, T − 1, n, n + m)`` and ``(*batch, T − 1, n)``, f = 0 by default. They may have T
            entries, of which the last counts for nothing, if C, c or ``horizon`` tell what T is.
        horizon: T, needed if no argument has a time.
        on_failure: ``"raise"``, or ``"nan"`` to mark failed elements and their gradients NaN.

    Raises:
        ValueError: bad shapes, dtypes, NaN or infinite input.
        SolverError: the control block C_uu + F_uᵀ V F_u is singular or indefinite, so that there is not exactly one
            minimum. It is never regularised. The error names the elements and the time. Or rounding left more than
            10⁻⁸ of some equation, as it may on a long horizon with an unstable system that can't be controlled.

    A reference x̄ is tracked with C_t = Q and c_t = −Q x̄_t; a terminal cost is the C_T of t = T.
    """
    check_option("on_failure", on_failure, ("raise", "nan"))
    data, batch = check_problem(x_init, C, c, F, f, horizon)
    start = torch.zeros(*batch, 1, dtype=x_init.dtype, device=x_init.device)
    z, residual, status, *factor = opaque(partial(_solve, on_failure), start, *data)
    z = attach(conditions, solve_conditions, z, *data, *factor)
    converged = status == SOLVED
    z = mark_failures(z, converged, on_failure)
    tau, costate = unpack(z, data)
    n = x_init.shape[-1]
    cost = optimal_value(lagrangian, z, *data)
    iterations = torch.ones_like(converged, dtype=torch.int64)
    return LQRSolution(tau[..., :n], tau[..., n:], cost, costate, converged, iterations, residual, status)


def indefinite(late: Tensor) -> str:
    """What to say of elements whose control block is not positive definite at these times, counted from 1."""
    times = ", ".join(str(t) for t in late[:5].tolist()) + (", …" if len(late) > 5 else "")
    return (
        f"the control block C_uu + F_uᵀ V F_u is singular or indefinite at time t = {times} (counted from 1, for each "
        "of the elements), so that no unique minimum exists; or, on a long horizon, V is too large for a number."
    )


# The equations and their derivative


def unpack(z: Tensor, data: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """τ ``(*batch, T, n + m)`` and λ ``(*batch, T, n)`` of z ``(*batch, T (2n + m))``."""
    n, k = data[3].shape[-2:]
    T = z.shape[-1] // (n + k)
    batch = z.shape[:-1]
    return z[..., : T * k].reshape(*batch, T, k), z[..., T * k :].reshape(*batch, T, n)


def stationarity(tau: Tensor, costate: Tensor, C: Tensor, c: Tensor, F: Tensor) -> Tensor:
    """The first part of (2), ``(*batch, T, n + m)``."""
    of_future = torch.nn.functional.pad(product(F.mT, costate[..., 1:, :]), (0, 0, 0, 1))
    of_present = torch.nn.functional.pad(costate, (0, tau.shape[-1] - costate.shape[-1]))
    return product(torch.lerp(C, C.mT, 0.5), tau) + c + of_future - of_present


def motion(tau: Tensor, x_init: Tensor, F: Tensor, f: Tensor) -> Tensor:
    """The other two, ``(*batch, T, n)``."""
    x = tau[..., : F.shape[-2]]
    first = (x_init.unsqueeze(-2) - x[..., :1, :]).expand(x[..., :1, :].shape)
    return torch.cat([first, product(F, tau[..., :-1, :]) + f - x[..., 1:, :]], dim=-2)


def conditions(z: Tensor, x_init: Tensor, C: Tensor, c: Tensor, F: Tensor, f: Tensor, *_factor: Tensor) -> Tensor:
    """Eq. (2), ``(*batch, T (2n + m))``, for z = (τ, λ); all have the same number of batch dimensions."""
    tau, costate = unpack(z, (x_init, C, c, F, f))
    parts = stationarity(tau, costate, C, c, F), motion(tau, x_init, F, f)
    return torch.cat([part.flatten(-2) for part in parts], dim=-1)


def solve_conditions(operator: LinearOperator, rhs: Tensor) -> Tensor:
    """D_z R w = rhs; the transpose is the same, as the matrix is symmetric."""
    _, x_init, C, c, F, f, *stored = operator.parameters
    return solve_with(load(stored, C, F), rhs, C, F)


def solve_with(factor: Factor, rhs: Tensor, C: Tensor, F: Tensor) -> Tensor:
    """The system (2) for one more right-hand side ``(*batch, T (2n + m))``."""
    (c, f, x1), restore = as_sweep(rhs, C, F)
    return restore(sweep(factor, c, f, x1))


def as_sweep(rhs: Tensor, C: Tensor, F: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Callable[[Sweep], Tensor]]:
    """A right-hand side ``(*batch, T (2n + m))`` as c, f and x_1 of :func:`.riccati.sweep`; the way back for (τ, λ)."""
    n, k = F.shape[-2:]
    T = rhs.shape[-1] // (n + k)
    columns, restore = as_columns(rhs, matrix_batch(C, F))
    r = -columns.double()
    c = r[:, : T * k].reshape(len(r), T, k, r.shape[-1]).movedim(1, 0)
    f = r[:, T * k :].reshape(len(r), T, n, r.shape[-1]).movedim(1, 0)

    def back(solution: Sweep) -> Tensor:
        parts = [v.movedim(0, 1).flatten(1, 2) for v in (solution.tau, solution.costate)]
        return restore(torch.cat(parts, dim=1).to(rhs.dtype))

    return (c, f[1:], f[0]), back


def lagrangian(z: Tensor, x_init: Tensor, C: Tensor, c: Tensor, F: Tensor, f: Tensor) -> Tensor:
    """The cost and λᵀ the equations of motion, ``(*batch,)``."""
    tau, costate = unpack(z, (x_init, C, c, F, f))
    cost = 0.5 * tau * product(C, tau) + c * tau
    return cost.sum((-2, -1)) + (costate * motion(tau, x_init, F, f)).sum((-2, -1))


def product(M: Tensor, v: Tensor) -> Tensor:
    """M v for M ``(*batch, T, i, j)``, with 1s where it is shared, and v ``(*batch, T, j)``; no M is copied."""
    if M.shape[:-2] == v.shape[:-1]:
        return contract(M, v) if torch.is_grad_enabled() else times(M, v)
    return torch.einsum("...ij,...j->...i", M, v)


# The forward pass


TOLERANCE = 1e-8  # on the residual, which is mostly rounding
DROWNED = (
    f"rounding left more than {TOLERANCE:.0e} of an equation, relative to its terms: the solution is not accurate."
)


def _solve(
    on_failure: str, start: Tensor, x_init: Tensor, C: Tensor, c: Tensor, F: Tensor, f: Tensor
) -> tuple[Tensor, ...]:
    """z, the residual, the status, and the factorisation."""
    batch, T = start.shape[:-1], c.shape[-2]
    factor = factorise(*time_first(C, F, T), columns=columns_for(batch, C, F))
    n, k = F.shape[-2:]
    rhs = torch.cat(
        [
            -c.expand(*batch, T, k).flatten(-2),
            -x_init.expand(*batch, n),
            -f.expand(*batch, T - 1, n).flatten(-2),
        ],
        dim=-1,
    )
    affine, back = as_sweep(rhs.double(), C, F)
    solution, left = refine(factor, sweep(factor, *affine), *affine)
    _, restore = as_columns(start, matrix_batch(C, F))
    residual = restore(left.relative.unsqueeze(1)).squeeze(-1)
    late = latest(factor.sound).reshape(matrix_batch(C, F)).expand(batch)
    status = torch.where(late > 0, UNDEFINED, torch.where(residual <= TOLERANCE, SOLVED, STUCK))
    if on_failure == "raise":
        raise_failed(status, {UNDEFINED: lambda failed: indefinite(late[failed]), STUCK: DROWNED})
    return back(solution).to(start.dtype), residual.to(start.dtype), status, *store(factor, batch, C, F)


def matrix_batch(C: Tensor, F: Tensor) -> torch.Size:
    """The batch dimensions of the factorisation: 1 where both C and F are shared."""
    return torch.broadcast_shapes(C.shape[:-3], F.shape[:-3])


def columns_for(batch: torch.Size, C: Tensor, F: Tensor) -> int:
    """How many right-hand sides one factorisation serves."""
    return batch.numel() // max(1, matrix_batch(C, F).numel())


def time_first(C: Tensor, F: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """C, symmetric, and F as ``(T, N, ·, ·)`` and ``(T − 1, N, ·, ·)``, N = 1 where they are shared, in float64."""
    shared = matrix_batch(C, F)
    C, F = (flatten(M, 3, shared).double().movedim(1, 0).contiguous() for M in (torch.lerp(C, C.mT, 0.5), F))
    return C.expand(T, -1, -1, -1), F.expand(T - 1, -1, -1, -1) if T > 1 else F[:0]


def store(factor: Factor, batch: torch.Size, C: Tensor, F: Tensor) -> list[Tensor]:
    """The parts of a factorisation with batch dimensions in front; ``sound`` need not be kept."""
    shared = matrix_batch(C, F)
    parts = [part.movedim(0, 1) for part in factor[:-1]]
    return [p.reshape(*shared, *p.shape[1:]).expand(*batch, *p.shape[1:]) for p in parts]


def load(stored: Sequence[Tensor], C: Tensor, F: Tensor) -> Factor:
    """The factorisation that :func:`store` put away."""
    parts = []
    for t in stored:
        for i, size in enumerate(matrix_batch(C, F)):
            t = t.narrow(i, 0, size)
        parts.append(t.flatten(0, -4).movedim(1, 0) if t.ndim > 3 else t.unsqueeze(1))
    closed, K, V, inverse, C, F, held = parts
    return Factor(closed, K, V, inverse, C, F, held, sound=V.new_ones(()))


def latest(sound: Tensor) -> Tensor:
    """The latest time ``(N,)`` at which ``sound`` ``(T, N)`` is not True, counted from 1, or 0."""
    times = torch.arange(1, len(sound) + 1, device=sound.device).unsqueeze(-1)
    return (~sound * times).amax(0)
