// The legend, which carries the numbers.

import { padText } from "./controls.js";
import { html } from "./dom.js";
import { handleIcon, markIcon } from "./paths.js";
import { decimal, formatFields, items, suffix, tuple } from "./text.js";

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
      if (control.kind === "pad") this.add(control.label, handleIcon(control.color), () => this.handleText(control));
    }
    for (const mark of view.marks) {
      if (mark.label) this.add(mark.label, markIcon(mark, false), () => this.markText(mark));
    }
    if (view.derivatives.length) {
      this.add("predicted from x₀", markIcon(view.derivatives[0], true), () => this.gapText());
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

  /** What a pad's point stands for. @param {Pad} control */
  handleText(control) {
    const { shown, context } = this.view;
    if (control.readout) return formatFields(control.readout, items(shown[`${control.name}_readout`]));
    return padText(control, /** @type {number[]} */ (context[control.name]));
  }

  /** A mark's quantity, where its numbers are few enough to read. @param {Mark} mark */
  markText(mark) {
    const { shown, payload } = this.view;
    if (mark.readout) return readoutText(mark.readout, shown[`${mark.name}_readout`]);
    const data = shown[mark.name];
    if (!["points", "bars", "text"].includes(mark.kind) || data.length > MOST) return "";
    if (Array.isArray(data)) return data.join(", ") + suffix(mark);
    if (data.every(Number.isNaN)) return "";
    const { span, log } = payload.tables[mark.name];
    const numbers = Array.from(data, (v, i) => decimal(v, Math.max(...span), log[i % span.length]));
    if (mark.kind !== "points") return tuple(numbers) + suffix(mark);
    const points = numbers.flatMap((_, i) => (i % 2 ? [] : [`(${numbers[i]}, ${numbers[i + 1]})`]));
    return points.join(" ") + suffix(mark);
  }

  /** Of each quantity with a prediction, how far the prediction is off, in its largest entry. */
  gapText() {
    const { shown, ghosts, payload, derivatives } = this.view;
    const gaps = derivatives.flatMap(({ name, label, readout, unit }) => {
      if (!label) return [];
      const key = readout ? `${name}_readout` : name;
      const off = items(shown[key]).map((y, i) => Math.abs(Number(y) - ghosts[key][i]));
      const known = off.filter(Number.isFinite);
      const { span, log } = payload.tables[key];
      const text = decimal(known.length ? Math.max(...known) : NaN, Math.max(...span), log.includes(true));
      return [`${label} off by ${text}${suffix({ unit })}`];
    });
    return gaps.join("; ");
  }
}

/** @param {string} format @param {Data} data */
function readoutText(format, data) {
  return items(data).some(Number.isNaN) ? "" : formatFields(format, items(data));
}
