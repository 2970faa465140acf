"""The Python side of the explorer: its arguments, the live protocol and the HTML it leaves on a page."""

import json
import re
import subprocess
import sys
import textwrap

import examples
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from examples import project

import diffopt_lib.widgets
from diffopt_lib.widgets import Choice, Explorer, Pad, Points, Slider, Text


def explorer(controls=None, marks=None, solve=None, **options):
    figure, ax = plt.subplots()
    return Explorer(
        figure,
        controls or [Slider("x", 0, 1, steps=3)],
        marks or [Points("y")],
        solve or (lambda context: {"y": np.array([context["x"], 0.0])}),
        **options,
    )


@pytest.fixture
def sent(ball, monkeypatch):
    """What the widget sends to its view."""
    messages = []
    monkeypatch.setattr(type(ball), "send", lambda self, content, buffers=None: messages.append((content, buffers)))
    return messages


def test_hello_is_answered_with_the_payload(ball, sent):
    ball._handle_custom_msg({"kind": "hello"}, [])
    (content, buffers), *rest = sent
    assert not rest
    assert content["kind"] == "payload" and content["payload"]["nodes"] == 15 * 13 * 5
    assert buffers == [ball.table]
    json.dumps(content, allow_nan=False)


def test_solve_is_answered_with_the_library_own_numbers(ball, sent):
    ball._handle_custom_msg({"kind": "solve", "id": 7, "context": {"x": [1.234, 0.777], "r": 0.9}}, [])
    (content, buffers), *rest = sent
    assert not rest
    assert (content["kind"], content["id"], content["strings"]) == ("answer", 7, {})
    expected = project({"x": np.array([1.234, 0.777]), "r": 0.9})
    assert content["names"] == ["ball", "y", "y_jacobian"]
    for name, buffer in zip(content["names"], buffers, strict=True):
        np.testing.assert_array_equal(np.frombuffer(buffer), expected[name].ravel())


def test_words_travel_as_strings(everything, monkeypatch):
    messages = []
    monkeypatch.setattr(type(everything), "send", lambda self, content, buffers=None: messages.append(content))
    context = {"x": [0.0, 1.0], "tau": 1.0, "method": "soft", "k": 3}
    everything._handle_custom_msg({"kind": "solve", "id": 1, "context": context}, [])
    assert messages[0]["strings"] == {"largest": ["second"]}
    assert "largest" not in messages[0]["names"]


def test_an_error_in_solve_reaches_the_view(ball, sent, monkeypatch):
    def fail(context):
        raise RuntimeError("the problem is infeasible")

    monkeypatch.setattr(ball.solver, "solve", fail)
    ball._handle_custom_msg({"kind": "solve", "id": 3, "context": {"x": [0, 0], "r": 0.9}}, [])
    assert sent == [({"kind": "error", "id": 3, "message": "RuntimeError: the problem is infeasible"}, None)]


def test_a_context_out_of_range_reaches_the_view_as_an_error(ball, sent):
    ball._handle_custom_msg({"kind": "solve", "id": 4, "context": {"x": [9, 0], "r": 0.9}}, [])
    assert sent[0][0]["kind"] == "error" and "outside [-2, 2]" in sent[0][0]["message"]


def test_the_html_is_complete_in_itself(ball):
    page = ball.to_html()
    # The only addresses in it are the names of XML namespaces, which nothing fetches.
    addresses = set(re.findall(r"https?://[^\s\"'<)\\]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink", "http://www.w3.org/1999/xhtml"}
    assert not re.search(r"""\b(?:src|href)=["'](?!data:|#)""", page)
    assert "import " not in re.sub(r"//.*", "", page.split('<script type="module">')[1])
    assert 'alt="A point x &amp; its projection onto a &quot;ball&quot;"' in page


def test_both_hosts_are_in_the_mime_bundle(ball):
    data, _ = ball._repr_mimebundle_()
    assert data["text/html"] == ball.to_html()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == ball.model_id


def test_the_synced_state_holds_no_data(ball):
    """What a notebook saves as widget state is the module and the style sheet, not the table."""
    state = ball.get_state()
    rest = {key: value for key, value in state.items() if key not in ("_esm", "_css")}
    assert len(json.dumps(rest, default=str)) < 2000


def test_the_html_is_reproducible():
    assert examples.ball().to_html() == examples.ball().to_html()


def test_the_start_and_presets_are_stored_exactly(ball):
    extras = ball.payload["extras"]
    assert {"x": [1.3, 0.9], "r": 1.0} in extras and {"x": [0.41, 0.22], "r": 1.0} in extras
    assert {"x": [0.3, 0.3], "r": 1.0} in extras  # a preset's anchor


def test_a_table_beyond_the_limit_raises():
    with pytest.raises(ValueError, match="more than 2,000: 975 nodes .* Use fewer `steps`"):
        examples.ball(limit=2000)


def test_torch_tensors_are_welcome_even_with_a_graph():
    x = torch.ones(3, 2, requires_grad=True)
    widget = explorer(solve=lambda context: {"y": x * context["x"]})
    np.testing.assert_allclose(widget.baked.read("y", {"x": 0.25})[0], 0.25, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"anchor": {"z": 1}}, r"unknown control 'z'; the controls are \['x'\]"),
        ({"presets": {"kink": {"z": 1}}}, "preset 'kink': unknown control 'z'"),
        ({"presets": {"kink": {"x": 2}}}, r"preset 'kink': control 'x': 2.0 lies outside \[0, 1\]"),
        ({"presets": {"kink": {"anchor": {"z": 1}}}}, "preset 'kink': unknown control 'z'"),
        ({"controls": [Slider("x", 0, 1), Choice("x", ["a"])]}, "controls must have distinct names"),
        ({"marks": [Points("y"), Points("y")]}, "marks must have distinct names"),
        ({"marks": [Points("y", axes=1)]}, "'y': axes=1, but the figure has 1 axes"),
        ({"controls": [Pad("x", (0, 1), (0, 1), axes=2)]}, "'x': axes=2, but"),
        ({"marks": [Points("y"), Text("t", position="z")]}, "'z' is not the name of a Points mark"),
        ({"marks": [Points("z")]}, r"solve returned no 'z'; it returned \['y'\]"),
    ],
)
def test_bad_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        explorer(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Slider("s", 1, 0), "low < high"),
        (lambda: Slider("s", 0, 1, steps=1), "at least 2"),
        (lambda: Slider("s", 0, 1, scale="log"), "needs low > 0"),
        (lambda: Slider("s", 0, 1, scale="cubic"), "'linear' or 'log'"),
        (lambda: Slider("s", 0.5, 3, integer=True), "whole bounds"),
        (lambda: Slider("s", 0, 1, value=2).default(), "lies outside"),
        (lambda: Pad("p", (0, 1), (0, 1), value=(1, 2, 3)).default(), r"shape \(2,\)"),
        (lambda: Choice("c", []), "not empty"),
        (lambda: Choice("c", ["a", "a"]), "distinct"),
        (lambda: Choice("c", ["a"], value="b").default(), "'b' is none of"),
        (lambda: Text("t", position=(0, 0), format="{:>9}"), "has a field other than"),
        (lambda: Text("t", position=(0, 0), derivative=True), "cannot show a derivative"),
    ],
)
def test_bad_controls_and_marks_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_axis_that_marks_cannot_live_on_raises():
    figure, ax = plt.subplots()
    ax.set_yscale("symlog")
    with pytest.raises(ValueError, match="the y axis has scale 'symlog'"):
        Explorer(figure, [Slider("x", 0, 1)], [Points("y")], lambda context: {"y": np.zeros(2)})


def test_the_figure_is_closed_so_that_it_is_not_shown_twice():
    before = plt.get_fignums()
    explorer()
    assert plt.get_fignums() == before


def test_the_library_does_not_import_its_widgets():
    code = "import sys, diffopt_lib; print([m for m in ('anywidget', 'diffopt_lib.widgets') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_the_example_of_the_docstring_runs():
    text = diffopt_lib.widgets.__doc__
    code = textwrap.dedent(text[text.index("    import matplotlib") : text.index("as the last expression")])
    names: dict = {}
    exec(code.replace("\nExplorer(", "\nwidget = Explorer("), names)
    assert names["widget"].baked.error["y"] < 0.1
    assert len(names["widget"].to_html()) < 300_000
