"""How far along a direction to go: step lengths for every element of a batch at once.

Source: Nocedal & Wright, Numerical Optimization, 2006, chapter 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch.products import dot
from .objective import Objective

SUFFICIENT_DECREASE = 1e-4  # of what the slope at the start promises, for a step to be good enough
CURVATURE = 0.9  # the part of the slope at the start that may be left, or the step was too short


@torch.no_grad()
def armijo(
    objective: Objective,
    y: Tensor,
    f: Tensor,
    d: Tensor,
    slope: Tensor,
    curvature: Tensor,
    start: Tensor | float = 1.0,
    decrease: float = SUFFICIENT_DECREASE,
) -> Tensor:
    """The first t in start, start/2, start/4, … with f(y + t d) ≤ f(y) + decrease · (t slope + ½ t² curvature).

    Rounding in f is forgiven: near a minimum every step is below it. An element that finds no such t gets t = 0.
    """
    rounding = 10 * torch.finfo(f.dtype).eps * f.abs()
    t = torch.ones_like(f) * start
    for _ in range(60):
        model = t * slope + 0.5 * t.square() * curvature
        good = objective.value(y + t.unsqueeze(-1) * d) <= f + decrease * model + rounding
        if good.all():
            return t
        t = torch.where(good, t, t / 2)
    return torch.where(good, t, 0)


@torch.no_grad()
def weak_wolfe(objective: Objective, y: Tensor, f: Tensor, d: Tensor, slope: Tensor) -> Tensor:
    """A step length t with sufficient decrease and ∇f(y + t d)ᵀd ≥ 0.9 slope, by bisection and doubling.

    Keeps a bracket [low, high): t too long (no decrease) lowers high, t too short (still steep) raises low (Lewis &
    Overton 2013, alg. 2.6). An element that finds none within 50 tries keeps its best point with decrease, or t = 0.
    """
    rounding = 10 * torch.finfo(f.dtype).eps * f.abs()
    t = torch.ones_like(f)
    low, high = torch.zeros_like(f), torch.full_like(f, torch.inf)
    for _ in range(50):
        value, g = objective.value_and_gradient(y + t.unsqueeze(-1) * d)
        decreased = value <= f + SUFFICIENT_DECREASE * t * slope + rounding
        flat = dot(g, d) >= CURVATURE * slope
        if (decreased & flat).all():
            return t
        high = torch.where(decreased, high, t)
        low = torch.where(decreased & ~flat, t, low)
        t = torch.where(decreased & flat, t, torch.where(high.isinf(), 2 * low, (low + high) / 2))
    return torch.where(decreased & flat, t, low)
