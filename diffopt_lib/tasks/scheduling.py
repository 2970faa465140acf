"""A generator's day ahead: one output for each hour, which may change from hour to hour by a ramp limit only.

The load y of hour i is forecast as N(μ_i, σ_i²). Too little output costs a lot, too much a little:

    ℓ(z, y) = Σ_i  γ_u (y_i − z_i)₊ + γ_o (z_i − y_i)₊ + ½ (z_i − y_i)²                            (1)
    z*(μ, σ) = argmin_z  E ℓ(z, y)   s.t.  |z_i − z_{i+1}| ≤ r                                    (2)

With t = (z − μ)/σ and the normal distribution's density φ and distribution function Φ the expectation is exact:

    E ℓ = Σ_i  γ_u σ (φ(t) − t Φ(−t)) + γ_o σ (φ(t) + t Φ(t)) + ½ (σ² + (z − μ)²)                  (3)
    slope  γ_o Φ(t) − γ_u Φ(−t) + z − μ,       curvature  (γ_u + γ_o) φ(t)/σ + 1                  (4)

So (3) is strictly convex and separable, and :mod:`.ramps` finds the minimum and which ramps are active. Along a run of
active ramps the outputs are tied: z_i = c + o_i r with whole numbers o_i. Hence the active ramps cut the day into
blocks, each with one unknown c, and the slopes (4) of a block sum to 0:

    Σ_{i ∈ block}  slope_i(c + o_i r) = 0                                                         (5)

The implicit function theorem on (5) divides by the block's curvature. Nothing larger is ever solved.

**Where there is no derivative.** At a ramp that is about to become active, or inactive, z* has a kink, and the
derivative is that of one side.

Chapter: book/2_differentiable/12_task_losses. Source: Donti, Amos & Kolter 2017, §4.2, eq. 9, where (2) is solved by
sequential quadratic programming.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..autograd.opaque import opaque
from ..autograd.precision import full_precision
from ..batch.shapes import broadcast_batch
from ..implicit import attach
from ..linear import LinearOperator
from ..validate import NO_BOUND, as_tensor, check_same_kind, check_vectors, per_problem
from .arguments import check_hours
from .ramps import Blocks, Chains, find_active, find_root

UNDER, OVER = 50.0, 0.5
LEAST_STD = 1e-100  # below which (z − μ)/σ and its square overflow


@full_precision
def decide(
    mean: Tensor,
    std: Tensor,
    *,
    ramp: float | Tensor,
    under: float | Tensor = UNDER,
    over: float | Tensor = OVER,
) -> Tensor:
    """The schedule z* of eq. (2), ``(*batch, n)``; differentiable at any order in all five arguments.

    Args:
        mean: μ, ``(*batch, n)``: n hours, 24 for a day. Time grows with n² if many ramps are active in a row.
        std: σ > 0, ``(n,)`` or ``(*batch, n)``. Load and output, μ, σ, r and z, share one unit. With σ below 1e-14 |μ|,
            z is right, but its derivative in σ is rounding.
        ramp: r ≥ 0, a number or a tensor ``(*batch,)``. 1e20 or infinity is no limit.
        under, over: γ_u and γ_o ≥ 0, likewise: what a unit of missing and of surplus output costs. The quadratic term
            of (1) has the coefficient ½ in the same unit of money.

    Raises:
        ValueError: bad shapes or dtypes, NaN or infinite input, σ ≤ 0, r < 0, negative costs.
    """
    check_vectors(mean, "mean")
    check_vectors(std, "std")
    check_same_kind("mean", mean, [("std", std)])
    if std.shape[-1] not in (1, mean.shape[-1]):
        raise ValueError(f"std must have {mean.shape[-1]} entries, as mean has, got {std.shape[-1]}")
    ramp = as_tensor("ramp", ramp, mean, "mean")
    under, over = per_problem("under", under, mean, "mean"), per_problem("over", over, mean, "mean")
    named = [("mean", mean, 1), ("std", std, 1), ("ramp", ramp, 0), ("under", under, 0), ("over", over, 0)]
    batch = broadcast_batch(named)
    mean, std = (t.expand(*batch, mean.shape[-1]).double() for t in (mean, std))
    std = torch.where(std > 0, std.clamp_min(LEAST_STD), std)
    ramp, under, over = (t.expand(batch)[..., None].double() for t in (ramp, under, over))
    ramp = torch.where(ramp >= NO_BOUND, torch.full_like(ramp, NO_BOUND), ramp)
    level, block, offset = opaque(_solve, mean, std, ramp, under, over)
    level = attach(_conditions, _solve_conditions, level, mean, std, ramp, under, over, block, offset)
    return Blocks(block, offset).places(level, ramp).to(named[0][1].dtype)


@full_precision
def loss(decision: Tensor, outcome: Tensor, *, under: float | Tensor = UNDER, over: float | Tensor = OVER) -> Tensor:
    """What a schedule costs when the load is known, ℓ of eq. (1), ``(*batch,)``: the sum over the hours.

    Args:
        decision: z, ``(*batch, n)``.
        outcome: y, ``(*batch, n)``.
        under, over: as for :func:`decide`.
    """
    check_vectors(decision, "decision")
    check_vectors(outcome, "outcome")
    check_same_kind("decision", decision, [("outcome", outcome)])
    check_hours(("decision", decision), ("outcome", outcome))
    under, over = (per_problem(n, v, decision, "decision")[..., None] for n, v in (("under", under), ("over", over)))
    surplus = decision - outcome
    return (under * (-surplus).clamp_min(0) + over * surplus.clamp_min(0) + 0.5 * surplus.square()).sum(-1)


@full_precision
def expected_loss(
    decision: Tensor, mean: Tensor, std: Tensor, *, under: float | Tensor = UNDER, over: float | Tensor = OVER
) -> Tensor:
    """E ℓ of eq. (3) for a load N(μ, σ²), ``(*batch,)``; arguments and errors as for :func:`decide`."""
    check_vectors(decision, "decision")
    check_vectors(std, "std")
    check_same_kind("decision", decision, [("mean", mean), ("std", std)])
    check_hours(("decision", decision), ("mean", mean))
    opaque(_check_std, std)  # which sees the values even under ``vmap``
    under, over = (per_problem(n, v, decision, "decision")[..., None] for n, v in (("under", under), ("over", over)))
    t = (decision - mean) / std
    density = torch.exp(-0.5 * t.square()) / math.sqrt(2 * math.pi)
    missing = density - t * torch.special.ndtr(-t)
    surplus = density + t * torch.special.ndtr(t)
    return (std * (under * missing + over * surplus) + 0.5 * (std.square() + (decision - mean).square())).sum(-1)


def slope(t: Tensor, std: Tensor, under: Tensor, over: Tensor) -> Tensor:
    """The slope (4) of an hour's expected cost, at z = μ + σt."""
    return over * torch.special.ndtr(t) - under * torch.special.ndtr(-t) + std * t


def curvature(t: Tensor, std: Tensor, under: Tensor, over: Tensor) -> Tensor:
    return (under + over) * torch.exp(-0.5 * t.square()) / (math.sqrt(2 * math.pi) * std) + 1


@dataclass(frozen=True)
class Expected:
    """The f_i of :mod:`.ramps`: eq. (3) for N days, μ and σ ``(N, n)``, γ ``(N, 1)``."""

    mean: Tensor
    std: Tensor
    under: Tensor
    over: Tensor

    def slopes(self, z: Tensor, links: slice = slice(None)) -> tuple[Tensor, Tensor]:
        std = self.std[:, links]
        t = (z - self.mean[:, links]) / std
        return slope(t, std, self.under, self.over), curvature(t, std, self.under, self.over)


def _solve(mean: Tensor, std: Tensor, ramp: Tensor, under: Tensor, over: Tensor) -> tuple[Tensor, ...]:
    """c of every block, and the block and the offset o of every hour, each ``(*batch, n)``."""
    _check(std, ramp, under, over)
    shape, n = mean.shape, mean.shape[-1]
    mean, std = (t.expand(shape).reshape(-1, n) for t in (mean, std))
    ramp, under, over = (t.expand(*shape[:-1], 1).reshape(-1, 1) for t in (ramp, under, over))
    chains = Chains(Expected(mean, std, under, over), _unlimited(mean, std, under, over), ramp)
    found = find_active(chains)
    blocks, level = Blocks.of(found.side), found.level
    return level.reshape(shape), blocks.block.reshape(shape), blocks.offset.to(level.dtype).reshape(shape)


def _check_std(std: Tensor) -> tuple[Tensor]:
    if not (std > 0).all():
        raise ValueError(f"std must be positive, got {std.min().item():g}; a forecast that is certain has a small one")
    return (std,)


def _check(std: Tensor, ramp: Tensor, under: Tensor, over: Tensor) -> None:
    _check_std(std)
    for name, value in (("ramp", ramp), ("under", under), ("over", over)):
        if not (value >= 0).all():
            raise ValueError(f"{name} must be at least 0, got {value.min().item():g}")


def _unlimited(mean: Tensor, std: Tensor, under: Tensor, over: Tensor) -> Tensor:
    """The minimum of every hour by itself. Without the quadratic term t would be the quantile of γ_u / (γ_u + γ_o), and
    without the others 0; and the slope at 0 is (γ_o − γ_u)/2, so that t is at most |γ_u − γ_o| / 2σ."""
    total = under + over
    quantile = torch.special.ndtri(torch.where(total > 0, under / torch.where(total > 0, total, 1), 0.5))
    reach = (under - over) / (2 * std)
    far = torch.where(quantile.abs() < reach.abs(), quantile, reach)

    def slopes(data: tuple[Tensor, ...], t: Tensor) -> tuple[Tensor, Tensor]:
        std, under, over = data
        return slope(t, std, under, over), std * curvature(t, std, under, over)

    return mean + std * find_root(slopes, (std, under, over), torch.zeros_like(far), far)


# The conditions (5), with the blocks held.


def _conditions(level: Tensor, *theta: Tensor) -> Tensor:
    """The left side of (5) for each block, and c itself for the places that are no block, which stay at 0."""
    mean, std, ramp, under, over, *known = theta
    blocks = Blocks(*known)
    t = (blocks.places(level, ramp) - mean) / std
    return blocks.add_up(slope(t, std, under, over)) + _unused(blocks) * level


def _solve_conditions(operator: LinearOperator, rhs: Tensor) -> Tensor:
    """The Jacobian of (5) is diagonal."""
    level, mean, std, ramp, under, over, *known = operator.parameters
    blocks = Blocks(*known)
    t = (blocks.places(level, ramp) - mean) / std
    return rhs / (blocks.add_up(curvature(t, std, under, over)) + _unused(blocks))


def _unused(blocks: Blocks) -> Tensor:
    """1 at the places behind the last block."""
    places = torch.arange(blocks.block.shape[-1], device=blocks.block.device)
    return (places > blocks.block[..., -1:]).double()
