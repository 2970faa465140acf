"""The control benchmark: its reference against a dense KKT solve and finite differences, and our methods through it."""

import numpy as np
import pytest
import torch

from benchmarks import control, run
from benchmarks.control_problems import as_program, condense, random_control
from benchmarks.qp_problems import reference

SIZES = (2, 4, 3, 2)


@pytest.mark.parametrize("bound", [control.FREE, control.TIGHT])
def test_the_reference_solves_the_problem_with_its_states(bound):
    problem = random_control(*SIZES, bound)
    x_init, C, c, F = (t.numpy() for t in problem.element(0))
    _, exact = problem.references[0]
    u = exact.y.reshape(4, 2)
    limit = problem.bound
    assert (np.abs(u) <= limit + 1e-12).all()
    assert not problem.bounded or 0 < (np.abs(u) >= limit - 1e-12).sum() < u.size

    def cost(u):
        x, total = x_init, 0.0
        for t in range(4):
            tau = np.concatenate([x, u[t]])
            total += 0.5 * tau @ C[t] @ tau + c[t] @ tau
            x = F[t] @ tau if t < 3 else x
        return total

    rng = np.random.default_rng(0)
    for _ in range(50):
        other = np.clip(u + 1e-3 * rng.standard_normal(u.shape), -limit, limit)
        assert cost(other) >= cost(u)


@pytest.mark.parametrize("which", range(4), ids=["x_init", "C", "c", "F"])
def test_the_reference_gradient_agrees_with_finite_differences(which):
    problem = random_control(*SIZES, control.TIGHT)
    cotangent = torch.randn(problem.y_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    program, exact = problem.references[0]
    true = problem._gradients(0, program, exact, cotangent)[which]
    direction = np.random.default_rng(1).standard_normal(true.shape)
    if which == 1:
        direction = direction + direction.swapaxes(-1, -2)

    def solved(step):
        data = problem.element(0)
        data[which] = data[which] + step * torch.from_numpy(direction)
        return reference(*as_program(*(t.numpy() for t in condense(*data)), problem.bound)).y

    difference = cotangent[0].flatten().numpy() @ (solved(1e-6) - solved(-1e-6)) / 2e-6
    np.testing.assert_allclose((true * direction).sum(), difference, rtol=1e-6)


def test_ours_and_the_quadratic_program_are_exact_in_the_quick_run():
    result = run.run("control", "cpu", True, 1, only=["ours", "solve_qp"])
    for case in result["cases"]:
        for row in case["rows"]:
            assert row["solution_error"] <= 1e-8 and row["gradient_error"] <= 1e-7, row
