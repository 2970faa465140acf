"""The Riccati recursion: one factorisation of a linear–quadratic control problem, and cheap solves with it.

    min Σ_{t=1..T} ½ τ_tᵀ C_t τ_t + c_tᵀ τ_t,   τ_t = (x_t, u_t),   x_{t+1} = F_t τ_t + f_t,  x_1 given       (1)

Dynamic programming goes backwards. If ½ xᵀV_{t+1}x + v_{t+1}ᵀx is what the future costs from x_{t+1} = x, then at t

    Q_t = C_t + F_tᵀ V_{t+1} F_t,      q_t = c_t + F_tᵀ (V_{t+1} f_t + v_{t+1})                              (2)

are the coefficients in τ_t. Minimising over u_t gives u_t = K_t x_t + k_t, and the next V, all from one product:

    ( V_t   K_tᵀ    )     ( Q_xx  0 )
    ( K_t   −Q_uu⁻¹ )  =  ( 0     0 )  −  P_t,     P_t = WᵀW,   W = L⁻¹ (Q_ux, I),   Q_uu = L Lᵀ            (3)

with k_t = −Q_uu⁻¹ q_u and v_t = q_x + K_tᵀ q_u. The costate, the slope of the cost-to-go in x_t, is
λ_t = V_t x_t + v_t. These matrices depend on C and F alone: they are the *factorisation* of the optimality conditions
of (1), a symmetric system in τ and λ. A *sweep* solves it for one more (c, f, x_1). With A_t = F_x + F_u K_t it is two
linear recursions, and all else is outside of the loops:

    v_t = (I, K_tᵀ)(c_t + F_tᵀ V_{t+1} f_t) + A_tᵀ v_{t+1},      x_{t+1} = A_t x_t + F_u k_t + f_t           (4)

Some controls may be *held* at given values: they leave the minimisation over u_t, and a multiplier ν takes their place.

Tensors have the time first, (T, N, ·, ·), so that a time step is contiguous. Vectors are columns: where N = 1 matrices
serve a whole batch, its right-hand sides are the columns. Everything is out of place, so that it can be differentiated.

Source: Rawlings, Mayne & Diehl, Model Predictive Control, 2017, §8.8.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..batch.products import or_one
from .scan import linear_recursion, pays, value_matrices

# The least pivot of a control block, relative to what was added up in it, that is not rounding.
SMALLEST_PIVOT = 1e-14
# What is left of the conditions, relative to what was added up, that another sweep may make less.
ROUNDING = 1e-13


class Factor(NamedTuple):
    """A factorisation of (1): A = F_x + F_u K ``(T − 1, N, n, n)``, K, V ``(T, N, ·, ·)``, Q_uu⁻¹, the data, and the
    controls held (0 or 1, ``(T, N, m, 1)``).

    ``sound`` ``(T, N)`` tells where the control block was positive definite. Where it was not, all before it is NaN.
    """

    closed: Tensor
    K: Tensor
    V: Tensor
    inverse: Tensor
    C: Tensor
    F: Tensor
    held: Tensor
    sound: Tensor


class Sweep(NamedTuple):
    """τ ``(T, N, n + m, c)``, costates λ ``(T, N, n, c)``, and the multipliers ν ``(T, N, m, c)`` of held controls."""

    tau: Tensor
    costate: Tensor
    nu: Tensor


def factorise(
    C: Tensor, F: Tensor, held: Tensor | None = None, weight: Tensor | None = None, columns: int = 1
) -> Factor:
    """The factorisation of (1).

    Args:
        C: ``(T, N or 1, n + m, n + m)``, symmetric.
        F: ``(T − 1, N or 1, n, n + m)``.
        held: the controls that are not free, ``(T, N, m, 1)``, bool; none by default.
        weight: what is added to the diagonal of C_uu, ``(T, N, m, 1)``; nothing by default.
        columns: how many right-hand sides there will be for each matrix, for the choice of the algorithm.
    """
    n, T = F.shape[-2], C.shape[0]
    (N,) = torch.broadcast_shapes(*(t.shape[1:2] for t in (C, F, held, weight) if t is not None))
    C, F = C.expand(-1, N, -1, -1), F.expand(-1, N, -1, -1)
    free = None if held is None else (~held).to(C.dtype)
    C_free, F_free = _of_free_controls(C, F, free, weight)
    V_next = value_matrices(C_free, F_free) if pays(T, N * columns, C) else None
    steps = _recursion(C_free, F_free) if V_next is None else _all_at_once(C_free, F_free, V_next)
    K = -steps.P[..., n:, :n]
    identity = torch.eye(n, dtype=C.dtype, device=C.device).expand(T - 1, N, -1, -1)
    closed = torch.matmul(F, torch.cat([identity, K[:-1]], dim=-2))
    # 1 / L_ii², times the size of what was added up in its place, present and future.
    of_stage = C_free.diagonal(dim1=-2, dim2=-1)[..., n:]
    cancelled = steps.root.square() * (of_stage.abs() + (steps.total - of_stage).abs())
    sound = (cancelled < 1 / SMALLEST_PIVOT).all(-1)
    is_held = torch.zeros_like(K[..., :1]) if free is None else 1 - free
    return Factor(closed, K, steps.V, steps.P[..., n:, n:].contiguous(), C, F, is_held, sound)


def _of_free_controls(C: Tensor, F: Tensor, free: Tensor | None, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """C and F, in which controls that are held have zeros, but ones on the diagonal of C, and others the weight."""
    n = F.shape[-2]
    ridge = weight
    if free is not None:
        kept = torch.nn.functional.pad(free, (0, 0, n, 0), value=1.0)
        C, F = kept * C * kept.mT, F * kept[:-1].mT
        ridge = 1 - free if weight is None else 1 - free + free * weight
    if ridge is not None:
        C = C + torch.diag_embed(torch.nn.functional.pad(ridge.squeeze(-1), (n, 0)))
    return C, F


class Steps(NamedTuple):
    """V and P of (3), and the diagonals of Q_uu and of L⁻¹; of one time or stacked over all."""

    V: Tensor
    P: Tensor
    total: Tensor
    root: Tensor


def _recursion(C: Tensor, F: Tensor) -> Steps:
    """(2) and (3), backwards in time."""
    m, steps = C.shape[-1] - F.shape[-2], []
    identity = torch.eye(m, dtype=C.dtype, device=C.device).expand(C.shape[1], m, m)
    Q = C[-1]
    for t in range(len(C) - 1, -1, -1):
        steps.append(_eliminate(Q, identity))
        if t:
            Q = torch.baddbmm(C[t - 1], F[t - 1].mT, torch.bmm(steps[-1].V, F[t - 1]))
    return Steps(*(torch.stack(part[::-1]) for part in zip(*steps, strict=True)))


def _all_at_once(C: Tensor, F: Tensor, V_next: Tensor) -> Steps:
    """The same from V_2, …, V_T."""
    m = C.shape[-1] - F.shape[-2]
    Q = torch.cat([C[:-1] + torch.matmul(F.mT, torch.matmul(V_next, F)), C[-1:]])
    steps = _eliminate(Q, torch.eye(m, dtype=C.dtype, device=C.device).expand(*Q.shape[:-2], m, m))
    return steps._replace(V=torch.cat([steps.V[:1], V_next]))


def _eliminate(Q: Tensor, identity: Tensor) -> Steps:
    """One step of (3), NaN where Q_uu is not positive definite."""
    n = Q.shape[-1] - identity.shape[-1]
    Quu = Q[..., n:, n:]
    W = _solve_root(Quu, torch.cat([Q[..., n:, :n], identity], dim=-1))
    P = torch.matmul(W.mT, W)
    V = Q[..., :n, :n] - P[..., :n, :n]
    total, root = (M.diagonal(dim1=-2, dim2=-1) for M in (Quu, W[..., n:]))
    return Steps(torch.lerp(V, V.mT, 0.5), P, total, root)


def _solve_root(block: Tensor, rhs: Tensor) -> Tensor:
    """L⁻¹ rhs with L Lᵀ = block, NaN (or infinite) where that is not positive definite."""
    if block.shape[-1] == 1:  # LAPACK takes ten times as long over a number
        return block.rsqrt() * rhs
    L, info = torch.linalg.cholesky_ex(block)
    if info.any():
        L = torch.where((info > 0)[..., None, None], torch.nan, L)
    return torch.linalg.solve_triangular(L, rhs, upper=False)


class Policy(NamedTuple):
    """k_t and v_t of (3), ``(T, N, ·, c)``."""

    k: Tensor
    v: Tensor


def find_policy(factor: Factor, c: Tensor, f: Tensor | None = None) -> Policy:
    """The sweep backwards, for c ``(T, N, n + m, k)`` and f ``(T − 1, N, n, k)`` with k columns; f is 0 by default."""
    closed, K, V, inverse, _, F, held, _ = factor
    n = V.shape[-1]
    p = c if f is None else c + _before(torch.matmul(F.mT, torch.matmul(V[1:], f)))
    constant = p[..., :n, :] + torch.matmul(K.mT, p[..., n:, :])
    v = linear_recursion(closed.mT, constant[:-1], constant[-1], reverse=True)
    q = p[..., n:, :] + _before(torch.matmul(F[..., n:].mT, v[1:]))
    return Policy((held - 1) * torch.matmul(inverse, q), v)


def follow(factor: Factor, k: Tensor, f: Tensor | None, x1: Tensor) -> Tensor:
    """The sweep forwards: τ ``(T, N, n + m, c)`` for u_t = K_t x_t + k_t from x_1 ``(N, n, c)``."""
    drift = torch.matmul(factor.F[..., x1.shape[-2] :], k[:-1])
    x = linear_recursion(factor.closed, drift if f is None else drift + f, x1)
    return torch.cat([x, torch.matmul(factor.K, x) + k], dim=-2)


def sweep(factor: Factor, c: Tensor, f: Tensor, x1: Tensor, held_at: Tensor | None = None) -> Sweep:
    """The solution of (1) for one more right-hand side.

    Args:
        c: ``(T, N, n + m, k)`` with k columns.
        f: ``(T − 1, N, n, k)``.
        x1: ``(N, n, k)``.
        held_at: what the held controls are held at, ``(T, N, m, k)``, 0 where they are not held; 0 by default.
    """
    n = x1.shape[-2]
    Fu = factor.F[..., n:]
    if held_at is not None:
        c = c + torch.matmul(factor.C[..., n:], held_at)
        f = f + torch.matmul(Fu, held_at[:-1])
    policy = find_policy(factor, c, f)
    tau = follow(factor, policy.k, f, x1)
    costate = torch.matmul(factor.V, tau[..., :n, :]) + policy.v
    if not factor.held.any():
        return Sweep(tau, costate, torch.zeros_like(policy.k))
    slope = torch.matmul(factor.C[..., n:, :], tau) + c[..., n:, :] + _before(torch.matmul(Fu.mT, costate[1:]))
    if held_at is not None:
        tau = torch.cat([tau[..., :n, :], tau[..., n:, :] + held_at], dim=-2)
    return Sweep(tau, costate, -factor.held * slope)


class Defect(NamedTuple):
    """What is left of the optimality conditions of (1), 0 at a solution: C τ + c + Fᵀλ_{t+1} − (λ_t, −ν), F τ + f −
    x_{t+1}, and x_1 minus the first x; and the largest of it in each column ``(N, c)``, relative to what was added up
    in its coordinate (at whatever time that was most)."""

    stationarity: Tensor
    motion: Tensor
    start: Tensor
    relative: Tensor


def defect(C: Tensor, F: Tensor, solution: Sweep, c: Tensor, f: Tensor, x1: Tensor) -> Defect:
    """The defect of a solution for the right-hand side (c, f, x_1)."""
    tau, costate, nu = solution
    n = x1.shape[-2]
    x = tau[..., :n, :]
    present = torch.cat([costate, -nu], dim=-2)
    of_stage, of_future = torch.matmul(C, tau), _before(torch.matmul(F.mT, costate[1:]))
    moved = torch.matmul(F, tau[:-1])
    stationarity = of_stage + c + of_future - present
    motion = torch.cat([(x1 - x[0]).unsqueeze(0), moved + f - x[1:]])
    relative = torch.maximum(
        _relative(stationarity, of_stage, c, of_future, present),
        _relative(motion, x, torch.cat([x1.unsqueeze(0), moved]), _before(f)),
    )
    return Defect(stationarity, motion[1:], motion[0], relative)


def _relative(left: Tensor, *terms: Tensor) -> Tensor:
    """|left| over the sum of the |terms|, both at their largest over time; the largest coordinate, ``(N, c)``. What
    other coordinates add up counts for a millionth, as it is rounded too, by 10⁻¹⁴ of itself or so."""
    added_up = torch.stack([term.abs().amax(0) for term in terms]).sum(0)
    added_up = added_up + 1e-6 * added_up.amax(-2, keepdim=True)
    return (left.abs().amax(0) / or_one(added_up)).amax(-2)


def refine(factor: Factor, solution: Sweep, c: Tensor, f: Tensor, x1: Tensor) -> tuple[Sweep, Defect]:
    """The solution for this right-hand side, with what rounding left of (1) solved for once more where that is much."""
    left = defect(factor.C, factor.F, solution, c, f, x1)
    much = left.relative > ROUNDING
    if not much.any():
        return solution, left
    more = sweep(factor, *left[:3])
    solution = Sweep(*(a + torch.where(much.unsqueeze(-2), b, 0) for a, b in zip(solution, more, strict=True)))
    return solution, defect(factor.C, factor.F, solution, c, f, x1)


def _before(future: Tensor) -> Tensor:
    """What the last time, which has no future, gets: 0."""
    return torch.cat([future, torch.zeros_like(future[:1]) if len(future) else future.new_zeros(1, *future.shape[1:])])
