"""The references of the benchmark of tasks agree with cvxpy, and see what is wrong."""

import cvxpy as cp
import numpy as np
import pytest
import torch

from benchmarks import run, tasks
from benchmarks.tasks_problems import FLEXIBILITY, HEALTH, battery_program, random_days, schedule


def test_the_battery_s_program_is_that_of_the_chapter():
    prices = random_days("storage", 1).prices[0].numpy()
    Q, p, _, _, G, h = battery_program(prices)
    w = cp.Variable(48)
    condensed = cp.Problem(cp.Minimize(0.5 * cp.quad_form(w, cp.psd_wrap(Q)) + p @ w), [G @ w <= h])
    a, b, x = cp.Variable(24), cp.Variable(24), cp.Variable(24)
    cost = prices @ (a - b) + FLEXIBILITY * cp.sum_squares(x - 0.5) + HEALTH * cp.sum_squares(cp.hstack([a, b]))
    bounds = [a >= 0, a <= 0.5, b >= 0, b <= 0.2, x >= 0, x <= 1, x == 0.5 + cp.cumsum(0.9 * a - b)]
    assert condensed.solve(cp.CLARABEL) == pytest.approx(
        cp.Problem(cp.Minimize(cost), bounds).solve(cp.CLARABEL), rel=1e-6
    )


def test_the_generator_s_reference_obeys_its_ramps():
    days = random_days("scheduling", 2)
    z = schedule(days.mean[0].numpy(), days.std[0].numpy(), 0.1)
    assert np.abs(np.diff(z)).max() <= 0.1 + 1e-12


def test_a_wrong_answer_is_seen():
    for layer in ("scheduling", "storage"):
        problem = random_days(layer, 2)
        wrong = torch.ones(problem.y_shape, dtype=torch.float64)
        accuracy = problem.accuracy(wrong, [torch.ones_like(t) for t in problem.parameters], wrong)
        assert accuracy["solution_error"] > 1e-3 and accuracy["gradient_error"] > 1e-3


def test_ours_is_right_in_a_quick_run():
    result = run.run("tasks", "cpu", True, 1, only=["ours"])
    rows = [row for case in result["cases"] for row in case["rows"]]
    assert len(rows) == len(tasks.QUICK)
    assert all(row["solution_error"] < 1e-8 and row["gradient_error"] < 1e-6 for row in rows)
