// The view: one explorer on a page, its state, and what its parts are told.

import { buildChoice, buildPad, buildSlider } from "./controls.js";
import { contractOf } from "./contract.js";
import { html } from "./dom.js";
import { Legend } from "./legend.js";
import { PageSolver } from "./page_solve.js";
import { Picture } from "./picture.js";
import { Presets } from "./presets.js";
import { Status } from "./status.js";
import { Table, keyOf } from "./table.js";
import { clamp } from "./text.js";

/** How long a kernel may take until the page says that it does not answer. */
const PATIENCE_MS = 3000;

let views = 0;

export class View {
  /**
   * @param {ExplorerElement} root
   * @param {Payload} payload
   * @param {Uint8Array} bytes
   * @param {Ask | null} request asks the kernel; null on a page without one
   */
  constructor(root, payload, bytes, request) {
    this.root = root;
    this.payload = payload;
    this.request = request;
    this.id = `diffopt${++views}`;
    /** @type {Source} */
    this.source = payload.page ? new PageSolver(payload.page) : new Table(payload, bytes);
    /** @type {Context} */
    this.context = structuredClone(payload.start);
    /** @type {Context} */
    this.anchor = structuredClone(payload.anchor);
    /** The solution at x0, if the reader has set x0 where the kernel had answered. @type {Answer | null} */
    this.pinned = null;
    /** The kernel's last answer. @type {Answer | null} */
    this.answer = null;
    this.asking = false;
    /** Whether the kernel has been asked and has not answered for a while. */
    this.late = false;
    /** @type {{key: string, resolve: () => void}[]} */
    this.waiting = [];
    /** @type {number | null} */
    this.frame = null;
    this.lastDrawMs = 0;
    this.lastAnswerMs = 0;
    this.marks = payload.marks.map((mark) => this.complete(mark));
    this.derivatives = this.marks.filter((mark) => mark.derivative);
    /** What of the solution has a prediction: the marks with a derivative, and their readouts. */
    this.predicted = this.derivatives.flatMap(({ name, readout }) => (readout ? [name, `${name}_readout`] : [name]));
    /** @type {Solution} */
    this.shown = {};
    /** @type {Record<string, Float64Array>} */
    this.ghosts = {};
    this.side = html("div", { class: "explorer-side" });
    this.picture = new Picture(payload, this.marks, this.id);
    this.enter();
    // Controls come before the legend, so that on a phone they are within reach of the figure.
    this.redraws = this.buildControls();
    this.presets = new Presets(this);
    this.legend = new Legend(this);
    this.status = new Status(this);
    this.listen();
    root.explorer = contractOf(this);
    this.ask();
    this.draw();
  }

  /** The mark with its shape, and a heat map's range where the author gave none. @param {Mark} mark @returns {Mark} */
  complete(mark) {
    const { shape, low, span } = this.payload.tables[mark.name];
    if (mark.kind !== "heatmap") return { ...mark, shape };
    return { ...mark, shape, vmin: mark.vmin ?? low[0], vmax: mark.vmax ?? low[0] + span[0] };
  }

  /** Take the place of the static picture. */
  enter() {
    const { root, payload } = this;
    root.replaceChildren();
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", payload.title || payload.description);
    if (payload.title) root.append(html("p", { class: "explorer-title" }, payload.title));
    const stage = html("div", { class: "explorer-stage" }, this.picture.frame);
    root.append(html("div", { class: "explorer-body" }, stage, this.side));
  }

  listen() {
    // JupyterLab's own keys would take the arrows and p. It looks for this mark on the focused element first.
    for (const element of this.root.querySelectorAll("input, button, [tabindex]")) {
      element.setAttribute("data-lm-suppress-shortcuts", "true");
    }
    this.root.addEventListener("keydown", (event) => this.onKey(event));
  }

  /** @returns {(() => void)[]} how to redraw each control */
  buildControls() {
    const panel = html("div", { class: "explorer-controls" });
    const redraws = this.payload.controls.map((control) => {
      if (control.kind === "pad") return buildPad(this, control);
      const { node, draw } = control.kind === "slider" ? buildSlider(this, control) : buildChoice(this, control);
      panel.append(node);
      return draw;
    });
    if (panel.children.length) this.side.append(panel);
    return redraws;
  }

  // ---- moving

  /** @param {Context} changes @returns {Promise<void>} resolved when they are drawn, by the kernel if there is one */
  set(changes) {
    for (const [name, value] of Object.entries(changes)) this.context[name] = this.admit(name, value);
    this.ask();
    this.redraw();
    return new Promise((resolve) => this.waiting.push({ key: this.key(), resolve }));
  }

  /** A control's value within its range. @param {string} name @param {any} value @returns {Value} */
  admit(name, value) {
    const control = this.payload.controls.find((c) => c.name === name);
    if (!control) throw new Error(`unknown control ${name}`);
    if (control.kind === "choice") {
      if (!control.options.includes(value)) throw new Error(`control ${name} has no option ${value}`);
      return value;
    }
    if (control.kind === "pad") return [clamp(value[0], ...control.x), clamp(value[1], ...control.y)];
    return clamp(control.integer ? Math.round(value) : value, control.low, control.high);
  }

  key(context = this.context) {
    return keyOf(context, this.payload);
  }

  /** At most one request is under way; when it returns, the newest context goes next. */
  async ask() {
    if (!this.request || this.asking) return;
    this.asking = true;
    while (this.answer?.key !== this.key()) {
      const key = this.key();
      const began = performance.now();
      const timer = setTimeout(() => this.giveUpWaiting(), PATIENCE_MS);
      try {
        this.answer = { key, solved: await this.request(structuredClone(this.context)) };
      } catch (error) {
        this.answer = { key, failure: /** @type {Error} */ (error).message };
      }
      clearTimeout(timer);
      this.late = false;
      this.lastAnswerMs = performance.now() - began;
      this.redraw();
    }
    this.asking = false;
  }

  /** From now on what the page has itself is what is shown, until the kernel answers after all. */
  giveUpWaiting() {
    this.late = true;
    this.redraw();
  }

  /** The solution at a context: the library's own if the kernel gave it, else the page's. @param {Context} context */
  solution(context) {
    const key = this.key(context);
    const solved = this.answer?.key === key && this.answer.solved;
    return solved ? solved.solution : this.source.read(context, key);
  }

  pin() {
    this.anchor = structuredClone(this.context);
    this.pinned = { key: this.key(), solved: { solution: this.solution(this.context), seconds: 0 } };
    this.redraw();
  }

  /** @param {Context} anchor */
  setAnchor(anchor) {
    this.anchor = structuredClone(anchor);
    this.pinned = null;
  }

  /** y*(x0) + J(x0) (x - x0), with x0's own solution at the current choices. */
  predict() {
    const anchor = { ...this.anchor };
    /** @type {number[]} */
    const change = [];
    for (const { control, component, values } of this.payload.grid) {
      if (values) anchor[control] = this.context[control];
      else change.push(part(this.context[control], component) - part(anchor[control], component));
    }
    const pinned = this.pinned?.key === this.key(anchor) && this.pinned.solved;
    const base = pinned ? pinned.solution : this.solution(anchor);
    for (const name of this.predicted) {
      const value = /** @type {Float64Array} */ (base[name]);
      const jacobian = /** @type {Float64Array} */ (base[`${name}_jacobian`]);
      const d = change.length;
      this.ghosts[name] = value.map((y, i) => change.reduce((sum, dx, j) => sum + jacobian[i * d + j] * dx, y));
    }
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    if (event.key !== "p" || event.ctrlKey || event.metaKey || event.altKey || !this.derivatives.length) return;
    event.preventDefault();
    this.pin();
  }

  // ---- drawing

  redraw() {
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    const began = performance.now();
    this.frame = null;
    this.shown = this.solution(this.context);
    this.predict();
    this.picture.draw(this.shown, this.ghosts);
    for (const redraw of this.redraws) redraw();
    this.presets.draw();
    this.legend.draw();
    this.lastDrawMs = performance.now() - began;
    this.status.draw();
    this.settle();
  }

  /** Tell those who wait that their context is drawn, or that a newer one has taken its place. */
  settle() {
    const current = this.key();
    const settled = !this.request || this.late || this.answer?.key === current;
    const done = this.waiting.filter(({ key }) => settled || key !== current);
    this.waiting = this.waiting.filter((wait) => !done.includes(wait));
    for (const { resolve } of done) resolve();
  }
}

/** A scalar of the context. @param {Value} value @param {number | null} component */
const part = (value, component) => Number(component == null ? value : /** @type {number[]} */ (value)[component]);
