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
    const named = view.derivatives.filter(({ label }) => label);
    for (const mark of named) {
      const label = named.length > 1 ? `${mark.label}, predicted from x₀` : "predicted from x₀";
      this.add(label, markIcon(mark, true), () => this.gapText(mark));
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

  /** How far the prediction of a mark's quantity is off, in its largest entry. @param {Mark} mark */
  gapText({ name, readout, unit }) {
    const { shown, ghosts, payload } = this.view;
    const key = readout ? `${name}_readout` : name;
    const off = items(shown[key]).map((y, i) => Math.abs(Number(y) - ghosts[key][i]));
    const known = off.filter(Number.isFinite);
    const { span, log } = payload.tables[key];
    if (!known.length) return "no derivative there";
    return `off by ${decimal(Math.max(...known), Math.max(...span), log.includes(true))}${suffix({ unit })}`;
  }
}

/** @param {string} format @param {Data} data */
function readoutText(format, data) {
  return items(data).some(Number.isNaN) ? "" : formatFields(format, items(data));
}
