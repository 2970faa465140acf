"""Cone programs with sparse data as a differentiable layer.

    min ½ xᵀPx + qᵀx  s.t.  Ax + s = b,  s ∈ K                                                      (1)

P and A are given by a pattern, which all elements of a batch share, and the values of its entries. Clarabel finds a
start on the CPU, one element after the other; the solution is settled and confirmed by ours (:mod:`.solver`), and its
derivative is that of the optimality conditions (:mod:`.derivative`). Both factorise one sparse matrix, so that time and
memory go with the entries of the factors, and not with the square of the number of variables. A cone of d rows in which
the solution lies on the boundary counts as a dense block of d rows.

Source: Agrawal, Barratt, Boyd, Busseti & Moursi, Differentiating through a cone program, 2019; Goulart & Chen,
Clarabel, 2024; Vanderbei, Symmetric quasidefinite matrices, 1995. Chapter: book/2_differentiable/05_cone_programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...autograd.opaque import opaque
from ...autograd.precision import full_precision
from ...batch.shapes import align, flatten_whole
from ...implicit import attach
from ...solution import INFEASIBLE, SOLVED, STUCK, UNBOUNDED, mark_failures, raise_failed
from ...validate import check_finite, check_floating, check_option, check_same_kind
from ..cone.derivative import with_projection_derivative
from ..cones.product import Cones
from .derivative import Structure, residual
from .pattern import Pattern
from .solver import Program, solve

REASONS = {
    INFEASIBLE: "the program is infeasible: a combination of its constraints contradicts itself.",
    UNBOUNDED: "the program is unbounded: the objective falls for ever along a feasible direction.",
    STUCK: "no convergence: the optimality conditions could not be confirmed.",
}


@dataclass(frozen=True)
class SparseSolution:
    """The solution of a batch of sparse cone programs, eq. (1).

    Attributes:
        x: minimiser, ``(*batch, n)``.
        y: dual variables in K*, ``(*batch, m)``: Px + q + Aᵀy = 0.
        s: slack b − Ax in K, ``(*batch, m)``. These three carry gradients.
        converged, iterations, residual: ``(*batch,)``: rounds after Clarabel's; the largest violation of the optimality
            conditions, relative to the terms of its row.
        status: ``(*batch,)``, int64: 1 solved, 2 infeasible, 3 unbounded, 4 not confirmed.
    """

    x: Tensor
    y: Tensor
    s: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor
    status: Tensor


@full_precision
def solve_sparse(
    P: Tensor,
    q: Tensor,
    A: Tensor,
    b: Tensor,
    patterns: tuple[Pattern, Pattern],
    cones: Cones,
    *,
    on_failure: Literal["raise", "nan"] = "raise",
) -> SparseSolution:
    """Solve (1) for every element of a batch; differentiable in P, q, A and b, twice where the projection onto K is.

    The arithmetic is in float64 whatever the dtype of the arguments, which is the dtype of the result.

    Args:
        P: values of the entries of P, ``(*batch, entries)``. Only the symmetric part of P counts; it is positive
            semidefinite.
        q: ``(*batch, n)``.
        A: values of the entries of A, ``(*batch, entries)``.
        b: ``(*batch, m)``. Batch dimensions broadcast against each other.
        patterns: those of P ``(n, n)`` and of A ``(m, n)``.
        cones: K.
        on_failure: ``"raise"``, or ``"nan"`` to mark elements that failed, and their gradients, NaN.

    Raises:
        ValueError: bad shapes, dtypes, NaN or infinite input.
        SolverError: elements that are infeasible, unbounded, or could not be confirmed; in the backward pass, a
            solution that is not unique.
    """
    check_option("on_failure", on_failure, ("raise", "nan"))
    _check(P, q, A, b, patterns, cones)
    dtype = q.dtype
    batch, tensors = align(*((name, t.double(), 1) for name, t in (("P", P), ("q", q), ("A", A), ("b", b))))
    structure = Structure(patterns, cones)
    start = tensors[1].new_zeros(*batch, sum(patterns[1].shape))
    algorithm = partial(_solve, structure=structure, on_failure=on_failure)
    z, s, status, iterations, error = opaque(algorithm, start, *tensors)
    z = attach(partial(residual, structure), structure.solve, z, *tensors, s)
    x, v = z.split(patterns[1].shape[::-1], dim=-1)
    y = v + with_projection_derivative(s, v, cones)
    x, y, s = (mark_failures(t, status == SOLVED, on_failure).to(dtype) for t in (x, y, y - v))
    return SparseSolution(x, y, s, status == SOLVED, iterations, error.to(dtype), status)


def _solve(start: Tensor, *tensors: Tensor, structure: Structure, on_failure: str) -> tuple[Tensor, ...]:
    """Every element in turn, outside the graph; a sparse factorisation knows no batch."""
    batch, device = start.shape[:-1], start.device
    P, q, A, b = (flatten_whole(t, 1, batch).cpu().numpy() for t in tensors)
    points = []
    for i in range(len(q)):
        of_P, of_A = structure.matrices(P[i], A[i])
        points.append(solve(Program(i, (P[i], A[i]), of_P, q[i], of_A, b[i], structure)))
    status = torch.tensor([point.status for point in points], dtype=torch.int64, device=device).reshape(batch)
    if on_failure == "raise":
        raise_failed(status, REASONS)

    def gather(parts: list[np.ndarray], size: int) -> Tensor:
        return torch.as_tensor(np.array(parts, dtype=np.float64).reshape(-1, size), device=device).reshape(*batch, size)

    z = gather([np.concatenate([point.x, point.v]) for point in points], start.shape[-1])
    s = gather([point.s for point in points], structure.A.shape[0])
    rounds = torch.tensor([point.rounds for point in points], dtype=torch.int64, device=device).reshape(batch)
    error = torch.tensor([point.error for point in points], dtype=torch.float64, device=device).reshape(batch)
    return z, s, status, rounds, error


def _check(P: Tensor, q: Tensor, A: Tensor, b: Tensor, patterns: tuple[Pattern, Pattern], cones: Cones) -> None:
    of_P, of_A = patterns
    m, n = of_A.shape
    if of_P.shape != (n, n):
        raise ValueError(f"patterns must be of P (n, n) and A (m, n), got {of_P.shape} and {of_A.shape}")
    if cones.rows != m:
        raise ValueError(f"cones must have as many rows as A, {m}, got {cones.rows}")
    named = (("P", P, len(of_P.rows)), ("q", q, n), ("A", A, len(of_A.rows)), ("b", b, m))
    for name, t, size in named:
        check_floating(name, t)
        if t.ndim < 1 or t.shape[-1] != size:
            raise ValueError(f"{name} must have shape (*batch, {size}), got {tuple(t.shape)}")
        check_finite(name, t)
    check_same_kind("q", q, [(name, t) for name, t, _ in named])
