"""The explorers on a page in Chromium, from disk and without network: what is shown is what `solve` returns."""

import base64
import math

import numpy as np
import pytest
from examples import project, softargmax
from playwright.sync_api import Page

from diffopt_lib.widgets import Explorer

ROOT = "document.querySelectorAll('.diffopt-explorer')[{}]"
BALL, EVERYTHING = 0, 1


def ask(page: Page, widget: int, expression: str, *arguments):
    """Evaluate an expression in `e`, the explorer, and `root`, its element."""
    return page.evaluate(
        f"async (a) => {{ const root = {ROOT.format(widget)}, e = root.explorer; {expression} }}", arguments
    )


def shown(page: Page, widget: int, what: str = "marks") -> dict[str, np.ndarray]:
    marks = ask(page, widget, f"return e.{what}()")
    return {name: np.array(mark["data"]).reshape(mark["shape"]) for name, mark in marks.items()}


def settle(page: Page) -> None:
    """Let the frame be drawn that an event asked for."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def context(page: Page, widget: int) -> dict:
    values = ask(page, widget, "return e.context()")
    return {name: np.array(v) if isinstance(v, list) else v for name, v in values.items()}


def assert_shows(page: Page, widget: int, solve, errors: dict[str, float], slack: float = 1.5) -> None:
    """The displayed marks are the solution at the displayed context, up to the error that the widget itself states."""
    solution = solve(context(page, widget))
    for name, data in shown(page, widget).items():
        if data.dtype.kind in "US":
            assert data.item() == solution[name]
        elif name in errors:
            scale = 255 if name == "picture" else 1
            np.testing.assert_allclose(
                data, scale * np.asarray(solution[name]), atol=slack * errors[name] + 1e-4 * scale
            )


def test_the_start_is_drawn(open_page, ball):
    page = open_page()
    assert_shows(page, BALL, project, {"ball": 0, "y": 0})
    assert page.locator("circle.explorer-ring").count() >= 2
    assert "interpolated from 975 solutions, within" in page.locator(".explorer-status").first.inner_text()


def test_every_stored_check_is_met(open_page, ball, everything):
    page = open_page()
    for widget, explorer in ((BALL, ball), (EVERYTHING, everything)):
        checks = ask(page, widget, "return e.checks")
        assert checks
        for check in checks:
            ask(page, widget, "await e.set(a[0])", check["context"])
            for name, data in shown(page, widget).items():
                if name not in check["marks"]:
                    continue
                if name == "largest":
                    assert data.tolist() == check["marks"][name][0] or data.tolist() == [check["marks"][name][0]]
                    continue
                error = explorer.baked.error[name] + 1e-6
                np.testing.assert_allclose(data.ravel(), check["marks"][name], atol=error, err_msg=name)


def test_the_page_interpolates_as_the_bake_measured(open_page, ball, everything):
    """JavaScript and Python read the same table the same way, snapped or not."""
    page = open_page()
    rng = np.random.default_rng(5)
    for _ in range(30):
        at = {"x": rng.uniform(-1.5, 1.5, 2), "r": rng.uniform(0.2, 1.4)}
        ask(page, BALL, "await e.set(a[0])", {"x": at["x"].tolist(), "r": at["r"]})
        for name, data in shown(page, BALL).items():
            np.testing.assert_allclose(data, ball.baked.read(name, at)[0], atol=1e-12)
        method = str(rng.choice(["soft", "hard"]))
        at = {"x": rng.uniform(-2, 2, 2), "tau": rng.uniform(0.2, 2), "method": method, "k": float(rng.integers(1, 4))}
        ask(page, EVERYTHING, "await e.set(a[0])", {**at, "x": at["x"].tolist()})
        for name, data in shown(page, EVERYTHING).items():
            expected = everything.baked.read(name, at)[0]
            if name == "largest":
                assert data.item() == expected.item()
            else:
                np.testing.assert_allclose(data, expected, rtol=1e-9, atol=1e-9)


def test_the_pad_is_dragged_by_the_mouse(open_page, ball):
    page = open_page()
    before, box = context(page, BALL)["x"], page.locator(".explorer-handle").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 90, y + 70, steps=6)
    page.mouse.up()
    settle(page)
    after = context(page, BALL)["x"]
    # The point went where the pointer went: as far as the axes' own ticks say.
    scale = ask(page, BALL, "return root.querySelector('.explorer-figure > svg').getBoundingClientRect().width / 360")
    width = ball.payload["axes"][0]["width"] * scale / 4
    np.testing.assert_allclose(after - before, [-90 / width, -70 / width], atol=0.02)
    assert_shows(page, BALL, project, ball.baked.error)
    assert ask(page, BALL, "return e.lastDrawMs") < 50


def test_the_pad_follows_a_finger(open_page):
    page = open_page(has_touch=True)
    handle = page.locator(".explorer-handle").first
    box = handle.bounding_box()
    assert min(box["width"], box["height"]) >= 24
    assert handle.locator(".explorer-reach").evaluate("node => getComputedStyle(node).touchAction") == "none"
    assert page.locator("body").evaluate("node => getComputedStyle(node).touchAction") == "auto"
    session = page.context.new_cdp_session(page)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before = context(page, BALL)["x"]
    for kind, at in (
        ("touchStart", (x, y)),
        ("touchMove", (x - 30, y)),
        ("touchMove", (x - 60, y)),
        ("touchEnd", None),
    ):
        points = [{"x": at[0], "y": at[1]}] if at else []
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        settle(page)
    after = context(page, BALL)["x"]
    assert after[0] < before[0] - 0.3 and abs(after[1] - before[1]) < 0.02


def test_the_pad_is_moved_by_the_keyboard(open_page, ball):
    page = open_page()
    page.locator(".explorer-handle").first.focus()
    before = context(page, BALL)["x"]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    settle(page)
    np.testing.assert_allclose(context(page, BALL)["x"] - before, [-0.04, -0.3], atol=1e-9)
    assert_shows(page, BALL, project, ball.baked.error)
    assert page.locator(".explorer-handle").first.get_attribute("aria-valuetext") == "(1.26, 0.60)"


def test_home_end_and_page_keys_move_the_pad(open_page):
    page = open_page()
    page.locator(".explorer-handle").first.focus()
    for key, expected in (("Home", [-2, 0.9]), ("End", [2, 0.9]), ("PageDown", [2, 0.6]), ("PageUp", [2, 0.9])):
        page.keyboard.press(key)
        settle(page)
        np.testing.assert_allclose(context(page, BALL)["x"], expected, atol=1e-9)


def test_the_slider_is_moved_by_the_keyboard(open_page, ball):
    page = open_page()
    page.get_by_label("radius").focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    settle(page)
    # 20 steps of 1/200 of the range.
    assert context(page, BALL)["r"] == pytest.approx(1.0 - 0.1 * 1.2, abs=0.01)
    assert page.get_by_label("radius").get_attribute("aria-valuetext") == "0.88 m"
    assert_shows(page, BALL, project, ball.baked.error)


def test_an_integer_slider_takes_whole_numbers(open_page):
    page = open_page()
    page.get_by_label("count").focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    assert context(page, EVERYTHING)["k"] == 3
    assert page.locator("text.mark-text", has_text="k = 3, τ = 0.6").count() == 1


def test_choosing_changes_the_solution(open_page):
    page = open_page()
    page.get_by_label("hard", exact=True).check(force=True)
    settle(page)
    assert context(page, EVERYTHING)["method"] == "hard"
    ask(page, EVERYTHING, "await e.set({x: [-1.99, -1.99]})")
    np.testing.assert_allclose(shown(page, EVERYTHING)["p"], [0, 0, 1], atol=1e-4)
    assert page.locator("text.mark-text", has_text="third").count() == 1


def test_the_ghost_is_the_linear_prediction(open_page):
    page = open_page()
    ask(page, BALL, "await e.set({x: [1.1, 0.6], r: 1.15})")
    anchor = {"x": np.array([1.6, -0.2]), "r": 1.0}
    base = project(anchor)
    expected = base["y"] + base["y_jacobian"] @ [1.1 - 1.6, 0.6 + 0.2, 0.15]
    np.testing.assert_allclose(shown(page, BALL, "prediction")["y"], expected, atol=1e-3)
    assert "off by" in page.locator(".explorer-legend").first.inner_text()


def test_pinning_makes_prediction_and_solution_agree(open_page):
    page = open_page()
    handle = page.locator(".explorer-handle").first
    handle.focus()
    page.keyboard.press("p")
    settle(page)
    assert ask(page, BALL, "return e.anchor()") == ask(page, BALL, "return e.context()")
    np.testing.assert_array_equal(shown(page, BALL, "prediction")["y"], shown(page, BALL)["y"])
    page.get_by_role("button", name="Reset").first.click()
    page.wait_for_function(f"() => {ROOT.format(BALL)}.explorer.anchor().x[0] === 1.6")


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_a_preset_sets_context_anchor_and_note(open_page, motion):
    page = open_page(reduced_motion=motion)
    ask(page, BALL, "await e.set({r: 1.0})")
    page.get_by_role("button", name="inside").click()
    if motion == "reduce":
        assert ask(page, BALL, "return e.context().x") == [0.41, 0.22]
    page.wait_for_function(f"() => {ROOT.format(BALL)}.explorer.context().x[0] === 0.41")
    settle(page)
    assert_shows(page, BALL, project, {"y": 0, "ball": 0})  # a preset is stored exactly
    assert ask(page, BALL, "return e.anchor().x") == [0.3, 0.3]
    assert page.get_by_text("Nothing to project.").is_visible()
    assert page.get_by_role("button", name="inside").get_attribute("aria-pressed") == "true"


def test_unknown_controls_and_options_are_refused(open_page):
    page = open_page()
    for changes in ({"z": 1}, {"method": "medium"}):
        message = ask(
            page, EVERYTHING, "try { await e.set(a[0]); return ''; } catch (error) { return error.message }", changes
        )
        assert "unknown control z" in message or "no option medium" in message


def test_a_screen_reader_hears_what_has_changed(open_page):
    page = open_page()
    page.wait_for_timeout(600)
    spoken = page.locator(".explorer-spoken").first
    assert spoken.get_attribute("aria-live") == "polite"
    ask(page, BALL, "await e.set({x: [2, 0], r: 0.8})")
    page.wait_for_function("node => node.textContent", arg=spoken.element_handle())
    assert "radius 0.80 m" in spoken.inner_text() and "y*(x) (0.80, 0.00)" in spoken.inner_text()
    ask(page, BALL, "await e.set({x: [1.9, 0]})")
    page.wait_for_function("node => node.textContent.includes('1.90')", arg=spoken.element_handle())
    assert "radius" not in spoken.inner_text() and "y*(x)" not in spoken.inner_text()


def test_x0_is_explained_where_it_can_be_set(open_page):
    page = open_page(has_touch=True)
    assert page.get_by_role("button", name="Set x₀ here").first.is_visible()
    assert page.get_by_text("x₀ is where the derivative is taken").first.is_visible()


def test_near_a_jump_the_page_says_so(open_page):
    page = open_page()
    for x, near in (([0.52, 0.5], True), ([-1.5, 1.5], False)):
        ask(page, EVERYTHING, "await e.set({x: a[0], tau: 1, method: 'hard'})", x)
        assert ("near a jump" in page.locator(".explorer-status").nth(EVERYTHING).inner_text()) is near


@pytest.mark.parametrize("width", [390, 1100])
def test_controls_come_before_the_legend(open_page, width):
    page = open_page(width)
    boxes = [page.locator(f".explorer-{part}").nth(0).bounding_box() for part in ("figure", "controls", "legend")]
    assert boxes[1]["y"] < boxes[2]["y"]
    assert width > 640 or boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]


def test_every_control_has_a_name_and_a_visible_focus(open_page):
    page = open_page()
    names = page.evaluate(
        "() => [...document.querySelectorAll('input, button, [tabindex]')]"
        ".map((n) => n.getAttribute('aria-label') || n.labels?.[0]?.textContent || n.textContent)"
    )
    assert all(names) and len(names) > 10
    for selector in (".explorer-track input", ".explorer-presets button"):
        node = page.locator(selector).first
        page.keyboard.press("Tab")
        node.focus()
        assert node.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"


def test_pixels_are_the_solution(open_page):
    """The heat map's corner and the image's centre, read back from their canvases."""
    page = open_page()
    ask(page, EVERYTHING, "await e.set({x: [2, 2], tau: 0.2, method: 'hard'})")
    pixels = ask(
        page,
        EVERYTHING,
        "return [...root.querySelectorAll('canvas')].map((c) => Array.from("
        "c.getContext('2d').getImageData(0, 0, c.width, c.height).data))",
    )
    heat, image = (np.array(p) for p in pixels)
    heat = heat.reshape(12, 12, 4)
    # Greys runs from white (0) to black: the farthest point from (2, 2) is bottom left, the nearest top right.
    assert heat[-1, 0, 0] < 10 and heat[0, -1, 0] > 250
    np.testing.assert_array_equal(image.reshape(16, 4), [[255, 0, 0, 255]] * 16)


@pytest.mark.parametrize("width", [360, 700, 1100])
def test_nothing_overflows(open_page, width):
    page = open_page(width)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    right = page.evaluate(
        "() => Math.max(...[...document.querySelectorAll('.diffopt-explorer *')]"
        ".filter((n) => !n.closest('.explorer-spoken, svg svg, defs, clipPath, canvas') && !(n instanceof SVGElement))"
        ".map((n) => n.getBoundingClientRect().right))"
    )
    assert right <= width


@pytest.mark.parametrize(
    "darken",
    [
        "document.documentElement.dataset.theme = 'dark'",
        "document.body.dataset.jpThemeLight = 'false'",
        "",
    ],
)
def test_dark_pages_get_light_ink(open_page, darken):
    page = open_page(color_scheme="light" if darken else "dark")
    page.evaluate(darken or "0")
    ink = luminance(page.locator(".explorer-title").first.evaluate("node => getComputedStyle(node).color"))
    # A tick label of the matplotlib figure, and the ring of the pad that is "k" in Python.
    text = luminance(
        page.locator(".explorer-figure g[id*=text_] g").first.evaluate("node => getComputedStyle(node).fill")
    )
    ring = luminance(page.locator(".explorer-handle .explorer-ring").first.evaluate("n => getComputedStyle(n).stroke"))
    assert ink > 0.7 and text > 0.7 and ring > 0.7


def test_light_pages_get_dark_ink(open_page):
    page = open_page(color_scheme="dark")
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    assert luminance(page.locator(".explorer-title").first.evaluate("node => getComputedStyle(node).color")) < 0.2
    assert (
        luminance(page.locator(".explorer-figure g[id*=text_] g").first.evaluate("n => getComputedStyle(n).fill")) < 0.2
    )


def luminance(color: str) -> float:
    """Mean channel of `rgb(r, g, b)` or `color(srgb r g b)`, in [0, 1]."""
    inside = color[color.index("(") + 1 : -1].replace("srgb", "").replace(",", " ").split()[:3]
    return sum(map(float, inside)) / 3 / (255 if color.startswith("rgb") else 1)


def test_a_drag_draws_within_a_frame(open_page, record_property):
    page = open_page()
    times = ask(
        page,
        EVERYTHING,
        "const t = []; for (let i = 0; i < 60; i++) {"
        "await e.set({x: [Math.cos(i), Math.sin(i)], tau: 0.3 + i / 60}); t.push(e.lastDrawMs) } return t",
    )
    record_property(
        "measured", f"explorer draws in {np.median(times):.1f} ms (median), {max(times):.1f} ms (worst of 60)"
    )
    assert np.percentile(times, 10) < 16  # a busy machine delays the others


def test_without_javascript_the_start_is_a_picture(open_page, page_file, chromium):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    pictures = page.locator(".diffopt-explorer img")
    assert pictures.count() == 2
    assert pictures.first.get_attribute("alt") == 'A point x & its projection onto a "ball"'
    assert pictures.first.bounding_box()["width"] > 300
    context.close()


def test_print_hides_what_cannot_be_pressed(open_page):
    page = open_page()
    page.emulate_media(media="print")
    assert not page.locator(".explorer-controls").first.is_visible()
    assert page.locator(".explorer-figure").first.is_visible()


FAKE_KERNEL = """
async ([module, payload, table]) => {
  // A kernel that answers y = 10 (x0, x1) after a while, counts what is under way, and fails for r > 1.3.
  const bytes = Uint8Array.from(atob(table), (c) => c.charCodeAt(0));
  const kernel = (window.kernel = { underWay: 0, most: 0, asked: [], delay: 40 });
  let answer;
  const model = {
    on: (_, callback) => (answer = callback),
    send: (message) => {
      if (message.kind === "hello") return answer({ kind: "payload", payload }, [new DataView(bytes.buffer)]);
      kernel.most = Math.max(kernel.most, ++kernel.underWay);
      kernel.asked.push(message.context);
      setTimeout(() => {
        kernel.underWay--;
        const { id, context } = message;
        if (context.r > 1.3) return answer({ kind: "error", id, message: "SolverError: infeasible" }, []);
        const numbers = { ball: Array(82).fill(0), y: context.x.map((v) => 10 * v), y_jacobian: Array(6).fill(0) };
        const names = Object.keys(numbers);
        const buffers = names.map((name) => new DataView(Float64Array.from(numbers[name]).buffer));
        answer({ kind: "answer", id, seconds: 0.001, names, strings: {} }, buffers);
      }, kernel.delay);
    },
  };
  const { default: widget } = await import("data:text/javascript;charset=utf-8," + encodeURIComponent(module));
  const el = document.createElement("div");
  document.body.append(el);
  await widget.render({ model, el });
}
"""


@pytest.fixture
def live_page(open_page, ball):
    """The third explorer on the page is live, with a kernel made of JavaScript."""
    page = open_page()
    module = Explorer._esm
    page.evaluate(FAKE_KERNEL, [module, ball.payload, base64.b64encode(ball.table).decode()])
    page.wait_for_function(f"() => {ROOT.format(2)}?.explorer?.live")
    return page


def test_live_the_kernel_answers_and_the_newest_context_wins(live_page):
    page = live_page
    ask(page, 2, "await e.set({})")
    ask(
        page,
        2,
        "kernel.asked.length = 0; for (let i = 0; i < 30; i++) e.set({x: [i / 30, 0]}); await e.set({x: [0.51, 0.2]})",
    )
    np.testing.assert_allclose(shown(page, 2)["y"], [5.1, 2.0], rtol=1e-12)
    kernel = page.evaluate("() => kernel")
    assert kernel["most"] == 1
    assert len(kernel["asked"]) <= 2 and kernel["asked"][-1]["x"] == [0.51, 0.2]
    assert "Live: solved by the kernel" in page.locator(".explorer-status").nth(2).inner_text()
    assert ask(page, 2, "return e.lastAnswerMs") >= 39


def test_live_interpolated_values_are_drawn_while_waiting(live_page, ball):
    page = live_page
    ask(page, 2, "await e.set({})")
    drawn = ask(
        page,
        2,
        "kernel.delay = 500; e.set({x: [1.2, 0.3]}); await new Promise((done) => requestAnimationFrame(done));"
        "return e.marks().y.data",
    )
    waiting = ball.baked.read("y", {"x": np.array([1.2, 0.3]), "r": 1.0})[0]
    np.testing.assert_allclose(drawn, waiting, atol=1e-12)
    ask(page, 2, "await e.set({})")
    np.testing.assert_allclose(shown(page, 2)["y"], [12, 3], rtol=1e-12)


def test_live_a_kernel_that_does_not_answer_is_not_waited_for(live_page, ball):
    page = live_page
    ask(page, 2, "await e.set({})")
    ask(page, 2, "kernel.delay = 4500; await e.set({x: [1.2, 0.3]})")  # resolved although nothing has come
    assert "The kernel does not answer" in page.locator(".explorer-status").nth(2).inner_text()
    waiting = ball.baked.read("y", {"x": np.array([1.2, 0.3]), "r": 1.0})[0]
    np.testing.assert_allclose(shown(page, 2)["y"], waiting, atol=1e-12)
    page.wait_for_function(f"() => {ROOT.format(2)}.explorer.marks().y.data[0] === 12")
    assert "Live: solved by the kernel" in page.locator(".explorer-status").nth(2).inner_text()


def test_live_an_error_is_shown_and_goes_away(live_page):
    page = live_page
    ask(page, 2, "await e.set({r: 1.39})")
    alert = page.locator(".explorer-alert").nth(2)
    assert alert.is_visible() and alert.inner_text() == "SolverError: infeasible"
    ask(page, 2, "await e.set({r: 1.0})")
    assert not alert.is_visible()


def test_the_solution_of_the_other_widget_is_untouched(open_page):
    page = open_page()
    before = shown(page, EVERYTHING)["p"]
    ask(page, BALL, "await e.set({x: [-1, -1], r: 0.5})")
    np.testing.assert_array_equal(shown(page, EVERYTHING)["p"], before)
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))
    assert math.isclose(context(page, BALL)["r"], 0.5)


def test_everything_at_a_node_is_the_library_solution(open_page):
    page = open_page()
    ask(page, EVERYTHING, "await e.set({x: [2, -2], tau: 2, method: 'soft', k: 1})")
    marks = ["distance", "p", "rate", "step", "count", "picture"]
    assert_shows(
        page,
        EVERYTHING,
        softargmax,
        dict.fromkeys(marks, 0.0) | {"distance": 0.07, "step": 1e-4, "rate": 2e-3, "picture": 0.34},
    )
