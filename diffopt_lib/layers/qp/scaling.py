"""Equilibration: change the units of a QP's variables and rows so that its numbers are near 1 (Ruiz 2001)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import or_one
from .program import QP, Point, Step, distances, lower_quartile

FAR = 1e3  # from 1, for the unit of y and the size of the objective
WELL_SCALED = 8.0  # rows and columns with largest entries between 1/8 and 8 are left alone


@dataclass(frozen=True)
class Scaling:
    """y = d ŷ, row i of A times e_i, row i of G times g_i, the objective times c; columns ``(N or 1, ·, 1)``."""

    d: Tensor
    e: Tensor
    g: Tensor
    c: Tensor

    def apply(self, qp: QP) -> QP:
        return QP(
            Q=self.c * self.d * qp.Q * self.d.mT,
            p=self.c * self.d * qp.p,
            A=self.e * qp.A * self.d.mT,
            b=self.e * qp.b,
            G=self.g * qp.G * self.d.mT,
            h=self.g * qp.h,
            elastic=qp.elastic,
        )

    def apply_to_rows(self, r: Step) -> Step:
        """Right-hand sides of eq. (2) of :mod:`.qp.kkt`."""
        return Step(self.c * self.d * r.y, self.e * r.equality, self.g * r.inequality)

    def undo_step(self, step: Step) -> Step:
        return Step(self.d * step.y, self.e * step.equality / self.c, self.g * step.inequality / self.c)

    def scale(self, point: Point) -> Point:
        return Point(point.y / self.d, point.nu * self.c / self.e, point.lam * self.c / self.g, point.s * self.g)

    def undo(self, point: Point) -> Point:
        return Point(self.d * point.y, self.e * point.nu / self.c, self.g * point.lam / self.c, point.s / self.g)


class Problem(NamedTuple):
    """A batch of programs as they were given and in good units."""

    qp: QP
    scaling: Scaling | None
    scaled: QP

    @classmethod
    def of(cls, qp: QP, scaling: Scaling | None) -> Problem:
        return cls(qp, scaling, qp if scaling is None else scaling.apply(qp))

    def undo(self, point: Point) -> Point:
        return point if self.scaling is None else self.scaling.undo(point)


def equilibrate(qp: QP, rounds: int = 15) -> Scaling | None:
    """The scaling that brings every row and column of [Q Aᵀ Gᵀ; A 0 0; G 0 0] near 1; None if they are there.

    It depends on the matrices alone (c apart), so that matrices shared by the batch stay shared. None too with elastic
    constraints, whose violations are compared with each other in the units of the caller.
    """
    if qp.elastic.any():
        return None
    Q, A, G = qp.Q, qp.A, qp.G
    d, e, g = (torch.ones_like(M[..., :1]) for M in (Q, A, G))
    for _ in range(rounds):
        column = torch.maximum(torch.maximum(_columns(Q), _columns(A)), _columns(G))
        norms = (column, _columns(A.mT), _columns(G.mT))
        if all(_near_one(norm) for norm in norms):
            break
        d, e, g = (x / or_one(norm).sqrt() for x, norm in zip((d, e, g), norms, strict=True))
        Q, A, G = d * qp.Q * d.mT, e * qp.A * d.mT, g * qp.G * d.mT
    unit, c = _sizes(Q, d * qp.p, e * qp.b, g * qp.h)
    d, e, g, c = unit * d, e / unit, g / unit, c / unit.square()
    unchanged = all((x == 1).all() for x in (d, e, g, c))
    return None if unchanged else Scaling(d, e, g, c)


def _sizes(Q: Tensor, p: Tensor, b: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The unit of y that makes usual entries of b and h 1, and the factor of the objective that then makes usual
    entries of p 1, or those of Q if that is smaller; each 1 unless it is far from it.

    A few large entries, as of walls that are out of reach or of slacks that must not be used, do not count: next to
    them everything else would drown.
    """
    one = p.new_ones(1, 1, 1)
    if all(_mostly_near_one(v) for v in (_columns(Q), p, torch.cat([v.expand(len(p), -1, 1) for v in (b, h)], dim=1))):
        return one, one
    curvature, slope = _columns(Q).amax(-2, keepdim=True), lower_quartile(p.abs())
    reach = lower_quartile(distances(b, h))
    reach = torch.where(reach > 0, reach, torch.where(curvature > 0, slope / curvature, 1))
    unit = _unless_near_one(reach)
    c = torch.minimum(1 / curvature, unit / slope)
    return unit, _unless_near_one(torch.where(torch.isfinite(c), c, 1))


def _mostly_near_one(v: Tensor) -> bool:
    """Whether no entry is large, and three quarters of each element's are not small: the quick way to say that all is
    well."""
    if not v.shape[-2]:
        return True
    v = v.abs()
    return bool(((v > 1 / FAR).double().mean(-2) >= 0.75).all() and (v <= FAR).all())


def _unless_near_one(size: Tensor) -> Tensor:
    far = ((size > FAR) | (size < 1 / FAR)) & (size > 0)
    return torch.where(far, size, 1)


def _columns(M: Tensor) -> Tensor:
    """The largest entry of every column, as a column ``(N, n, 1)``."""
    if M.shape[-2] == 0:
        return M.new_zeros(M.shape[0], M.shape[-1], 1)
    return M.abs().amax(-2).unsqueeze(-1)


def _near_one(norm: Tensor) -> bool:
    return bool((((norm < WELL_SCALED) & (norm > 1 / WELL_SCALED)) | (norm == 0)).all())
