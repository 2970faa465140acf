"""The table of solutions: what is stored, where it may be interpolated, and the error it reports."""

import numpy as np
import pytest

from diffopt_lib.widgets import Arrows, Choice, HeatMap, Image, Pad, Points, Polyline, Slider, Text
from diffopt_lib.widgets.bake import PROBES, SAFETY, bake
from diffopt_lib.widgets.jumps import SNAPPED
from diffopt_lib.widgets.solver import Solver, entries
from diffopt_lib.widgets.table import quantise

LINEAR = {"low": 0.0, "high": 1.0, "log": False}
AXES = [{"x": LINEAR, "y": LINEAR}]
LOG_AXES = [{"x": {"low": 1.0, "high": 10.0, "log": True}, "y": {"low": 1e-9, "high": 1.0, "log": True}}]


def baked(controls, marks, solve, axes=AXES, extras=()):
    return bake(Solver(solve, entries(marks, controls)), controls, axes, extras)


def on_a_line(function):
    """A solve whose mark is one point with y = function(x)."""
    return lambda context: {"y": np.array([context["x"], function(context["x"])])}


@pytest.mark.parametrize(("dtype", "levels"), [(np.int16, 65534), (np.uint8, 254)])
def test_quantisation_is_off_by_at_most_half_a_step(dtype, levels):
    values = np.random.default_rng(0).normal(size=(50, 6)) * np.array([1, 1e6, 1e-6] * 2) + 3
    values[3, 4] = np.nan
    codes, low, step, nan = quantise(values, 3, dtype)
    decoded = (low + step * codes.astype(float).reshape(-1, 3)).reshape(values.shape)
    assert (codes == nan).sum() == 1 and codes[3, 4] == nan
    columns = values.reshape(-1, 3)
    np.testing.assert_allclose(step, (np.nanmax(columns, 0) - np.nanmin(columns, 0)) / levels, rtol=1e-12)
    error = np.abs(decoded - values).reshape(-1, 3)
    error = np.where(np.isnan(columns), 0, error)
    assert (error <= 0.5001 * step).all()


def test_a_constant_column_is_stored_exactly():
    codes, low, step, _ = quantise(np.full((4, 2), 0.3), 2, np.int16)
    np.testing.assert_allclose(low + step * codes, 0.3, rtol=1e-15)


def test_nodes_and_extras_are_read_within_the_quantum():
    controls = [Pad("x", (-1, 1), (0, 2), steps=(5, 4)), Choice("sign", ["plus", "minus"])]

    def solve(context):
        sign = 1 if context["sign"] == "plus" else -1
        return {"y": sign * np.array([context["x"].prod(), np.sin(context["x"][0])])}

    table = baked(controls, [Points("y")], solve, extras=[{"x": np.array([0.123, 0.456]), "sign": "minus"}])
    assert table.nodes == 5 * 4 * 2
    quantum = table.tables["y"].step
    for x0 in np.linspace(-1, 1, 5):
        for x1 in np.linspace(0, 2, 4):
            for sign in ("plus", "minus"):
                context = {"x": np.array([x0, x1]), "sign": sign}
                shown, snapped = table.read("y", context)
                assert not snapped
                assert (np.abs(shown - solve(context)["y"]) <= 0.51 * quantum).all()
    extra = table.tables["y"].decode(np.array([table.nodes]))[0]
    assert (np.abs(extra - solve(table.extras[0])["y"]) <= 0.51 * quantum).all()


def test_the_reported_error_is_the_one_measured_independently():
    """The same random contexts, interpolated here by scipy on the exact node values instead of by the bake."""
    from scipy.interpolate import RegularGridInterpolator

    def value(a, b):
        return np.sin(3 * a) * np.exp(b)

    controls = [Slider("a", 0, 2, steps=49), Slider("b", 1, 4, steps=65, scale="log")]
    table = baked(controls, [Points("y")], lambda c: {"y": np.array([0.0, value(c["a"], c["b"])])})
    nodes_a, nodes_b = np.linspace(0, 2, 49), np.geomspace(1, 4, 65)
    interpolate = RegularGridInterpolator((nodes_a, np.log(nodes_b)), value(nodes_a[:, None], nodes_b[None]))
    positions = np.random.default_rng(0).uniform(0, [48, 64], size=(PROBES, 2))
    a, b = 2 * positions[:, 0] / 48, 4 ** (positions[:, 1] / 64)
    errors = np.abs(interpolate(np.stack([a, np.log(b)], 1)) - value(a, b))
    assert table.snap_error == {} and table.fine == {}
    # The points inside the cells count too, and twice the worst is printed.
    assert SAFETY * (errors.max() - 2 * table.tables["y"].step[1]) <= table.error["y"] <= 1.5 * SAFETY * errors.max()
    assert errors.max() > 30 * table.tables["y"].step[1]


def test_checks_hold_the_solutions_off_the_grid():
    table = baked([Slider("x", -1, 1, steps=11)], [Points("y")], on_a_line(np.cos))
    assert len(table.checks) == 8
    for context, solution in table.checks:
        np.testing.assert_array_equal(solution["y"], [context["x"], np.cos(context["x"])])
        assert np.abs(table.read("y", context)[0] - solution["y"]).max() <= table.error["y"] + 1e-15


@pytest.mark.parametrize("steps", [4, 10, 40])
@pytest.mark.parametrize("jump", [0.0, 0.1234])
def test_a_jump_never_shows_an_in_between_value(steps, jump):
    table = baked([Slider("x", -1, 1, steps=steps)], [Points("y")], on_a_line(lambda x: np.sign(x - jump)))
    shown = [table.read("y", {"x": x})[0][1] for x in np.linspace(-1, 1, 501)]
    # -1 and 1 are the two ends of the table's scale, which are stored exactly up to rounding.
    assert set(np.round(shown, 12)) == {-1.0, 1.0}
    assert (table.tables["y"].jumps == SNAPPED).sum() == 1


def test_a_staircase_snaps_although_every_cell_looks_like_its_neighbours():
    table = baked([Slider("x", 0, 8, steps=9)], [Points("y")], lambda c: {"y": np.array([0.0, round(c["x"])])})
    assert table.tables["y"].jumps.all()


def test_a_jump_across_a_pad_snaps_along_its_line_only():
    controls = [Pad("x", (-1, 1), (-1, 1), steps=(10, 10))]
    table = baked(controls, [Points("y")], lambda c: {"y": np.array([0.0, np.sign(c["x"] @ [1.0, 0.7])])})
    rng = np.random.default_rng(1)
    shown = [table.read("y", {"x": x})[0][1] for x in rng.uniform(-1, 1, (400, 2))]
    assert set(np.round(shown, 12)) <= {-1.0, 1.0}
    assert 9 <= (table.tables["y"].jumps == SNAPPED).sum() <= 20


@pytest.mark.parametrize("function", [lambda x: max(x, 0.0), lambda x: abs(x - 0.37), lambda x: np.tanh(2 * x)])
def test_a_kink_or_a_bend_is_interpolated(function):
    table = baked([Slider("x", -1, 1, steps=10)], [Points("y")], on_a_line(function))
    assert not table.tables["y"].jumps.any()
    assert 0 < table.error["y"] < 0.12


def test_a_hole_is_snapped_and_stays_a_hole():
    """A point that is not drawn for x > 0.3: never interpolated with its drawn neighbours."""
    solve = on_a_line(lambda x: np.nan if x > 0.3 else x)
    table = baked([Slider("x", -1, 1, steps=10)], [Points("y")], solve)
    for x in np.linspace(-1, 1, 200):
        y = table.read("y", {"x": x})[0][1]
        assert np.isnan(y) or y <= 0.34
    assert (table.tables["y"].jumps == SNAPPED).sum() == 1


def test_nothing_is_interpolated_between_integers_and_choices():
    controls = [Slider("k", 1, 4, integer=True), Choice("c", ["a", "b"])]
    table = baked(controls, [Points("y")], lambda c: {"y": np.array([c["k"], float(c["c"] == "a")])})
    assert table.nodes == 8
    assert table.error["y"] < 1e-4
    np.testing.assert_allclose(table.read("y", {"k": 3.0, "c": "b"})[0], [3, 0], atol=1e-4)


def test_a_logarithmic_axis_keeps_small_values():
    """Twelve decades in one mark: a linear int16 scale would lose eight of them."""
    k = np.arange(1, 10.0)
    solve = lambda c: {"line": np.stack([k, 10.0 ** (-c["x"] * k)], 1)}  # noqa: E731
    table = baked([Slider("x", 0.5, 1.4, steps=10)], [Polyline("line")], solve, LOG_AXES)
    context = {"x": 1.234}
    np.testing.assert_allclose(table.read("line", context)[0], solve(context)["line"], rtol=1e-3)


def test_words_are_never_mixed():
    table = baked([Slider("x", 0, 1, steps=3)], [Text("w", position=(0, 0))], lambda c: {"w": f"{c['x'] > 0.6}"})
    assert [table.read("w", {"x": x})[0].item() for x in (0.0, 0.4, 0.7, 0.8)] == ["False", "False", "False", "True"]


def test_images_are_exact_bytes():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4), dtype=np.uint8)
    mark = Image("i", extent=(0, 1, 0, 1))
    table = baked([Choice("c", ["a"])], [mark], lambda c: {"i": pixels})
    np.testing.assert_array_equal(table.read("i", {"c": "a"})[0], pixels)


def test_a_jacobian_has_a_column_per_continuous_scalar():
    controls = [Slider("s", 0, 1, steps=3), Choice("c", ["a", "b"]), Pad("x", (0, 1), (0, 1), steps=(3, 3))]
    controls.append(Slider("k", 1, 2, integer=True))
    mark = Points("y", derivative=True)
    good = {"y": np.zeros((4, 2)), "y_jacobian": np.zeros((4, 2, 3))}
    assert baked(controls, [mark], lambda c: good).tables["y_jacobian"].shape == (4, 2, 3)
    with pytest.raises(ValueError, match=r"y_jacobian.*3\), one column per continuous scalar"):
        baked(controls, [mark], lambda c: {**good, "y_jacobian": np.zeros((4, 2, 4))})
    with pytest.raises(ValueError, match="no 'y_jacobian'"):
        baked(controls, [mark], lambda c: {"y": np.zeros((4, 2))})


def test_a_jacobian_is_not_mixed_across_a_kink():
    solve = lambda c: {"y": [c["x"], max(c["x"], 0)], "y_jacobian": np.array([[1.0], [float(c["x"] > 0)]])}  # noqa: E731
    table = baked([Slider("x", -1, 1, steps=10)], [Points("y", derivative=True)], solve)
    slopes = {round(table.read("y_jacobian", {"x": x})[0][1, 0], 9) for x in np.linspace(-1, 1, 101)}
    assert slopes == {0.0, 1.0}


@pytest.mark.parametrize(
    ("mark", "array"),
    [
        (Points("m"), np.zeros((3, 3))),
        (Polyline("m"), np.zeros(4)),
        (Arrows("m"), np.zeros((2, 2))),
        (HeatMap("m", extent=(0, 1, 0, 1)), np.zeros(4)),
        (Image("m", extent=(0, 1, 0, 1)), np.zeros((4, 4))),
    ],
)
def test_an_array_the_mark_cannot_draw_raises(mark, array):
    with pytest.raises(ValueError, match="mark 'm': .* cannot draw an array of shape"):
        baked([Choice("c", ["a"])], [mark], lambda c: {"m": array})


def test_a_shape_that_changes_raises():
    with pytest.raises(ValueError, match=r"one shape at every context: it was \(3, 2\), and \(4, 2\)"):
        baked([Slider("x", 0, 1, steps=3)], [Points("y")], lambda c: {"y": np.zeros((3 + (c["x"] > 0.6), 2))})


def test_infinite_entries_raise():
    with pytest.raises(ValueError, match="infinite entries in 'y'"):
        baked([Choice("c", ["a"])], [Points("y")], lambda c: {"y": np.array([0, np.inf])})


def test_an_error_of_solve_says_at_which_context():
    def solve(context):
        raise RuntimeError("no solution")

    with pytest.raises(RuntimeError, match="no solution") as caught:
        baked([Choice("c", ["a"])], [Points("y")], solve)
    assert "{'c': 'a'}" in caught.value.__notes__[0]
