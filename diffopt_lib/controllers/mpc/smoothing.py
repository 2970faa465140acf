"""A smooth derivative across changes of the active bounds and rows: that of a point on the central path.

    min Σ_t cost(x_t, u_t) − μ Σ_i log(u_ti − l_ti) + log(h_ti − u_ti) + log(−g_i(x_t, u_t))   s.t.  the dynamics    (1)

has no bounds left, and a solution that is a smooth function of everything for every μ > 0 and tends to that of the
problem as μ → 0. Where a control is about to leave its bound the derivative of (1) interpolates between those of the
two sides, and where all are saturated it is small but not zero. Away from there it is off by O(μ).

The solution of the problem itself, from which (1) is solved, is where a logarithm is infinite. So log s is continued as
a parabola below a slack δ, which does not matter to a solution whose slacks are all larger.

Sources: :mod:`diffopt_lib.layers.qp.smoothing`, where μ means the same; Feller & Ebenbauer, Relaxed logarithmic barrier
function based model predictive control of linear systems, 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .linear import at_time

DELTA = 1e-3  # δ, relative to the smallest slack that is expected on the path


@dataclass(frozen=True)
class Path:
    """Problem (1): functions of x, u and t, bounds ``(*batch, T or 1, m)``, and μ."""

    cost: Callable[..., Tensor]
    constraints: Callable[..., Tensor] | None
    lower: Tensor
    upper: Tensor
    mu: float

    @property
    def meeting(self) -> Tensor:
        """Where there is nothing between the bounds: these controls stay held."""
        return self.lower == self.upper

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Those that are left."""
        return tuple(torch.where(self.meeting, b, s * torch.inf) for b, s in ((self.lower, -1), (self.upper, 1)))  # type: ignore[return-value]

    def with_barrier(self, delta: Tensor) -> Callable[..., Tensor]:
        """The objective of (1), with δ ``(*batch, 1)``."""

        def objective(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
            low, high, meeting = (at_time(b, t, -2) for b in (self.lower, self.upper, self.meeting))
            barrier = _barrier(_slack(u - low, low, meeting), delta) + _barrier(_slack(high - u, high, meeting), delta)
            value = self.cost(x, u, t) + self.mu * barrier.sum(-1)
            if self.constraints is not None:
                value = value + self.mu * _barrier(-self.constraints(x, u, t), delta).sum(-1)
            return value

        return objective

    def slacks(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the lower and upper bounds, +∞ where there is none, and of the rows, at all times."""
        below, above = torch.where(self.meeting, torch.inf, torch.stack([u - self.lower, self.upper - u]))
        if self.constraints is None:
            return below, above, u[..., :0]
        times = torch.arange(u.shape[-2], device=u.device)
        rows = torch.func.vmap(self.constraints)(x.movedim(-2, 0), u.movedim(-2, 0), times).movedim(0, -2)
        return below, above, -rows


def _slack(slack: Tensor, bound: Tensor, meeting: Tensor) -> Tensor:
    """1, whose logarithm is 0, where there is no bound or nothing between two."""
    counts = bound.isfinite() & ~meeting
    return torch.where(counts, torch.where(counts, slack, 1), 1)


def _barrier(s: Tensor, delta: Tensor) -> Tensor:
    """−log s, continued below δ with the same first and second derivatives."""
    near = s < delta
    parabola = 0.5 * (((s - 2 * delta) / delta).square() - 1) - delta.log()
    return torch.where(near, parabola, -torch.where(near, 1, s).log())


@torch.no_grad()
def least_slack(slacks: tuple[Tensor, ...], duals: tuple[Tensor, ...], mu: float) -> Tensor:
    """δ ``(*batch, 1)``: a small part of what slacks may be on the path, about μ / λ where a constraint presses, √μ
    where it only touches, and what they are already where it does neither."""
    s, dual = (torch.cat([v.detach().flatten(-2) for v in values], -1).nan_to_num() for values in (slacks, duals))
    expected = torch.where(s > dual, s, mu / (dual + mu**0.5)).amin(-1, keepdim=True)
    return DELTA * torch.where(expected.isfinite(), expected, 1)


@torch.no_grad()
def inside(u: Tensor, lower_dual: Tensor, upper_dual: Tensor, lower: Tensor, upper: Tensor, mu: float) -> Tensor:
    """Controls near the solution u with slack s and s λ = μ, to start from, at most a quarter of the width inside."""
    u, width = u.nan_to_num(), upper - lower

    def margin(slack: Tensor, dual: Tensor) -> Tensor:
        d = slack - dual
        return torch.minimum((d + (d.square() + 4 * mu).sqrt()) / 2, width / 4).clamp_min(0).nan_to_num()

    low, high = lower + margin(u - lower, lower_dual), upper - margin(upper - u, upper_dual)
    return torch.maximum(torch.minimum(u, high), low)


@torch.no_grad()
def outside(slacks: tuple[Tensor, ...], delta: Tensor) -> Tensor:
    """The elements ``(*batch,)`` with a slack that is not above δ."""
    return (torch.cat([s.detach().flatten(-2) for s in slacks], -1) <= delta).any(-1)
