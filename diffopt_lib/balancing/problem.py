"""What an assignment problem is given: scores, a temperature, marginals, and for a partial assignment its mass.

All of it becomes the data (S, τ, a, b) of :mod:`.derivative`. A partial assignment of total mass s, with at most a_i in
every row and b_j in every column, gets one more row and one more column, of scores 0, that take what is left over; the
corner where they meet is forbidden.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch.shapes import align
from ..validate import check_floating, check_positive, check_scores, per_problem, temperature, values_visible

FORBIDDEN = -1e100  # the score of a pair that can't be: its entry of P is exactly zero
LARGEST_SCORE = 1e90  # in magnitude, so that a forbidden pair is far below all others


def check_matrices(scores: Tensor) -> Tensor | None:
    """Scores ``(*batch, n, m)``, finite or −∞: where they are masked, or None."""
    check_floating("scores", scores)
    if scores.ndim < 2 or 0 in scores.shape[-2:]:
        raise ValueError(f"scores must have shape (*batch, n, m) with n, m ≥ 1, got {tuple(scores.shape)}")
    return check_scores("scores", scores)


def assignment_problem(
    scores: Tensor,
    tau: float | Tensor,
    rows: float | Tensor | None,
    columns: float | Tensor | None,
    mass: float | Tensor | None,
    masked: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """S, τ ``(*batch, 1, 1)``, a ``(*batch, n, 1)`` and b ``(*batch, 1, m)`` in float64, batch dimensions aligned."""
    n, m = scores.shape[-2:]
    tau = temperature(tau, scores, "scores")
    a = _marginal("rows", 1.0 if rows is None else rows, scores, n)
    if columns is None and mass is None:
        b = a.sum(-1, keepdim=True).expand(*a.shape[:-1], m) / m
    else:
        b = _marginal("columns", 1.0 if columns is None else columns, scores, m)
    S, tau, a, b = scores.double(), tau.double(), a.double(), b.double()
    S = S if masked is None else torch.where(masked, FORBIDDEN, S)
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
        S, a, b = _with_slack(S, a, b, per_problem("mass", mass, scores, "scores").double())
    _, (S, tau, a, b) = align(
        ("scores", S, 2),
        ("tau", tau[..., None, None], 2),
        ("rows", a.unsqueeze(-1), 2),
        ("columns", b.unsqueeze(-2), 2),
    )
    if masked is not None and mass is None:
        S, a, b = _fill_empty(S, a, b)
    return S, tau, a, b


def _fill_empty(S: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns that are forbidden altogether and have the sum 0 get the lowest score of the others: P is 0
    there for their sums alone, and the solver need not balance a column in which nothing can be."""
    forbidden = S == FORBIDDEN
    rows, columns = forbidden.all(-1, keepdim=True) & (a == 0), forbidden.all(-2, keepdim=True) & (b == 0)
    lowest = torch.where(forbidden, torch.inf, S.detach()).amin((-2, -1), keepdim=True)
    S = torch.where(rows | columns, torch.where(lowest == torch.inf, 0, lowest), S)
    return S, torch.where(rows, 0, a), torch.where(columns, 0, b)


def _with_slack(S: Tensor, a: Tensor, b: Tensor, mass: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Problem (2) as problem (1), with a last row for what is left of the columns and a last column likewise."""
    check_positive("mass", mass)
    left_of_rows, left_of_columns = a.sum(-1) - mass, b.sum(-1) - mass
    rounding = 1e-6 * mass.detach()
    if values_visible(left_of_rows) and values_visible(left_of_columns):
        too_much = (left_of_rows < -rounding) | (left_of_columns < -rounding)
        if too_much.any():
            raise ValueError("mass must be at most the total of the rows and that of the columns")
    extra_row, extra_column = (
        torch.where(left.detach().abs() > rounding, left, left - left.detach())  # zero, but not without a derivative
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
    marginal = per_problem(name, value, scores, "scores")
    marginal = marginal.expand(size) if marginal.ndim == 0 else marginal
    if marginal.shape[-1] != size:
        raise ValueError(f"{name} must be a number or have shape (*batch, {size}), got {tuple(marginal.shape)}")
    if values_visible(marginal) and ((marginal < 0).any() or (marginal.sum(-1) <= 0).any()):
        raise ValueError(f"{name} must be at least 0 and not all 0, got entries from {marginal.min().item():g}")
    return marginal


def check_values(S: Tensor, a: Tensor, b: Tensor) -> None:
    """What :func:`assignment_problem` could not see under ``vmap``, and scores that compete with forbidden ones."""
    sizes = S.abs()
    if not ((sizes < LARGEST_SCORE) | (S == FORBIDDEN)).all():
        raise ValueError(f"scores must be finite and less than {LARGEST_SCORE:g} in magnitude")
    if not ((a >= 0).all() and (b >= 0).all()):
        raise ValueError("rows and columns must be at least 0, and mass at most the total of either")
