"""Proofs that a quadratic program has no solution, and the routine that checks them.

    infeasible:  λ ≥ 0 and ν with Aᵀν + Gᵀλ = 0 and bᵀν + hᵀλ < 0           (Farkas)                (1)
    unbounded:   d with Qd = 0, Ad = 0, Gd ≤ 0 and pᵀd < 0, and a feasible point                   (2)

A zero is checked on the data as they were given, up to the rounding of what was added up to get it, and a negative
number has to be well beyond its own. What a solver thinks of the program does not enter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...batch.products import largest, or_one, times_columns
from ...batch.rows import only_on
from .program import QP, Point

ZERO = 1e-14  # of what was added up: what counts as 0
NEGATIVE = 1e-9  # of what was added up: how far below 0 a negative sum has to be
DROWNED = 1e-10  # of what was added up: where next to nothing is left of a sum
ROUNDING = torch.finfo(torch.float64).eps
LOST = 1e-5  # of the objective's share, that the rounding of multipliers may be
SUPPORT = 1e-9  # entries of a candidate that are smaller, relative to its largest, are taken for 0


def proves_infeasible(qp: QP, nu: Tensor, lam: Tensor, zero: float = ZERO) -> Tensor:
    """Whether (ν, λ) ``(N, k, 1)`` and ``(N, m, 1)`` satisfy (1), ``(N,)``, where the zero is that of the rounding."""
    A, G = qp.A.mT, qp.G.mT
    balanced = _is_zero(
        times_columns(A, nu) + times_columns(G, lam),
        times_columns(A.abs(), nu.abs()) + times_columns(G.abs(), lam.abs()),
        zero,
    )
    return _gains(qp, nu, lam) & balanced & (lam >= 0).all(1).squeeze(-1)


def proves_unbounded(qp: QP, d: Tensor, zero: float = ZERO) -> Tensor:
    """Whether d ``(N, n, 1)`` satisfies (2) but for the feasible point, ``(N,)``, where the zero is that of the
    rounding."""
    flat, level, downhill = (
        _is_zero(v, times_columns(M.abs(), d.abs()), zero)
        for M, v in (
            (qp.Q, times_columns(qp.Q, d)),
            (qp.A, times_columns(qp.A, d)),
            (qp.G, times_columns(qp.G, d).clamp_min(0)),
        )
    )
    return _is_negative(qp.p * d) & flat & level & downhill


def is_mirage(qp: QP, point: Point) -> Tensor:
    """Whether a point seems to solve a program only because it is so far away that all data drown in its rounding,
    ``(N,)``: but for rounding it proves that there is no solution, or its multipliers are so large that what they leave
    of each other is rounding, which y then follows; or y did not have to go there, and all that it gains is rounding of
    its curvature. Elastic programs have a solution."""
    A, G, y = qp.A, qp.G, point.y
    of_lam = _forces_cancel(qp, point)
    curvature, most = largest(times_columns(qp.Q, y), (1, 2)), largest(qp.Q, (1, 2)) * y.abs().sum((1, 2))
    of_y = _is_negative(qp.p * y) & (curvature <= DROWNED * most) & (most > 0)
    reach = torch.maximum(largest(qp.b, (1, 2)), largest(torch.where(point.s > 0, 0, qp.h), (1, 2)))
    far = reach <= DROWNED * (largest(A, (1, 2)) + largest(G, (1, 2))) * y.abs().sum((1, 2))
    rounded = (ROUNDING * most * y.abs().amax((1, 2)) > (qp.p * y).abs().sum((1, 2))) & (most > 0)
    nowhere = ~qp.b.any(1).squeeze(-1) & (qp.h >= 0).all(1).squeeze(-1)
    suspect = of_lam | of_y | far
    seen_through = only_on(suspect, _is_proved_but_for_rounding, (qp, point), suspect)
    return seen_through | rounded & (far | nowhere)


def _is_proved_but_for_rounding(of: tuple[QP, Point]) -> Tensor:
    qp, at = of
    proved = proves_infeasible(qp, at.nu, at.lam, DROWNED) | proves_unbounded(qp, at.y, DROWNED)
    return proved | _is_drowned(qp, at) | _follows_rounding(qp, at)


def _follows_rounding(qp: QP, point: Point) -> Tensor:
    """Whether the multipliers' rounding alone may do as much along y as the objective does."""
    Q, A, G, y, nu, lam = (t.abs() for t in (qp.Q, qp.A, qp.G, point.y, point.nu, point.lam))
    of_rows = (times_columns(A, y) * nu).sum((1, 2)) + (times_columns(G, y) * lam).sum((1, 2))
    of_objective = (y * (qp.p.abs() + times_columns(Q, y))).sum((1, 2))
    return _forces_cancel(qp, point) & (ROUNDING * of_rows > LOST * of_objective)


def _forces_cancel(qp: QP, point: Point) -> Tensor:
    """Whether there are multipliers, and next to nothing is left of Aᵀν + Gᵀλ. Those of elastic programs may."""
    A, G, nu, lam = qp.A.mT, qp.G.mT, point.nu, point.lam
    left = largest(times_columns(A, nu) + times_columns(G, lam), (1, 2))
    most = largest(A, (1, 2)) * nu.abs().sum((1, 2)) + largest(G, (1, 2)) * lam.sum((1, 2))
    return (left <= DROWNED * most) & (most > 0) & (qp.elastic == 0).flatten()


def _is_drowned(qp: QP, point: Point) -> Tensor:
    """Whether p and the right-hand sides of the rows that hold with equality are all next to nothing beside what is
    added up with them."""
    Q, A, G, y, nu, lam = (t.abs() for t in (qp.Q, qp.A, qp.G, point.y, point.nu, point.lam))
    forces = times_columns(Q, y) + times_columns(A.mT, nu) + times_columns(G.mT, lam)
    given = (qp.p.expand_as(y), qp.b.expand_as(nu), torch.where(point.s > 0, 0, qp.h))
    added = (forces, times_columns(A, y), times_columns(G, y))
    data, size = torch.cat(given, dim=1).abs(), torch.cat(added, dim=1)
    return ((data <= DROWNED * size).all(1) & (data > 0).any(1)).squeeze(-1)


def _gains(qp: QP, nu: Tensor, lam: Tensor) -> Tensor:
    return _is_negative(torch.cat([qp.b * nu, qp.h * lam], dim=1))


def _is_zero(total: Tensor, added: Tensor, zero: float = ZERO) -> Tensor:
    return (total.abs() <= zero * added).all(1).squeeze(-1)


def _is_negative(terms: Tensor) -> Tensor:
    return (terms.sum(1) < -NEGATIVE * terms.abs().sum(1)).squeeze(-1)


@dataclass(frozen=True)
class Candidate:
    """What may become a proof, on a scaled program: λ counts where ``forced``, and d runs along those walls."""

    nu: Tensor
    lam: Tensor
    d: Tensor
    forced: Tensor


def sharpen_multipliers(qp: QP, at: Candidate) -> tuple[Tensor, Tensor]:
    """(ν, λ) next to the candidate that satisfy Aᵀν + Gᵀλ = 0 to the last digit; their zeros stay, λ ≥ 0."""
    trivial = (qp.h >= 0) & ~qp.G.any(-1, keepdim=True)  # 0ᵀy ≤ h, where h is none or may be infinite
    z = torch.cat([at.nu, torch.where(at.forced & ~trivial, at.lam, 0)], dim=1)
    M = torch.cat([qp.A.mT.expand(len(z), -1, -1), qp.G.mT.expand(len(z), -1, -1)], dim=2)
    nu, lam = _into_kernel(M, z).split((qp.A.shape[-2], qp.G.shape[-2]), dim=1)
    return nu, lam.clamp_min(0)


def sharpen_direction(qp: QP, at: Candidate) -> Tensor:
    """d next to the candidate with Qd = 0, Ad = 0 and Gᵢd = 0 at the walls it runs along, to the last digit."""
    M = torch.cat([t.expand(len(at.d), -1, -1) for t in (qp.Q, qp.A, torch.where(at.forced, qp.G, 0))], dim=1)
    return _into_kernel(M, at.d)


def _into_kernel(M: Tensor, z: Tensor) -> Tensor:
    """The nearest point of the kernel of M, in the units of the entries of z; those that are 0 stay 0."""
    if not z.shape[1]:
        return z
    units = torch.where(z.abs() > SUPPORT * z.abs().amax(1, keepdim=True), z.abs(), 0)
    if not M.shape[1]:
        return torch.where(units > 0, z, 0)
    M = torch.nan_to_num(M * units.mT)
    size = M.abs().amax(-1, keepdim=True)
    M = M / or_one(size)
    inverse = torch.linalg.pinv(M, rtol=1e-11)
    z = torch.where(units > 0, z / units, 0)
    for _ in range(3):  # the rounding errors of a projection are gone after the next one
        z = z - times_columns(inverse, times_columns(M, z))
    return units * z
