"""A batch of integer programs as data, and the one place that says whether a point satisfies its constraints.

A row holds when aᵀy − b is at most so much of what was added up to get it, |b| + Σ|aⱼ yⱼ|: 10⁻¹² in float64, 10⁻⁶ in
float32, where 0.1 + 0.2 + 0.3 + 0.4 ≤ 1 is false to the last digit. A b of 10²⁰ or more is no constraint.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import largest, or_one
from ...validate import NO_BOUND

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


class Program(NamedTuple):
    """min cᵀy s.t. Ay ≤ b, lower ≤ y ≤ upper: ``(*batch, ·)``, 1 where shared, in float64, bounds rounded inwards."""

    c: Tensor
    A: Tensor
    b: Tensor
    lower: Tensor
    upper: Tensor


def holds(Ay: Tensor, terms: Tensor, b: Tensor, tolerance: float) -> Tensor:
    """Whether points satisfy all rows, ``(..., P)``, for Ay and Σ|aⱼ yⱼ| ``(..., m, P)`` and b ``(..., m)``."""
    b = b.unsqueeze(-1)
    return (Ay - b <= tolerance * (terms + b.abs())).where(b < NO_BOUND, True).all(-2)


def residual(A: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """The largest violation relative to its terms at y ``(..., n)``, at least 0, ``(...)``."""
    points = y.unsqueeze(-1)
    over, terms = (
        M.squeeze(-1) for M in (A @ points - b.unsqueeze(-1), A.abs() @ points.abs() + b.abs().unsqueeze(-1))
    )
    return largest(torch.where(b < NO_BOUND, over / or_one(terms), 0).clamp_min(0))
