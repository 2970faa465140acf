"""Linear systems A x = b, batched, with A known as a matrix or only through its products.

These are the solvers that :func:`diffopt_lib.implicit` can be given. Each takes a :class:`LinearOperator` and a
right-hand side ``(*batch, n)`` and returns x ``(*batch, n)``. None of them needs to be differentiable: ``implicit``
differentiates the equation A x = b, not the algorithm that solved it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .batch.products import dot, times, unit
from .solution import SolverError, failed_indices
from .validate import check_count, check_floating, check_kind, check_limits, check_option


@dataclass(frozen=True)
class LinearOperator:
    """A batch of square matrices, ``(*batch, n, n)``, seen through their products with vectors ``(*batch, n)``.

    Attributes:
        matvec: v ↦ A v.
        rmatvec: v ↦ Aᵀ v.
        transposed: ``implicit`` sets this when A is (D_z R)ᵀ rather than D_z R, so that a solver which holds a
            factorisation of D_z R knows which way to use it.
        parameters: the tensors (z, *theta) at which ``implicit`` took the derivative, for solvers that build on them.
    """

    matvec: Callable[[Tensor], Tensor]
    rmatvec: Callable[[Tensor], Tensor]
    transposed: bool = False
    parameters: tuple[Tensor, ...] = ()

    @property
    def T(self) -> LinearOperator:
        return LinearOperator(self.rmatvec, self.matvec, not self.transposed, self.parameters)

    def dense(self, like: Tensor) -> Tensor:
        """The matrices themselves, ``(*batch, n, n)``; ``like`` is a vector ``(*batch, n)`` of the right kind."""
        n = like.shape[-1]
        basis = torch.eye(n, dtype=like.dtype, device=like.device)
        columns = torch.func.vmap(lambda e: self.matvec(e.expand(like.shape)))(basis)  # (n, *batch, n)
        return columns.movedim(0, -1)


LinearSolve = Callable[[LinearOperator, Tensor], Tensor]


def dense_solve(operator: LinearOperator, b: Tensor) -> Tensor:
    """LU factorisation of the dense matrices; raises :class:`SolverError` for those that are numerically singular."""
    A = operator.dense(b)
    wanted = torch.isfinite(b).all(-1)  # an element already marked NaN stays NaN and is nobody's error
    LU, pivots, info = lu_factor(A)
    condition = condition_estimate(A, LU, pivots)
    singular = wanted & ((info > 0) | ~(condition < _largest_condition(b)))
    if singular.any():
        worst = condition[singular].nan_to_num(nan=torch.inf).max().item()
        raise SolverError(
            f"the matrix of the linear system is singular or too ill-conditioned (condition about {worst:.1e}), so the "
            "derivative is not determined; solve=least_norm_solve gives the least-norm one, with a warning.",
            failed_indices(singular),
        )
    return torch.linalg.lu_solve(LU, pivots, b.unsqueeze(-1)).squeeze(-1)


def lu_factor(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """LU factors ``(*batch, n, n)``, pivots and info, as ``torch.linalg.lu_factor_ex`` has them."""
    if not _one_at_a_time(A):
        return torch.linalg.lu_factor_ex(A)
    parts = zip(*(torch.linalg.lu_factor_ex(matrix) for matrix in A.flatten(0, -3)), strict=True)
    LU, pivots, info = (torch.stack(part).unflatten(0, A.shape[:-2]) for part in parts)
    return LU, pivots, info


def cholesky_(K: Tensor) -> Tensor:
    """The factors of symmetric K ``(*batch, n, n)``, NaN where K is not positive definite. Overwrites K.

    On small matrices new memory costs as much as the factorisation, so the CPU works in place; LAPACK wants columns.
    """
    K = K if K.mT.is_contiguous() else K.mT
    info = torch.empty(K.shape[:-2], dtype=torch.int32, device=K.device)
    L, info = torch.linalg.cholesky_ex(K, out=(K, info)) if K.device.type == "cpu" else torch.linalg.cholesky_ex(K)
    definite = info == 0
    return L if definite.all() else torch.where(definite[..., None, None], L, torch.nan)


def solve(A: Tensor, b: Tensor) -> Tensor:
    """A⁻¹ b for A ``(k, n, n)`` and b ``(k, n)``, as ``torch.linalg.solve_ex`` has it: no error if A is singular."""
    b = b.unsqueeze(-1)
    if not _one_at_a_time(A):
        return torch.linalg.solve_ex(A, b)[0].squeeze(-1)
    return torch.stack([torch.linalg.solve_ex(*pair)[0].squeeze(-1) for pair in zip(A, b, strict=True)])


def _one_at_a_time(A: Tensor) -> bool:
    """Whether torch's batched LU factorisation can't be trusted with A.

    On a CPU with several threads torch 2.13 gives wrong factors, or none at all, for a batch of matrices beyond n = 128
    (pytorch issue 142815: its own threads meet those of MKL).
    """
    return A.device.type == "cpu" and A.shape[-1] > 128 and A.shape[:-2].numel() > 1


def least_norm_solve(operator: LinearOperator, b: Tensor) -> Tensor:
    """The least-norm least-squares solution A⁺ b, with a warning if A is numerically singular."""
    A = operator.dense(b)
    U, S, Vh = torch.linalg.svd(A)
    largest = S[..., :1]
    kept = S * _largest_condition(b) > largest
    if not kept.all():
        condition = (largest / S).max().item()
        warnings.warn(
            f"singular linear system, condition about {condition:.1e}: returning the least-norm solution",
            stacklevel=2,
        )
    inverse = torch.where(kept, 1 / torch.where(kept, S, 1), 0)
    projected = times(U.mT, b) * inverse
    return times(Vh.mT, projected)


def _largest_condition(b: Tensor) -> float:
    """Beyond this condition number a solution keeps less than one correct digit."""
    return 0.1 / torch.finfo(b.dtype).eps


def condition_estimate(A: Tensor, LU: Tensor, pivots: Tensor, steps: int = 3) -> Tensor:
    """‖A‖ ‖A⁻¹‖ from below, ``(*batch,)``: inverse iteration with AᵀA, a few triangular solves on the factors."""
    v = torch.ones_like(A[..., :1]) / max(A.shape[-1], 1) ** 0.5
    for _ in range(steps):
        w = torch.linalg.lu_solve(LU, pivots, v)
        v = torch.linalg.lu_solve(LU, pivots, w, adjoint=True)
        inverse_norm = torch.linalg.vector_norm(v, dim=(-2, -1), keepdim=True).sqrt()  # v = (AᵀA)⁻¹ unit vector
        v = v / inverse_norm**2
    return torch.linalg.matrix_norm(A) * inverse_norm[..., 0, 0]


def cg(
    operator: LinearOperator,
    b: Tensor,
    *,
    tolerance: float | None = None,
    max_iterations: int = 1000,
    on_failure: Literal["raise", "return"] = "raise",
) -> Tensor:
    """Conjugate gradients for symmetric positive definite A; only products with A are used.

    Stops each element at ‖A x − b‖ ≤ tolerance · ‖b‖ (by default 1e-10 in float64, 1e-5 in float32), or with
    ``on_failure="return"`` after ``max_iterations`` wherever it then is.

    Raises:
        SolverError: some element met a direction of non-positive curvature or did not reach its tolerance.
    """
    _check_system(operator, b, tolerance)
    check_count("max_iterations", max_iterations)
    check_option("on_failure", on_failure, ("raise", "return"))
    target = _target(b, tolerance)
    x = torch.zeros_like(b)
    r = b.clone()  # residual b − A x
    p = r
    rr = dot(r, r, keepdim=True)
    curved = torch.ones_like(rr, dtype=torch.bool)
    for _ in range(max_iterations):
        running = curved & (rr.sqrt() > target)
        if not running.any():
            break
        Ap = operator.matvec(p)
        curvature = dot(p, Ap, keepdim=True)
        curved = curved & ~(running & (curvature <= 0))
        step = torch.where(running & curved, rr / curvature, 0)
        x = x + step * p
        r = r - step * Ap
        rr_new = dot(r, r, keepdim=True)
        p = torch.where(running, r + rr_new / torch.where(rr > 0, rr, 1) * p, p)
        rr = rr_new
    if on_failure == "raise":
        if not curved.all():
            raise SolverError(
                "conjugate gradients met a direction of non-positive curvature: the matrix is not positive definite.",
                failed_indices(~curved.squeeze(-1)),
            )
        _raise_unsolved("conjugate gradients", rr.sqrt(), target, max_iterations)
    return x


def gmres(
    operator: LinearOperator, b: Tensor, *, tolerance: float | None = None, restart: int = 50, max_restarts: int = 20
) -> Tensor:
    """GMRES(restart) for any nonsingular A (Saad & Schultz 1986); only products with A are used.

    Each cycle builds an orthonormal basis V of the Krylov space (modified Gram–Schmidt, A V_k = V_{k+1} H) and takes
    the x in it with the least ‖A x − b‖. Stops at ‖A x − b‖ ≤ tolerance · ‖b‖ as :func:`cg` does.

    Raises:
        SolverError: some element did not reach its tolerance.
    """
    _check_system(operator, b, tolerance)
    check_count("restart", restart, least=1)
    check_count("max_restarts", max_restarts)
    target = _target(b, tolerance)
    x = torch.zeros_like(b)
    for _ in range(max_restarts):
        r = b - operator.matvec(x)
        if not (r.norm(dim=-1, keepdim=True) > target).any():
            break
        V, H = _arnoldi(operator, r, min(restart, b.shape[-1]))
        rhs = torch.zeros_like(H[..., :1])
        rhs[..., 0, :] = r.norm(dim=-1, keepdim=True)
        coefficients = torch.linalg.pinv(H) @ rhs  # small, and rank-deficient where the space closed early
        x = x + (V[..., :-1] @ coefficients).squeeze(-1)
    r = b - operator.matvec(x)
    _raise_unsolved("GMRES", r.norm(dim=-1, keepdim=True), target, restart * max_restarts)
    return x


def _check_system(operator: object, b: Tensor, tolerance: object) -> None:
    check_kind("operator", operator, LinearOperator, "a LinearOperator")
    check_floating("b", b)
    if b.ndim == 0:
        raise ValueError("b must have shape (*batch, n), got ()")
    check_limits(tolerance, None)


def _arnoldi(operator: LinearOperator, r: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Orthonormal V ``(*batch, n, k+1)`` spanning r, A r, … and the Hessenberg H ``(*batch, k+1, k)``: A V_k = V H."""
    V = [unit(r)]
    H = r.new_zeros(*r.shape[:-1], k + 1, k)
    for j in range(k):
        w = operator.matvec(V[j])
        size = w.norm(dim=-1, keepdim=True)
        for i, v in enumerate(V):
            H[..., i, j] = dot(v, w)
            w = w - dot(v, w, keepdim=True) * v
        # What is left of w may be rounding only: the Krylov space is closed and there is no next direction.
        left = w.norm(dim=-1, keepdim=True)
        w = torch.where(left > 10 * torch.finfo(w.dtype).eps * size, w, 0)
        H[..., j + 1, j] = w.norm(dim=-1)
        V.append(unit(w))
    return torch.stack(V, dim=-1), H


def _target(b: Tensor, tolerance: float | None) -> Tensor:
    if tolerance is None:
        tolerance = 1e-10 if b.dtype == torch.float64 else 1e-5
    return tolerance * b.norm(dim=-1, keepdim=True)


def _raise_unsolved(method: str, residual: Tensor, target: Tensor, iterations: int) -> None:
    unsolved = (residual > target).squeeze(-1)
    if unsolved.any():
        worst = (residual - target).max().item()
        raise SolverError(
            f"{method} did not reach its tolerance in {iterations} iterations (residual {worst:.1e} above it).",
            failed_indices(unsolved),
        )
