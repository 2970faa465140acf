"""The reference of the cone benchmark against finite differences, and against the conditions it must satisfy."""

import numpy as np
import pytest
import torch

from benchmarks import cone, run
from benchmarks.cone_problems import (
    Shape,
    interior_point,
    lower_to_upper,
    projection,
    random_cone_program,
    solve_and_differentiate,
    to_rows,
)

SHAPE = {"zero": 2, "nonneg": 5, "soc": [3, 4], "psd": [2, 4], "exp": 2}


@pytest.fixture
def program():
    return random_cone_program(batch=2, n=8, **SHAPE)


def data_of(program, i=0):
    return [parameter[i].numpy() for parameter in program.parameters]


def solve(data, shape):
    return solve_and_differentiate(*data, shape, np.ones(data[2].shape))[0]


def test_the_reference_satisfies_the_optimality_conditions(program):
    A, b, c = data_of(program)
    x = solve((A, b, c), program.shape)
    s, _ = projection(b - A @ x, program.shape)
    np.testing.assert_allclose(s, b - A @ x, atol=1e-9)  # b − Ax lies in K
    for t in (1e-3, 1e-2):  # and no feasible step to the point where all is known to be strictly feasible is better
        rng = np.random.default_rng(0)
        for _ in range(20):
            y = x + t * rng.standard_normal(8)
            if np.allclose(projection(b - A @ y, program.shape)[0], b - A @ y, atol=1e-12):
                assert c @ y >= c @ x - 1e-9


@pytest.mark.parametrize("which", range(3), ids=["A", "b", "c"])
def test_the_reference_gradient_agrees_with_finite_differences(program, which):
    data = data_of(program, 1)
    rng = np.random.default_rng(1)
    cotangent, direction = rng.standard_normal(8), rng.standard_normal(data[which].shape)
    true = (solve_and_differentiate(*data, program.shape, cotangent)[1][which] * direction).sum()
    ends = [[t + e * 1e-3 * direction if i == which else t for i, t in enumerate(data)] for e in (1, -1)]
    difference = cotangent @ (solve(ends[0], program.shape) - solve(ends[1], program.shape)) / 2e-3
    assert true == pytest.approx(difference, rel=1e-3, abs=1e-4)


def test_programs_have_points_inside_the_cone_and_its_dual(program):
    shape = Shape(2, 5, (3, 4), (2, 4), 2)
    assert program.shape == shape and program.b.shape == (2, shape.rows) and shape.rows == 33
    rng = np.random.default_rng(0)
    for _ in range(10):
        s, z = interior_point(shape, rng, dual=False), interior_point(shape, rng, dual=True)
        np.testing.assert_allclose(projection(s, shape)[0], s, atol=1e-9)
        np.testing.assert_allclose(projection(-z, shape)[0], 0, atol=1e-7)  # −z is in the polar cone
        assert s @ z > 0


def test_triangles():
    X = np.array([[1.0, 2, 3], [2, 4, 5], [3, 5, 6]])
    root = np.sqrt(2)
    np.testing.assert_allclose(to_rows(X), [1, 2 * root, 3 * root, 4, 5 * root, 6])
    np.testing.assert_allclose(to_rows(X)[lower_to_upper(3)], [1, 2 * root, 4, 3 * root, 5 * root, 6])
    np.testing.assert_allclose((cone.matrix_of_rows(3) @ to_rows(X)).reshape(3, 3), X)


def test_accuracy_tells_right_from_wrong(program):
    cotangent = torch.ones(2, 8, dtype=torch.float64)
    solved = [solve_and_differentiate(*data_of(program, i), program.shape, np.ones(8)) for i in range(2)]
    y = torch.tensor(np.stack([x for x, _ in solved]))
    grads = [torch.tensor(np.stack(parts)) for parts in zip(*(g for _, g in solved), strict=True)]
    good = program.accuracy(y, grads, cotangent)
    assert good["solution_error"] == 0 and good["gradient_error"] == 0
    grads[1] = -grads[1]
    bad = program.accuracy(y + 1, grads, cotangent)
    assert bad["solution_error"] > 0.1 and bad["gradient_error"] > 0.01 and bad["worst_gradient"] == "b"


def test_ours_is_exact_on_every_kind_of_cone():
    for case in cone.cases(quick=True):
        problem = cone.problem(**case.sizes)
        (row,) = run.measure(problem, [cone.METHODS[0]], torch.device("cpu"), turns=1)
        assert row["solution_error"] < 1e-6 and row["gradient_error"] < 1e-5, (case.sizes, row)
