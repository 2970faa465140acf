"""Explorers that are solved in the page: the numerical pieces, and that a solve must agree with the library's."""

import json

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from examples import BALL_IN_PAGE, ball, project
from scipy.optimize import isotonic_regression

from diffopt_lib.widgets import Choice, Explorer, Pad, Points, Slider, Text
from diffopt_lib.widgets.page_solve import CONTEXTS, Engine

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def engine():
    return Engine("() => ({})", {}).engine


def call(engine, name: str, *arguments):
    text = f"JSON.stringify(numerics.{name}(...JSON.parse({json.dumps(json.dumps(arguments))})))"
    return json.loads(engine.eval(text))


def test_linear_systems_are_solved_and_singular_ones_refused(engine):
    for n in (1, 3, 8):
        A, B = RNG.normal(size=(n, n)), RNG.normal(size=(n, 2))
        np.testing.assert_allclose(
            call(engine, "solveLinear", A.tolist(), B.tolist()), np.linalg.solve(A, B), atol=1e-9
        )
    A = [[0.0, 1.0], [1.0, 0.0]]  # needs a row exchange
    assert call(engine, "solveLinear", A, [[2.0], [3.0]]) == [[3], [2]]
    assert call(engine, "solveLinear", [[1.0, 2.0], [2.0, 4.0]], [[1.0], [1.0]]) is None


@pytest.mark.parametrize("singular", [False, True])
def test_small_quadratic_programs_are_those_of_clarabel(engine, singular):
    """Singular: a linear program, which the constraints hold in a corner."""
    y, p = cp.Variable(2), cp.Parameter(2)
    G = np.array([[1.0, 0.5], [-0.4, 1.0], [-1.0, -0.2], [0.2, -1.0], [0.5, 0.9]])
    h = np.array([1.1, 0.8, 0.9, 0.7, 1.0])
    Q = np.zeros((2, 2)) if singular else np.array([[1.0, -0.3], [-0.3, 0.8]])
    walls = G @ y <= h
    program = cp.Problem(cp.Minimize(cp.quad_form(y, cp.psd_wrap(Q)) / 2 + p @ y), [walls])
    for p.value in RNG.normal(size=(60, 2)):
        program.solve(solver=cp.CLARABEL)
        ours = call(engine, "smallQP", Q.tolist(), p.value.tolist(), G.tolist(), h.tolist())
        np.testing.assert_allclose(ours["y"], y.value, atol=1e-6)
        np.testing.assert_allclose(ours["multipliers"], walls.dual_value, atol=1e-5)
        z = np.r_[ours["y"], np.array(ours["multipliers"])[ours["active"]]]
        np.testing.assert_allclose(np.array(ours["K"]) @ z, np.r_[-p.value, h[ours["active"]]], atol=1e-12)


def test_an_infeasible_program_says_so_by_its_violation(engine):
    ours = call(engine, "smallQP", [[1.0]], [0.0], [[1.0], [-1.0]], [-1.0, -1.0])
    assert ours["violation"] > 0.5


def test_bisection_goes_to_the_last_digit(engine):
    assert abs(engine.eval("numerics.bisect((t) => t * t * t - 2, 0, 5)") - 2 ** (1 / 3)) < 1e-15


def test_descending_order_keeps_equal_entries_in_place(engine):
    assert call(engine, "descending", [1.0, 3.0, 2.0, 3.0]) == [1, 3, 2, 0]


def test_pooling_is_isotonic_regression(engine):
    for _ in range(30):
        values = RNG.normal(size=7)
        expected = isotonic_regression(values, increasing=False).x
        ours = call(engine, "pool", values.tolist())
        np.testing.assert_allclose(ours["values"], expected, atol=1e-14)
        same = np.equal.outer(ours["blocks"], ours["blocks"])
        np.testing.assert_array_equal(same, np.isclose(expected[:, None], expected, atol=1e-12))


@pytest.mark.parametrize("spectrum", [[2, 1, -1], [1, 1, 0.5], [1, 1, 1], [1, 1 - 1e-9, 0], [3e-8, 1, 1e8]])
def test_eigenvalues_are_those_of_lapack_repeated_ones_too(engine, spectrum):
    V = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    M = V * spectrum @ V.T
    M = (M + M.T) / 2
    expected = np.linalg.eigvalsh(M)[::-1]
    np.testing.assert_allclose(call(engine, "eigenvalues", M.tolist()), expected, atol=1e-14 * np.abs(spectrum).max())


def test_an_explorer_solved_in_the_page_stores_no_table():
    widget = ball(page_solve=BALL_IN_PAGE)
    assert widget.table == b"" and widget.solver.calls == CONTEXTS + 1
    assert widget.payload["page"]["source"] == BALL_IN_PAGE
    assert 0 < widget.payload["error"]["y"] < 1e-8
    assert len(widget.to_html()) < len(ball().to_html())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (BALL_IN_PAGE.replace("r / n", "1.001 * r / n"), "page_solve and solve differ by .* in 'y' at"),
        (BALL_IN_PAGE.replace("ball:", "bowl:"), "page_solve returned no 'ball'; it returned"),
        (BALL_IN_PAGE.replace("y_jacobian = [", "y_jacobian = [0, "), "'y_jacobian' has 7 numbers"),
        (BALL_IN_PAGE.replace("const dr", "if (n > 1.2) return {y: [NaN, 0], y_jacobian: x, ball: x}; const dr"), "'"),
    ],
)
def test_a_solve_that_differs_from_the_library_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        ball(page_solve=source)


def test_data_and_words_reach_the_page_and_are_compared():
    def make(source):
        figure, _ = plt.subplots()
        controls = [Slider("k", 1, 3, integer=True), Choice("c", ["a", "b"]), Pad("x", (0, 1), (0, 1))]
        marks = [Text("word", position=(0, 0), format="{}"), Points("y")]
        solve = lambda c: {"word": [c["c"] * int(c["k"])], "y": c["x"] * 7}  # noqa: E731
        return Explorer(figure, controls, marks, solve, page_solve=source, page_data={"seven": 7})

    good = "({k, c, x}, {seven}) => ({word: [c.repeat(k)], y: x.map((v) => seven * v)})"
    assert "word" not in make(good).payload["error"]
    with pytest.raises(ValueError, match="page_solve says .* in 'word'"):
        make(good.replace("repeat(k)", "repeat(1)"))


def test_the_solve_of_the_example_is_the_library(engine):
    """The engine hands over contexts and NaN as the page does."""
    answer = Engine(BALL_IN_PAGE, {})([{"x": np.array([1.0, 2.0]), "r": 0.5}])[0]
    np.testing.assert_allclose(answer["y"], project({"x": np.array([1.0, 2.0]), "r": 0.5})["y"], atol=1e-15)
