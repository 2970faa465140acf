// What is told besides the picture: an error of the kernel, where the numbers come from, and words for screen readers.

import { html } from "./dom.js";
import { decimal, rough } from "./text.js";

/** @typedef {import("./view.js").View} View */

const HUSH_MS = 500;

/** @param {Answer | null} answer */
function liveText(answer) {
  if (answer?.solved) return `Live: solved by the kernel in ${rough(1000 * answer.solved.seconds)} ms`;
  if (answer) return "Live: the kernel raised an error; shown is the interpolated solution";
  return "Live: interpolated until the kernel answers";
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
    /** @type {string | undefined} */
    this.heard = undefined;
    view.root.append(this.alert, this.line, this.spoken);
    this.baked = this.bakedText();
    const errors = Object.entries(view.payload.error).map(([key, value]) => `${this.nameOf(key)}: ${rough(value)}`);
    this.line.title = `Worst error seen, in data units. ${errors.join("; ")}.`;
  }

  /** @param {string} key */
  nameOf(key) {
    return this.view.marks.find((mark) => mark.name === key)?.label || key;
  }

  bakedText() {
    const { nodes, error, snapError, marks, tables } = this.view.payload;
    /** @param {string} key */
    const share = (key) => error[key] / (Math.max(...tables[key].span) || 1);
    // The headline is about what has an axis; colours off by some 255ths are in the tooltip.
    const drawn = marks.filter(({ name, kind }) => name in error && kind !== "image").map(({ name }) => name);
    const worst = drawn.sort((a, b) => share(b) - share(a))[0];
    let text = `Static page: interpolated from ${nodes.toLocaleString("en")} solutions`;
    if (worst) text += `, worst error seen ${rough(error[worst])}`;
    if (worst && marks.length > 1) text += ` (${this.nameOf(worst)})`;
    return Object.keys(snapError).length ? `${text}; next to a jump, the nearest solution` : text;
  }

  draw() {
    const { answer, request } = this.view;
    const current = answer?.key === this.view.key() ? answer : null;
    this.alert.hidden = !current?.failure;
    this.alert.textContent = current?.failure ?? "";
    this.line.textContent = request ? liveText(current) : this.baked;
    this.announce();
  }

  /** Screen readers hear the context and the solution once the reader stops moving. */
  announce() {
    clearTimeout(this.hush);
    this.hush = setTimeout(() => {
      const { context, payload, legend } = this.view;
      const controls = payload.controls.flatMap((control) => {
        if (control.kind === "pad") return [];
        const value = context[control.name];
        if (control.kind === "choice") return [`${control.label} ${value}`];
        return [`${control.label} ${decimal(Number(value), control.high - control.low, control.log)}`];
      });
      const words = [...controls, ...legend.rows.map(({ label, value }) => `${label} ${value()}`)].join("; ");
      if (this.heard !== undefined && this.heard !== words) this.spoken.textContent = words;
      this.heard = words;
    }, HUSH_MS);
  }
}
