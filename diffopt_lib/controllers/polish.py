"""From the mean of the cross-entropy method to the minimum near it, which has the derivative of an argmin."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..autograd.opaque import opaque
from ..batch.products import largest, or_one
from ..minimize import argmin
from ..solution import OnFailure, SolverError, failed_indices, mark_failures

# ∇f at the mean, relative to where the search began, beyond which no minimum of a smooth f is near.
NEARLY_FLAT = 0.05


def polish(
    f: Callable[[Tensor], Tensor],
    start: tuple[Tensor, Tensor],
    mean: Tensor,
    std: Tensor,
    lower: Tensor,
    upper: Tensor,
    on_failure: OnFailure,
) -> Tensor:
    """argmin f near the mean, with coordinates that touch a bound, and are pushed towards it, held there.

    Newton's method sees y in units of the first σ, and f in units of its slope where the search began.
    """
    centre, width = mean.detach(), start[1].detach()

    def slope(y: Tensor) -> Tensor:
        return width * torch.func.grad(lambda y: f(y).sum())(y).detach()

    g, near = slope(centre), 2 * std
    at_lower, at_upper = (mean <= lower + near) & (g > 0), (mean >= upper - near) & (g < 0)
    bound = torch.where(at_lower, lower, torch.where(at_upper, upper, 0))
    held = at_lower | at_upper
    usual = or_one(largest(torch.stack([slope(start[0].detach() + side * width) for side in (-1, 1)], -1).flatten(-2)))

    def of_free(z: Tensor) -> Tensor:
        return f(torch.where(held, bound, centre + width * z)) / usual + 0.5 * torch.where(held, z, 0).square().sum(-1)

    z = argmin(of_free, torch.zeros_like(centre), on_failure=on_failure).y
    y = torch.where(held, bound, centre + width * z)
    before, after = (largest(torch.where(held, 0, v)) / usual for v in (g, slope(y.detach())))
    inside = ((y >= lower) & (y <= upper)).all(-1)
    smooth = (before <= NEARLY_FLAT) & (after <= (1e-6 if y.dtype == torch.float64 else 1e-3))
    if on_failure == "raise":
        opaque(_refuse, smooth, before, inside)
    return mark_failures(y, smooth & inside, on_failure)


def _refuse(smooth: Tensor, slope: Tensor, inside: Tensor) -> tuple[Tensor]:
    if not inside.all():
        raise SolverError(
            "the minimum that Newton's method found from the mean is outside of the bounds, so that the method had not "
            "come near one: more iterations, or a wider distribution to start from.",
            failed_indices(~inside),
        )
    if not smooth.all():
        raise SolverError(
            f"∇f is not small at the mean ({slope[~smooth].max().item():.1e} of what it is a standard deviation from "
            "the first one), so that the implicit function theorem does not apply: more iterations, or f has a kink.",
            failed_indices(~smooth),
        )
    return (smooth,)
