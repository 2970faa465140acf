"""Decisions under a forecast: schedules of a generator and plans of a battery, forward and backward.

By the number of days: beside a loop over the days, beside dense quadratic programs, and beside cvxpylayers. The
generator's expected cost contains the normal distribution, which cvxpylayers can't express, so it is not in that table.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .method import Case, Forward, Method, by_autograd, cpu_and_double_only
from .tasks_problems import FLEXIBILITY, HEALTH, HOURS, Battery, Generator, battery_program, random_days

COLUMNS = ("layer", "days")
SIZES = [("scheduling", 50), ("scheduling", 2042), ("storage", 50), ("storage", 500)]
QUICK = [("scheduling", 3), ("storage", 3)]
LOOP_DAYS = 50


def plan(prices: Tensor) -> Tensor:
    from diffopt_lib.tasks import storage

    found = storage.decide(prices, flexibility=FLEXIBILITY, health=HEALTH)
    return torch.cat([found.charge, found.discharge], -1)


def our_plans(problem: Battery) -> Forward:
    return by_autograd(problem.parameters, plan)


def plans_one_by_one(problem: Battery) -> Forward:
    return by_autograd(problem.parameters, lambda prices: torch.stack([plan(day) for day in prices]))


def our_schedules(problem: Generator) -> Forward:
    from diffopt_lib.tasks import scheduling

    return by_autograd(problem.parameters, lambda mean, std: scheduling.decide(mean, std, ramp=problem.ramp))


def schedules_one_by_one(problem: Generator) -> Forward:
    from diffopt_lib.tasks import scheduling

    def solve(mean: Tensor, std: Tensor) -> Tensor:
        return torch.stack([scheduling.decide(*day, ramp=problem.ramp) for day in zip(mean, std, strict=True)])

    return by_autograd(problem.parameters, solve)


def dense(problem: Battery) -> Forward:
    """:func:`diffopt_lib.layers.solve_qp` in charge and discharge."""
    from diffopt_lib.layers import solve_qp

    Q, _, _, _, G, h = (torch.as_tensor(t).to(problem.prices) for t in battery_program(problem.prices[0].cpu().numpy()))
    return by_autograd(problem.parameters, lambda p: solve_qp(Q, torch.cat([p, -p], -1), G=G, h=h).y)


def cvxpylayers(problem: Battery) -> Forward:
    import cvxpy as cp
    from cvxpylayers.torch import CvxpyLayer

    a, b, x, p = cp.Variable(HOURS), cp.Variable(HOURS), cp.Variable(HOURS), cp.Parameter(HOURS)
    before = cp.hstack([0.5, x[:-1]])
    cost = p @ (a - b) + FLEXIBILITY * cp.sum_squares(x - 0.5) + HEALTH * (cp.sum_squares(a) + cp.sum_squares(b))
    bounds = [a >= 0, a <= 0.5, b >= 0, b <= 0.2, x >= 0, x <= 1, x == before + 0.9 * a - b]
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cost), bounds), parameters=[p], variables=[a, b])
    return by_autograd(problem.parameters, lambda prices: torch.cat(layer(prices), -1))


def few_days(problem: Battery | Generator) -> str | None:
    return "left out: takes too long" if len(problem.parameters[0]) > LOOP_DAYS else None


METHODS = [
    Method("ours", "diffopt_lib", "diffopt_lib.tasks", our_schedules, layer="scheduling", in_torch=True),
    Method("day by day", "diffopt_lib", "diffopt_lib.tasks", schedules_one_by_one, few_days, "scheduling", True),
    Method("ours", "diffopt_lib", "diffopt_lib.tasks", our_plans, layer="storage", in_torch=True),
    Method("day by day", "diffopt_lib", "diffopt_lib.tasks", plans_one_by_one, few_days, "storage", True),
    Method("solve_qp", "diffopt_lib", "diffopt_lib.layers", dense, layer="storage", in_torch=True),
    Method("cvxpylayers", "cvxpylayers", "cvxpylayers.torch", cvxpylayers, cpu_and_double_only, "storage"),
]


def cases(quick: bool) -> list[Case]:
    """All in float64."""
    rows = QUICK if quick else SIZES
    table = "quick" if quick else "table"
    return [Case(table, dict(zip(COLUMNS, row, strict=True)), torch.float64) for row in rows]


def targets(device: str) -> list[dict[str, Any]]:
    """How many times as long as ours a method should take, at least."""
    return [{"method": "cvxpylayers", "sizes": dict(zip(COLUMNS, SIZES[-1], strict=True)), "ratio": 5}]


problem = random_days
