"""What the self-dual cones (nonnegative, second-order, semidefinite) have in common: spectral decompositions.

A vector v has eigenvalues λ: its entries, or t ± ‖x‖, or the eigenvalues of a symmetric matrix. It is in the cone when
none is negative, and the projection replaces each by its positive part,

    v = Σ λᵢ cᵢ,    Π(v) = Σ max(λᵢ, 0) cᵢ.                                                         (1)

Write p = Π(v) and s = p − v = Π(−v). Both have the eigenvectors of v. In the basis that the eigenvectors span, the
derivative is a table of divided differences (Löwner 1934):

    (DΠ(v) h)ᵢⱼ = γᵢⱼ hᵢⱼ,    γᵢⱼ = (pᵢ + pⱼ) / (pᵢ + pⱼ + sᵢ + sⱼ)                                    (2)

which is also right when eigenvalues repeat, where differentiating the eigenvectors would divide by zero. A kink is
where the denominator vanishes. There we take γᵢⱼ = 0, as ReLU does at 0.

Source: Parikh & Boyd 2014, §6.3; for (2), Sun & Sun, Semismooth matrix-valued functions, 2002, and Malick & Sendov
2006.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...batch.products import or_one

LEAST = 1e-8  # ε of :func:`share_and_odds`, and of :mod:`.slope`

Pair = tuple[Tensor, Tensor]


def parts(v: Tensor) -> Pair:
    """The positive and the negative part."""
    return torch.relu(v), torch.relu(-v)


def share(p: Tensor, s: Tensor) -> Tensor:
    """γ = p / (p + s) of eq. (2), 0 where both are 0."""
    return p / or_one(p + s)


def share_and_odds(p: Tensor, s: Tensor) -> Pair:
    """γ, and γ / (1 − γ + ε) without the cancellation in 1 − γ."""
    total = or_one(p + s)
    return p / total, p / (s + LEAST * total)
