"""A battery's day ahead: when to charge and when to discharge, given the prices.

In hour t the battery takes a_t from the grid and gives b_t to it. A share η of what it takes arrives, and x_t is the
level after the hour:

    min Σ_t p_t (a_t − b_t) + λ (x_t − ½B)² + ε a_t² + ε b_t²                                      (1)
    s.t.  x_t = x_{t−1} + η a_t − b_t,   0 ≤ x_t ≤ B,   0 ≤ a_t ≤ A,   0 ≤ b_t ≤ D,   x_0 given

λ is what it is worth to stay flexible, ε what wear costs. Prices may be negative. With ε > 0 the solution is unique.
The level after the last hour is bounded and pulled to the middle like all others, so the last hour can't sell what is
not there.

A chain with one state and two controls: :mod:`.solver` is an interior point method with one Riccati recursion per step,
:mod:`.derivative` the optimality conditions with the active bounds held, whose linear systems are those of
:mod:`diffopt_lib.controllers.mpc`.

**Where there is no derivative.** Where a bound is about to become active or inactive the plan has a kink. An hour in
which the battery is at its bounds does not depend on its price, and a plan with no free hour on nothing but the bounds.

Chapter: book/2_differentiable/12_task_losses. Source: Donti, Amos & Kolter 2017, §4.3, where the level after the last
hour is neither bounded nor pulled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import get_args

from torch import Tensor

from ...autograd.opaque import opaque
from ...autograd.precision import full_precision
from ...batch.shapes import broadcast_batch
from ...controllers.mpc.layout import Layout
from ...implicit import attach
from ...solution import OnFailure, mark_failures
from ...validate import as_tensor, check_kind, check_option, check_vectors, per_problem
from ..arguments import check_hours
from .derivative import conditions, solve_conditions
from .solver import solve

CAPACITY, EFFICIENCY, CHARGE_RATE, DISCHARGE_RATE, START = 1.0, 0.9, 0.5, 0.2, 0.5


@dataclass(frozen=True)
class Plan:
    """The solution of (1) for every element of a batch.

    Attributes:
        charge, discharge: a and b, ``(*batch, T)``, energy in each hour.
        level: x_1, …, x_T, the level after each hour, ``(*batch, T)``. These three carry gradients.
        converged, iterations, residual: ``(*batch,)``. The residual is the largest violation of the optimality
            conditions, relative to the terms of the objective's slope and to the capacity.
    """

    charge: Tensor
    discharge: Tensor
    level: Tensor
    converged: Tensor
    iterations: Tensor
    residual: Tensor


@full_precision
def decide(
    prices: Tensor,
    *,
    flexibility: float | Tensor = 0.1,
    health: float | Tensor = 0.05,
    capacity: float | Tensor = CAPACITY,
    efficiency: float | Tensor = EFFICIENCY,
    charge_rate: float | Tensor = CHARGE_RATE,
    discharge_rate: float | Tensor = DISCHARGE_RATE,
    start: float | Tensor = START,
    on_failure: OnFailure = "raise",
) -> Plan:
    """The plan of eq. (1); differentiable at any order in all arguments.

    The arithmetic is in float64 whatever the dtype of the prices, which is the dtype of the result.

    Args:
        prices: p, ``(*batch, T)``, money per energy.
        flexibility: λ ≥ 0, money per squared energy: a number or a tensor ``(*batch,)``, like all that follow.
        health: ε > 0, likewise.
        capacity: B > 0, energy.
        efficiency: η in (0, 1].
        charge_rate, discharge_rate: A and D > 0, energy per hour. 1e20 or infinity is no bound.
        start: x_0, between 0 and B.
        on_failure: ``"raise"``; ``"nan"`` marks failed elements and their gradients NaN; ``"return"`` gives the last
            iterate with ``converged`` False.

    Raises:
        ValueError: bad shapes or dtypes, NaN or infinite input, arguments outside of the ranges given.
        SolverError: elements that did not converge. None is infeasible: doing nothing is a plan.
    """
    check_option("on_failure", on_failure, get_args(OnFailure))
    check_vectors(prices, "prices")
    rates = {"charge_rate": charge_rate, "discharge_rate": discharge_rate}
    others = dict(
        flexibility=flexibility, health=health, capacity=capacity, efficiency=efficiency, **rates, start=start
    )
    read = {n: (as_tensor if n in rates else per_problem)(n, v, prices, "prices") for n, v in others.items()}
    batch = broadcast_batch([("prices", prices, 1), *((name, t, 0) for name, t in read.items())])
    T = prices.shape[-1]
    layout = Layout(T, 1, 2, 1)
    wide = prices.expand(*batch, T).double()
    theta = (wide, *(t.expand(batch)[..., None].double() for t in read.values()))
    z, residual, converged, iterations, *known = opaque(partial(solve, layout, on_failure), *theta)
    z = attach(partial(conditions, layout), partial(solve_conditions, layout), z, *theta, *known)
    z = mark_failures(z, converged, on_failure).to(prices.dtype)
    tau, *_ = layout.split(z)
    _, charge, discharge = tau.unbind(-1)
    start_, eta = (t.expand(batch)[..., None] for t in (read["start"], read["efficiency"]))
    level = start_ + (eta * charge - discharge).cumsum(-1)
    return Plan(charge, discharge, level, converged, iterations, residual.to(prices.dtype))


@full_precision
def loss(
    decision: Plan,
    outcome: Tensor,
    *,
    flexibility: float | Tensor = 0.1,
    health: float | Tensor = 0.05,
    capacity: float | Tensor = CAPACITY,
) -> Tensor:
    """What a plan costs at the prices that came, the objective of eq. (1), ``(*batch,)``; negative is a profit.

    Args:
        decision: a plan.
        outcome: prices, ``(*batch, T)``.
        flexibility, health, capacity: as for :func:`decide`.
    """
    check_kind("decision", decision, Plan, "a Plan")
    check_vectors(outcome, "outcome")
    check_hours(("decision", decision.charge), ("outcome", outcome))
    named = {"flexibility": flexibility, "health": health, "capacity": capacity}
    lam, eps, B = (per_problem(name, v, outcome, "outcome")[..., None] for name, v in named.items())
    a, b, x = decision.charge, decision.discharge, decision.level
    return (outcome * (a - b) + lam * (x - B / 2).square() + eps * (a.square() + b.square())).sum(-1)
