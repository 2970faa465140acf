// What a mark looks like: its outline as an SVG path, and its paint.

import { build, svg } from "./dom.js";
import { toX, toY } from "./scales.js";

/** @param {number} x @param {number} y @param {number} r */
const disc = (x, y, r) =>
  `M${(x - r).toFixed(2)},${y.toFixed(2)}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`;

/** A mark's outline. @param {PathMark} mark @param {Float64Array} data @param {Axes} axes */
export function pathOf(mark, data, axes) {
  switch (mark.kind) {
    case "points":
      return pointsPath(mark, data, axes);
    case "bars":
      return barsPath(mark, data, axes);
    case "arrows":
      return arrowsPath(mark, data, axes);
    default:
      return linePath(mark, data, axes, mark.kind === "polygon");
  }
}

/** @param {PointsMark} mark @param {Float64Array} data @param {Axes} axes */
function pointsPath(mark, data, axes) {
  let path = "";
  for (let i = 0; i < data.length; i += 2) {
    const x = toX(axes, data[i]);
    const y = toY(axes, data[i + 1]);
    if (Number.isFinite(x + y)) path += disc(x, y, mark.size / 2);
  }
  return path;
}

/**
 * Path through the points of each line; a point that is not drawn interrupts it.
 * @param {Mark} mark
 * @param {Float64Array} data
 * @param {Axes} axes
 * @param {boolean} closed
 */
function linePath(mark, data, axes, closed) {
  const length = mark.shape[mark.shape.length - 2];
  let path = "";
  let pen = false;
  for (let i = 0; i < data.length / 2; i++) {
    if (i % length === 0) pen = false;
    const x = toX(axes, data[2 * i]);
    const y = toY(axes, data[2 * i + 1]);
    if (Number.isFinite(x + y)) path += `${pen ? "L" : "M"}${x.toFixed(2)},${y.toFixed(2)}`;
    pen = Number.isFinite(x + y);
    if (closed && pen && i % length === length - 1) path += "Z";
  }
  return path;
}

/** @param {BarsMark} mark @param {Float64Array} data @param {Axes} axes */
function barsPath(mark, data, axes) {
  let path = "";
  data.forEach((value, i) => {
    const at = mark.positions ? mark.positions[i] : i;
    const [left, right] = [toX(axes, at - mark.width / 2), toX(axes, at + mark.width / 2)];
    const bottom = axes.y.log && mark.base <= 0 ? axes.top + axes.height : toY(axes, mark.base);
    const top = toY(axes, value);
    if (Number.isFinite(left + right + top)) path += `M${left},${bottom}V${top.toFixed(2)}H${right}V${bottom}Z`;
  });
  return path;
}

/** @param {ArrowsMark} mark @param {Float64Array} data @param {Axes} axes */
function arrowsPath(mark, data, axes) {
  let path = "";
  for (let i = 0; i < data.length; i += 4) {
    const [x, y] = [toX(axes, data[i]), toY(axes, data[i + 1])];
    const [u, v] = [toX(axes, data[i] + data[i + 2]) - x, toY(axes, data[i + 1] + data[i + 3]) - y];
    const length = Math.hypot(u, v);
    if (!(length > 0.5)) continue;
    // The head keeps its size until the arrow is too short for it.
    const head = Math.min(3 + 2.2 * mark.width, 0.6 * length);
    const [c, s] = [(u / length) * head, (v / length) * head];
    const [tx, ty] = [x + u, y + v];
    path += `M${x},${y}L${tx - 0.6 * c},${ty - 0.6 * s}M${tx},${ty}L${tx - c - 0.45 * s},${ty - s + 0.45 * c}`;
    path += `L${tx - c + 0.45 * s},${ty - s - 0.45 * c}Z`;
  }
  return path;
}

/**
 * From each predicted point to the true one.
 * @param {Float64Array} data
 * @param {Float64Array} ghost
 * @param {Axes} axes
 */
export function gapPath(data, ghost, axes) {
  let path = "";
  for (let i = 0; i < data.length; i += 2) {
    const ends = [toX(axes, ghost[i]), toY(axes, ghost[i + 1]), toX(axes, data[i]), toY(axes, data[i + 1])];
    if (ends.every(Number.isFinite)) path += `M${ends[0]},${ends[1]}L${ends[2]},${ends[3]}`;
  }
  return path;
}

/** Paint of a mark, or of the ghost that shows its linear prediction. @param {PathMark} mark @param {boolean} ghost */
export function paint(mark, ghost) {
  const { color } = mark;
  if (ghost && mark.kind === "points") return { fill: "var(--paper)", stroke: color, "stroke-width": 1.6 };
  if (ghost) return { fill: "none", stroke: color, "stroke-width": 1.6, "stroke-dasharray": "4 3" };
  if (mark.kind === "points") return { fill: color, stroke: "var(--paper)", "stroke-width": 1 };
  if (mark.kind === "bars") return { fill: color, "fill-opacity": 0.75 };
  const stroke = { stroke: color, "stroke-width": mark.width };
  if (mark.kind === "polygon") return { fill: color, "fill-opacity": mark.opacity, ...stroke };
  if (mark.kind === "arrows") return { fill: color, ...stroke };
  const caps = { "stroke-dasharray": mark.dash?.join(" "), "stroke-linecap": mark.dash ? "butt" : "round" };
  return { fill: "none", ...stroke, ...caps };
}

const ICONS = {
  points: disc(10, 6, 4),
  polyline: "M1,6H19",
  arrows: "M1,6H13M19,6L12,3V9Z",
  polygon: "M1,1H19V11H1Z",
  bars: "M2,11V5H7V11ZM8,11V1H13V11ZM14,11V4H19V11Z",
};

const icon = () => svg("svg", { viewBox: "0 0 20 12", width: 20, height: 12, "aria-hidden": "true" });

/** A ring as the handle of a pad has it. @param {string} color */
export function handleIcon(color) {
  return build(icon(), {}, [svg("circle", { class: "explorer-ring", cx: 10, cy: 6, r: 4.6, stroke: color })]);
}

/** What a mark looks like in the legend. @param {Mark} mark @param {boolean} ghost */
export function markIcon(mark, ghost) {
  if (mark.kind === "image" || mark.kind === "text") return icon();
  if (mark.kind === "heatmap") {
    const stops = [0, 1, 2, 3].map((i) => mark.colors.slice(85 * 3 * i, 85 * 3 * i + 3).join(","));
    const attributes = { y: 1, width: 4.6, height: 10 };
    const boxes = stops.map((c, i) => svg("rect", { x: 1 + 4.5 * i, ...attributes, fill: `rgb(${c})` }));
    return build(icon(), {}, boxes);
  }
  const d = ghost && mark.kind === "bars" ? "M5,1H15V11H5Z" : ICONS[mark.kind];
  return build(icon(), {}, [svg("path", { d, ...paint(mark, ghost) })]);
}
