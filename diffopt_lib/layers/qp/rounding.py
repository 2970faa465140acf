"""What rounding to single precision does to a quadratic program, and how it is undone.

A Gram matrix FFᵀ of low rank is no longer positive semidefinite once it is rounded, and marginals that add up to 1 no
longer do: in double precision, taken at its word, the first is unbounded and the second infeasible. Here

- a Q that is indefinite by no more than rounding, in the units where its diagonal is 1, counts as Q + ε diag(Q) with
  an ε of the size of the rounding;
- equations Ay = b whose rows are dependent and that contradict each other by no more than rounding count as Ay = b′
  with the nearest b′ for which they have a solution, in the units where the largest entry of every row of A is 1.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...batch.products import times_columns
from ...batch.rows import only_on
from .program import QP, SMALLEST

SINGLE = torch.finfo(torch.float32).eps
NEGATIVE = 4 * SINGLE  # times n, what an eigenvalue of Q may have below 0
CONTRADICTION = 16 * SINGLE  # relative to the largest entry of b
DEFINITE = 1e-13  # relative to the diagonal of Q: less than that below 0 is rounding in double precision
DEPENDENT = 1e-12  # singular values of A, relative to the largest, and the squares of the pivots that betray them


def undo_single_precision(qp: QP) -> QP:
    """The program that data in single precision stand for."""
    return replace(qp, Q=_semidefinite(qp.Q), b=_consistent(qp.A, qp.b))


def _semidefinite(Q: Tensor) -> Tensor:
    one = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
    diagonal = Q.diagonal(dim1=-2, dim2=-1)
    unit = diagonal.clamp_min(SMALLEST).rsqrt().unsqueeze(-1)
    correlation = torch.where(diagonal.unsqueeze(-1) > 0, unit * Q * unit.mT, Q)

    def lifted(of: tuple[Tensor, Tensor]) -> Tensor:
        Q, correlation = of
        lowest = torch.linalg.eigvalsh(correlation)[:, :1]
        shift = torch.where(lowest >= -NEGATIVE * len(one), len(one) * SINGLE - lowest, 0)
        return Q + torch.diag_embed(shift * Q.diagonal(dim1=-2, dim2=-1))

    indefinite = torch.linalg.cholesky_ex(correlation + DEFINITE * one).info > 0
    return only_on(indefinite, lifted, (Q, correlation), Q)


def _consistent(A: Tensor, b: Tensor) -> Tensor:
    if not A.shape[-2]:
        return b
    unit = 1 / A.abs().amax(-1, keepdim=True).clamp_min(SMALLEST)
    rows = unit * A
    R, info = torch.linalg.cholesky_ex(rows @ rows.mT)
    if (info == 0).all() and (R.diagonal(dim1=-2, dim2=-1) > DEPENDENT**0.5).all():
        return b
    U, S, _ = torch.linalg.svd(rows)
    dependent = torch.ones_like(unit)
    dependent[:, : S.shape[-1], 0] = (DEPENDENT * S[:, :1] >= S).to(S)
    U = U * dependent.mT
    contradiction = times_columns(U, times_columns(U.mT, unit * b))
    most = CONTRADICTION * (unit * b).abs().amax(-2, keepdim=True)
    small = (contradiction.abs() <= most).all(-2, keepdim=True)
    return torch.where(small, b - contradiction / unit, b)
