"""Batches of any shape, and the flat ones that the algorithms of quadratic programs work on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...solution import SolverError, failed_indices
from .kkt import QP, Step, solve_exactly
from .scaling import equilibrate

EVENT_DIMS = (2, 1, 2, 1, 2, 1)  # of Q, p, A, b, G, h


def flatten(data: Sequence[Tensor], batch: torch.Size, elastic: Tensor) -> QP:
    """One batch dimension, 1 for what is shared by all; symmetric Q; rows with infinite h become 0ᵀy ≤ 1."""
    flat = []
    for t, dims in zip(data, EVENT_DIMS, strict=True):
        event = t.shape[t.ndim - dims :]
        shared = t.shape[: t.ndim - dims].numel() == 1
        t = t.reshape(1, *event) if shared else t.expand(*batch, *event).reshape(batch.numel(), *event)
        flat.append((t if dims == 2 else t.unsqueeze(-1)).double())
    Q, p, A, b, G, h = flat
    p = p.expand(batch.numel(), -1, -1)
    free = torch.isinf(h)
    if free.any():
        G, h = torch.where(free, 0, G), torch.where(free, 1, h)
    elastic = elastic.expand(*batch, 1).reshape(batch.numel(), 1, 1) if elastic.any() else p.new_zeros(1, 1, 1)
    return QP((Q + Q.mT).mul_(0.5), p, A, b, G, h, elastic.double())


class KKTSystem:
    """A batch of systems (2) of :mod:`.qp.kkt`, and the way from a cotangent to their right-hand sides and back.

    Batch dimensions that only the right-hand side has (a vmapped cotangent) become columns, which share the
    factorisation. The arithmetic is in float64.
    """

    def __init__(self, data: Sequence[Tensor], elastic: Tensor, *batches: torch.Size):
        dims = zip(data, EVENT_DIMS, strict=True)
        self.batch = torch.broadcast_shapes(*batches, *(t.shape[:-d] for t, d in dims))
        self.qp = flatten(data, self.batch, elastic)
        self.sizes = [t.shape[-2] for t in (self.qp.p, self.qp.b, self.qp.h)]

    def column(self, v: Tensor) -> Tensor:
        """``(*batch, m)`` as ``(N, m, 1)``."""
        return v.expand(*self.batch, -1).reshape(self.batch.numel(), v.shape[-1], 1)

    def columns(self, rhs: Tensor) -> Step:
        order, extra = self._order(rhs)
        columns = rhs.permute(order).reshape(self.batch.numel(), rhs.shape[-1], extra).double()
        return Step(*columns.split(self.sizes, dim=1))

    def restore(self, step: Step, rhs: Tensor) -> Tensor:
        order, _ = self._order(rhs)
        shape = [rhs.shape[i] for i in order]
        return torch.cat(step, dim=1).to(rhs.dtype).reshape(shape).permute([order.index(i) for i in range(rhs.ndim)])

    def solve(self, compliance: Tensor, included: Tensor, r: Step) -> Step:
        """As :func:`.qp.kkt.solve_exactly`, on equilibrated data; raises where the system is singular."""
        step, solved = _equilibrated(self.qp, compliance, included, r)
        # An element already marked NaN stays NaN and is nobody's error.
        failed = ~solved & torch.isfinite(torch.cat(r, dim=1)).all(2).all(1)
        if failed.any():
            raise SolverError(
                "the solution of the quadratic program is not unique, or its active constraints are degenerate: the "
                "derivative is not determined.",
                failed_indices(failed.reshape(self.batch)),
            )
        return step

    def _order(self, rhs: Tensor) -> tuple[list[int], int]:
        """Dimensions of rhs as (batch, entries, columns), and the number of columns."""
        extra = [i for i, size in enumerate(self.batch) if size == 1 and rhs.shape[i] > 1]
        own = [i for i in range(len(self.batch)) if i not in extra]
        return [*own, rhs.ndim - 1, *extra], math.prod(rhs.shape[i] for i in extra)


def _equilibrated(qp: QP, compliance: Tensor, included: Tensor, r: Step) -> tuple[Step, Tensor]:
    scaling = equilibrate(qp)
    if scaling is None:
        return solve_exactly(qp, compliance, included, r)
    compliance = compliance * scaling.g.square() / scaling.c
    step, solved = solve_exactly(scaling.apply(qp), compliance, included, scaling.apply_to_rows(r))
    return scaling.undo_step(step), solved


def linear_equations(
    y: Tensor, nu: Tensor, lam: Tensor, Q: Tensor, p: Tensor, A: Tensor, b: Tensor, G: Tensor, elastic: Tensor
) -> tuple[Tensor, Tensor]:
    """Stationarity Qy + p + Aᵀν + Gᵀλ and the equalities Ay − b − εν, all ``(*batch, ·)``, ε ``(*batch, 1)``."""
    stationarity = batched_product(0.5 * (Q + Q.mT), y) + p + batched_product(A.mT, nu) + batched_product(G.mT, lam)
    return stationarity, batched_product(A, y) - b - elastic * nu


def batched_product(M: Tensor, v: Tensor) -> Tensor:
    """M v for ``(*batch, k, n)`` and ``(*batch, n)`` with equally many dimensions; a shared M is one matrix product."""
    if M.shape[:-2].numel() == 1:
        return v @ M.reshape(M.shape[-2:]).mT
    return (M * v.unsqueeze(-2)).sum(-1)  # its derivative in M is quicker than that of a batched product
