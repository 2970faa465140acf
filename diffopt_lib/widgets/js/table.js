// The table of solutions, read as table.py and bake.py have written it.

import { clamp } from "./text.js";

/**
 * Position of a control's value on a grid axis, in node units; a node is hit exactly (as in controls.py).
 * @param {GridAxis} axis
 * @param {number | string} value
 */
function gridPosition(axis, value) {
  if (axis.values) return axis.values.indexOf(value);
  const v = Number(value);
  const fraction = axis.log
    ? Math.log(v / axis.low) / Math.log(axis.high / axis.low)
    : (v - axis.low) / (axis.high - axis.low);
  const position = clamp(fraction, 0, 1) * (axis.steps - 1);
  return Math.abs(position - Math.round(position)) < 1e-9 ? Math.round(position) : position;
}

/** The context as one string. @param {Context} context @param {Payload} payload */
export function keyOf(context, payload) {
  return JSON.stringify(payload.controls.map(({ name }) => context[name]));
}

/** What the bake writes for a cell that a jump runs through; beside such a cell it writes 2. */
const SNAPPED = 1;

export class Table {
  /** @param {Payload} payload @param {Uint8Array} bytes */
  constructor(payload, bytes) {
    this.grid = payload.grid;
    this.exact = new Map(payload.extras.map((context, i) => [keyOf(context, payload), payload.nodes + i]));
    /** The first row of a cell's finer grid, if it has one. */
    this.fine = new Map(payload.fine.cells.map((cell, i) => [cell, payload.fine.rows[i]]));
    this.parts = payload.fine.parts;
    const cells = this.grid.reduce((count, axis) => count * (axis.values ? axis.steps : axis.steps - 1), 1);
    /** @type {Record<string, TableEntry>} */
    this.entries = {};
    for (const [name, spec] of Object.entries(payload.tables)) {
      const codes = bytes.slice(spec.codes, spec.jumps).buffer;
      this.entries[name] = {
        ...spec,
        codes: spec.byte ? new Uint8Array(codes) : new Int16Array(codes),
        jumps: bytes.subarray(spec.jumps, spec.jumps + cells),
      };
    }
  }

  /** The corners of the context's cell with their weights, the nearest node and the cell. @param {Context} context */
  locate(context) {
    /** @type {GridCell[]} */
    const coarse = [];
    /** @type {number[]} */
    const shares = [];
    let nearest = 0;
    let cell = 0;
    for (const axis of this.grid) {
      const value = /** @type {any} */ (context[axis.control]);
      const position = gridPosition(axis, axis.component == null ? value : value[axis.component]);
      const n = axis.steps;
      const below = axis.values ? position : Math.min(Math.floor(position), n - 2);
      coarse.push([n, below, position - below]);
      if (!axis.values) shares.push(position - below);
      nearest = nearest * n + Math.floor(position + 0.5);
      cell = cell * (axis.values ? n : n - 1) + below;
    }
    const first = this.fine.get(cell);
    if (first === undefined) return { corners: cornersOf(coarse, 0), nearest, cell };
    const inner = shares.map((share) => {
      const at = share * this.parts;
      const below = Math.min(Math.floor(at), this.parts - 1);
      return /** @type {GridCell} */ ([this.parts + 1, below, at - below]);
    });
    return { corners: cornersOf(inner, first), nearest, cell };
  }

  /**
   * All entries at a context: interpolated, or where a jump runs through the cell the nearest node.
   * @param {Context} context
   * @param {string} key
   * @returns {Solution}
   */
  read(context, key) {
    const row = this.exact.get(key);
    const place =
      row === undefined
        ? this.locate(context)
        : { corners: /** @type {Corner[]} */ ([[row, 1]]), nearest: row, cell: 0 };
    /** @type {Solution} */
    const solution = {};
    for (const [name, entry] of Object.entries(this.entries)) {
      const snap = entry.strings || (place.corners.length > 1 && entry.jumps[place.cell] === SNAPPED);
      solution[name] = blend(entry, snap ? [[place.nearest, 1]] : place.corners);
    }
    return solution;
  }

  /** Is a jump of one of the entries within a cell? @param {Context} context @param {string[]} names */
  isNearJump(context, names) {
    const { corners, cell } = this.locate(context);
    return names.some((name) => {
      const { strings, codes, size, jumps } = this.entries[name];
      if (!strings) return jumps[cell] > 0;
      const words = corners.map(([row]) => codes.slice(row * size, (row + 1) * size).join());
      return new Set(words).size > 1;
    });
  }
}

/** Rows and weights of a cell's corners. @param {GridCell[]} axes @param {number} first @returns {Corner[]} */
function cornersOf(axes, first) {
  /** @type {Corner[]} */
  let corners = [[0, 1]];
  for (const [n, below, part] of axes) {
    corners = corners.flatMap(([row, weight]) => {
      /** @type {Corner[]} */
      const ends = [
        [row * n + below, weight * (1 - part)],
        [row * n + below + 1, weight * part],
      ];
      return ends.filter((end) => end[1] > 0);
    });
  }
  return corners.map(([row, weight]) => [row + first, weight]);
}

/** @param {TableEntry} entry @param {Corner[]} corners @returns {Data} */
function blend(entry, corners) {
  const { size, codes, low, step, nan, log, strings } = entry;
  const columns = low.length;
  if (strings) return Array.from({ length: size }, (_, i) => strings[codes[corners[0][0] * size + i]]);
  const data = new Float64Array(size);
  for (const [row, weight] of corners) {
    for (let i = 0, at = row * size; i < size; i++, at++) {
      data[i] += codes[at] === nan ? NaN : weight * (low[i % columns] + step[i % columns] * codes[at]);
    }
  }
  if (log.includes(true)) for (let i = 0; i < size; i++) if (log[i % columns]) data[i] = 10 ** data[i];
  return data;
}
