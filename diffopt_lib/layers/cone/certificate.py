"""Proofs that a cone program has no solution: how one is checked, and how an approximate one is made exact.

    infeasible:  y ∈ K*,  Aᵀy = 0,  bᵀy < 0          unbounded:  −Ax ∈ K,  Px = 0,  cᵀx < 0                     (1)

The checks know nothing of how the certificate was found. They read the program as it was given and allow each equation
to be off by what rounding does to the sum of its terms, so that a perturbation of the data in their last digits makes
it hold. That alone would prove little where bᵀy is itself nearly 0: a feasible x has Σ (Aᵀy)ⱼ xⱼ ≤ bᵀy, which a large x
can achieve as long as Aᵀy is not quite 0. So the equations must also be better than the inequality by a factor FAR:
then |A||x| would have to be FAR times |b| for any x that the certificate overlooks.

Source: Boyd & Vandenberghe, Convex Optimization, 2004, §5.8, for theorems of alternatives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...batch.products import dot, largest, or_one, times
from ...linear import cholesky_
from ..cones.product import Cones, project_rows
from ..cones.slope import linearise
from .program import Program
from .scaling import largest_of_cones

FAR = 1e6
ROUNDS = 10
REGULARISATION = 1e-12
NOTHING = 1e-14


def proves_infeasible(program: Program, y: Tensor, cones: Cones) -> Tensor:
    """Whether y ``(B, m)`` proves that no x has b − Ax in K, ``(B,)``."""
    _, A, b, _ = program
    y, finite = torch.nan_to_num(y, 0, 0, 0), torch.isfinite(y).all(-1)
    outside = project_rows(-y, cones)  # y = Π_{K*}(y) − Π_K(−y)
    off = torch.maximum(
        _relative(times(A.mT, y), times(A.abs().mT, y.abs())), _relative(outside, largest_of_cones(y.abs(), cones))
    )
    return finite & _proven(off, dot(b, y), dot(b.abs(), y.abs()), _rounding(A))


def proves_unbounded(program: Program, x: Tensor, cones: Cones) -> Tensor:
    """Whether x ``(B, n)`` is a direction in which the program improves for ever, ``(B,)``."""
    c, A, _, P = program
    x, finite = torch.nan_to_num(x, 0, 0, 0), torch.isfinite(x).all(-1)
    s = -times(A, x)
    outside = s - project_rows(s, cones)
    off = _relative(outside, largest_of_cones(times(A.abs(), x.abs()), cones))
    if P is not None:
        off = torch.maximum(off, _relative(times(P, x), times(P.abs(), x.abs())))
    return finite & _proven(off, dot(c, x), dot(c.abs(), x.abs()), _rounding(A))


def _relative(left: Tensor, terms: Tensor) -> Tensor:
    """The largest entry of ``left`` relative to what was added up to get it."""
    return largest(torch.where(left == 0, 0, left / terms))


def _rounding(A: Tensor) -> float:
    return 4 * torch.finfo(A.dtype).eps * (A.shape[-2] + A.shape[-1])


def _proven(off: Tensor, value: Tensor, terms: Tensor, rounding: float) -> Tensor:
    margin = -value / or_one(terms)
    return (off <= rounding) & (margin > rounding) & (FAR * off <= margin)


def sharpen_infeasible(program: Program, y: Tensor, cones: Cones) -> Tensor:
    """The certificate nearest to y ``(B, m)``: min ½ ‖y′ − y‖² s.t. Aᵀy′ = 0, bᵀy′ = −1, y′ ∈ K*, by Newton's method
    on its dual, y′ = Π_{K*}(y + Mu) with M = [A b] and Mᵀy′ = (0, −1)."""
    M = torch.cat([program.A.expand(len(y), -1, -1), program.b.unsqueeze(-1)], dim=-1)
    right = torch.zeros_like(torch.cat([program.c, program.c[:, :1]], dim=-1))
    right[:, -1] = -1
    v = y
    for _ in range(ROUNDS):
        near, slope = linearise(v, cones)
        H = M.mT @ slope.D.times(M)
        v = v + times(M, _solve(H, (right - times(M.mT, near)).unsqueeze(-1)).squeeze(-1))
    return linearise(v, cones)[0]


def sharpen_unbounded(program: Program, x: Tensor, cones: Cones) -> Tensor:
    """A direction near x ``(B, n)``: min ½ ‖Π_{K*}(Ax)‖² + ½ ‖Px‖² s.t. cᵀx = −1, by Newton's method. The first is how
    far −Ax is from K."""
    c, A, _, P = program
    for _ in range(ROUNDS):
        y, slope = linearise(times(A, x), cones)
        H, g = A.mT @ slope.D.times(A), times(A.mT, y)
        if P is not None:
            H, g = H + P @ P, g + times(P, times(P, x))
        along, of_c = _solve(H, torch.stack([-g, c], dim=-1)).unbind(-1)
        x = x + along - ((1 + dot(c, x) + dot(c, along)) / dot(c, of_c)).unsqueeze(-1) * of_c
    return x


def rounded(v: Tensor) -> Tensor:
    """v without the entries that are rounding errors of others: an equation that has only such terms needs zeros."""
    return torch.where(v.abs() > NOTHING * largest(v).unsqueeze(-1), v, 0)


def _solve(H: Tensor, right: Tensor) -> Tensor:
    H.diagonal(dim1=-2, dim2=-1).add_(REGULARISATION * (1 + H.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)))
    return torch.cholesky_solve(right, cholesky_(H))
