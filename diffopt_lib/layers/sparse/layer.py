"""Quadratic programs with sparse data as a differentiable layer.

    min ½ xᵀPx + qᵀx  s.t.  Ax + s = b,  sᵢ = 0 for the first e rows,  sᵢ ≥ 0 for the others             (1)

P and A are given by a pattern, which all elements of a batch share, and the values of its entries. Clarabel finds a
start on the CPU, one element after the other; the solution is settled and confirmed by ours (:mod:`.solver`), and its
derivative is that of the optimality conditions (:mod:`.derivative`). Both factorise one sparse matrix, so that time and
memory go with the entries of the factors, and not with the square of the number of variables.

Source: Amos & Kolter, OptNet, 2017, for the derivative; Goulart & Chen, Clarabel, 2024; Vanderbei, Symmetric
quasidefinite matrices, 1995. Chapter: book/2_differentiable/05_cone_programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...autograd.opaque import opaque
from ...batch.shapes import align, flatten_whole
from ...implicit import attach
from ...solution import INFEASIBLE, SOLVED, STUCK, UNBOUNDED, mark_failures, raise_failed
from ...validate import check_finite, check_floating, check_option, check_same_kind
from .derivative import Factorisations, residual, symmetric
from .pattern import Pattern
from .solver import Program, solve

REASONS = {
    INFEASIBLE: "quadratic program infeasible (a combination of its constraints contradicts itself).",
    UNBOUNDED: "quadratic program unbounded: the objective falls for ever along a feasible direction.",
    STUCK: "no convergence: the set of active constraints could not be confirmed.",
}


@dataclass(frozen=True)
class SparseQPSolution:
    """The solution of a batch of sparse quadratic programs, eq. (1).

    Attributes:
        x: minimiser, ``(*batch, n)``.
        y: dual variables of the rows, ``(*batch, m)``: Px + q + Aᵀy = 0, nonnegative for inequalities. Both carry
            gradients.
        converged, iterations, residual: ``(*batch,)``: rounds until the active set was confirmed; the largest violation
            of the optimality conditions, relative to the terms of its row.
        status: ``(*batch,)``, int64: 1 solved, 2 infeasible, 3 unbounded, 4 not confirmed.
    """

    x: Tensor
    y: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor
    status: Tensor


def solve_sparse_qp(
    P: Tensor,
    q: Tensor,
    A: Tensor,
    b: Tensor,
    patterns: tuple[Pattern, Pattern],
    equalities: int,
    *,
    on_failure: Literal["raise", "nan"] = "raise",
) -> SparseQPSolution:
    """Solve (1) for every element of a batch; differentiable in P, q, A and b, at any order.

    The arithmetic is in float64 whatever the dtype of the arguments, which is the dtype of the result.

    Args:
        P: values of the entries of P, ``(*batch, entries)``. Only the symmetric part of P counts; it is positive
            semidefinite on the directions that the constraints leave free.
        q: ``(*batch, n)``.
        A: values of the entries of A, ``(*batch, entries)``.
        b: ``(*batch, m)``. Batch dimensions broadcast against each other.
        patterns: those of P ``(n, n)`` and of A ``(m, n)``.
        equalities: e, how many rows come first that are equations.
        on_failure: ``"raise"``, or ``"nan"`` to mark elements that failed, and their gradients, NaN.

    Raises:
        ValueError: bad shapes, dtypes, NaN or infinite input.
        SolverError: elements that are infeasible, unbounded, or whose active set could not be confirmed; in the
            backward pass, a solution that is not unique.
    """
    check_option("on_failure", on_failure, ("raise", "nan"))
    _check(P, q, A, b, patterns, equalities)
    dtype = q.dtype
    batch, tensors = align(*((name, t.double(), 1) for name, t in (("P", P), ("q", q), ("A", A), ("b", b))))
    factorisations = Factorisations(patterns)
    start = tensors[1].new_zeros(*batch, sum(patterns[1].shape))
    algorithm = partial(_solve, patterns=patterns, equalities=equalities, kept=factorisations, on_failure=on_failure)
    z, active, status, iterations, error = opaque(algorithm, start, *tensors)
    z = attach(partial(residual, patterns), factorisations.solve, z, *tensors, active)
    z = mark_failures(z, status == SOLVED, on_failure).to(dtype)
    x, y = z.split(patterns[1].shape[::-1], dim=-1)
    return SparseQPSolution(x, y, status == SOLVED, iterations, error.to(dtype), status)


def _solve(
    start: Tensor,
    *tensors: Tensor,
    patterns: tuple[Pattern, Pattern],
    equalities: int,
    kept: Factorisations,
    on_failure: str,
) -> tuple[Tensor, ...]:
    """Every element in turn, outside the graph; a sparse factorisation knows no batch."""
    batch, device = start.shape[:-1], start.device
    P, q, A, b = (flatten_whole(t, 1, batch).cpu().numpy() for t in tensors)
    of_P, of_A = patterns
    points = []
    for i in range(len(q)):
        program = Program(symmetric(of_P.matrix(P[i])), q[i], of_A.matrix(A[i]), b[i], equalities)
        points.append(solve(program, kept, i, (P[i], A[i])))
    status = torch.tensor([point.status for point in points], dtype=torch.int64, device=device).reshape(batch)
    if on_failure == "raise":
        raise_failed(status, REASONS)

    def gather(parts: list[np.ndarray], size: int, dtype: torch.dtype) -> Tensor:
        flat = torch.as_tensor(np.array(parts).reshape(-1, size), dtype=dtype, device=device)
        return flat.reshape(*batch, size)

    z = gather([np.concatenate([point.x, point.y]) for point in points], start.shape[-1], torch.float64)
    active = gather([point.active for point in points], of_A.shape[0], torch.bool)
    rounds = torch.tensor([point.rounds for point in points], dtype=torch.int64, device=device).reshape(batch)
    error = torch.tensor([point.error for point in points], dtype=torch.float64, device=device).reshape(batch)
    return z, active, status, rounds, error


def _check(P: Tensor, q: Tensor, A: Tensor, b: Tensor, patterns: tuple[Pattern, Pattern], equalities: int) -> None:
    of_P, of_A = patterns
    m, n = of_A.shape
    if of_P.shape != (n, n):
        raise ValueError(f"patterns must be of P (n, n) and A (m, n), got {of_P.shape} and {of_A.shape}")
    if not 0 <= equalities <= m:
        raise ValueError(f"equalities must be from 0 to {m}, got {equalities}")
    named = (("P", P, len(of_P.rows)), ("q", q, n), ("A", A, len(of_A.rows)), ("b", b, m))
    for name, t, size in named:
        check_floating(name, t)
        if t.ndim < 1 or t.shape[-1] != size:
            raise ValueError(f"{name} must have shape (*batch, {size}), got {tuple(t.shape)}")
        check_finite(name, t)
    check_same_kind("q", q, [(name, t) for name, t, _ in named])
