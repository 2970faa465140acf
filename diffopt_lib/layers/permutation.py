"""Doubly stochastic matrices, and through them permutations (Sinkhorn operator, Gumbel–Sinkhorn, assignments).

    P* = argmax_P  ⟨S, P⟩ + τ H(P)   s.t.   P 1 = a,  Pᵀ 1 = b,  P ≥ 0          H(P) = −Σ P log P    (1)

For a = b = 1 the feasible set is the Birkhoff polytope, whose vertices are the permutation matrices. As τ → 0 the
solution tends to the best of them, or to a mixture of equally good ones; as τ → ∞ to the uniform matrix.

A partial assignment of total mass s gives every row at most a_i and every column at most b_j:

    max_P  ⟨S, P⟩ + τ (H(P) + H(a − P1) + H(b − Pᵀ1))   s.t.   P1 ≤ a,  Pᵀ1 ≤ b,  1ᵀP1 = s,  P ≥ 0      (2)

It is problem (1) for a matrix with one more row and one more column (:mod:`diffopt_lib.balancing.problem`).

How P is found and differentiated: :mod:`diffopt_lib.balancing`.

Source: Mena et al., Learning latent permutations with Gumbel–Sinkhorn networks, 2018, §§ 3–4.
Chapter: book/2_differentiable/07_permutations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..autograd.opaque import opaque
from ..autograd.precision import full_precision
from ..balancing.derivative import kernel, marginal_residual, solve_marginals
from ..balancing.problem import assignment_problem, check_matrices
from ..balancing.solver import guess_from, shifted, solve
from ..batch.shapes import broadcast_batch
from ..implicit import attach
from ..solution import SolverError, failed_indices, mark_failures
from ..validate import check_count, check_kind, check_limits, check_option, per_problem, values_visible


@dataclass(frozen=True)
class AssignmentSolution:
    """The solution of a batch of problems (1) or (2).

    Attributes:
        P: ``(*batch, n, m)``. It alone carries gradients.
        row_potential, column_potential: f ``(*batch, n)`` and g ``(*batch, m)``, for which
            P_ij = a_i b_j exp((S_ij + f_i + g_j)/τ). In problem (2) they have one entry more, of what is left over.
            Only the sums f_i + g_j are determined.
        converged, iterations: ``(*batch,)``.
        residual: the largest relative error of a marginal, ``(*batch,)``.
    """

    P: Tensor
    row_potential: Tensor
    column_potential: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor


@full_precision
def sinkhorn_operator(
    scores: Tensor,
    tau: float | Tensor = 1.0,
    *,
    rows: float | Tensor | None = None,
    columns: float | Tensor | None = None,
    mass: float | Tensor | None = None,
    tolerance: float | None = None,
    max_iterations: int = 500,
    on_failure: Literal["raise", "nan"] = "raise",
    init: AssignmentSolution | None = None,
) -> Tensor:
    """The matrix P* of :func:`solve_assignment`, whose arguments are these; its status is there."""
    return solve_assignment(
        scores,
        tau,
        rows=rows,
        columns=columns,
        mass=mass,
        tolerance=tolerance,
        max_iterations=max_iterations,
        on_failure=on_failure,
        init=init,
    ).P


@full_precision
def solve_assignment(
    scores: Tensor,
    tau: float | Tensor = 1.0,
    *,
    rows: float | Tensor | None = None,
    columns: float | Tensor | None = None,
    mass: float | Tensor | None = None,
    tolerance: float | None = None,
    max_iterations: int = 500,
    on_failure: Literal["raise", "nan"] = "raise",
    init: AssignmentSolution | None = None,
) -> AssignmentSolution:
    """Solve problem (1), or (2) if ``mass`` is given; P is differentiable in all tensors, at any order.

    The arithmetic is in float64 whatever the dtype of the scores, which is the dtype of P: at τ = 1e-3 single precision
    leaves no digit of exp(S/τ) for scores of 10⁴. Memory is linear in the size of the scores plus min(n, m)², time
    cubic in min(n, m).

    Args:
        scores: S, ``(*batch, n, m)``. −∞ forbids a pair: P is exactly 0 there and does not depend on it. A row or
            column that is masked altogether (a ragged batch) needs the sum 0, by ``rows`` and ``columns``.
        tau: the temperature τ > 0, a number or ``(*batch,)``.
        rows: a ≥ 0, a number or ``(*batch, n)``. Default 1.
        columns: b ≥ 0, a number or ``(*batch, m)``. Default Σa/m, and 1 for problem (2). In problem (1) its total must
            be that of the rows; small differences are removed by scaling the columns.
        mass: s of problem (2), 0 < s ≤ min(Σa, Σb), a number or ``(*batch,)``. At its maximum it has the derivative of
            the side where the problem is feasible.
        tolerance: on the relative error of the marginals. Default 1e-10 in float64 and 1e-7 in float32. Where max|S|/τ
            is so large that rounding alone changes P, P is that of scores within rounding of S.
        max_iterations: Newton steps over all temperatures; none where scores differ by a few τ only, 5 to 60 are usual
            when it is colder, 150 occur at τ = 1e-7 max|S|.
        on_failure: ``"raise"``, or ``"nan"`` to mark failed elements and their gradients NaN.
        init: the solution of a similar problem. Where it is far off the temperature is lowered in steps, as without it.

    Raises:
        ValueError: bad shapes, dtypes, scores that are NaN or +∞, other input that is infinite, marginals that are
            negative or do not fit together.
        SolverError: the masks leave no assignment with these sums; max_iterations was not enough.
    """
    check_option("on_failure", on_failure, ("raise", "nan"))
    check_limits(tolerance, max_iterations)
    check_count("max_iterations", max_iterations)
    if init is not None:
        check_kind("init", init, AssignmentSolution, "an AssignmentSolution")
    masked = check_matrices(scores)
    S, tau, a, b = assignment_problem(scores, tau, rows, columns, mass, masked)
    if tolerance is None:
        tolerance = 1e-10 if scores.dtype == torch.float64 else 1e-7
    wide = S.shape[-1] > S.shape[-2]
    if wide:  # the solver eliminates the rows, so there should be at least as many as columns
        S, a, b = S.mT, b.mT, a.mT
    batch = torch.broadcast_shapes(*(t.shape[:-2] for t in (S, tau, a, b)))
    start = S.new_zeros(*batch, S.shape[-1])
    if init is not None:
        start = start + guess_from(init.row_potential if wide else init.column_potential, start)

    algorithm = partial(
        solve,
        warm=init is not None,
        masked=masked is not None,
        tolerance=tolerance,
        max_iterations=max_iterations,
        on_failure=on_failure,
    )
    shift, z, converged, iterations, error = opaque(algorithm, start, S, tau, a, b)
    potentials = shift + tau.detach().squeeze(-1) * z
    S = shifted(S, shift)
    z = attach(marginal_residual, solve_marginals, z, S, tau, a, b)
    P = a * b * kernel(z, S, tau)
    f, g = potentials.split((S.shape[-2], S.shape[-1]), dim=-1)
    if wide:
        P, f, g = P.mT, g, f
    P = P[..., : scores.shape[-2], : scores.shape[-1]]
    P = mark_failures(P.flatten(-2), converged, on_failure).unflatten(-1, P.shape[-2:])
    P, f, g, error = (t.to(scores.dtype) for t in (P, f, g, error))
    return AssignmentSolution(P, f, g, converged, iterations, error)


@full_precision
def gumbel_sinkhorn(
    scores: Tensor,
    tau: float | Tensor = 1.0,
    samples: int = 1,
    generator: torch.Generator | None = None,
    *,
    noise: float | Tensor = 1.0,
    **options: Any,
) -> Tensor:
    """Samples P*(S + noise · ε) of the Sinkhorn operator, with ε_ij independent Gumbel variables.

    As τ → 0 they become permutation matrices of a distribution that prefers high scores. The gradient is that of the
    samples, with ε held (the reparametrisation trick).

    Args:
        scores: S, ``(*batch, n, m)``.
        tau: as in :func:`sinkhorn_operator`.
        samples: how many to draw for every element of the batch.
        generator: where ε comes from; the same seed gives the same samples.
        noise: scale of ε ≥ 0, a number or ``(*batch,)``.
        options: the keyword arguments of :func:`sinkhorn_operator`.

    Returns:
        ``(samples, *batch, n, m)``.
    """
    check_matrices(scores)
    check_count("samples", samples, least=1)
    if generator is not None:
        check_kind("generator", generator, torch.Generator, "a torch.Generator")
    noise = per_problem("noise", noise, scores, "scores")
    if values_visible(noise) and (noise < 0).any():
        raise ValueError(f"noise must be at least 0, got {noise.min().item():g}")
    broadcast_batch([("scores", scores, 2), ("noise", noise, 0)])
    device = scores.device if generator is None else generator.device
    exponential = scores.detach().new_empty((samples, *scores.shape), device=device)
    exponential.exponential_(generator=generator)
    # −log of an exponential variable is a Gumbel variable; single precision draws exact zeros now and then
    gumbel = -exponential.clamp_min(torch.finfo(scores.dtype).tiny).log().to(scores.device)
    return sinkhorn_operator(scores + noise[..., None, None] * gumbel, tau, **options)


@full_precision
def match(scores: Tensor) -> Tensor:
    """The best assignment: 0/1 matrices P that maximise ⟨S, P⟩, with at most one 1 in every row and column.

    min(n, m) pairs are matched. P is piecewise constant in S, and carries no gradient. The elements of the batch are
    matched one after another on the CPU, by scipy's ``linear_sum_assignment``.

    Args:
        scores: S, ``(*batch, n, m)``; −∞ forbids a pair.

    Returns:
        ``(*batch, n, m)``, of the dtype and device of the scores.

    Raises:
        ValueError: bad shapes or dtypes, scores that are NaN or +∞.
        SolverError: the pairs that are not forbidden do not match all rows, or all columns.
    """
    check_matrices(scores)
    (P,) = opaque(_match, scores)
    return P


def _match(scores: Tensor) -> tuple[Tensor]:
    flat = scores.detach().flatten(0, -3) if scores.ndim > 2 else scores.detach().unsqueeze(0)
    P = torch.zeros(flat.shape, dtype=scores.dtype)
    failed = torch.zeros(len(P), dtype=torch.bool)
    for i, S in enumerate(flat.cpu().numpy()):
        try:
            P[i][linear_sum_assignment(S, maximize=True)] = 1
        except ValueError:  # all that is left to complain of is that there is no assignment
            failed[i] = True
    if failed.any():
        indices = failed_indices(failed.reshape(scores.shape[:-2]))
        raise SolverError("scores: what is masked (−inf) leaves no assignment of min(n, m) pairs.", indices)
    return (P.reshape(scores.shape).to(scores.device),)
