"""How a primal–dual method walks along the central path sᵢ λᵢ = σμ → 0.

Each iteration linearises the optimality conditions twice with one factorisation: the predictor aims at μ = 0 and
tells how far one can go; the corrector re-centres accordingly and repairs the predictor's quadratic error ds∘dλ.

Source: Mehrotra 1992; Nocedal & Wright 2006, alg. 16.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

STEP_BACK = 0.99  # how much of the way to the boundary s, λ ≥ 0 a step may go at most


def mehrotra_direction(
    lam: Tensor, s: Tensor, direction: Callable[[Tensor], tuple[Any, ...]]
) -> tuple[tuple[Any, ...], Tensor]:
    """The corrector's direction and the length of its step ``(N, 1, 1)``, for λ, s > 0 ``(N, m, 1)``.

    ``direction(c)`` gives dλ and ds (and whatever else moves) of the Newton step that makes λ ds + s dλ = −c.
    """
    mu = (s * lam).mean(-2, keepdim=True)
    dlam, ds, *_ = direction(s * lam)
    alpha = step_length(lam, s, dlam, ds, 1.0)
    mu_affine = ((s + alpha * ds) * (lam + alpha * dlam)).mean(-2, keepdim=True)
    sigma = (mu_affine / mu) ** 3
    step = direction(s * lam + ds * dlam - sigma * mu)
    return step, step_length(lam, s, step[0], step[1], STEP_BACK)


def step_length(lam: Tensor, s: Tensor, dlam: Tensor, ds: Tensor, fraction: float) -> Tensor:
    """The largest α ≤ 1 that goes at most a fraction of the way to s = 0 or λ = 0, ``(N, 1, 1)``."""
    ratio = torch.maximum(-dlam / lam, -ds / s).amax(-2, keepdim=True)
    return (fraction / ratio.clamp_min(fraction)).clamp_max(1.0)


def inside(v: Tensor) -> Tensor:
    """v ``(N, m, 1)`` moved into the positive orthant unless it is there (Vandenberghe 2010, §5.3)."""
    if v.shape[-2] == 0:
        return v
    outside = (-v).amax(-2, keepdim=True)
    return torch.where(outside >= -1e-8 * (1 + v.norm(dim=-2, keepdim=True)), v + 1 + outside, v)
