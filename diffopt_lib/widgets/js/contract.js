// What tests and the page's scripts hold on to: `element.explorer`.

import { pictureAt } from "./snapshot.js";
import { items } from "./text.js";

/** @param {import("./view.js").View} view */
export function contractOf(view) {
  /** @param {Mark[]} marks @param {Solution} values */
  const list = (marks, values) =>
    Object.fromEntries(marks.map(({ name, shape }) => [name, { shape, data: items(values[name]) }]));
  const names = view.marks.map(({ name }) => name);
  return {
    context: () => structuredClone(view.context),
    marks: () => list(view.marks, view.shown),
    prediction: () => list(view.derivatives, view.ghosts),
    anchor: () => structuredClone(view.anchor),
    /** @param {Context} changes */
    set: (changes) => view.set(changes),
    /** @param {Context} anchor */
    setAnchor: (anchor) => {
      view.setAnchor({ ...view.anchor, ...anchor });
      view.redraw();
    },
    pin: () => view.pin(),
    presets: view.payload.presets,
    /** @param {Preset} preset */
    pictureAt: (preset) => pictureAt(view, preset),
    /** What the page would show at a context, without drawing it. @param {Context} context */
    solve: (context) => {
      const solution = view.solution(context);
      return Object.fromEntries(names.map((name) => [name, items(solution[name])]));
    },
    /** @param {Context} context */
    isNearJump: (context) => view.source.isNearJump(context, names),
    checks: view.payload.checks,
    error: view.payload.error,
    live: view.request !== null,
    get lastDrawMs() {
      return view.lastDrawMs;
    },
    get lastAnswerMs() {
      return view.lastAnswerMs;
    },
  };
}
