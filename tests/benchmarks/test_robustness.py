"""The programs have the answers that they are said to have, and every way to be right or wrong is told apart."""

import json
import warnings

import clarabel
import numpy as np
import pytest
import scipy.sparse
import torch

from benchmarks import __main__, robustness
from benchmarks.cone_problems import first_solution
from benchmarks.field_problems import FIELD
from benchmarks.method import Method
from benchmarks.robustness import Answer, outcome, problem, try_all
from benchmarks.robustness_problems import HOSTILE

KINDS = [*FIELD, *HOSTILE]
MADE = {kind: problem(kind, 6).members for kind in KINDS}
OF_VERDICT = {
    verdict: [kind for kind in KINDS if MADE[kind][0].verdict == verdict]
    for verdict in ("solvable", "infeasible", "unbounded")
}


def rounding(value, terms):
    """The largest entry relative to the terms that were added up to get it."""
    return float(np.max(np.abs(value) / np.maximum(terms, 1e-300), initial=0))


@pytest.mark.parametrize("kind", OF_VERDICT["solvable"])
def test_the_pair_satisfies_the_optimality_conditions(kind):
    """Stationarity in all; the cones of quadratic programs, whose complementarity needs no function of the cone."""
    for program in MADE[kind]:
        P, c, A, b, x, z = program.P, program.c, program.A, program.b, program.x, program.proof
        s, k = b - A @ x, program.shape.zero
        assert np.linalg.eigvalsh(P)[0] >= -1e-12 * np.abs(P).max()
        terms = np.abs(P) @ np.abs(x) + np.abs(c) + np.abs(A.T) @ np.abs(z)
        assert rounding(P @ x + c + A.T @ z, terms) < 1e-14 or np.abs(P @ x + c + A.T @ z).max() < 1e-14
        assert abs(s @ z) <= 1e-14 * (np.abs(b) + np.abs(A) @ np.abs(x)) @ np.abs(z)
        ends = k + program.shape.nonneg
        assert (z[k:ends] >= 0).all()
        assert rounding(np.minimum(s[k:ends], 0), (np.abs(b) + np.abs(A) @ np.abs(x))[k:ends]) < 1e-14
        assert np.abs(s[:k]).max(initial=0) <= 1e-13 * (1 + np.abs(x).max())


@pytest.mark.parametrize("kind", ["entropic assignment", "distance, no upper bound"])
def test_cone_programs_have_the_solution_that_clarabel_finds(kind):
    for program in MADE[kind]:
        bounded = np.abs(program.b) < 1e4  # giants make Clarabel inexact
        shape = program.shape.__class__(
            **vars(program.shape) | {"nonneg": program.shape.nonneg - int((~bounded).sum())}
        )
        x, _ = first_solution(program.A[bounded], program.b[bounded], program.c, shape)
        assert program.error(x) < 1e-5


@pytest.mark.parametrize("kind", OF_VERDICT["infeasible"])
def test_the_certificate_proves_that_there_is_no_feasible_point(kind):
    for program in MADE[kind]:
        z = program.proof
        assert (z[program.shape.zero :] >= 0).all()
        assert np.abs(program.A.T @ z).max() < 1e-13 and program.b @ z < -9e-4


@pytest.mark.parametrize("kind", OF_VERDICT["unbounded"])
def test_the_direction_proves_that_there_is_no_minimum(kind):
    for program in MADE[kind]:
        d, k = program.proof, program.shape.zero
        assert np.abs(program.P @ d).max() < 1e-13 and np.abs(program.A[:k] @ d).max(initial=0) < 1e-13
        assert (program.A[k:] @ d <= 1e-13).all() and program.c @ d < -0.09
        s = program.b - program.A @ program.x
        assert np.abs(s[:k]).max(initial=0) < 1e-13 and (s[k:] >= -1e-13).all()


@pytest.mark.parametrize("kind", ["any rank", "linear", "integer vertices", "no interior", "soft rows"])
def test_well_scaled_programs_have_the_value_that_clarabel_finds(kind):
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    for program in MADE[kind]:
        cones = [clarabel.ZeroConeT(program.shape.zero), clarabel.NonnegativeConeT(program.shape.nonneg)]
        upper = scipy.sparse.triu(scipy.sparse.csc_matrix(program.P), format="csc")
        data = upper, program.c, scipy.sparse.csc_matrix(program.A), program.b, cones, settings
        found = clarabel.DefaultSolver(*data).solve()
        assert program.value(np.array(found.x)) == pytest.approx(program.value(program.x), rel=1e-5, abs=1e-5)


def test_hostile_programs_have_every_rank_and_bounds_of_every_size():
    ranks = {(len(p.c), np.linalg.matrix_rank(p.P)) for p in problem("any rank", 60).members}
    assert {0, 1, 2} <= {rank for _, rank in ranks} and any(n == rank for n, rank in ranks)
    bounds = [np.abs(p.b).max() for p in problem("giant bounds", 60).members]
    assert min(bounds) < 1e6 and max(bounds) > 1e18


def test_a_wrong_point_is_far_and_the_right_one_is_not():
    for kind in OF_VERDICT["solvable"]:
        for program in MADE[kind]:
            assert program.error(program.x) < 1e-12
            size = np.abs(program.x / program.unit).max()
            assert program.error(program.x + 0.3 * (1 + size) * program.unit) > robustness.RIGHT


@pytest.mark.parametrize(
    ("kind", "says", "gives", "expected"),
    [
        ("soft box", "solved", "x", "solved"),
        ("soft box", "solved", "zeros", "wrong in silence"),
        ("soft box", "solved", "nan", "false error"),
        ("soft box", "failed", "x", "false error"),
        ("soft box", "infeasible", "nothing", "false certificate"),
        ("soft box", "unbounded", "zeros", "false certificate"),
        ("Farkas", "solved", "zeros", "missed error"),
        ("Farkas", "failed", "nothing", "solved"),
        ("no minimum", "solved", "nan", "solved"),
        ("no minimum", "unbounded", "nothing", "solved"),
    ],
)
def test_outcomes(kind, says, gives, expected):
    program = MADE[kind][0]
    x = {"x": program.x, "zeros": 0 * program.x, "nan": np.nan * program.x, "nothing": None}[gives]
    assert outcome(program, Answer(x, says)) == expected


def test_what_is_raised_or_warned_of_is_said():
    def raises(text):
        def prepare(program):
            raise RuntimeError(text)

        return prepare

    def warns(program):
        def solve():
            warnings.warn("not trusted", UserWarning, stacklevel=2)
            return Answer(0 * program.x, "solved")

        return solve

    def warns_before(program):
        warnings.warn("about something else", UserWarning, stacklevel=2)
        return lambda: Answer(0 * program.x, "solved")

    some = robustness.Programs(MADE["soft box"])

    def tried(prepare, limits=lambda program: None):
        row = try_all(some, Method("m", "torch", "torch", prepare, limits))
        return {key for key in robustness.OUTCOMES if row[key]}

    assert tried(raises("Solver returned status DualInfeasible")) == {"false certificate"}
    assert tried(raises("certified infeasible")) == {"false certificate"}
    assert tried(raises("singular matrix")) == {"false error"}
    assert tried(warns) == {"false error"}
    assert tried(warns_before) == {"wrong in silence"}
    assert tried(lambda program: lambda: Answer(program.x, "solved")) == {"solved"}
    assert tried(warns, lambda program: "not for it") == {"not taken"}
    assert "missing" in try_all(some, Method("m", "torch", "no_such_module", warns))


@pytest.mark.parametrize("kind", KINDS)
def test_ours_is_never_wrong_in_silence_and_certifies_nothing_falsely(kind):
    row = try_all(robustness.Programs(MADE[kind]), robustness.METHODS[0])
    assert not row["wrong in silence"] and not row["false certificate"] and not row["missed error"]


def test_the_limits_of_methods_are_those_that_they_document():
    cone, singular, convex = (MADE[kind][0] for kind in ("entropic assignment", "soft box", "no upper bound"))
    limits = {method.name: method.limits for method in robustness.METHODS}
    assert limits["QPLayer"](cone) and limits["qpth"](cone) and not limits["ours"](cone)
    assert limits["qpth"](singular) and not limits["QPLayer"](singular) and not limits["qpth"](convex)


def test_only_the_cpu_in_float64_is_measured():
    some = problem("soft box", 1)
    assert some.to(torch.device("cpu"), torch.float64) is some
    with pytest.raises(ValueError, match="float64 on the CPU"):
        some.to(torch.device("cpu"), torch.float32)


def test_command_line_counts_every_kind(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(__main__, "limit_threads", lambda threads: None)  # would outlast the test
    arguments = ["robustness", "--quick", "--threads", "1", "--methods", "ours", "--output", str(tmp_path)]
    assert __main__.main(arguments) == 0
    result = json.loads((tmp_path / "robustness-quick-partial.json").read_text())
    assert [case["sizes"]["kind"] for case in result["cases"]] == KINDS
    for case in result["cases"]:
        (row,) = case["rows"]
        assert sum(len(row[key]) for key in robustness.OUTCOMES) == case["sizes"]["programs"] == 1
    assert "control barrier, 1 programs" in capsys.readouterr().out
