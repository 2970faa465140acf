// Sliders, choices, and the points that are dragged in the figure. Each gives its element and how to redraw it.

import { build, html, svg } from "./dom.js";
import { fractionOf, toX, toY, valueAt } from "./scales.js";
import { decimal, suffix } from "./text.js";

/** @typedef {import("./view.js").View} View */

/** The radius within which a finger takes hold of a point: a target of 44 pixels. */
const REACH_PX = 22;

/** @param {Slider} control @param {number} value */
export function sliderText(control, value) {
  const text = control.integer ? String(value) : decimal(value, control.high - control.low, control.log);
  return text + suffix(control);
}

/** @param {Pad} control @param {number[]} point */
export function padText(control, [x, y]) {
  const [width, height] = [control.x[1] - control.x[0], control.y[1] - control.y[0]];
  return `(${decimal(x, width)}, ${decimal(y, height)})${suffix(control)}`;
}

/** @param {View} view @param {Slider} control */
export function buildSlider(view, control) {
  const step = control.integer ? 1 / (control.high - control.low) : 1 / 200;
  const input = html("input", { type: "range", min: 0, max: 1, step, id: `${view.id}-${control.name}` });
  const output = html("output", { for: input.id });
  const tick = html("i", { class: "explorer-tick", title: "x₀" });
  input.addEventListener("input", () => view.set({ [control.name]: valueAt(control, Number(input.value)) }));
  const draw = () => {
    const value = Number(view.context[control.name]);
    const at = fractionOf(control, value);
    const text = sliderText(control, value);
    const far = Math.abs(Number(input.value) - at) > step;
    if (document.activeElement !== input || far) input.value = String(at);
    input.setAttribute("aria-valuetext", text);
    input.style.setProperty("--at", String(at));
    output.textContent = text;
    tick.hidden = !view.derivatives.length || control.integer;
    tick.style.setProperty("--at", String(fractionOf(control, Number(view.anchor[control.name]))));
  };
  const head = html("span", { class: "explorer-label" }, html("label", { for: input.id }, control.label), output);
  const node = html("div", { class: "explorer-slider" }, head, html("div", { class: "explorer-track" }, tick, input));
  return { node, draw };
}

/** @param {View} view @param {Choice} control */
export function buildChoice(view, control) {
  const options = html("div", { class: "explorer-options" });
  const inputs = control.options.map((option) => {
    const input = html("input", { type: "radio", name: `${view.id}-${control.name}`, value: option });
    input.addEventListener("change", () => view.set({ [control.name]: option }));
    options.append(html("label", {}, input, html("span", {}, option)));
    return input;
  });
  const draw = () => {
    for (const input of inputs) input.checked = input.value === view.context[control.name];
  };
  const node = html("fieldset", {}, html("legend", { class: "explorer-label" }, control.label), options);
  return { node, draw };
}

/** The handle of a pad, and the cross at x0. @param {View} view @param {Pad} control */
export function buildPad(view, control) {
  const { payload, picture } = view;
  const axes = payload.axes[control.axes];
  const reach = svg("circle", { class: "explorer-reach", fill: "transparent" });
  const ring = svg("circle", { class: "explorer-ring", r: 6, stroke: control.color });
  const role = { tabindex: 0, role: "slider", "aria-roledescription": "point in the plane" };
  const handle = svg("g", { class: "explorer-handle", ...role, "aria-label": control.label }, reach, ring);
  const cross = svg("path", { d: "M-4,-4L4,4M-4,4L4,-4" });
  const name = svg("text", { x: 6, y: 10 }, "x₀");
  const anchor = svg("g", { class: "explorer-anchor", "aria-hidden": "true" }, cross, name);
  picture.svg.append(anchor, handle);
  dragPoint(view, control, handle, axes);
  stepPoint(view, control, handle);
  // The reach of a finger is measured on the screen, not in the figure.
  new ResizeObserver(([{ contentRect }]) => {
    if (contentRect.width) reach.setAttribute("r", String((REACH_PX * payload.width) / contentRect.width));
  }).observe(picture.svg);
  return () => {
    const [x, y] = /** @type {number[]} */ (view.context[control.name]);
    const [x0, y0] = /** @type {number[]} */ (view.anchor[control.name]);
    handle.setAttribute("transform", `translate(${toX(axes, x)},${toY(axes, y)})`);
    anchor.setAttribute("transform", `translate(${toX(axes, x0)},${toY(axes, y0)})`);
    anchor.style.display = view.derivatives.length ? "" : "none";
    const range = { "aria-valuenow": x, "aria-valuemin": control.x[0], "aria-valuemax": control.x[1] };
    build(handle, { ...range, "aria-valuetext": padText(control, [x, y]) });
  };
}

/** @param {View} view @param {Pad} control @param {SVGGElement} handle @param {Axes} axes */
function dragPoint(view, control, handle, axes) {
  handle.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    handle.focus(/** @type {FocusOptions} */ ({ focusVisible: false }));
    handle.setPointerCapture(event.pointerId);
  });
  // Not every browser heeds `touch-action` on a shape inside an SVG.
  handle.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
  handle.addEventListener("pointermove", (event) => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const at = view.picture.locate(event);
    const x = valueAt(axes.x, (at.x - axes.left) / axes.width);
    const y = valueAt(axes.y, 1 - (at.y - axes.top) / axes.height);
    view.set({ [control.name]: [x, y] });
  });
}

/**
 * Where a key leads, as shares of the pad: an arrow a hundredth, with shift or a page key a tenth, Home and End to
 * a side.
 * @param {KeyboardEvent} event
 * @param {number} x
 * @param {number} y
 * @returns {[number, number] | null}
 */
function afterKey(event, x, y) {
  const step = event.shiftKey ? 0.1 : 0.01;
  switch (event.key) {
    case "ArrowLeft":
      return [x - step, y];
    case "ArrowRight":
      return [x + step, y];
    case "ArrowDown":
      return [x, y - step];
    case "ArrowUp":
      return [x, y + step];
    case "PageDown":
      return [x, y - 0.1];
    case "PageUp":
      return [x, y + 0.1];
    case "Home":
      return [0, y];
    case "End":
      return [1, y];
    default:
      return null;
  }
}

/** @param {View} view @param {Pad} control @param {SVGGElement} handle */
function stepPoint(view, control, handle) {
  handle.addEventListener("keydown", (event) => {
    const [x, y] = /** @type {number[]} */ (view.context[control.name]);
    const [width, height] = [control.x[1] - control.x[0], control.y[1] - control.y[0]];
    const to = afterKey(event, (x - control.x[0]) / width, (y - control.y[0]) / height);
    if (!to) return;
    event.preventDefault();
    view.set({ [control.name]: [control.x[0] + to[0] * width, control.y[0] + to[1] * height] });
  });
}
