// Buttons: the presets with their notes, the one that sets x0, and the way back.

import { html } from "./dom.js";
import { clamp } from "./text.js";

/** @typedef {import("./view.js").View} View */

const GLIDE_MS = 280;
const EXPLANATION = "x₀ is where the derivative is taken; dashed or hollow is what it predicts for where you are.";

export class Presets {
  /** @param {View} view */
  constructor(view) {
    this.view = view;
    /** @type {{preset: Preset, node: HTMLButtonElement}[]} */
    this.buttons = [];
    this.note = html("p", { class: "explorer-note", "aria-live": "polite" });
    this.glide = 0;
    const { presets, start, anchor } = view.payload;
    const row = html("div", { class: "explorer-presets", role: "group", "aria-label": "presets" });
    for (const [name, preset] of Object.entries(presets)) {
      const node = button(name, preset.note ?? "", () => this.goTo(preset));
      this.buttons.push({ preset, node });
      row.append(node);
    }
    if (this.buttons.length) view.side.append(row, this.note);
    const others = html("div", { class: "explorer-presets" });
    if (view.derivatives.length) {
      const title = "take the derivative at the present context (key p)";
      others.append(button("Set x₀ here", title, () => view.pin(), "quiet"));
    }
    others.append(button("Reset", "back to the start", () => this.goTo({ set: start, anchor }), "quiet"));
    view.side.append(others);
    if (view.derivatives.length) view.side.append(html("p", { class: "explorer-note" }, EXPLANATION));
  }

  draw() {
    const { view } = this;
    for (const { preset, node } of this.buttons) {
      const here = view.key({ ...view.context, ...preset.set }) === view.key();
      node.setAttribute("aria-pressed", String(here));
    }
  }

  /** Glide to a preset; a reader who asked for less motion is there at once. @param {Preset} preset */
  goTo(preset) {
    const { view } = this;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const from = structuredClone(view.context);
    const to = { ...from, ...preset.set };
    const began = performance.now();
    if (preset.anchor) view.setAnchor(preset.anchor);
    this.note.textContent = preset.note ?? "";
    cancelAnimationFrame(this.glide);
    /** @param {number} now */
    const step = (now) => {
      const time = still ? 1 : clamp((now - began) / GLIDE_MS, 0, 1);
      const share = time * time * (3 - 2 * time);
      const between = Object.keys(to).map((name) => [name, mix(from[name], to[name], share)]);
      view.set(time === 1 ? to : Object.fromEntries(between));
      if (time < 1) this.glide = requestAnimationFrame(step);
    };
    step(began);
  }
}

/**
 * @param {string} text
 * @param {string} title
 * @param {() => void} act
 */
function button(text, title, act, style = "") {
  const node = html("button", { type: "button", title, class: style || null }, text);
  node.addEventListener("click", act);
  return node;
}

/** Between two values of a control. @param {Value} a @param {Value} b @param {number} share @returns {Value} */
function mix(a, b, share) {
  if (typeof b === "string") return b;
  if (Array.isArray(b)) return b.map((v, i) => Number(mix(/** @type {number[]} */ (a)[i], v, share)));
  return Number(a) + (b - Number(a)) * share;
}
