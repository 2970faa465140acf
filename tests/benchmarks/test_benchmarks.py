"""The benchmarks measure what they say: their reference against other solvers, and ours run through them."""

import json

import numpy as np
import pytest
import scipy.optimize
import torch

from benchmarks import __main__, measure, qp, run
from benchmarks.method import Method, by_autograd, checked, largest
from benchmarks.qp_problems import QP, gradients, kkt_residual, random_qp, reference

SIZES = (3, 6, 5, 2)


def fails(problem):
    raise RuntimeError("does not converge")


def unconstrained(problem):
    """Right only where no constraint binds."""

    def solve(Q, p, *constraints):
        return -torch.linalg.solve(Q, p) + sum(0 * t.sum() for t in constraints)

    return by_autograd(problem.parameters, solve)


def scipy_solution(Q, p, A, b, G, h):
    constraints = [
        {"type": "eq", "fun": lambda y: A @ y - b, "jac": lambda y: A},
        {"type": "ineq", "fun": lambda y: h - G @ y, "jac": lambda y: -G},
    ]
    start = np.linalg.lstsq(A, b, rcond=None)[0]
    options = {"ftol": 1e-14, "maxiter": 500}
    found = scipy.optimize.minimize(
        lambda y: 0.5 * y @ Q @ y + p @ y, start, jac=lambda y: Q @ y + p, constraints=constraints, options=options
    )
    return found.x


def test_reference_solution_agrees_with_scipy():
    problem = random_qp(*SIZES)
    for i in range(3):
        y, active, _ = reference(*problem.numpy(i))
        np.testing.assert_allclose(y, scipy_solution(*problem.numpy(i)), atol=1e-6)
        assert kkt_residual(problem.numpy(i), y, problem.references[i]) < 1e-12
        assert kkt_residual(problem.numpy(i), y + 1e-3, problem.references[i]) > 1e-5


@pytest.mark.parametrize("which", range(6), ids=["Q", "p", "A", "b", "G", "h"])
def test_reference_gradient_agrees_with_finite_differences(which):
    problem = random_qp(*SIZES).numpy(1)
    rng = np.random.default_rng(0)
    cotangent, direction = rng.standard_normal(6), rng.standard_normal(problem[which].shape)
    if which == 0:
        direction = direction + direction.T
    ends = [[t + e * 1e-6 * direction if i == which else t for i, t in enumerate(problem)] for e in (1, -1)]
    difference = cotangent @ (reference(*ends[0])[0] - reference(*ends[1])[0]) / 2e-6
    assert difference == pytest.approx(
        (gradients(problem, cotangent, reference(*problem))[which] * direction).sum(), rel=1e-5, abs=1e-7
    )


def test_accuracy_tells_right_from_wrong():
    problem = random_qp(*SIZES)
    cotangent = torch.ones_like(problem.p)
    exact = [reference(*problem.numpy(i))[0] for i in range(3)]
    true = [gradients(problem.numpy(i), np.ones(6), problem.references[i]) for i in range(3)]
    y = torch.tensor(np.stack(exact))
    grads = [torch.tensor(np.stack(parts)) for parts in zip(*true, strict=True)]
    good = problem.accuracy(y, grads, cotangent)
    assert good["solution_error"] < 1e-12 and good["gradient_error"] < 1e-12
    grads[4] = grads[4] * 0.5
    bad = problem.accuracy(y + 0.1, grads, cotangent)
    assert bad["solution_error"] > 1e-3 and bad["gradient_error"] > 0.01 and bad["worst_gradient"] == "G"


@pytest.mark.parametrize("element", range(3))
def test_a_solution_or_gradient_that_is_not_finite_has_no_finite_error(element):
    """Wherever in the batch it is: comparisons with NaN are false, so that max would pass over it."""
    problem = random_qp(*SIZES)
    y = torch.tensor(np.stack([exact.y for exact in problem.references.values()]))
    grads = [torch.zeros_like(parameter) for parameter in problem.parameters]
    y[element, 0] = torch.nan
    grads[3][element, 0] = torch.nan
    bad = problem.accuracy(y, grads, torch.ones_like(y))
    assert bad == {"solution_error": None, "gradient_error": None, "worst_gradient": "b"}
    rows = [{"method": "m", "forward": 1.0, "backward": 1.0, "both": 2.0, **bad}]
    shown = run.show({"table": "t", "sizes": {"n": 6}, "dtype": "float64", "rows": rows})
    assert "solution not finite   gradient not finite" in shown


def test_the_elements_that_are_checked_are_spread_over_the_batch():
    assert checked(3, 16) == [0, 1, 2]
    assert checked(512, 4) == [0, 170, 341, 511]
    assert (
        largest(np.zeros(0)) == 0 and largest(np.array([-3.0]), 2.0) == 3 and largest(np.array([np.nan, 1])) == np.inf
    )


def test_methods_take_turns(monkeypatch):
    order = []

    def method(name):
        def forward():
            order.append(name)
            return torch.zeros(1), lambda cotangent: [cotangent]

        return lambda: forward

    timings = measure.take_turns({"a": method("a"), "b": method("b")}, torch.ones(1), lambda: None, turns=3)
    assert order == ["a", "a", "b", "b"] + ["a", "b"] * 3
    summary = timings["a"].summary()
    assert summary["turns"] == 3
    assert summary["fastest"] <= summary["both"] <= summary["slowest"]


def test_medians_are_medians():
    timing = measure.Timing(forward=[0.001, 0.002, 0.1], backward=[0.003, 0.001, 0.1])
    assert timing.summary() == {
        "forward": 2.0, "backward": 3.0, "both": 4.0, "fastest": 3.0, "slowest": 200.0, "turns": 3,
    }  # fmt: skip


def test_a_slow_method_takes_three_turns_at_least():
    timing = measure.Timing()
    assert timing.wants_another(turns=10, seconds=1.0)
    timing.forward, timing.backward = [5.0] * 2, [5.0] * 2
    assert timing.wants_another(turns=10, seconds=1.0)
    timing.forward, timing.backward = [5.0] * 3, [5.0] * 3
    assert not timing.wants_another(turns=10, seconds=1.0)


def test_ours_is_exact_and_failures_and_absences_are_reported():
    absent = Method("absent", "absent", "no_such_module_anywhere", fails)
    failing = Method("failing", "torch", "torch", fails)
    limited = Method("limited", "torch", "torch", fails, lambda problem: "float32 only")
    wrong = Method("wrong", "torch", "torch", unconstrained)
    methods = [qp.METHODS[0], absent, failing, limited, wrong]
    rows = run.measure(random_qp(*SIZES), methods, torch.device("cpu"), turns=1)
    by_name = {row["method"]: row for row in rows}
    assert (
        by_name["ours"]["solution_error"] < 1e-8
        and by_name["ours"]["gradient_error"] < 1e-6
        and by_name["ours"]["both"] > 0
    )
    assert "no_such_module_anywhere" in by_name["absent"]["missing"]
    assert by_name["failing"]["error"] == "RuntimeError: does not converge"
    assert by_name["limited"]["missing"] == "float32 only"
    assert by_name["wrong"]["solution_error"] > 0.01
    assert len(run.show({"table": "t", "sizes": {"n": 6}, "dtype": "float64", "rows": rows}).splitlines()) == 6


def test_problems_are_feasible_and_reproducible():
    problem = random_qp(4, 7, 5, 3, seed=2)
    again = random_qp(4, 7, 5, 3, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(problem.parameters, again.parameters, strict=True))
    assert not torch.equal(problem.p, random_qp(4, 7, 5, 3, seed=3).p)
    assert torch.linalg.eigvalsh(problem.Q).min() > 0.05
    assert isinstance(problem.to(torch.device("cpu"), torch.float32), QP)


def test_command_line_writes_a_result_with_provenance(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(__main__, "limit_threads", lambda threads: None)  # would outlast the test
    arguments = ["qp", "--quick", "--threads", "1", "--methods", "ours", "--output", str(tmp_path)]
    assert __main__.main(arguments) == 0
    result = json.loads((tmp_path / "qp-quick-partial.json").read_text())
    assert [tuple(case["sizes"].values()) for case in result["cases"]] == qp.QUICK
    assert all(row["method"] == "ours" and row["both"] > 0 for case in result["cases"] for row in case["rows"])
    assert {"date", "command", "commit", "hardware", "versions"} <= set(result["provenance"])
    assert "ours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "nobody"], "no method is called 'nobody'; there are ours, qpth"),
        (["--tables", "nothing"], "no table is called 'nothing'; there are quick"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_bad_arguments_are_errors_in_one_line(options, message, monkeypatch, capsys):
    monkeypatch.setattr(__main__, "limit_threads", lambda threads: None)
    with pytest.raises(SystemExit, match="2"):
        __main__.main(["qp", "--quick", "--threads", "1", *options])
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(__main__, "limit_threads", lambda threads: None)
    with pytest.raises(SystemExit, match="2"):
        __main__.main(["qp", "--quick", "--device", "cuda"])
    assert "torch sees no CUDA device" in capsys.readouterr().err


def test_a_part_of_a_benchmark_does_not_replace_the_whole():
    options = [
        ["qp"],
        ["qp", "--quick"],
        ["cone", "--device", "cuda"],
        ["qp", "--methods", "ours"],
        ["qp", "--tables", "table"],
    ]
    names = [__main__.file_name(__main__.parser().parse_args(o)) for o in options]
    assert names == ["qp", "qp-quick", "cone-cuda", "qp-partial", "qp-partial"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_targets_are_about_rows_of_the_table_and_methods_that_are_run(device):
    goals = qp.targets(device)
    assert {goal["method"] for goal in goals} <= {method.name for method in qp.METHODS}
    assert {tuple(goal["sizes"].values()) for goal in goals} == set(qp.TABLE)
    assert all(goal["ratio"] > 0 for goal in goals)


def test_torchs_lu_factorisation_decides_what_qpth_can_take(monkeypatch):
    """On several threads it is wrong for several matrices of more than some 150 rows."""
    small, large = random_qp(2, 100, 100, 20), random_qp(2, 120, 110, 40)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert qp.factors_safely(small) is None
    assert "LU" in qp.factors_safely(large)
    assert qp.factors_safely(random_qp(1, 120, 110, 40)) is None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert qp.factors_safely(large) is None


def test_the_table_of_sizes_is_measured_in_both_precisions():
    measured = {(tuple(case.sizes.values()), case.dtype) for case in qp.cases(quick=False)}
    assert {(sizes, dtype) for sizes in qp.TABLE for dtype in (torch.float32, torch.float64)} <= measured
