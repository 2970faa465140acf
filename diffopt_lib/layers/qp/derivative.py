"""The derivative of a quadratic program's solution: what is zero there, and linear systems with its Jacobian.

At the solution the active inequalities a = {i: λᵢ > sᵢ} are known, and z = (y, ν, λ) is the root of

    R = ( Qy + p + Aᵀν + Gᵀλ,   Ay − b,   Gᵢy − hᵢ for i ∈ a,   −λᵢ for i ∉ a )                       (1)

Source: OptNet (Amos & Kolter 2017), eqs. 6–8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...batch.columns import as_columns
from ...batch.products import contract, times_columns
from ...batch.rows import relay
from ...batch.shapes import flatten_whole
from ...linear import LinearOperator
from ...solution import SolverError, failed_indices
from .kkt import solve_exactly, solve_sturdily
from .program import EVENT_DIMS, QP, Step, flatten
from .rounding import undo_single_precision
from .scaling import Scaling, equilibrate


def kkt_residual(
    z: Tensor,
    Q: Tensor,
    p: Tensor,
    A: Tensor,
    b: Tensor,
    G: Tensor,
    h: Tensor,
    active: Tensor,
    elastic: Tensor,
) -> Tensor:
    """Eq. (1) for z = (y, ν, λ), all with the same number of batch dimensions; elastic ``(*batch, 1)``."""
    y, nu, lam = z.split((p.shape[-1], b.shape[-1], h.shape[-1]), dim=-1)
    stationarity, equality = linear_equations(y, nu, lam, Q, p, A, b, G, elastic)
    inequality = torch.where(active, contract(G, y) - torch.where(active, h, 0) - elastic * lam, -lam)
    return torch.cat([stationarity, equality, inequality], dim=-1)


def solve_kkt(operator: LinearOperator, rhs: Tensor, kept: Kept) -> Tensor:
    """D_z R w = rhs, or its transpose, for the residual (1).

    With the rows of inactive inequalities eliminated both are the symmetric system (2) of :mod:`.qp.kkt`.
    """
    _, *data, active, elastic = operator.parameters
    system = KKTSystem(kept, data, elastic, active.shape[:-1])
    G, active = system.qp.G, system.column(active)
    r, restore = system.columns(rhs)
    inactive = torch.where(active, 0, -r.inequality)
    if not operator.transposed:
        r = r._replace(y=r.y - times_columns(G.mT, inactive))
    step = system.solve(system.qp.elastic, active, r._replace(inequality=active * r.inequality))
    lam = inactive if not operator.transposed else torch.where(active, 0, times_columns(G, step.y) + inactive)
    return restore(step._replace(inequality=torch.where(active, step.inequality, lam)))


def linear_equations(
    y: Tensor, nu: Tensor, lam: Tensor, Q: Tensor, p: Tensor, A: Tensor, b: Tensor, G: Tensor, elastic: Tensor
) -> tuple[Tensor, Tensor]:
    """Stationarity Qy + p + Aᵀν + Gᵀλ and the equalities Ay − b − εν, all ``(*batch, ·)``, ε ``(*batch, 1)``."""
    stationarity = contract(0.5 * (Q + Q.mT), y) + p + contract(A.mT, nu) + contract(G.mT, lam)
    return stationarity, contract(A, y) - b - elastic * nu


class Kept:
    """The flat program that the forward pass made of its tensors and its scaling: the backward pass of the same tensors
    finds them here."""

    def __init__(self) -> None:
        self.data: tuple[Tensor, ...] = ()
        self.qp: QP | None = None
        self.scaling: Scaling | None = None

    def program(self, data: Sequence[Tensor], batch: torch.Size, elastic: Tensor) -> tuple[QP, Scaling | None]:
        """The program with these data, flat and not scaled, and the scaling it needs."""
        if self.qp is not None and len(self.qp.p) == batch.numel() and self._are_kept(data) and not elastic.any():
            return self.qp, self.scaling
        qp = flatten(data, batch, elastic)
        if data[0].dtype == torch.float32:
            qp = undo_single_precision(qp)
        scaling = equilibrate(qp)
        if self.qp is None:
            self.data, self.qp, self.scaling = tuple(data), qp, scaling
        return qp, scaling

    def _are_kept(self, data: Sequence[Tensor]) -> bool:
        # Autograd sees to it that a tensor which it saved was not overwritten in between.
        return all(
            old.data_ptr() == new.data_ptr() and old.shape == new.shape and old.stride() == new.stride()
            for old, new in zip(self.data, data, strict=True)
        )


class KKTSystem:
    """A batch of systems (2) of :mod:`.qp.kkt`, and the way from a cotangent to their right-hand sides and back.

    Batch dimensions that only the right-hand side has (a vmapped cotangent) become columns, which share the
    factorisation. The arithmetic is in float64.
    """

    def __init__(self, kept: Kept, data: Sequence[Tensor], elastic: Tensor, *batches: torch.Size):
        dims = zip(data, EVENT_DIMS, strict=True)
        self.batch = torch.broadcast_shapes(*batches, *(t.shape[:-d] for t, d in dims))
        self.qp, self.scaling = kept.program(data, self.batch, elastic)
        self.sizes = [t.shape[-2] for t in (self.qp.p, self.qp.b, self.qp.h)]

    def column(self, v: Tensor) -> Tensor:
        """``(*batch, m)`` as ``(N, m, 1)``."""
        return flatten_whole(v, 1, self.batch).unsqueeze(-1)

    def columns(self, rhs: Tensor):
        """The right-hand sides as columns, and the way back from a solution to the shape and dtype of ``rhs``."""
        columns, back = as_columns(rhs, self.batch)

        def restore(step: Step) -> Tensor:
            return back(torch.cat(step, dim=1).to(rhs.dtype))

        return Step(*columns.double().split(self.sizes, dim=1)), restore

    def solve(self, compliance: Tensor, included: Tensor, r: Step) -> Step:
        """As :func:`.qp.kkt.solve_exactly`, on equilibrated data; raises where the system is singular."""
        step, solved = self._solve_scaled(compliance, included, r)
        # An element already marked NaN stays NaN and is nobody's error.
        failed = ~solved & torch.isfinite(torch.cat(r, dim=1)).all(2).all(1)
        if failed.any():
            raise SolverError(
                "the solution of the quadratic program is not unique, or its active constraints are degenerate: the "
                "derivative is not determined.",
                failed_indices(failed.reshape(self.batch)),
            )
        return step

    def _solve_scaled(self, compliance: Tensor, included: Tensor, r: Step) -> tuple[Step, Tensor]:
        scaling = self.scaling
        if scaling is None:
            return _solve(self.qp, compliance, included, r)
        compliance = compliance * scaling.g.square() / scaling.c
        step, solved = _solve(scaling.apply(self.qp), compliance, included, scaling.apply_to_rows(r))
        return scaling.undo_step(step), solved


def _solve(qp: QP, compliance: Tensor, included: Tensor, r: Step) -> tuple[Step, Tensor]:
    """By elimination, and with the whole matrix where that is too badly conditioned."""
    system = (qp, compliance, included, r)
    if len(compliance) != len(r.y):
        system = (qp, compliance.expand(len(r.y), -1, -1), included, r)

    def eliminate(system: tuple[QP, Tensor, Tensor, Step]) -> tuple[Step, Tensor]:
        return solve_exactly(*system)

    def factorise_all(system: tuple[QP, Tensor, Tensor, Step], _: tuple[Step, Tensor]) -> tuple[Step, Tensor]:
        return solve_sturdily(*system)

    attempts: list[Callable[..., tuple[Step, Tensor]]] = [eliminate, factorise_all]
    return relay(system, attempts, lambda found: found[1])
