"""A smooth derivative across changes of the active bounds: that of a point on the central path.

    min Σ_t cost(x_t, u_t) − μ Σ_i log(u_ti − l_ti) + log(h_ti − u_ti)   s.t.  the dynamics                    (1)

has no bounds left, and a solution that is a smooth function of everything for every μ > 0 and tends to that of the
problem as μ → 0. Where a control is about to leave its bound the derivative of (1) interpolates between those of the
two sides, and where all are saturated it is small but not zero. Away from there it is off by O(μ).

Source: :mod:`diffopt_lib.layers.qp.smoothing`, where μ means the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .linear import at_time


def with_barrier(
    cost: Callable[..., Tensor], timed: bool, lower: Tensor, upper: Tensor, mu: float
) -> Callable[..., Tensor]:
    """The cost of (1), a function of x, u and t."""

    def barrier(slack: Tensor, bound: Tensor) -> Tensor:
        return torch.where(bound.isfinite(), torch.where(bound.isfinite(), slack, 1).log(), 0).sum(-1)

    def of_path(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        low, high = at_time(lower, t, -2), at_time(upper, t, -2)
        value = cost(x, u, t) if timed else cost(x, u)
        return value - mu * (barrier(u - low, low) + barrier(high - u, high))

    return of_path


@torch.no_grad()
def inside(u: Tensor, lower_dual: Tensor, upper_dual: Tensor, lower: Tensor, upper: Tensor, mu: float) -> Tensor:
    """Controls near the solution u with slack s and s λ = μ, to start from, at most a quarter of the width inside."""
    u, width = u.nan_to_num(), upper - lower

    def margin(slack: Tensor, dual: Tensor) -> Tensor:
        d = slack - dual
        return torch.minimum((d + (d.square() + 4 * mu).sqrt()) / 2, width / 4).clamp_min(0).nan_to_num()

    low, high = lower + margin(u - lower, lower_dual), upper - margin(upper - u, upper_dual)
    return torch.maximum(torch.minimum(u, high), low)
