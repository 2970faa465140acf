// Solutions that the page computes itself, by the function that the explorer brings.

import { numerics } from "./numerics.js";

/** @typedef {(context: Context, data: unknown, tools: typeof numerics) => Record<string, any>} Solve */

const KEPT = 8;

export class PageSolver {
  /** @param {PageSource} page */
  constructor(page) {
    /** @type {Solve} */
    this.solve = new Function(`return (${page.source});`)();
    this.data = page.data;
    /** The last solutions: while one context moves, that of x0 is asked for again. @type {Map<string, Solution>} */
    this.kept = new Map();
  }

  /** @param {Context} context @param {string} key @returns {Solution} */
  read(context, key) {
    const known = this.kept.get(key);
    if (known) return known;
    /** @type {Solution} */
    const solution = {};
    for (const [name, value] of Object.entries(this.solve(context, this.data, numerics))) {
      /** @type {any[]} */
      const entries = [value].flat(Infinity);
      solution[name] = typeof entries[0] === "string" ? entries : Float64Array.from(entries);
    }
    if (this.kept.size >= KEPT) this.kept.delete(this.kept.keys().next().value ?? "");
    this.kept.set(key, solution);
    return solution;
  }

  /** Nothing is snapped here. */
  isNearJump() {
    return false;
  }
}
