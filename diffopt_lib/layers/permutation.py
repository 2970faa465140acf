"""Doubly stochastic matrices, and through them permutations (Sinkhorn operator, Gumbel–Sinkhorn, assignments).

    P* = argmax_P  ⟨S, P⟩ + τ H(P)   s.t.   P 1 = a,  Pᵀ 1 = b,  P ≥ 0          H(P) = −Σ P log P    (1)

For a = b = 1 the feasible set is the Birkhoff polytope, whose vertices are the permutation matrices. As τ → 0 the
solution tends to the best of them, or to a mixture of equally good ones; as τ → ∞ to the uniform matrix.

A partial assignment of total mass s gives every row at most a_i and every column at most b_j:

    max_P  ⟨S, P⟩ + τ (H(P) + H(a − P1) + H(b − Pᵀ1))   s.t.   P1 ≤ a,  Pᵀ1 ≤ b,  1ᵀP1 = s,  P ≥ 0      (2)

It is problem (1) for a matrix with one more row and one more column, of scores 0, that take what is left over; the
corner where they meet is forbidden.

The solver is :mod:`.balancing_newton`, the derivative that of the marginal equations, :mod:`.balancing`.
Source: Mena et al., Learning latent permutations with Gumbel–Sinkhorn networks, 2018, eqs. 3–7.
Chapter: book/2_differentiable/07_permutations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..implicit import _attach
from ..opaque import opaque
from ..solution import SolverError, failed_indices, mark_failures
from ..validate import check_finite, check_floating, check_option, check_positive, check_same_kind, values_visible
from .balancing import floored, kernel, marginal_residual, solve_marginals
from .balancing_newton import FORBIDDEN, balance


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
        scores: S, ``(*batch, n, m)``.
        tau: the temperature τ > 0, a number or ``(*batch,)``.
        rows: a ≥ 0, a number or ``(*batch, n)``. Default 1.
        columns: b ≥ 0, a number or ``(*batch, m)``. Default Σa/m, and 1 for problem (2). In problem (1) its total must
            be that of the rows; small differences are removed by scaling the columns.
        mass: s of problem (2), 0 < s ≤ min(Σa, Σb), a number or ``(*batch,)``. At its maximum it has the derivative of
            the side where the problem is feasible.
        tolerance: on the relative error of the marginals. Default 1e-10 in float64 and 1e-7 in float32. Rounding in S/τ
            can keep the error above it; then some 1e-15 · max|S|/τ has to do.
        max_iterations: Newton steps over all temperatures; 5 to 60 are usual, 150 occur at τ = 1e-7 max|S|.
        on_failure: ``"raise"``, or ``"nan"`` to mark failed elements and their gradients NaN.
        init: the solution of a similar problem. Where it is far off the temperature is lowered in steps, as without it.

    Raises:
        ValueError: bad shapes, dtypes, NaN or infinite input, marginals that are negative or do not fit together.
        SolverError: max_iterations was not enough.
    """
    check_option("on_failure", on_failure, ("raise", "nan"))
    _check_scores(scores)
    S, tau, a, b = _problem(scores, tau, rows, columns, mass)
    if tolerance is None:
        tolerance = 1e-10 if scores.dtype == torch.float64 else 1e-7
    wide = S.shape[-1] > S.shape[-2]
    if wide:  # the solver eliminates the rows, so there should be at least as many as columns
        S, a, b = S.mT, b.mT, a.mT
    batch = torch.broadcast_shapes(*(t.shape[:-2] for t in (S, tau, a, b)))
    start = S.new_zeros(*batch, S.shape[-1])
    if init is not None:
        start = start + _guess(init.row_potential if wide else init.column_potential, start)

    def algorithm(_f, start, S, tau, a, b):
        return _solve(start, S, tau, a, b, init is not None, tolerance, max_iterations, on_failure)

    z, converged, iterations, error = opaque(algorithm, marginal_residual, start, S, tau, a, b)
    potentials = tau.detach().squeeze(-1) * z
    z = _attach(marginal_residual, solve_marginals, z, S, tau, a, b)
    P = a * b * kernel(z, S, tau)
    f, g = potentials.split((S.shape[-2], S.shape[-1]), dim=-1)
    if wide:
        P, f, g = P.mT, g, f
    P = P[..., : scores.shape[-2], : scores.shape[-1]]
    P = mark_failures(P.flatten(-2), converged, on_failure).unflatten(-1, P.shape[-2:])
    P, f, g, error = (t.to(scores.dtype) for t in (P, f, g, error))
    return AssignmentSolution(P, f, g, converged, iterations, error)


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
    _check_scores(scores)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    noise = _per_element("noise", noise, scores)
    check_finite("noise", noise)
    if values_visible(noise) and (noise < 0).any():
        raise ValueError(f"noise must be at least 0, got {noise.min().item():g}")
    device = scores.device if generator is None else generator.device
    exponential = torch.empty(samples, *scores.shape, dtype=scores.dtype, device=device)
    exponential.exponential_(generator=generator)
    # −log of an exponential variable is a Gumbel variable; single precision draws exact zeros now and then
    gumbel = -exponential.clamp_min(torch.finfo(scores.dtype).tiny).log().to(scores.device)
    return sinkhorn_operator(scores + noise[..., None, None] * gumbel, tau, **options)


def match(scores: Tensor) -> Tensor:
    """The best assignment: 0/1 matrices P that maximise ⟨S, P⟩, with at most one 1 in every row and column.

    min(n, m) pairs are matched. P is piecewise constant in S, and carries no gradient. The elements of the batch are
    matched one after another on the CPU, by scipy's ``linear_sum_assignment``.

    Args:
        scores: S, ``(*batch, n, m)``.

    Returns:
        ``(*batch, n, m)``, of the dtype and device of the scores.
    """
    _check_scores(scores)
    (P,) = opaque(_match, torch.zeros_like, scores)
    return P


def _match(_f: object, scores: Tensor) -> tuple[Tensor]:
    flat = scores.detach().flatten(0, -3) if scores.ndim > 2 else scores.detach().unsqueeze(0)
    P = torch.zeros(flat.shape, dtype=scores.dtype)
    for matrix, S in zip(P, flat.cpu().numpy(), strict=True):
        matrix[linear_sum_assignment(S, maximize=True)] = 1
    return (P.reshape(scores.shape).to(scores.device),)


def _solve(
    start: Tensor,
    S: Tensor,
    tau: Tensor,
    a: Tensor,
    b: Tensor,
    warm: bool,
    tolerance: float,
    max_iterations: int,
    on_failure: str,
) -> tuple[Tensor, ...]:
    """z = (u, v) ``(*batch, n + m)`` and status, outside the graph, on tensors with any number of batch dimensions."""
    batch = start.shape[:-1]
    N = batch.numel()
    S, tau, a, b = (t.expand(*batch, *t.shape[-2:]).reshape(N, *t.shape[-2:]) for t in (S, tau, a, b))
    guess = start.reshape(N, start.shape[-1]) if warm else None
    v, error, iterations, converged = balance(S, tau, a, b, guess, tolerance, max_iterations)
    if on_failure == "raise" and not converged.all():
        raise SolverError(
            f"the marginals are off by {error[~converged].nan_to_num(nan=torch.inf).max().item():.1e} after "
            f"{max_iterations} iterations.",
            failed_indices(~converged.reshape(batch)),
        )
    v = v.unsqueeze(-2)
    u = -torch.logsumexp(S / tau + v + floored(b).log(), dim=-1)
    z = torch.cat([u, v.squeeze(-2)], dim=-1)
    return z.reshape(*batch, z.shape[-1]), *(t.reshape(batch) for t in (converged, iterations, error))


def _guess(potential: Tensor, start: Tensor) -> Tensor:
    """A potential of an earlier solution, without the NaN that mark failures."""
    try:
        return potential.detach().nan_to_num().to(start).expand(start.shape)
    except RuntimeError:
        raise ValueError(
            f"init must be the solution of a problem of this shape: its potential should broadcast to "
            f"{tuple(start.shape)}, got {tuple(potential.shape)}"
        ) from None


def _problem(
    scores: Tensor,
    tau: float | Tensor,
    rows: float | Tensor | None,
    columns: float | Tensor | None,
    mass: float | Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """S, τ ``(*batch, 1, 1)``, a ``(*batch, n, 1)`` and b ``(*batch, 1, m)`` in float64, batch dimensions aligned."""
    n, m = scores.shape[-2:]
    tau = _per_element("tau", tau, scores)
    check_finite("tau", tau)
    check_positive("tau", tau)
    a = _marginal("rows", 1.0 if rows is None else rows, scores, n)
    if columns is None and mass is None:
        b = a.sum(-1, keepdim=True).expand(*a.shape[:-1], m) / m
    else:
        b = _marginal("columns", 1.0 if columns is None else columns, scores, m)
    S, tau, a, b = scores.double(), tau.double(), a.double(), b.double()
    if mass is None:
        a_total, b_total = a.sum(-1, keepdim=True), b.sum(-1, keepdim=True)
        if values_visible(a) and values_visible(b) and ((a_total - b_total).abs() > 1e-3 * a_total).any():
            raise ValueError(
                "rows and columns must have the same total (give a mass for a partial assignment), got totals "
                f"from {a_total.min().item():g} to {a_total.max().item():g} and "
                f"from {b_total.min().item():g} to {b_total.max().item():g}"
            )
        b = b * (a_total / b_total)
    else:
        S, a, b = _with_slack(S, a, b, _per_element("mass", mass, scores).double())
    tensors = (S, tau[..., None, None], a.unsqueeze(-1), b.unsqueeze(-2))
    try:
        dims = len(torch.broadcast_shapes(*(t.shape[:-2] for t in tensors))) + 2
    except RuntimeError:
        shapes = ", ".join(str(tuple(t.shape[:-2])) for t in tensors)
        raise ValueError(
            f"the batch dimensions of scores, tau, rows and columns must broadcast against each other, got {shapes}"
        ) from None
    S, tau, a, b = (t.reshape((1,) * (dims - t.ndim) + t.shape) for t in tensors)
    return S, tau, a, b


def _with_slack(S: Tensor, a: Tensor, b: Tensor, mass: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Problem (2) as problem (1), with a last row for what is left of the columns and a last column likewise."""
    check_finite("mass", mass)
    check_positive("mass", mass)
    left_of_rows, left_of_columns = a.sum(-1) - mass, b.sum(-1) - mass
    rounding = 1e-6 * mass.detach()
    if values_visible(left_of_rows) and values_visible(left_of_columns):
        too_much = (left_of_rows < -rounding) | (left_of_columns < -rounding)
        if too_much.any():
            raise ValueError("mass must be at most the total of the rows and that of the columns")
    extra_row, extra_column = (
        torch.where(left.detach() > rounding, left, left - left.detach())  # zero, but not without a derivative
        for left in (left_of_columns, left_of_rows)
    )
    S = torch.nn.functional.pad(S, (0, 1, 0, 1))
    corner = torch.zeros(S.shape[-2:], dtype=S.dtype, device=S.device)
    corner[-1, -1] = FORBIDDEN
    return S + corner, _append(a, extra_row), _append(b, extra_column)


def _append(marginal: Tensor, extra: Tensor) -> Tensor:
    batch = torch.broadcast_shapes(marginal.shape[:-1], extra.shape)
    return torch.cat([marginal.expand(*batch, -1), extra.expand(batch).unsqueeze(-1)], dim=-1)


def _marginal(name: str, value: float | Tensor, scores: Tensor, size: int) -> Tensor:
    """A marginal as ``(*batch, size)``, nonnegative with a positive total."""
    marginal = _per_element(name, value, scores)
    marginal = marginal.expand(size) if marginal.ndim == 0 else marginal
    if marginal.shape[-1] != size:
        raise ValueError(f"{name} must be a number or have shape (*batch, {size}), got {tuple(marginal.shape)}")
    check_finite(name, marginal)
    if values_visible(marginal) and ((marginal < 0).any() or (marginal.sum(-1) <= 0).any()):
        raise ValueError(f"{name} must be at least 0 and not all 0, got entries from {marginal.min().item():g}")
    return marginal


def _per_element(name: str, value: float | Tensor, scores: Tensor) -> Tensor:
    """A number or tensor as a tensor of the kind of the scores."""
    if not isinstance(value, Tensor):
        return torch.as_tensor(value, dtype=scores.dtype, device=scores.device)
    check_floating(name, value)
    check_same_kind("scores", scores, [(name, value)])
    return value


def _check_scores(scores: Tensor) -> None:
    check_floating("scores", scores)
    if scores.ndim < 2 or 0 in scores.shape[-2:]:
        raise ValueError(f"scores must have shape (*batch, n, m) with n, m ≥ 1, got {tuple(scores.shape)}")
    check_finite("scores", scores)
