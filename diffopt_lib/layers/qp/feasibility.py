"""Why a quadratic program has no solution: certificates of infeasibility and of unboundedness.

A QP that did not converge is solved again with elastic constraints and a small ridge, which always has exactly one
solution. What it cost to be feasible, and how far the solution ran, are the two certificates:

    infeasible:  λ ≥ 0 and ν with Aᵀν + Gᵀλ = 0 and bᵀν + hᵀλ < 0           (Farkas)                (1)
    unbounded:   d with Qd = 0, Ad = 0, Gd ≤ 0 and pᵀd < 0                                         (2)
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import largest, times_columns
from ...solution import INFEASIBLE, STUCK, UNBOUNDED
from .interior import interior_point
from .program import QP
from .scaling import Scaling

ELASTIC = 1e-7  # how far, for a multiplier of 1, a constraint gives way
RIDGE = 1e-7  # on Q, so that the elastic program has exactly one solution
ZERO = 1e-3  # how small a zero of (1) and (2) is, relative to its negative number


class Diagnosis(NamedTuple):
    """The status ``(N,)``; (ν, λ) of (1) with bᵀν + hᵀλ = −1, ``(N, k + m, 1)``, and d of (2) with pᵀd = −1,
    ``(N, n, 1)``, NaN where there is none."""

    status: Tensor
    infeasible_because: Tensor
    unbounded_because: Tensor


def diagnose(qp: QP, scaling: Scaling | None, size: int, max_iterations: int) -> Diagnosis:
    """Look for the certificates (1) and (2) of every element."""
    given, qp = qp, qp if scaling is None else scaling.apply(qp)
    ridge = RIDGE * torch.eye(qp.Q.shape[-1], dtype=qp.p.dtype, device=qp.p.device)
    softened = replace(qp, Q=qp.Q + ridge, elastic=qp.p.new_full((1, 1, 1), ELASTIC))
    point, _, _ = interior_point(softened, size, 1e-6, max_iterations)

    gain = -((qp.b * point.nu).sum((1, 2)) + (qp.h * point.lam).sum((1, 2)))
    zero = largest(times_columns(qp.A.mT, point.nu) + times_columns(qp.G.mT, point.lam), (1, 2))
    infeasible = (gain > 0) & (zero <= ZERO * gain)

    fall = -(qp.p * point.y).sum((1, 2))
    uphill = times_columns(qp.G, point.y).clamp_min(0)
    moved = (times_columns(qp.Q, point.y), times_columns(qp.A, point.y), uphill)
    unbounded = ~infeasible & (fall > 0) & (torch.stack([largest(v, (1, 2)) for v in moved]).amax(0) <= ZERO * fall)

    status = torch.where(infeasible, INFEASIBLE, torch.where(unbounded, UNBOUNDED, STUCK))
    point = point if scaling is None else scaling.undo(point)
    multipliers, rows = (
        torch.cat([point.nu, point.lam], dim=1),
        torch.cat([v.expand(size, -1, 1) for v in (given.b, given.h)], dim=1),
    )
    return Diagnosis(status, _normalised(multipliers, rows, infeasible), _normalised(point.y, given.p, unbounded))


def _normalised(proof: Tensor, cost: Tensor, holds: Tensor) -> Tensor:
    """The proof with costᵀproof = −1, NaN where it does not hold."""
    proof = proof / -(cost * proof).sum(1, keepdim=True)
    return torch.where(holds[:, None, None], proof, torch.nan)
