"""Recursions over time in log₂ T rounds: a step is an element of a semigroup, and elements are joined in pairs.

A loop over T time steps costs T times the overhead of a call. Where the batch is small that overhead is all there is.
The maps of single steps can be joined in any order that keeps neighbours together (an associative scan): in round r
every time joins what it knows with what the time 2ʳ steps away knows, all times in one call. That is log₂ T times the
arithmetic, in log₂ T calls, which pays on long horizons with few elements.

Source: Särkkä & García-Fernández, Temporal parallelization of dynamic programming and linear quadratic control, 2023.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHORTEST = 64  # the horizon from which a scan may pay, and
WIDEST = {"cpu": 2, "cuda": 64}  # the largest batch for which it does


def pays(T: int, batch: int, like: Tensor) -> bool:
    """Whether a scan is quicker than a loop."""
    return T >= SHORTEST and batch <= WIDEST.get(like.device.type, 0)


def linear_recursion(A: Tensor, b: Tensor, start: Tensor, reverse: bool = False) -> Tensor:
    """y_1 = start, y_{t+1} = A_t y_t + b_t, or reversed y_T = start, y_t = A_t y_{t+1} + b_t; stacked ``(T, N, n, c)``.

    Args:
        A: ``(T − 1, N, n, n)``.
        b: ``(T − 1, N, n, c)``.
        start: ``(N, n, c)``.
        reverse: which of the two.
    """
    if pays(len(b) + 1, b.shape[1] * b.shape[-1], b):
        if reverse:
            return _scanned(A.flip(0), b.flip(0), start).flip(0)
        return _scanned(A, b, start)
    y = [start]
    for t in reversed(range(len(b))) if reverse else range(len(b)):
        y.append(torch.baddbmm(b[t], A[t], y[-1]))
    return torch.stack(y[::-1] if reverse else y)


def _scanned(A: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """(A, b) after (A', b') is (A A', A b' + b), which begins with (0, y_1)."""
    A = torch.cat([torch.zeros_like(A[:1]), A])
    b = torch.cat([start.unsqueeze(0), b])
    step = 1
    while step < len(b):
        b = torch.cat([b[:step], b[step:] + torch.matmul(A[step:], b[:-step])])
        A = torch.cat([A[:step], torch.matmul(A[step:], A[:-step])])
        step *= 2
    return b


def value_matrices(C: Tensor, F: Tensor) -> Tensor | None:
    """V_2, …, V_T of the Riccati recursion by a scan; None if that is not accurate here.

    The element of a stretch of time from x to z is the cost of getting there, as a maximum over the multiplier of z,

        ½ xᵀJ x + max_λ −½ λᵀD λ + λᵀ(z − A x),

    with A = F_x − F_u R⁻¹S, D = F_u R⁻¹F_uᵀ and J = P − SᵀR⁻¹S for one step with the Hessian C = (P, Sᵀ; S, R). Two
    that follow each other make, with M = (I + D₁ J₂)⁻¹,

        A = A₂ M A₁,      D = A₂ M D₁ A₂ᵀ + D₂,      J = A₁ᵀ J₂ M A₁ + J₁.

    This needs R ≻ 0 at every time, which the recursion does not.
    """
    T, n = C.shape[0], F.shape[-2]
    F = torch.cat([F, torch.zeros_like(F[:1])])
    P, S, R = C[..., :n, :n], C[..., n:, :n], C[..., n:, n:]
    L, info = torch.linalg.cholesky_ex(R)
    if (info > 0).any():
        return None
    Y = torch.linalg.solve_triangular(L, S, upper=False)
    B = torch.linalg.solve_triangular(L, F[..., n:].mT, upper=False)
    A, D, J = F[..., :n] - torch.matmul(B.mT, Y), torch.matmul(B.mT, B), P - torch.matmul(Y.mT, Y)
    one_step = A, D, J
    identity = torch.eye(n, dtype=C.dtype, device=C.device)
    step = 1
    while step < T:
        A1, D1, J1 = A[:-step], D[:-step], J[:-step]
        A2, D2, J2 = A[step:], D[step:], J[step:]
        MA, MD = torch.linalg.solve_ex(identity + torch.matmul(D1, J2), torch.cat([A1, D1], dim=-1))[0].split(n, dim=-1)
        A = torch.cat([torch.matmul(A2, MA), A[-step:]])
        D = torch.cat([torch.matmul(torch.matmul(A2, MD), A2.mT) + D2, D[-step:]])
        J = torch.cat([torch.matmul(torch.matmul(A1.mT, J2), MA) + J1, J[-step:]])
        J = 0.5 * (J + J.mT)
        step *= 2
    return J[1:] if _is_accurate(one_step, J) else None


def _is_accurate(one_step: tuple[Tensor, Tensor, Tensor], J: Tensor) -> bool:
    """Whether the V_t = J there satisfy V_t = J_t + A_tᵀ V_{t+1} (I + D_t V_{t+1})⁻¹ A_t, up to rounding."""
    A, D, P = one_step
    V = torch.cat([J[1:], torch.zeros_like(J[:1])])
    identity = torch.eye(V.shape[-1], dtype=V.dtype, device=V.device)
    exact = P + torch.matmul(A.mT, torch.matmul(V, torch.linalg.solve_ex(identity + torch.matmul(D, V), A)[0]))
    size = P.abs().amax((-2, -1)) + J.abs().amax((-2, -1))
    return bool(((exact - J).abs().amax((-2, -1)) <= 1e-11 * size).all())
