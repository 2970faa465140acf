// What is told besides the picture: an error of the kernel, where the numbers come from, and words for screen readers.

import { sliderText } from "./controls.js";
import { html } from "./dom.js";
import { rough } from "./text.js";

/** @typedef {import("./view.js").View} View */

const HUSH_MS = 500;

/** @param {Answer | null} answer @param {boolean} late */
function liveText(answer, late) {
  if (answer?.solved) return `Live: solved by the kernel in ${rough(1000 * answer.solved.seconds)} ms`;
  if (answer) return "Live: the kernel raised an error; shown is the page's own solution";
  return late ? "The kernel does not answer; shown is the page's own solution" : "Live: waiting for the kernel";
}

export class Status {
  /** @param {View} view */
  constructor(view) {
    this.view = view;
    this.alert = html("p", { class: "explorer-alert", role: "alert", hidden: "" });
    this.line = html("p", { class: "explorer-status" });
    this.spoken = html("p", { class: "explorer-spoken", "aria-live": "polite" });
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.hush = undefined;
    /** @type {Map<string, string>} */
    this.heard = new Map();
    view.root.append(this.alert, this.line, this.spoken);
    this.baked = this.bakedText();
    const { error } = view.payload;
    const errors = Object.keys(error).map((key) => `${this.nameOf(key)}: ${rough(error[key], true)}`);
    this.line.title = `How far from the library, at most, in the units of the figure. ${errors.join("; ")}.`;
  }

  /** @param {string} key */
  nameOf(key) {
    return this.view.marks.find((mark) => mark.name === key)?.label || key;
  }

  /** What the page says about its own numbers: the worst of all errors, as a share of a mark's range. */
  bakedText() {
    const { nodes, error, marks, tables, page } = this.view.payload;
    /** @param {string} key */
    const share = (key) => error[key] / (Math.max(...tables[key].span) || 1);
    // The headline is about what has an axis; colours off by some 255ths are in the tooltip.
    const drawn = marks.filter(({ name, kind }) => name in error && kind !== "image").map(({ name }) => name);
    const worst = drawn.sort((a, b) => share(b) - share(a))[0];
    if (page) return `Solved in the page, within ${rough(Math.max(...Object.values(error)), true)} of the library`;
    const where = worst && drawn.length > 1 ? ` (${this.nameOf(worst)})` : "";
    const within = worst ? `, within ${rough(error[worst], true)} of the library${where}` : "";
    return `Static page: interpolated from ${nodes.toLocaleString("en")} solutions${within}`;
  }

  draw() {
    const { answer, request, late } = this.view;
    const current = answer?.key === this.view.key() ? answer : null;
    this.alert.hidden = !current?.failure;
    this.alert.textContent = current?.failure ?? "";
    this.line.textContent = request ? liveText(current, late) : this.baked + this.jumpText();
    this.announce();
  }

  jumpText() {
    const { source, context, marks } = this.view;
    const near = source.isNearJump(context, marks.map(({ name }) => name));
    return near ? "; near a jump: here the nearest solution is shown" : "";
  }

  /** Screen readers hear what has changed once the reader stops moving. */
  announce() {
    clearTimeout(this.hush);
    this.hush = setTimeout(() => {
      const words = new Map(this.words());
      const changed = [...words].filter(([label, value]) => this.heard.size && this.heard.get(label) !== value);
      if (changed.length) this.spoken.textContent = changed.map(([label, value]) => `${label} ${value}`).join("; ");
      this.heard = words;
    }, HUSH_MS);
  }

  /** Every label with its value. @returns {[string, string][]} */
  words() {
    const { context, payload, legend } = this.view;
    /** @type {[string, string][]} */
    const controls = payload.controls.flatMap((control) => {
      if (control.kind === "pad") return [];
      const value = context[control.name];
      return [[control.label, control.kind === "choice" ? String(value) : sliderText(control, Number(value))]];
    });
    for (const { label, value } of legend.rows) controls.push([label, value()]);
    return controls;
  }
}
