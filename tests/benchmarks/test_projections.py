"""The references of the projection benchmark against CVXPY and finite differences, and the baselines against them."""

import json
import math

import cvxpy as cp
import numpy as np
import pytest
import torch

from benchmarks import __main__, measure, projections, run
from benchmarks.method import by_autograd
from benchmarks.projection_problems import REFERENCES, distinct, random_projection

SETTINGS = {
    "soft_top_k": {"k": 3, "tau": 0.4},
    "sparsemax": {"tau": 0.7},
    "soft_rank": {"tau": 0.3},
    "soft_sort": {"tau": 2.0},
    "sinkhorn_operator": {"tau": 0.3},
}
each_layer = pytest.mark.parametrize("layer", SETTINGS)


def methods(layer):
    return {method.name: method for method in projections.METHODS if method.layer == layer}


def example(layer, n=7):
    rng = np.random.default_rng(3)
    return rng.standard_normal((n, n) if layer == "sinkhorn_operator" else n)


def in_permutahedron(y, w):
    """The largest m entries of y add up to no more than the largest m of w do, for every m."""
    descending = np.sort(w)[::-1]
    bounds = [cp.sum_largest(y, m) <= descending[:m].sum() for m in range(1, len(w))]
    return [*bounds, cp.sum(y) == w.sum()]


def by_cvxpy(layer, x, tau, k=None):
    """The layers' own problems as their docstrings state them."""
    n = len(x)
    y = cp.Variable(x.shape)
    ranks = np.arange(1, n + 1)
    if layer == "soft_top_k":
        objective = x @ y + tau * (cp.sum(cp.entr(y)) + cp.sum(cp.entr(1 - y)))
        constraints = [cp.sum(y) == k]
    elif layer == "sparsemax":
        objective, constraints = x @ y - tau / 2 * cp.sum_squares(y), [cp.sum(y) == 1, y >= 0]
    elif layer == "soft_rank":
        objective, constraints = x @ y - tau / 2 * cp.sum_squares(y), in_permutahedron(y, ranks)
    elif layer == "soft_sort":
        objective, constraints = ranks @ y - tau / 2 * cp.sum_squares(y), in_permutahedron(y, x)
    else:
        objective = cp.sum(cp.multiply(x, y)) + tau * cp.sum(cp.entr(y))
        constraints = [cp.sum(y, axis=0) == 1, cp.sum(y, axis=1) == 1]
    cp.Problem(cp.Maximize(objective), constraints).solve(
        solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11
    )
    return y.value


@each_layer
def test_the_reference_solves_the_layers_problem(layer):
    x = example(layer)
    y, _ = REFERENCES[layer](x, **SETTINGS[layer])
    np.testing.assert_allclose(np.float64(y), by_cvxpy(layer, x, **SETTINGS[layer]), atol=2e-5)


@each_layer
def test_the_reference_gradient_agrees_with_finite_differences(layer):
    x, settings = example(layer), SETTINGS[layer]
    rng = np.random.default_rng(0)
    cotangent, direction = rng.standard_normal(x.shape), rng.standard_normal(x.shape)
    _, pull = REFERENCES[layer](x, **settings)
    ends = [(REFERENCES[layer](x + e * 1e-6 * direction, **settings)[0] * cotangent).sum() for e in (1, -1)]
    assert float((pull(cotangent) * direction).sum()) == pytest.approx(float((ends[0] - ends[1]) / 2e-6), rel=1e-6)


def test_the_reference_is_doubly_stochastic_at_any_temperature():
    for tau in (10.0, 1.0, 1e-2, 1e-3):
        P, _ = REFERENCES["sinkhorn_operator"](example("sinkhorn_operator", 20), tau)
        np.testing.assert_allclose(np.float64([P.sum(0), P.sum(1)]), 1, atol=1e-12)
        assert (P >= 0).all()


@each_layer
def test_accuracy_tells_right_from_wrong(layer):
    problem = random_projection(layer, 3, 6, **SETTINGS[layer])
    cotangent = torch.randn(problem.y_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.stack([torch.tensor(np.float64(problem.references[i][0])) for i in range(3)])
    gradient = torch.stack([torch.tensor(np.float64(problem.references[i][1](cotangent[i].numpy()))) for i in range(3)])
    good = problem.accuracy(y, [gradient], cotangent)
    assert max(good["solution_error"], good["constraint_error"], good["gradient_error"]) < 1e-14
    bad = problem.accuracy(1.01 * y, [1.1 * gradient], cotangent)
    assert bad["solution_error"] > 1e-3 and bad["gradient_error"] == pytest.approx(0.1)
    assert bad["constraint_error"] > 1e-3
    y[2, 0], gradient[1, 0] = torch.nan, torch.inf
    worst = problem.accuracy(y, [gradient], cotangent)
    assert worst["solution_error"] is worst["constraint_error"] is worst["gradient_error"] is None


def test_the_error_of_sums_is_that_of_the_constraint_only():
    """A point that satisfies the constraint but is not the solution has none."""
    problem = random_projection("soft_top_k", 1, 10, tau=1.0, k=4)
    found = problem.accuracy(torch.full((1, 10), 0.4, dtype=torch.float64), [problem.x], problem.x)
    assert found["constraint_error"] < 1e-15 and found["solution_error"] > 0.05


def test_numbers_to_sort_are_distinct_in_single_precision():
    numbers = distinct(50_000, torch.Generator().manual_seed(0))
    assert len(numbers) == 50_000 == len(numbers.float().unique())
    assert numbers.mean().abs() < 0.03 and 0.9 < numbers.std() < 1.1
    assert not torch.equal(numbers, numbers.sort().values)


def test_problems_are_reproducible_and_of_the_right_shape():
    for layer in SETTINGS:
        problem, again = (random_projection(layer, 2, 5, **SETTINGS[layer]) for _ in range(2))
        assert torch.equal(problem.x, again.x) and problem.settings == SETTINGS[layer]
        assert problem.x.shape == ((2, 5, 5) if layer == "sinkhorn_operator" else (2, 5))
        assert problem.to(torch.device("cpu"), torch.float32).x.dtype == torch.float32


@each_layer
def test_ours_is_exact_on_every_layer(layer):
    (case,) = (case for case in projections.cases(quick=True) if case.sizes["layer"] == layer)
    problem = projections.problem(**case.sizes)
    (row,) = run.measure(problem, [methods(layer)["ours"]], torch.device("cpu"), turns=1)
    assert max(row["solution_error"], row["constraint_error"], row["gradient_error"]) < 1e-9
    assert row["memory"] >= 2 * problem.x.nbytes  # at least y and the gradient


def test_the_bracket_is_as_exact_as_published():
    """Half of 1e-4 in ν, which is that much of the sum at most per entry and a fourth of it in an entry."""
    problem = random_projection("soft_top_k", 8, 40, tau=0.5, k=4)
    (row,) = run.measure(problem, [methods("soft_top_k")["LML bracketing"]], torch.device("cpu"), turns=1)
    assert 1e-9 < row["solution_error"] < 1.3e-5 and row["gradient_error"] < 1e-4


def test_the_bracket_is_moved_if_it_is_too_high():
    """ν = logit(1e-5) = −11.5 lies below all points between −7 and 7."""
    nu = projections.bracketed_multiplier(torch.zeros(2, 100_000, dtype=torch.float64), 1, branches=10)
    torch.testing.assert_close(nu, torch.full_like(nu, -math.log(99_999)), atol=1e-4, rtol=0)


def test_the_loop_takes_the_rounds_that_it_needs():
    problem = random_projection("sinkhorn_operator", 3, 8, tau=0.5)
    rounds = projections.rounds_needed(problem.x / 0.5, 1e-10)
    good, less = (projections.balance_in_turn(problem.x / 0.5, count) for count in (rounds, rounds - 1))
    assert (good.sum(-1) - 1).abs().max() <= 1e-10 < (less.sum(-1) - 1).abs().max()
    (row,) = run.measure(problem, [methods("sinkhorn_operator")["unrolled loop"]], torch.device("cpu"), turns=1)
    assert row["solution_error"] < 1e-9 and row["gradient_error"] < 1e-6


def test_a_loop_that_needs_too_long_has_failed():
    problem = random_projection("sinkhorn_operator", 2, 12, tau=0.01)
    candidates = [methods("sinkhorn_operator")[name] for name in ("unrolled loop", "20 rounds")]
    unrolled, published = run.measure(problem, candidates, torch.device("cpu"), turns=1)
    assert unrolled["error"].startswith("RuntimeError: sums off by") and "500 rounds" in unrolled["error"]
    assert published["constraint_error"] > 1e-2


def test_memory_is_that_of_the_tensors_at_the_peak():
    """exp of n numbers in double precision: its result, which is kept for the derivative, and the gradient."""
    x = torch.zeros(1000, dtype=torch.float64)
    assert measure.memory(by_autograd([x], torch.exp), torch.ones_like(x)) == 2 * x.nbytes


def test_memory_of_a_loop_grows_with_its_rounds():
    x = torch.zeros(20, 20, dtype=torch.float64)
    short, long = (
        measure.memory(by_autograd([x], lambda S, n=n: projections.balance_in_turn(S, n)), torch.ones_like(x))
        for n in (10, 20)
    )
    assert 1.7 * short < long < 2 * short


def test_every_case_is_measured_on_its_own_methods():
    layers = {method.layer for method in projections.METHODS}
    assert layers == set(REFERENCES) == {case.sizes["layer"] for case in projections.cases(quick=True)}
    for case in projections.cases(quick=False):
        assert {"ours"} < set(methods(case.sizes["layer"])), case


def test_targets_are_about_rows_of_the_table_and_methods_that_are_run():
    measured = [(c.sizes, str(c.dtype)[6:]) for c in projections.cases(quick=False) if c.table == "table"]
    for device in ("cpu", "cuda"):
        for goal in projections.targets(device):
            assert (goal["sizes"], goal["dtype"]) in measured
            assert goal["method"] in methods(goal["sizes"]["layer"]) and goal["ratio"] > 0
    issue = {"layer": "soft_top_k", "batch": 1024, "n": 1000, "k": 20, "tau": 1.0}
    assert [goal["ratio"] for goal in projections.targets("cuda") if goal["sizes"] == issue] == [10, 10]


def test_command_line_runs_without_the_other_packages(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(__main__, "limit_threads", lambda threads: None)  # would outlast the test
    absent = {"entmax", "torchsort", "ot.batch", "cvxpylayers.torch"}
    find = run.Method.missing
    monkeypatch.setattr(run.Method, "missing", lambda self: "not here" if self.module in absent else find(self))
    assert __main__.main(["projections", "--quick", "--threads", "1", "--output", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "projections-quick.json").read_text())
    assert [case["sizes"] for case in result["cases"]] == projections.QUICK
    rows = [row for case in result["cases"] for row in case["rows"]]
    assert [row["method"] for row in rows if "missing" in row] == [
        "cvxpylayers",
        "entmax",
        "torchsort",
        "torchsort",
        "POT",
    ]
    assert [row["method"] for row in rows if "memory" in row].count("ours") == 5
    assert "LML bracketing" in capsys.readouterr().out
