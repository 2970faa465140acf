"""How much to order when the demand is one of a few numbers, with known probabilities.

    z*(p, d) = argmin_{z ≥ 0}  c z + ½ q z² + Σ_i p_i ( c_s s_i + ½ q_s s_i² + c_e e_i + ½ q_e e_i² ),               (1)
    s_i = max(d_i − z, 0),   e_i = max(z − d_i, 0)

An order z costs (c, q); demand above it, the shortage, costs (c_s, q_s); demand below it, the excess, (c_e, q_e). The
slope of (1) is piecewise linear, increases, and jumps by p_i (c_s + c_e) at d_i. Between two demands it is α + β z,

    α = c + Σ_{d_i ≤ z} p_i (c_e − q_e d_i) − Σ_{d_i > z} p_i (c_s + q_s d_i),
    β = q + q_e Σ_{d_i ≤ z} p_i + q_s Σ_{d_i > z} p_i                                            (2)

so the interval of the minimum is found by sorting the demands, and the minimum is −α/β, or the demand at which the
slope jumps past 0, or 0. There is nothing to iterate, and the derivative is that of these formulas.

**Where there is no derivative.** Where z* is a demand it does not depend on p: the order is that demand for a whole
range of probabilities. At the ends of that range z* has a kink, and the derivative is that of one side.

Chapter: book/2_differentiable/12_task_losses. Source: Donti, Amos & Kolter, Task-based end-to-end model learning in
stochastic optimization, 2017, §4.1, where (1) is solved as a quadratic program.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..autograd.opaque import opaque
from ..autograd.precision import full_precision
from ..batch.shapes import broadcast_batch, expand_vectors
from ..solution import SolverError, failed_indices
from ..validate import check_kind, check_same_kind, check_vectors, per_problem

Cost = tuple[float | Tensor, float | Tensor]

ORDER: Cost = (10.0, 2.0)
SHORTAGE: Cost = (30.0, 14.0)
EXCESS: Cost = (10.0, 2.0)


class _Price(NamedTuple):
    """A linear and a quadratic coefficient, ``(*batch, 1)``."""

    linear: Tensor
    quadratic: Tensor

    def of(self, amount: Tensor) -> Tensor:
        return self.linear * amount + 0.5 * self.quadratic * amount.square()


@full_precision
def decide(
    p: Tensor, demand: Tensor, *, order: Cost = ORDER, shortage: Cost = SHORTAGE, excess: Cost = EXCESS
) -> Tensor:
    """The order z* of eq. (1), ``(*batch,)``; differentiable at any order in p, the demands and all costs.

    With p = 1/k and the demands a sample of size k this is the sample average approximation for any distribution.

    Args:
        p: probabilities ≥ 0, ``(*batch, k)``. They need not sum to 1: they are weights.
        demand: d, ``(k,)`` or ``(*batch, k)``, not necessarily sorted. Units of goods, as z.
        order, shortage, excess: each a pair, what a unit costs and what its square costs (with ½): numbers or tensors
            ``(*batch,)``. Quadratic costs must be at least 0, and so must shortage + excess.

    Returns:
        z*, ``(*batch,)``; the smallest minimiser if there are several.

    Raises:
        ValueError: bad shapes or dtypes, NaN or infinite input, negative probabilities, costs that are not convex.
        SolverError: elements whose cost falls without end as z grows.
    """
    check_vectors(p, "p")
    check_vectors(demand, "demand")
    check_same_kind("p", p, [("demand", demand)])
    if p.shape[-1] != demand.shape[-1]:
        raise ValueError(f"demand must have as many entries as p, {p.shape[-1]}, got {demand.shape[-1]}")
    prices = [_price(name, cost, p) for name, cost in (("order", order), ("shortage", shortage), ("excess", excess))]
    flat = [coefficient for price in prices for coefficient in price]
    opaque(_check, p, *flat)  # which sees the values even under ``vmap``
    batch = torch.broadcast_shapes(p.shape[:-1], demand.shape[:-1], *(t.shape[:-1] for t in flat))
    p, demand = (t.expand(*batch, t.shape[-1]) for t in expand_vectors(p=p, demand=demand))
    buy, short, over = prices

    demand, index = demand.sort(-1)
    p = p.gather(-1, index)
    # (2) in the intervals before, between and behind the demands, (*batch, k + 1): sums over the demands passed so far.
    alpha = buy.linear + _passed(p * (over.linear - over.quadratic * demand))
    alpha = alpha - _ahead(p * (short.linear + short.quadratic * demand))
    beta = buy.quadratic + over.quadratic * _passed(p) + short.quadratic * _ahead(p)
    slope = alpha[..., 1:] + beta[..., 1:] * demand  # just behind each demand
    k = (slope < 0).sum(-1, keepdim=True)  # demands that are less than z*
    alpha, beta = (t.expand(*batch, -1).gather(-1, k) for t in (alpha, beta))
    flat_ = beta == 0
    inside = torch.where(flat_, torch.where(alpha < 0, torch.inf, -torch.inf), -alpha / torch.where(flat_, 1, beta))
    end = torch.cat([demand, torch.full_like(demand[..., :1], torch.inf)], -1).gather(-1, k)
    begin = torch.cat([torch.full_like(demand[..., :1], -torch.inf), demand], -1).gather(-1, k)
    z = torch.maximum(torch.minimum(inside, end), begin).clamp_min(0).squeeze(-1)
    opaque(_check_bounded, z)
    return z


@full_precision
def loss(
    decision: Tensor, outcome: Tensor, *, order: Cost = ORDER, shortage: Cost = SHORTAGE, excess: Cost = EXCESS
) -> Tensor:
    """What an order costs when the demand is known, the bracket of eq. (1) with c z + ½ q z², ``(*batch,)``.

    Args:
        decision: z, ``(*batch,)``.
        outcome: the demand, ``(*batch,)``.
        order, shortage, excess: as for :func:`decide`.
    """
    check_vectors(decision.reshape(-1, 1) if isinstance(decision, Tensor) else decision, "decision")
    check_same_kind("decision", decision, [("outcome", outcome)])
    broadcast_batch([("decision", decision, 0), ("outcome", outcome, 0)])
    buy, short, over = (
        _Price(*(t.squeeze(-1) for t in _price(name, cost, decision)))
        for name, cost in (("order", order), ("shortage", shortage), ("excess", excess))
    )
    gap = outcome - decision
    return buy.of(decision) + short.of(gap.clamp_min(0)) + over.of((-gap).clamp_min(0))


def _price(name: str, cost: Cost, like: Tensor) -> _Price:
    check_kind(name, cost, (tuple, list), "a pair, (linear, quadratic)")
    if len(cost) != 2:
        raise ValueError(f"{name} must be a pair, (linear, quadratic), got {len(cost)} entries")
    return _Price(*(per_problem(f"{name}[{i}]", c, like, "p")[..., None] for i, c in enumerate(cost)))


def _check(p: Tensor, _c, q: Tensor, c_s: Tensor, q_s: Tensor, c_e: Tensor, q_e: Tensor) -> tuple[Tensor]:
    if (p < 0).any():
        raise ValueError(f"p must not be negative, got {p.min().item():g}")
    for name, quadratic in (("order", q), ("shortage", q_s), ("excess", q_e)):
        if (quadratic < 0).any():
            raise ValueError(f"{name}[1] must be at least 0, got {quadratic.min().item():g}")
    if (c_s + c_e < 0).any():
        raise ValueError(f"shortage[0] + excess[0] must be at least 0, got {(c_s + c_e).min().item():g}")
    return (p,)


def _check_bounded(z: Tensor) -> tuple[Tensor]:
    if z.isinf().any():
        raise SolverError("the cost falls without end as the order grows.", failed_indices(z.isinf()))
    return (z,)


def _passed(v: Tensor) -> Tensor:
    """Sums over the first 0, 1, …, k entries."""
    return torch.nn.functional.pad(v.cumsum(-1), (1, 0))


def _ahead(v: Tensor) -> Tensor:
    """Sums over the others."""
    return torch.nn.functional.pad(v.flip(-1).cumsum(-1).flip(-1), (0, 1))
