// The legend, which carries the numbers.

import { padText } from "./controls.js";
import { html } from "./dom.js";
import { handleIcon, markIcon } from "./paths.js";
import { decimal, items, suffix, tuple } from "./text.js";

/** @typedef {import("./view.js").View} View */
/** @typedef {{label: string, icon: SVGElement, value: () => string, node: HTMLElement}} Row */

const MOST = 6;

export class Legend {
  /** @param {View} view */
  constructor(view) {
    this.view = view;
    /** @type {Row[]} */
    this.rows = [];
    for (const control of view.payload.controls) {
      if (control.kind !== "pad") continue;
      const value = () => padText(control, /** @type {number[]} */ (view.context[control.name]));
      this.add(control.label, handleIcon(control.color), value);
    }
    for (const mark of view.marks) {
      if (mark.label) this.add(mark.label, markIcon(mark, false), () => this.markText(mark, view.shown[mark.name]));
    }
    if (view.derivatives.length) {
      this.add("linear prediction from x₀", markIcon(view.derivatives[0], true), () => this.gapText());
    }
    const list = html("ul", { class: "explorer-legend" });
    for (const { icon, label, node } of this.rows) list.append(html("li", {}, icon, html("span", {}, label), node));
    if (this.rows.length) view.side.append(list);
  }

  /** @param {string} label @param {SVGElement} icon @param {() => string} value */
  add(label, icon, value) {
    this.rows.push({ label, icon, value, node: html("span", { class: "explorer-value" }) });
  }

  draw() {
    for (const { node, value } of this.rows) node.textContent = value();
  }

  /** A mark's numbers where they are few enough to read. @param {Mark} mark @param {Data} data */
  markText(mark, data) {
    if (!["points", "bars", "text"].includes(mark.kind) || data.length > MOST) return "";
    if (Array.isArray(data)) return data.join(", ") + suffix(mark);
    const { span, log } = this.view.payload.tables[mark.name];
    const numbers = Array.from(data, (v, i) => decimal(v, Math.max(...span), log[i % span.length]));
    if (mark.kind !== "points") return tuple(numbers) + suffix(mark);
    const points = numbers.flatMap((_, i) => (i % 2 ? [] : [`(${numbers[i]}, ${numbers[i + 1]})`]));
    return points.join(" ") + suffix(mark);
  }

  /** How far the linear prediction is from what is shown. */
  gapText() {
    const { shown, ghosts, payload } = this.view;
    const gaps = this.view.derivatives.map(({ name, unit }) => {
      const off = items(shown[name]).map((y, i) => Math.abs(Number(y) - ghosts[name][i]) || 0);
      const { span, log } = payload.tables[name];
      return decimal(Math.max(0, ...off), Math.max(...span), log.includes(true)) + suffix({ unit });
    });
    return `off by ${gaps.join(", ")}`;
  }
}
