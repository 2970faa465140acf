"""A batch of integer programs as data, and the one place that says whether a point satisfies its constraints.

A row holds when aᵀy − b is at most so much of what was added up to get it, |b| + Σ|aⱼ yⱼ|: 10⁻¹² in float64, 10⁻⁶ in
float32, where 0.1 + 0.2 + 0.3 + 0.4 ≤ 1 is false to the last digit. A b of 10²⁰ or more is no constraint.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...batch.products import largest
from ...validate import NO_BOUND

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


class Program(NamedTuple):
    """min cᵀy s.t. Ay ≤ b, lower ≤ y ≤ upper for N elements, ``(N or 1, ·)`` each: float64, bounds rounded inwards."""

    c: Tensor
    A: Tensor
    b: Tensor
    lower: Tensor
    upper: Tensor


def excess(A: Tensor, b: Tensor, points: Tensor) -> Tensor:
    """By how much rows are violated, relative to their terms, ``(..., P, m)``, for A ``(..., m, n)`` and b ``(..., m)``
    at points ``(..., P, n)``."""
    return relative(points @ A.mT, points.abs() @ A.abs().mT, b)


def relative(Ay: Tensor, terms: Tensor, b: Tensor) -> Tensor:
    """The same of Ay and Σ|aⱼ yⱼ|, ``(..., P, m)``."""
    counts, b = (b < NO_BOUND).unsqueeze(-2), torch.where(b < NO_BOUND, b, 0).unsqueeze(-2)
    terms = terms + b.abs()
    return torch.where(counts, (Ay - b) / torch.where(terms > 0, terms, 1), -torch.inf)


def worst(A: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """The largest relative violation at y ``(..., n)``, at least 0, ``(...)``."""
    return largest(excess(A, b, y.unsqueeze(-2)).squeeze(-2).clamp_min(0))
