"""Why a quadratic program has no solution: certificates of infeasibility and of unboundedness.

A QP that did not converge is solved again with elastic constraints and a small ridge, which always has exactly one
solution. What it cost to be feasible, and how far the solution ran, are the two certificates:

    infeasible:  λ ≥ 0 and ν with Aᵀν + Gᵀλ = 0 and bᵀν + hᵀλ < 0           (Farkas)                (1)
    unbounded:   d with Qd = 0, Ad = 0, Gd ≤ 0 and pᵀd < 0                                         (2)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...solution import SolverError, failed_indices
from .interior import interior_point
from .kkt import QP, largest, mul
from .scaling import equilibrate

ELASTIC = 1e-7
CERTIFICATE = 1e-3  # how small a zero of (1) and (2) is, relative to its negative number


@dataclass(frozen=True)
class Diagnosis:
    """Which of the failed elements are infeasible and which are unbounded, ``(N,)`` each."""

    infeasible: Tensor
    unbounded: Tensor

    def raise_for(self, failed: Tensor, batch: torch.Size, error: Tensor, tolerance: float) -> None:
        """Raise for the failed elements ``(all N,)``, naming those of the first kind there are."""
        kinds = (
            (self.infeasible, "infeasible: no y satisfies Ay = b and Gy ≤ h (certified)."),
            (self.unbounded, "unbounded: the objective falls for ever along a feasible direction (certified)."),
        )
        for kind, reason in kinds:
            if kind.any():
                where = torch.zeros_like(failed).masked_scatter(failed, kind)
                raise SolverError(f"quadratic program {reason}", failed_indices(where.reshape(batch)))
        worst = error[failed].nan_to_num(nan=torch.inf).max().item()
        raise SolverError(
            f"the quadratic program did not reach a KKT residual of {tolerance:.1e} (it is {worst:.1e}).",
            failed_indices(failed.reshape(batch)),
        )


def diagnose(qp: QP, size: int, max_iterations: int) -> Diagnosis:
    """Look for the certificates (1) and (2) of every element."""
    scaling = equilibrate(qp)
    qp = qp if scaling is None else scaling.apply(qp)
    ridge = ELASTIC * torch.eye(qp.Q.shape[-1], dtype=qp.p.dtype, device=qp.p.device)
    softened = replace(qp, Q=qp.Q + ridge, elastic=qp.p.new_full((1, 1, 1), ELASTIC))
    point, _, _ = interior_point(softened, size, 1e-6, max_iterations)

    gain = -((qp.b * point.nu).sum((1, 2)) + (qp.h * point.lam).sum((1, 2)))
    zero = largest(mul(qp.A.mT, point.nu) + mul(qp.G.mT, point.lam))
    infeasible = (gain > 0) & (zero <= CERTIFICATE * gain)

    fall = -(qp.p * point.y).sum((1, 2))
    uphill = mul(qp.G, point.y).clamp_min(0)
    moved = torch.stack([largest(v) for v in (mul(qp.Q, point.y), mul(qp.A, point.y), uphill)]).amax(0)
    return Diagnosis(infeasible, ~infeasible & (fall > 0) & (moved <= CERTIFICATE * fall))
