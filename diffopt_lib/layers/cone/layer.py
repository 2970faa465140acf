"""Cone programs as a differentiable layer.

    min cᵀx  s.t.  Ax + s = b, s ∈ K;      dual:  max −bᵀy  s.t.  Aᵀy + c = 0, y ∈ K*                     (1)

The solver is an interior point method (:mod:`.cone.interior`). Its result is polished on the residual map
(:mod:`.cone.derivative`),

    R(x, v) = (Aᵀy + c,  Ax + s − b) = 0,      y = Π_{K*}(v),  s = y − v                               (2)

to which the implicit function theorem then applies: D_θ(x, v) = −(D R)⁻¹ D_θ R, and y and s follow by differentiating
the projection. That is the derivative of Agrawal et al. (2019), with the homogeneous variable τ held at 1.

Where the solution is on a kink of the projection (a constraint that is active with multiplier zero), there is no
derivative; (2) then gives that of one side, as ReLU does at 0.

Chapter: book/2_differentiable/05_cone_programs. Source: Agrawal, Barratt, Boyd, Busseti & Moursi, Differentiating
through a cone program, 2019; Amos, thesis, 2019, §7.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ...autograd.opaque import opaque
from ...autograd.precision import full_precision
from ...batch.shapes import align_batch
from ...implicit import attach
from ...solution import SolverError, failed_indices, mark_failures
from ...validate import check_finite, check_floating, check_option, check_same_kind
from ..cones.product import Cones, project_rows
from .derivative import refine, residual_map, solve_derivative
from .embedding import INFEASIBLE, RUNNING, SOLVED, STUCK, UNBOUNDED, begin
from .interior import follow
from .program import Program, kkt_residual
from .scaling import Scaling, equilibrate

# The path is left for polishing where the residual is EARLY times the tolerance, if that makes it as much smaller.
EARLY = 1e3

REASONS = {
    INFEASIBLE: "the cone program is infeasible (a y in K* has Aᵀy = 0 and bᵀy < 0).",
    UNBOUNDED: "the cone program is unbounded (an x has −Ax in K and cᵀx < 0).",
    STUCK: "no convergence to the tolerance",
}


@dataclass(frozen=True)
class ConeSolution:
    """The solution of a batch of cone programs, eq. (1).

    Attributes:
        x: minimiser, ``(*batch, n)``.
        y: dual variables in K*, ``(*batch, m)``.
        s: slack b − Ax in K, ``(*batch, m)``.
        value: cᵀx, ``(*batch,)``. These four carry gradients.
        converged, iterations, residual: ``(*batch,)``; the residual is the largest violation of the optimality
            conditions, each relative to 1 + the size of its data.
        status: ``(*batch,)``, int64: 1 solved, 2 infeasible, 3 unbounded, 4 not converged.
        infeasible_because: y in K* with Aᵀy = 0 and bᵀy = −1 where the status is 2, ``(*batch, m)``, NaN elsewhere.
        unbounded_because: x with −Ax in K and cᵀx = −1 where the status is 3, ``(*batch, n)``, NaN elsewhere.
    """

    x: Tensor
    y: Tensor
    s: Tensor
    value: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor
    status: Tensor
    infeasible_because: Tensor
    unbounded_because: Tensor


@full_precision
def solve_cone(
    c: Tensor,
    A: Tensor,
    b: Tensor,
    cones: Cones,
    *,
    tolerance: float = 1e-8,
    max_iterations: int = 100,
    on_failure: Literal["raise", "nan"] = "raise",
    singular: Literal["raise", "least_norm"] = "raise",
    init: ConeSolution | None = None,
) -> ConeSolution:
    """Solve (1) for every element of a batch; differentiable in c, A and b, twice where the projection is.

    The arithmetic is in float64 whatever the dtype of the arguments, which is the dtype of the result.

    Args:
        c: ``(*batch, n)``.
        A: ``(*batch, m, n)``.
        b: ``(*batch, m)``. Batch dimensions broadcast against each other; a shared A is not copied.
        cones: what the m rows of b − Ax have to lie in.
        tolerance: on ``residual``. The solution is usually polished to some 1e-14.
        max_iterations: of the path; 5 to 12 are usual.
        on_failure: ``"raise"``, or ``"nan"`` to mark elements that failed, and their gradients, NaN.
        singular: what the backward pass does where the derivative is not determined: ``"raise"``, or ``"least_norm"``
            for the least-norm solution of its linear system, with a warning. That one is right in the directions that
            keep all active constraints active, which are all there are if only some multipliers fail to be unique.
        init: a solution of a similar program. At the solution it costs at most one iteration; where it does not lead to
            one in a few Newton steps, the path is followed from its beginning.

    Raises:
        ValueError: bad shapes, dtypes, NaN or infinite input.
        SolverError: elements that are infeasible, unbounded, or did not converge, told apart; in the backward pass, a
            solution that is not unique or is degenerate.
    """
    check_option("on_failure", on_failure, ("raise", "nan"))
    check_option("singular", singular, ("raise", "least_norm"))
    _check(c, A, b, cones)
    dtype = c.dtype
    n, m = A.shape[-1], A.shape[-2]
    batch = torch.broadcast_shapes(c.shape[:-1], A.shape[:-2], b.shape[:-1])
    c, A, b = (align_batch(t.double(), dims, len(batch)) for t, dims in ((c, 1), (A, 2), (b, 1)))
    start = torch.zeros(*batch, n + m, dtype=torch.float64, device=A.device)
    if init is not None:
        start = torch.cat([init.x, init.y - init.s], dim=-1).detach().double().expand(*batch, n + m)

    def algorithm(start, c, A, b):
        return _solve(start, c, A, b, cones, init is not None, tolerance, max_iterations, on_failure)

    residual_of = partial(_residual, cones)
    z, near, gap, status, iterations, residual, infeasible_because, unbounded_because = opaque(
        algorithm, start, c, A, b
    )
    converged = status == SOLVED
    z = attach(residual_of, partial(solve_derivative, cones=cones, singular=singular), z, c, A, b)
    x, v = z.split((n, m), dim=-1)
    y = v + project_rows(-v, cones, near) + gap
    x, y, s = (mark_failures(t, converged, on_failure).to(dtype) for t in (x, y, y - v))
    return ConeSolution(
        x,
        y,
        s,
        (c.to(dtype) * x).sum(-1),
        converged,
        iterations,
        residual.to(dtype),
        status,
        infeasible_because.to(dtype),
        unbounded_because.to(dtype),
    )


def _residual(cones: Cones, z: Tensor, c: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """Eq. (2) for z = (x, v)."""
    n = A.shape[-1]
    return residual_map(z[..., :n], z[..., n:], c, A, b, cones)


def _solve(
    start: Tensor,
    c: Tensor,
    A: Tensor,
    b: Tensor,
    cones: Cones,
    warm: bool,
    tolerance: float,
    max_iterations: int,
    on_failure: str,
) -> tuple[Tensor, ...]:
    """The algorithm on plain tensors with aligned batch dimensions.

    Returns z = (x, v), the slack s and what it is away from the projection of −v (0 after polishing), the status, the
    iterations, the residual, and the two certificates.
    """
    batch, (m, n) = start.shape[:-1], A.shape[-2:]
    program = _flatten(c, A, b, batch)
    scaled, scaling = equilibrate(program, cones)
    x, v = start.reshape(batch.numel(), n + m).split((n, m), dim=-1)
    y = v + project_rows(-v, cones)
    s = y - v
    status = torch.full((len(x),), RUNNING, device=x.device)
    iterations = torch.zeros_like(status)
    if warm:
        x, y, s, iterations = _polish(program, scaled, scaling, cones, x, y, s)
        status[kkt_residual(program, x, y, s) <= tolerance] = SOLVED
    cold = status == RUNNING
    x, y, s = x.clone(), y.clone(), s.clone()
    parts = (program.select(cold), scaled.select(cold), scaling.select(cold))
    x[cold], y[cold], s[cold], status[cold], steps = _follow_path(*parts, cones, tolerance, max_iterations)
    iterations[cold] += steps
    residual = kkt_residual(program, x, y, s)
    if on_failure == "raise":
        _raise_failed(status.reshape(batch), residual.reshape(batch))

    infeasible_because = torch.where((status == INFEASIBLE)[:, None], y, torch.nan)
    unbounded_because = torch.where((status == UNBOUNDED)[:, None], x, torch.nan)
    solved = (status == SOLVED)[:, None]
    x, y, s = (torch.where(solved, t, 0) for t in (x, y, s))
    v = y - s
    gap = s - project_rows(-v, cones, s)
    results = (torch.cat([x, v], -1), s, gap, status, iterations, residual, infeasible_because, unbounded_because)
    return tuple(t.reshape(batch + t.shape[1:]) for t in results)


def _follow_path(
    program: Program, scaled: Program, scaling: Scaling, cones: Cones, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(x, y, s), the status and the iterations of the path, from its beginning to where polishing succeeds: mostly soon
    after it has come near; else from its end, within the tolerance."""
    point = begin(scaled, cones)
    x, y, s = point.x.clone(), point.y.clone(), point.s.clone()
    iterations = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    status = torch.full_like(iterations, RUNNING)
    for target, enough in ((EARLY * tolerance, tolerance / EARLY), (tolerance, tolerance)):
        rows = (status == RUNNING).nonzero().squeeze(-1)
        if not len(rows):
            break
        parts = (program.select(rows), scaled.select(rows), scaling.select(rows))
        limit = max_iterations - iterations[rows]
        point, here, now, steps = follow(*parts, cones, point, target, tolerance, limit)
        ended = (now == SOLVED) | (now == STUCK)
        *polished, _ = _polish(*parts, cones, *here)
        here = [torch.where(ended[:, None], new, old) for new, old in zip(polished, here, strict=True)]
        good = kkt_residual(parts[0], *here) <= enough
        now = torch.where(ended & good, SOLVED, torch.where((now == SOLVED) & ~good, RUNNING, now))
        x[rows], y[rows], s[rows] = here
        status[rows], iterations[rows] = now, iterations[rows] + steps
        point = point.select(now == RUNNING)
    return x, y, s, status, iterations


def _polish(
    program: Program, scaled: Program, scaling: Scaling, cones: Cones, x: Tensor, y: Tensor, s: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x, y, s) refined on the residual map of the scaled program, where that makes the optimality conditions hold
    better, and the Newton steps that it took."""
    *refined, steps = refine(scaled, *scaling.scale(x, y, s), cones)
    new_x, new_y, new_s = scaling.unscale(*refined)
    better = (kkt_residual(program, new_x, new_y, new_s) <= kkt_residual(program, x, y, s))[:, None]
    return torch.where(better, new_x, x), torch.where(better, new_y, y), torch.where(better, new_s, s), steps


def _raise_failed(status: Tensor, residual: Tensor) -> None:
    for kind, reason in REASONS.items():
        failed = status == kind
        if failed.any():
            if kind == STUCK:
                reason = f"no convergence to the tolerance (residual {residual[failed].max().item():.1e})."
            raise SolverError(reason, failed_indices(failed))


def _check(c: Tensor, A: Tensor, b: Tensor, cones: Cones) -> None:
    named = [("c", c, 1), ("A", A, 2), ("b", b, 1)]
    for name, t, dims in named:
        check_floating(name, t)
        if t.ndim < dims:
            raise ValueError(f"{name} must have at least {dims} dimensions, got shape {tuple(t.shape)}")
        check_finite(name, t)
    check_same_kind("c", c, [("A", A), ("b", b)])
    if not isinstance(cones, Cones):
        raise ValueError(f"cones must be a Cones, got {type(cones).__name__}")
    m, n = A.shape[-2:]
    if c.shape[-1] != n or n == 0:
        raise ValueError(f"c must have one entry for each column of A, {n} ≥ 1, got shape {tuple(c.shape)}")
    if m != cones.rows or b.shape[-1] != m:
        raise ValueError(
            f"A and b must have {cones.rows} rows for these cones, got shapes {tuple(A.shape)} and {tuple(b.shape)}"
        )
    try:
        torch.broadcast_shapes(c.shape[:-1], A.shape[:-2], b.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"the batch dimensions of c, A and b must broadcast, got {tuple(c.shape[:-1])}, {tuple(A.shape[:-2])} and "
            f"{tuple(b.shape[:-1])}"
        ) from None


def _flatten(c: Tensor, A: Tensor, b: Tensor, batch: torch.Size) -> Program:
    """The program with one batch dimension; a shared A keeps the size 1 there."""
    m, n = A.shape[-2:]
    B = batch.numel()
    A = A.reshape(1, m, n) if A.shape[:-2].numel() == 1 else A.expand(*batch, m, n).reshape(B, m, n)
    return Program(c.expand(*batch, n).reshape(B, n), A, b.expand(*batch, m).reshape(B, m))
