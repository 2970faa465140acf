// The figure: what matplotlib has drawn, and the marks that move over it.

import { build, html, svg } from "./dom.js";
import { gapPath, paint, pathOf } from "./paths.js";
import { buildCanvas, drawPixels } from "./pixels.js";
import { toX, toY } from "./scales.js";
import { formatFields, items } from "./text.js";

/** Marks over the figure are drawn from the broad to the small; pixels lie under it. @type {Kind[]} */
const ORDER = ["polygon", "bars", "polyline", "arrows", "points", "text"];

export class Picture {
  /** @param {Payload} payload @param {Mark[]} marks @param {string} id unique on the page */
  constructor(payload, marks, id) {
    this.axes = payload.axes;
    this.marks = marks;
    /** @type {Map<string, HTMLCanvasElement>} */
    this.canvases = new Map();
    /** @type {Map<string, SVGElement>} */
    this.nodes = new Map();
    this.frame = html("div", { class: "explorer-figure" });
    // As wide as is useful, and on a phone no taller than leaves room for the controls.
    const ratio = payload.width / payload.height;
    const widest = `${(payload.width * 1.65).toFixed(0)}px`;
    this.frame.style.maxWidth = `min(${widest}, calc(var(--tallest) * ${ratio.toFixed(3)}))`;
    for (const mark of marks) {
      if (mark.kind !== "heatmap" && mark.kind !== "image") continue;
      const { canvas, frame } = buildCanvas(mark, payload);
      this.canvases.set(mark.name, canvas);
      this.frame.append(frame);
    }
    this.svg = readFigure(payload, id);
    this.layers = payload.axes.map((axes, i) => this.buildLayer(axes, `${id}-clip${i}`));
    for (const kind of ORDER) for (const mark of marks) if (mark.kind === kind) this.buildMark(mark);
    this.frame.append(this.svg);
  }

  /** @param {Axes} axes @param {string} id */
  buildLayer(axes, id) {
    // A little air, so that a point on the border is not cut in half.
    const box = { x: axes.left - 5, y: axes.top - 5, width: axes.width + 10, height: axes.height + 10 };
    const layer = svg("g", { "clip-path": `url(#${id})`, "aria-hidden": "true" });
    this.svg.append(svg("clipPath", { id }, svg("rect", box)), layer);
    return layer;
  }

  /** @param {Mark} mark */
  buildMark(mark) {
    const layer = this.layers[mark.axes];
    /** @param {string} name @param {SVGElement} node */
    const add = (name, node) => {
      this.nodes.set(name, node);
      layer.append(node);
    };
    if (mark.kind === "text") {
      const anchor = { left: "start", center: "middle", right: "end" }[mark.align];
      const style = { fill: mark.color, "font-size": mark.size, "text-anchor": anchor };
      add(mark.name, svg("text", { class: mark.outline ? "mark-text outlined" : "mark-text", ...style }));
    } else if (mark.kind !== "heatmap" && mark.kind !== "image") {
      if (mark.derivative && mark.kind === "points") {
        const style = { stroke: mark.color, "stroke-width": 1, "stroke-opacity": 0.6, fill: "none" };
        add(`${mark.name} gap`, svg("path", style));
      }
      if (mark.derivative) add(`${mark.name} ghost`, svg("path", { class: "ghost", ...paint(mark, true) }));
      add(mark.name, svg("path", { class: `mark-${mark.kind}`, ...paint(mark, false) }));
    }
  }

  /** @param {Solution} shown @param {Record<string, Float64Array>} ghosts */
  draw(shown, ghosts) {
    for (const mark of this.marks) this.drawMark(mark, shown, ghosts);
  }

  /** @param {Mark} mark @param {Solution} shown @param {Record<string, Float64Array>} ghosts */
  drawMark(mark, shown, ghosts) {
    const axes = this.axes[mark.axes];
    if (mark.kind === "text") {
      const followed = typeof mark.position === "string" ? shown[mark.position] : null;
      this.drawText(mark, shown[mark.name], axes, followed);
      return;
    }
    const data = /** @type {Float64Array} */ (shown[mark.name]);
    if (mark.kind === "heatmap" || mark.kind === "image") {
      const canvas = this.canvases.get(mark.name);
      if (canvas) drawPixels(canvas, mark, data);
      return;
    }
    this.setPath(mark.name, pathOf(mark, data, axes));
    if (!mark.derivative) return;
    this.setPath(`${mark.name} ghost`, pathOf(mark, ghosts[mark.name], axes));
    if (mark.kind === "points") this.setPath(`${mark.name} gap`, gapPath(data, ghosts[mark.name], axes));
  }

  /** @param {string} name @param {string} path */
  setPath(name, path) {
    this.nodes.get(name)?.setAttribute("d", path);
  }

  /** @param {TextMark} mark @param {Data} values @param {Axes} axes @param {Data | null} followed */
  drawText(mark, values, axes, followed) {
    const node = this.nodes.get(mark.name);
    if (!node) return;
    const [a, b] = /** @type {number[]} */ (followed ?? mark.position);
    let [x, y] = [toX(axes, a), toY(axes, b)];
    if (followed) [x, y] = [x + 7, y - 6];
    else if (mark.within === "axes") [x, y] = [axes.left + axes.width * a, axes.top + axes.height * (1 - b)];
    const shown = Number.isFinite(x + y) && !items(values).some(Number.isNaN);
    node.textContent = shown ? formatFields(mark.format, items(values)) : "";
    if (shown) build(node, { x, y });
  }

  /** Where on the figure, in SVG units, a pointer is. @param {PointerEvent} event */
  locate(event) {
    const matrix = /** @type {DOMMatrix} */ (this.svg.getScreenCTM());
    return new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
  }
}

/** The figure as an element that grows with its frame. @param {Payload} payload @param {string} id */
function readFigure(payload, id) {
  const holder = html("div");
  // Ids of several figures on one page must differ.
  holder.innerHTML = payload.svg.replace(/(\bid="|href="#|url\(#)/g, `$1${id}-`);
  const figure = /** @type {SVGSVGElement} */ (holder.firstElementChild);
  figure.removeAttribute("width");
  figure.removeAttribute("height");
  build(figure, {
    viewBox: `0 0 ${payload.width} ${payload.height}`,
    role: "group",
    "aria-label": payload.description,
  });
  for (const child of figure.children) child.setAttribute("aria-hidden", "true");
  return figure;
}
