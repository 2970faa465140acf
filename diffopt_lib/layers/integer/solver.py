"""How (1) of :mod:`.layer` is solved: small boxes point by point, larger ones by relaxation and branch and bound."""

from __future__ import annotations

import torch
from torch import Tensor

from ...solution import INFEASIBLE, SOLVED, STUCK, UNBOUNDED, raise_failed
from ...validate import NO_BOUND
from . import branching, enumeration
from .program import TOLERANCE, Program, residual

EVENT_DIMS = (1, 2, 1, 1, 1)
# A bound this close to an integer, relative to its size, is that integer: 0.29 · 100 is meant to be 29. But not farther
# from it than the second number, or a bound of a billion would move by whole units.
ROUNDING, FARTHEST = {torch.float32: 1e-6, torch.float64: 1e-9}, 1e-3

REASONS = {
    INFEASIBLE: "the integer program is infeasible: no integer point of the box satisfies all constraints.",
    UNBOUNDED: "the integer program is unbounded: the objective falls for ever along a feasible direction.",
    STUCK: "the integer program could not be solved within max_nodes, or HiGHS's solution could not be confirmed.",
}


def solve(
    c: Tensor,
    *data: Tensor,
    dtype: torch.dtype,
    enumerate_up_to: int,
    max_nodes: int,
    on_failure: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y ``(*batch, n)`` and status, nodes and residual ``(*batch,)`` for c with the whole batch and A, b, lower, upper.

    Arguments are in float64, bounds rounded; ``dtype`` is what they came in, which sets the tolerance.
    """
    batch, tolerance, closest = c.shape[:-1], TOLERANCE[dtype], on_failure == "closest"
    program = Program(c, *data)
    if not batch.numel():
        y, status, nodes = c, *2 * (torch.zeros(batch, dtype=torch.int64, device=c.device),)
    elif enumeration.sizes(program).prod() <= enumerate_up_to:
        y, feasible = enumeration.enumerate_points(program, tolerance, closest)
        status, nodes = torch.where(feasible, SOLVED, INFEASIBLE), torch.zeros_like(feasible, dtype=torch.int64)
    else:
        y, status, nodes = branching.branch_and_bound(program, tolerance, max_nodes, closest)
    if on_failure != "nan":
        raise_failed(torch.where(y.isnan().any(-1), status, SOLVED), REASONS)
    return y, status, nodes, residual(program.A, program.b, y)


def round_inwards(lower: Tensor, upper: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The bounds as integers, ±∞ where there is none."""
    return -_rounded_down(-lower, dtype), _rounded_down(upper, dtype)


def _rounded_down(upper: Tensor, dtype: torch.dtype) -> Tensor:
    near = (ROUNDING[dtype] * upper.abs().clamp_min(1)).clamp_max(FARTHEST)
    whole = torch.where((upper - upper.round()).abs() <= near, upper.round(), upper.floor())
    return torch.where(upper >= NO_BOUND, torch.inf, whole) + 0.0
