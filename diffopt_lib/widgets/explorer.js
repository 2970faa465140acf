// The explorer: a drawn figure, the marks that move over it, and the controls that move them.
//
// One module for two hosts. In JupyterLab `render` gets an anywidget model and every context is answered by the kernel;
// in a page without a kernel `mountAll` finds the data in the page and every context is read from the table of solutions.

const SVG = "http://www.w3.org/2000/svg";
const ORDER = ["polygon", "bars", "polyline", "arrows", "points", "text"];
const PATIENCE_MS = 30000;

function html(tag, attributes = {}, ...children) {
  return build(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) if (value != null && value !== false) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const clamp = (v, low, high) => Math.min(Math.max(v, low), high);

// ---------------------------------------------------------------------------------------------- numbers as text

/** A number with as many decimals as a quantity of this span deserves, so that its width does not jitter. */
function decimal(value, span, log = false) {
  if (value == null || Number.isNaN(value)) return "–";
  const tiny = Math.abs(value) < 1e-3 && value !== 0, huge = Math.abs(value) >= 1e5;
  if (log) return minus(tiny || huge ? value.toExponential(1) : value.toPrecision(3));
  if (span > 0 && (span < 1e-3 || span >= 1e6)) return minus(value.toExponential(2));
  const places = span > 0 ? clamp(2 - Math.floor(Math.log10(span)), 0, 5) : 2;
  return minus((Math.abs(value) < 0.5 * 10 ** -places ? 0 : value).toFixed(places));
}

/** One significant digit, for an error. */
function rough(value) {
  return value === 0 ? "0" : value < 1e-3 || value >= 1e4 ? minus(value.toExponential(0)) : String(Number(value.toPrecision(1)));
}

const minus = (text) => text.replace("-", "−");
const tuple = (parts) => (parts.length === 1 ? parts[0] : `(${parts.join(", ")})`);

/** Python's format() for the fields that `marks.Text` admits. */
function formatFields(format, values) {
  let next = 0;
  return format.replace(/\{(\d*)(?::(\+?)(?:\.(\d+))?([fegsd%]?))?\}/g, (_, index, plus, digits, type) => {
    const value = values[index ? Number(index) : next++];
    if (typeof value === "string" || value === undefined) return value ?? "";
    const places = digits === undefined ? 6 : Number(digits);
    const text = {
      f: () => value.toFixed(places),
      e: () => value.toExponential(places),
      g: () => String(Number(value.toPrecision(places || 1))),
      d: () => value.toFixed(0),
      "%": () => `${(100 * value).toFixed(places)}%`,
    }[type || (digits === undefined ? "" : "g")]?.() ?? String(value);
    return minus((plus && value >= 0 ? "+" : "") + text);
  });
}

// ------------------------------------------------------------------------------------------ the table of solutions

/** Position of a control's value on a grid axis, in node units; a node is hit exactly (as in controls.py). */
function gridPosition(axis, value) {
  if (axis.values) return axis.values.indexOf(value);
  const fraction = axis.log
    ? Math.log(value / axis.low) / Math.log(axis.high / axis.low)
    : (value - axis.low) / (axis.high - axis.low);
  const position = clamp(fraction, 0, 1) * (axis.steps - 1);
  return Math.abs(position - Math.round(position)) < 1e-9 ? Math.round(position) : position;
}

class Table {
  constructor(payload, bytes) {
    this.grid = payload.grid;
    this.exact = new Map(payload.extras.map((context, i) => [keyOf(context, payload), payload.nodes + i]));
    this.cells = this.grid.reduce((count, axis) => count * (axis.values ? axis.steps : axis.steps - 1), 1);
    this.entries = {};
    for (const [name, spec] of Object.entries(payload.tables)) {
      const codes = bytes.slice(spec.codes, spec.jumps).buffer;
      this.entries[name] = {
        ...spec,
        codes: spec.byte ? new Uint8Array(codes) : new Int16Array(codes),
        jumps: bytes.subarray(spec.jumps, spec.jumps + this.cells),
      };
    }
  }

  /** The corners of the context's cell with their weights, the nearest node and the cell's index. */
  locate(context) {
    let corners = [[0, 1]], nearest = 0, cell = 0;
    for (const axis of this.grid) {
      const value = context[axis.control];
      const position = gridPosition(axis, axis.component == null ? value : value[axis.component]);
      const n = axis.steps;
      if (axis.values) {
        corners = corners.map(([row, weight]) => [row * n + position, weight]);
        [nearest, cell] = [nearest * n + position, cell * n + position];
        continue;
      }
      const below = Math.min(Math.floor(position), n - 2), part = position - below;
      corners = corners.flatMap(([row, weight]) => [
        [row * n + below, weight * (1 - part)],
        [row * n + below + 1, weight * part],
      ]).filter(([, weight]) => weight > 0);
      [nearest, cell] = [nearest * n + Math.floor(position + 0.5), cell * (n - 1) + below];
    }
    return { corners, nearest, cell };
  }

  /** All entries at a context: interpolated, or where a jump runs through the cell the nearest node. */
  read(context, key) {
    const row = this.exact.get(key);
    const place = row === undefined ? this.locate(context) : { corners: [[row, 1]], nearest: row };
    const solution = {};
    for (const [name, entry] of Object.entries(this.entries)) {
      const snap = entry.strings || (place.corners.length > 1 && entry.jumps[place.cell]);
      solution[name] = this.blend(entry, snap ? [[place.nearest, 1]] : place.corners);
    }
    return solution;
  }

  blend(entry, corners) {
    const { size, codes, low, step, nan, log } = entry, columns = low.length;
    if (entry.strings) return Array.from({ length: size }, (_, i) => entry.strings[codes[corners[0][0] * size + i]]);
    const data = new Float64Array(size);
    for (const [row, weight] of corners) {
      for (let i = 0, at = row * size; i < size; i++, at++) {
        data[i] += codes[at] === nan ? NaN : weight * (low[i % columns] + step[i % columns] * codes[at]);
      }
    }
    if (log.includes(true)) for (let i = 0; i < size; i++) if (log[i % columns]) data[i] = 10 ** data[i];
    return data;
  }
}

function keyOf(context, payload) {
  return JSON.stringify(payload.controls.map(({ name }) => context[name]));
}

// ------------------------------------------------------------------------------------------- data to SVG coordinates

function fractionOf(scale, value) {
  const f = scale.log ? (v) => (v > 0 ? Math.log10(v) : NaN) : (v) => v;
  return (f(value) - f(scale.low)) / (f(scale.high) - f(scale.low));
}

function valueAt(scale, fraction) {
  return scale.log ? scale.low * (scale.high / scale.low) ** fraction : scale.low + (scale.high - scale.low) * fraction;
}

const toX = (axes, x) => axes.left + axes.width * fractionOf(axes.x, x);
const toY = (axes, y) => axes.top + axes.height * (1 - fractionOf(axes.y, y));

// -------------------------------------------------------------------------------------------------- one mark, drawn

const dot = (x, y, r) => `M${(x - r).toFixed(2)},${y.toFixed(2)}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`;

/** Path through the points of each line; a point that is not drawn interrupts it. */
function linePath(mark, data, axes, closed) {
  const length = mark.shape[mark.shape.length - 2];
  let path = "", pen = false;
  for (let i = 0; i < data.length / 2; i++) {
    if (i % length === 0) pen = false;
    const x = toX(axes, data[2 * i]), y = toY(axes, data[2 * i + 1]);
    if (Number.isFinite(x + y)) path += `${pen ? "L" : "M"}${x.toFixed(2)},${y.toFixed(2)}`;
    pen = Number.isFinite(x + y);
    if (closed && pen && i % length === length - 1) path += "Z";
  }
  return path;
}

const PATHS = {
  points(mark, data, axes) {
    let path = "";
    for (let i = 0; i < data.length; i += 2) {
      const x = toX(axes, data[i]), y = toY(axes, data[i + 1]);
      if (Number.isFinite(x + y)) path += dot(x, y, mark.size / 2);
    }
    return path;
  },
  polyline: (mark, data, axes) => linePath(mark, data, axes, false),
  polygon: (mark, data, axes) => linePath(mark, data, axes, true),
  bars(mark, data, axes) {
    let path = "";
    data.forEach((value, i) => {
      const at = mark.positions ? mark.positions[i] : i;
      const [left, right] = [toX(axes, at - mark.width / 2), toX(axes, at + mark.width / 2)];
      const bottom = axes.y.log && mark.base <= 0 ? axes.top + axes.height : toY(axes, mark.base), top = toY(axes, value);
      if (Number.isFinite(left + right + top)) path += `M${left},${bottom}V${top.toFixed(2)}H${right}V${bottom}Z`;
    });
    return path;
  },
  arrows(mark, data, axes) {
    let path = "";
    for (let i = 0; i < data.length; i += 4) {
      const [x, y] = [toX(axes, data[i]), toY(axes, data[i + 1])];
      const [u, v] = [toX(axes, data[i] + data[i + 2]) - x, toY(axes, data[i + 1] + data[i + 3]) - y];
      const length = Math.hypot(u, v);
      if (!(length > 0.5)) continue;
      // The head keeps its size until the arrow is too short for it.
      const head = Math.min(3 + 2.2 * mark.width, 0.6 * length), [c, s] = [(u / length) * head, (v / length) * head];
      const [tx, ty] = [x + u, y + v];
      path += `M${x},${y}L${tx - 0.6 * c},${ty - 0.6 * s}M${tx},${ty}L${tx - c - 0.45 * s},${ty - s + 0.45 * c}`;
      path += `L${tx - c + 0.45 * s},${ty - s - 0.45 * c}Z`;
    }
    return path;
  },
};

/** Paint attributes of a mark, or of the ghost that shows its linear prediction. */
function paint(mark, ghost) {
  const { color, kind } = mark;
  if (ghost && kind === "points") return { fill: "var(--paper)", stroke: color, "stroke-width": 1.6 };
  if (ghost) return { fill: "none", stroke: color, "stroke-width": 1.6, "stroke-dasharray": "4 3" };
  if (kind === "points") return { fill: color, stroke: "var(--paper)", "stroke-width": 1 };
  if (kind === "bars") return { fill: color, "fill-opacity": 0.75 };
  if (kind === "polygon") return { fill: color, "fill-opacity": mark.opacity, stroke: color, "stroke-width": mark.width, "stroke-linejoin": "round" };
  if (kind === "arrows") return { fill: color, stroke: color, "stroke-width": mark.width };
  return { fill: "none", stroke: color, "stroke-width": mark.width, "stroke-dasharray": mark.dash?.join(" "), "stroke-linejoin": "round", "stroke-linecap": mark.dash ? "butt" : "round" };
}

function drawText(node, mark, values, axes, anchorPoint) {
  let x, y;
  if (mark.within === "axes" && !anchorPoint) {
    [x, y] = [axes.left + axes.width * mark.position[0], axes.top + axes.height * (1 - mark.position[1])];
  } else {
    const [a, b] = anchorPoint ?? mark.position;
    [x, y] = [toX(axes, a) + (anchorPoint ? 7 : 0), toY(axes, b) - (anchorPoint ? 6 : 0)];
  }
  const shown = Number.isFinite(x + y) && ![...values].some((v) => Number.isNaN(v));
  node.textContent = shown ? formatFields(mark.format, [...values]) : "";
  if (shown) build(node, { x, y }, []);
}

/** Fills RGBA pixels with a matrix, row 0 at the bottom. */
function heatPixels(pixels, mark, data) {
  const [height, width] = mark.shape, { colors, vmin, vmax } = mark, levels = colors.length / 3 - 1;
  for (let i = 0; i < width * height; i++) {
    const value = data[(height - 1 - Math.floor(i / width)) * width + (i % width)];
    if (Number.isNaN(value)) continue;
    const color = 3 * Math.round(clamp((value - vmin) / (vmax - vmin || 1), 0, 1) * levels);
    for (let c = 0; c < 3; c++) pixels[4 * i + c] = colors[color + c];
    pixels[4 * i + 3] = 255;
  }
}

/** Fills RGBA pixels with a picture, row 0 at the top. */
function imagePixels(pixels, mark, data) {
  const [height, width, channels] = mark.shape;
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < channels; c++) pixels[4 * i + c] = data[channels * i + c];
    if (channels === 3) pixels[4 * i + 3] = 255;
  }
}

function drawPixels(canvas, mark, data) {
  const context = canvas.getContext("2d"), picture = context.createImageData(canvas.width, canvas.height);
  (mark.kind === "image" ? imagePixels : heatPixels)(picture.data, mark, data);
  context.putImageData(picture, 0, 0);
}

// --------------------------------------------------------------------------------------------------------- the view

let views = 0;

class View {
  /** `request(context) -> Promise of a solution` is the kernel; null on a page without one. */
  constructor(root, payload, bytes, request) {
    this.root = root;
    this.payload = payload;
    this.request = request;
    this.table = new Table(payload, bytes);
    this.context = structuredClone(payload.start);
    this.anchor = structuredClone(payload.anchor);
    this.waiting = [];
    this.id = `diffopt${++views}`;
    this.marks = payload.marks.map((mark) => ({ ...mark, shape: payload.tables[mark.name].shape }));
    this.derivatives = this.marks.filter((mark) => mark.derivative);
    this.fillHeatRanges();
    root.replaceChildren();
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", payload.title || payload.description);
    if (payload.title) root.append(html("p", { class: "explorer-title" }, payload.title));
    this.side = html("div", { class: "explorer-side" });
    root.append(html("div", { class: "explorer-body" }, this.buildFigure(), this.side));
    this.buildLegend();
    this.buildControls();
    this.buildPresets();
    this.buildStatus();
    // JupyterLab's own keys would take the arrows and p. It looks for this mark on the focused element before any other.
    for (const element of root.querySelectorAll("input, button, [tabindex]")) element.setAttribute("data-lm-suppress-shortcuts", "true");
    root.addEventListener("keydown", (event) => this.onKey(event));
    root.explorer = this.contract();
    this.ask();
    this.draw();
  }

  /** What tests hold on to. */
  contract() {
    const view = this;
    return {
      context: () => structuredClone(view.context),
      marks: () => Object.fromEntries(view.marks.map(({ name, shape }) => [name, { shape, data: Array.from(view.shown[name]) }])),
      prediction: () => Object.fromEntries(view.derivatives.map(({ name, shape }) => [name, { shape, data: Array.from(view.ghosts[name]) }])),
      anchor: () => structuredClone(view.anchor),
      set: (context) => view.set(context),
      pin: () => view.pin(),
      checks: view.payload.checks,
      error: view.payload.error,
      snapError: view.payload.snapError,
      live: view.request !== null,
      get lastDrawMs() { return view.lastDrawMs; },
      get lastAnswerMs() { return view.lastAnswerMs; },
    };
  }

  fillHeatRanges() {
    for (const mark of this.marks) {
      if (mark.kind !== "heatmap") continue;
      const { low, span } = this.payload.tables[mark.name];
      mark.vmin ??= low[0];
      mark.vmax ??= low[0] + span[0];
    }
  }

  // ---- moving

  set(changes) {
    for (const [name, value] of Object.entries(changes)) this.context[name] = this.admit(name, value);
    this.ask();
    this.redraw();
    return new Promise((resolve) => this.waiting.push({ key: this.key(), resolve }));
  }

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
      const key = this.key(), began = performance.now();
      try {
        this.answer = { key, solution: await this.request(structuredClone(this.context)) };
      } catch (error) {
        this.answer = { key, failure: error.message };
      }
      this.lastAnswerMs = performance.now() - began;
      this.redraw();
    }
    this.asking = false;
  }

  /** The solution at a context: the library's own if the kernel gave it, else from the table. */
  solution(context) {
    const key = this.key(context);
    return this.answer?.key === key && this.answer.solution ? this.answer.solution : this.table.read(context, key);
  }

  pin() {
    this.anchor = structuredClone(this.context);
    this.pinned = { key: this.key(), solution: this.solution(this.context) };
    this.redraw();
  }

  /** y*(x0) + J(x0) (x - x0), with x0's own solution at the current choices. */
  predict() {
    const anchor = { ...this.anchor }, change = [];
    for (const axis of this.payload.grid) {
      if (axis.values) anchor[axis.control] = this.context[axis.control];
      else if (axis.component == null) change.push(this.context[axis.control] - anchor[axis.control]);
      else change.push(this.context[axis.control][axis.component] - anchor[axis.control][axis.component]);
    }
    const base = this.pinned?.key === this.key(anchor) ? this.pinned.solution : this.solution(anchor);
    const ghosts = {};
    for (const { name } of this.derivatives) {
      const value = base[name], jacobian = base[`${name}_jacobian`], d = change.length;
      ghosts[name] = Float64Array.from(value, (y, i) => change.reduce((sum, dx, j) => sum + jacobian[i * d + j] * dx, y));
    }
    return ghosts;
  }

  /** Glide to a preset; a reader who asked for less motion is there at once. */
  goTo(preset) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const from = structuredClone(this.context), to = { ...from, ...preset.set }, began = performance.now();
    if (preset.anchor) { this.anchor = structuredClone(preset.anchor); this.pinned = null; }
    this.note.textContent = preset.note ?? "";
    cancelAnimationFrame(this.glide);
    const step = (now) => {
      const time = still ? 1 : clamp((now - began) / 280, 0, 1), share = time * time * (3 - 2 * time);
      const between = (a, b) => (time === 1 || typeof b === "string" ? b : a + (b - a) * share);
      const mix = (a, b) => (Array.isArray(b) ? b.map((v, i) => between(a[i], v)) : between(a, b));
      this.set(Object.fromEntries(Object.keys(to).map((name) => [name, mix(from[name], to[name])])));
      if (time < 1) this.glide = requestAnimationFrame(step);
    };
    step(began);
  }

  // ---- drawing

  redraw() {
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    const began = performance.now();
    this.frame = null;
    this.shown = this.solution(this.context);
    this.ghosts = this.predict();
    for (const mark of this.marks) this.drawMark(mark);
    for (const control of this.payload.controls) this.drawControl[control.name]?.();
    for (const { preset, node } of this.presets) node.setAttribute("aria-pressed", this.key({ ...this.context, ...preset.set }) === this.key());
    this.drawLegend();
    this.drawStatus();
    this.lastDrawMs = performance.now() - began;
    this.announce();
    const current = this.key(), settled = !this.request || this.answer?.key === current;
    this.waiting = this.waiting.filter(({ key, resolve }) => !(settled || key !== current) || resolve());
  }

  drawMark(mark) {
    const data = this.shown[mark.name], axes = this.payload.axes[mark.axes], node = this.nodes[mark.name];
    if (mark.kind === "heatmap" || mark.kind === "image") return drawPixels(node, mark, data);
    if (mark.kind === "text") {
      const followed = typeof mark.position === "string" ? this.shown[mark.position].subarray(0, 2) : null;
      return drawText(node, mark, data, axes, followed);
    }
    node.setAttribute("d", PATHS[mark.kind](mark, data, axes));
    if (!mark.derivative) return;
    const ghost = this.ghosts[mark.name];
    this.nodes[`${mark.name} ghost`].setAttribute("d", PATHS[mark.kind](mark, ghost, axes));
    if (mark.kind === "points") this.nodes[`${mark.name} gap`].setAttribute("d", this.gapPath(data, ghost, axes));
  }

  /** From each predicted point to the true one. */
  gapPath(data, ghost, axes) {
    let path = "";
    for (let i = 0; i < data.length; i += 2) {
      const ends = [toX(axes, ghost[i]), toY(axes, ghost[i + 1]), toX(axes, data[i]), toY(axes, data[i + 1])];
      if (ends.every(Number.isFinite)) path += `M${ends[0]},${ends[1]}L${ends[2]},${ends[3]}`;
    }
    return path;
  }

  // ---- building

  buildFigure() {
    const { payload } = this;
    const frame = html("div", { class: "explorer-figure", style: `max-width:${(payload.width * 1.65).toFixed(0)}px` });
    // Pixels lie under the figure's own lines, so they are canvases behind the SVG.
    this.nodes = {};
    for (const mark of this.marks) {
      if (mark.kind === "heatmap" || mark.kind === "image") frame.append(this.buildCanvas(mark));
    }
    // Ids of several figures on one page must differ.
    const text = payload.svg.replace(/(\bid="|href="#|url\(#)/g, `$1${this.id}-`);
    const holder = html("div");
    holder.innerHTML = text;
    this.svg = holder.firstElementChild;
    this.svg.removeAttribute("width");
    this.svg.removeAttribute("height");
    build(this.svg, { viewBox: `0 0 ${payload.width} ${payload.height}`, role: "group", "aria-label": payload.description }, []);
    for (const child of this.svg.children) child.setAttribute("aria-hidden", "true");
    this.layers = payload.axes.map((axes, i) => this.buildLayer(axes, i));
    for (const kind of ORDER) for (const mark of this.marks) if (mark.kind === kind) this.buildMark(mark);
    frame.append(this.svg);
    return frame;
  }

  buildLayer(axes, i) {
    const clip = svg("clipPath", { id: `${this.id}-clip${i}` });
    // A little air, so that a point on the border is not cut in half.
    clip.append(svg("rect", { x: axes.left - 5, y: axes.top - 5, width: axes.width + 10, height: axes.height + 10 }));
    const layer = svg("g", { "clip-path": `url(#${this.id}-clip${i})`, "aria-hidden": "true" });
    this.svg.append(clip, layer);
    return layer;
  }

  buildMark(mark) {
    const layer = this.layers[mark.axes];
    if (mark.kind === "text") {
      const anchor = { left: "start", center: "middle", right: "end" }[mark.align];
      this.nodes[mark.name] = svg("text", { class: "mark-text", fill: mark.color, "font-size": mark.size, "text-anchor": anchor });
    } else {
      this.nodes[mark.name] = svg("path", { class: `mark-${mark.kind}`, ...paint(mark, false) });
    }
    if (mark.derivative && mark.kind === "points") {
      layer.append((this.nodes[`${mark.name} gap`] = svg("path", { stroke: mark.color, "stroke-width": 1, "stroke-opacity": 0.6, fill: "none" })));
    }
    if (mark.derivative) layer.append((this.nodes[`${mark.name} ghost`] = svg("path", { class: "ghost", ...paint(mark, true) })));
    layer.append(this.nodes[mark.name]);
  }

  buildCanvas(mark) {
    const { width, height, axes } = this.payload, box = axes[mark.axes], [height_, width_] = mark.shape;
    const [x0, x1, y0, y1] = mark.extent, [left, right, bottom, top] = [toX(box, x0), toX(box, x1), toY(box, y0), toY(box, y1)];
    const percent = (part, whole) => `${(100 * part) / whole}%`;
    const canvas = html("canvas", { width: width_, height: height_, class: mark.smooth ? "" : "pixelated" });
    const flip = `scale(${right < left ? -1 : 1},${bottom < top ? -1 : 1})`;
    Object.assign(canvas.style, {
      left: percent(Math.min(left, right) - box.left, box.width), width: percent(Math.abs(right - left), box.width),
      top: percent(Math.min(top, bottom) - box.top, box.height), height: percent(Math.abs(bottom - top), box.height), transform: flip,
    });
    this.nodes[mark.name] = canvas;
    const window_ = html("div", { class: "explorer-pixels", "aria-hidden": "true" }, canvas);
    Object.assign(window_.style, {
      left: percent(box.left, width), width: percent(box.width, width), top: percent(box.top, height), height: percent(box.height, height),
    });
    return window_;
  }

  // ---- controls

  buildControls() {
    this.drawControl = {};
    const panel = html("div", { class: "explorer-controls" });
    for (const control of this.payload.controls) {
      if (control.kind === "pad") this.buildPad(control);
      else panel.append(control.kind === "slider" ? this.buildSlider(control) : this.buildChoice(control));
    }
    if (panel.children.length) this.side.append(panel);
  }

  buildSlider(control) {
    const scale = { low: control.low, high: control.high, log: control.log };
    const step = control.integer ? 1 / (control.high - control.low) : 1 / 200;
    const input = html("input", { type: "range", min: 0, max: 1, step, id: `${this.id}-${control.name}` });
    const output = html("output", { for: input.id }), tick = html("i", { class: "explorer-tick", title: "x₀" });
    input.addEventListener("input", () => this.set({ [control.name]: valueAt(scale, Number(input.value)) }));
    this.drawControl[control.name] = () => {
      const value = this.context[control.name];
      const text = (control.integer ? String(value) : decimal(value, control.high - control.low, control.log)) + suffix(control);
      if (document.activeElement !== input || Math.abs(Number(input.value) - fractionOf(scale, value)) > step) input.value = fractionOf(scale, value);
      input.setAttribute("aria-valuetext", text);
      input.style.setProperty("--at", fractionOf(scale, value));
      output.textContent = text;
      tick.hidden = !this.derivatives.length || control.integer;
      tick.style.setProperty("--at", fractionOf(scale, this.anchor[control.name]));
    };
    const head = html("span", { class: "explorer-label" }, html("label", { for: input.id }, control.label), output);
    return html("div", { class: "explorer-slider" }, head, html("div", { class: "explorer-track" }, tick, input));
  }

  buildChoice(control) {
    const set = html("fieldset", {}, html("legend", { class: "explorer-label" }, control.label));
    const options = html("div", { class: "explorer-options" });
    const inputs = control.options.map((option) => {
      const input = html("input", { type: "radio", name: `${this.id}-${control.name}`, value: option });
      input.addEventListener("change", () => this.set({ [control.name]: option }));
      options.append(html("label", {}, input, html("span", {}, option)));
      return input;
    });
    this.drawControl[control.name] = () => inputs.forEach((input) => (input.checked = input.value === this.context[control.name]));
    set.append(options);
    return set;
  }

  buildPad(control) {
    const axes = this.payload.axes[control.axes], spans = [control.x[1] - control.x[0], control.y[1] - control.y[0]];
    const reach = svg("circle", { class: "explorer-reach", fill: "transparent" }), ring = svg("circle", { class: "explorer-ring", r: 6, stroke: control.color });
    const handle = svg("g", { class: "explorer-handle", tabindex: 0, role: "slider", "aria-roledescription": "point in the plane", "aria-label": control.label }, reach, ring);
    const anchor = svg("g", { class: "explorer-anchor", "aria-hidden": "true" }, svg("path", { d: "M-4,-4L4,4M-4,4L4,-4" }), svg("text", { x: 6, y: 10 }, "x₀"));
    this.svg.append(anchor, handle);
    const move = (x, y) => this.set({ [control.name]: [x, y] });
    handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      handle.focus({ focusVisible: false });
      handle.setPointerCapture(event.pointerId);
    });
    // Not every browser heeds `touch-action` on a shape inside an SVG.
    handle.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
    handle.addEventListener("pointermove", (event) => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
      move(valueAt(axes.x, (at.x - axes.left) / axes.width), valueAt(axes.y, 1 - (at.y - axes.top) / axes.height));
    });
    handle.addEventListener("keydown", (event) => {
      const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] }[event.key];
      if (!arrow) return;
      event.preventDefault();
      const [x, y] = this.context[control.name], size = event.shiftKey ? 0.1 : 0.01;
      move(x + arrow[0] * size * spans[0], y + arrow[1] * size * spans[1]);
    });
    this.drawControl[control.name] = () => {
      const [x, y] = this.context[control.name], [x0, y0] = this.anchor[control.name];
      handle.setAttribute("transform", `translate(${toX(axes, x)},${toY(axes, y)})`);
      anchor.setAttribute("transform", `translate(${toX(axes, x0)},${toY(axes, y0)})`);
      anchor.style.display = this.derivatives.length ? "" : "none";
      const words = this.padText(control);
      build(handle, { "aria-valuenow": x, "aria-valuemin": control.x[0], "aria-valuemax": control.x[1], "aria-valuetext": words }, []);
    };
    // The reach of a finger is measured on the screen, not in the figure.
    new ResizeObserver(([{ contentRect }]) => {
      if (contentRect.width) reach.setAttribute("r", (15 * this.payload.width) / contentRect.width);
    }).observe(this.svg);
  }

  padText(control) {
    const [x, y] = this.context[control.name];
    return `(${decimal(x, control.x[1] - control.x[0])}, ${decimal(y, control.y[1] - control.y[0])})${suffix(control)}`;
  }

  buildPresets() {
    const { presets } = this.payload;
    let row = html("div", { class: "explorer-presets", role: "group", "aria-label": "presets" });
    const button = (text, title, act) => {
      const node = html("button", { type: "button", title }, text);
      node.addEventListener("click", act);
      row.append(node);
      return node;
    };
    this.presets = Object.entries(presets).map(([name, preset]) => ({ preset, node: button(name, preset.note, () => this.goTo(preset)) }));
    this.note = html("p", { class: "explorer-note", "aria-live": "polite" });
    if (this.presets.length) this.side.append(row, this.note);
    row = html("div", { class: "explorer-presets" });
    if (this.derivatives.length) button("Pin derivative here", "set x₀ to the current context (key p)", () => this.pin()).classList.add("quiet");
    button("Reset", "back to the start", () => this.goTo({ set: this.payload.start, anchor: this.payload.anchor })).classList.add("quiet");
    this.side.append(row);
  }

  onKey(event) {
    if (event.key !== "p" || event.ctrlKey || event.metaKey || event.altKey || !this.derivatives.length) return;
    event.preventDefault();
    this.pin();
  }

  // ---- legend with the values, status, announcements

  buildLegend() {
    const rows = [];
    for (const control of this.payload.controls) {
      if (control.kind === "pad") rows.push({ mark: { kind: "handle", color: control.color }, label: control.label, value: () => this.padText(control) });
    }
    for (const mark of this.marks) {
      if (mark.label) rows.push({ mark, label: mark.label, value: () => this.markText(mark, this.shown[mark.name]) });
    }
    if (this.derivatives.length) {
      rows.push({ mark: this.derivatives[0], ghost: true, label: "linear prediction from x₀", value: () => this.gapText() });
    }
    this.legend = html("ul", { class: "explorer-legend" });
    this.rows = rows.map((row) => {
      const value = html("span", { class: "explorer-value" });
      this.legend.append(html("li", {}, swatch(row.mark, row.ghost), html("span", {}, row.label), value));
      return { ...row, node: value };
    });
    if (rows.length) this.side.append(this.legend);
  }

  drawLegend() {
    for (const { node, value } of this.rows) node.textContent = value();
  }

  /** A mark's numbers where they are few enough to read. */
  markText(mark, data) {
    if (!["points", "bars", "text"].includes(mark.kind) || data.length > 6) return "";
    if (typeof data[0] === "string") return Array.from(data).join(", ") + suffix(mark);
    const { span, log } = this.payload.tables[mark.name], n = span.length;
    const numbers = Array.from(data, (v, i) => decimal(v, Math.max(...span), log[i % n]));
    if (mark.kind !== "points") return tuple(numbers) + suffix(mark);
    return numbers.flatMap((_, i) => (i % 2 ? [] : [`(${numbers[i]}, ${numbers[i + 1]})`])).join(" ") + suffix(mark);
  }

  gapText() {
    const gaps = this.derivatives.map(({ name, unit }) => {
      const worst = this.shown[name].reduce((most, y, i) => Math.max(most, Math.abs(y - this.ghosts[name][i]) || 0), 0);
      const { span, log } = this.payload.tables[name];
      return decimal(worst, Math.max(...span), log.includes(true)) + suffix({ unit });
    });
    return `off by ${gaps.join(", ")}`;
  }

  buildStatus() {
    this.alert = html("p", { class: "explorer-alert", role: "alert", hidden: "" });
    this.status = html("p", { class: "explorer-status" });
    this.spoken = html("p", { class: "explorer-spoken", "aria-live": "polite" });
    this.root.append(this.alert, this.status, this.spoken);
    const { nodes, error, snapError, marks } = this.payload;
    const name = (key) => marks.find((mark) => mark.name === key).label || key;
    const list = (errors) => Object.entries(errors).map(([key, value]) => `${name(key)}: ${rough(value)}`).join("; ");
    const span = (key) => Math.max(...this.payload.tables[key].span) || 1;
    // The headline is about what has an axis; colours off by some 255ths are in the tooltip.
    const kinds = Object.fromEntries(marks.map((mark) => [mark.name, mark.kind]));
    const worst = Object.keys(error).filter((key) => kinds[key] !== "image").sort((a, b) => error[b] / span(b) - error[a] / span(a))[0];
    this.baked = `Static page: interpolated from ${nodes.toLocaleString("en")} solutions`;
    if (worst) this.baked += `, worst error seen ${rough(error[worst])}${marks.length > 1 ? ` (${name(worst)})` : ""}`;
    if (Object.keys(snapError).length) this.baked += "; next to a jump, the nearest solution";
    this.status.title = `Worst error seen, in data units. ${list(error)}.`;
  }

  drawStatus() {
    const { answer } = this, current = answer?.key === this.key();
    this.alert.hidden = !(current && answer.failure);
    if (current && answer.failure) this.alert.textContent = answer.failure;
    if (!this.request) this.status.textContent = this.baked;
    else if (current && answer.solution) this.status.textContent = `Live: solved by the kernel in ${rough(1000 * answer.solution.seconds)} ms`;
    else this.status.textContent = current ? "Live: the kernel raised an error; shown is the interpolated solution" : "Live: interpolated until the kernel answers";
  }

  /** Screen readers hear the context and the solution once the reader stops moving. */
  announce() {
    clearTimeout(this.hush);
    this.hush = setTimeout(() => {
      const controls = this.payload.controls.filter(({ kind }) => kind !== "pad").map(({ label, name, low, high, kind, log }) =>
        `${label} ${kind === "slider" ? decimal(this.context[name], high - low, log) : this.context[name]}`);
      const words = [...controls, ...this.rows.map(({ label, value }) => `${label} ${value()}`)].join("; ");
      if (this.heard !== undefined && this.heard !== words) this.spoken.textContent = words;
      this.heard = words;
    }, 500);
  }
}

const suffix = ({ unit }) => (unit ? ` ${unit}` : "");

function swatch(mark, ghost) {
  const icon = svg("svg", { viewBox: "0 0 20 12", width: 20, height: 12, "aria-hidden": "true" });
  if (mark.kind === "handle") return build(icon, {}, [svg("circle", { class: "explorer-ring", cx: 10, cy: 6, r: 4.6, stroke: mark.color })]);
  if (mark.kind === "heatmap") {
    const stops = [0, 1, 2, 3].map((i) => Array.from(mark.colors.slice(85 * 3 * i, 85 * 3 * i + 3)).join(","));
    return build(icon, {}, stops.map((c, i) => svg("rect", { x: 1 + 4.5 * i, y: 1, width: 4.6, height: 10, fill: `rgb(${c})` })));
  }
  if (mark.kind === "image" || mark.kind === "text") return icon;
  const d = {
    points: dot(10, 6, 4), polyline: "M1,6H19", arrows: "M1,6H13M19,6L12,3V9Z", polygon: "M1,1H19V11H1Z", bars: ghost ? "M5,1H15V11H5Z" : "M2,11V5H7V11ZM8,11V1H13V11ZM14,11V4H19V11Z",
  }[mark.kind];
  return build(icon, {}, [svg("path", { d, ...paint(mark, ghost) })]);
}

// -------------------------------------------------------------------------------------------------------- the hosts

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function mount(root) {
  const payload = JSON.parse(root.querySelector("script").textContent);
  const deflated = Uint8Array.from(atob(payload.table), (c) => c.charCodeAt(0));
  new View(root, payload, await inflate(deflated), null);
}

/** Mount what a page without a kernel carries. */
function mountAll(page) {
  for (const root of page.querySelectorAll(".diffopt-explorer[data-static]:not([data-mounted])")) {
    root.setAttribute("data-mounted", "");
    mount(root);
  }
}

/** The kernel's side of a live widget: `solve` with a number on each request, so that a late answer is recognised. */
function connect(model) {
  const pending = new Map();
  let requests = 0;
  const hello = new Promise((resolve) => {
    model.on("msg:custom", (message, buffers) => {
      if (message.kind === "payload") resolve({ payload: message.payload, bytes: asBytes(buffers[0]) });
      else pending.get(message.id)?.(message, buffers);
    });
  });
  model.send({ kind: "hello" });
  const solve = (context) => new Promise((resolve, reject) => {
    const id = ++requests;
    const late = setTimeout(() => pending.get(id)({ kind: "error", message: `the kernel did not answer in ${PATIENCE_MS / 1000} s` }), PATIENCE_MS);
    pending.set(id, (message, buffers) => {
      clearTimeout(late);
      pending.delete(id);
      if (message.kind === "error") return reject(new Error(message.message));
      const solution = { ...message.strings };
      message.names.forEach((name, i) => (solution[name] = new Float64Array(asBytes(buffers[i]).slice().buffer)));
      // Not an entry: how long the library took.
      Object.defineProperty(solution, "seconds", { value: message.seconds });
      resolve(solution);
    });
    model.send({ kind: "solve", id, context });
  });
  return { hello, solve };
}

const asBytes = (buffer) => new Uint8Array(buffer.buffer ?? buffer, buffer.byteOffset ?? 0, buffer.byteLength);

async function render({ model, el }) {
  const root = html("div", { class: "diffopt-explorer" });
  el.append(root);
  const { hello, solve } = connect(model);
  const { payload, bytes } = await hello;
  new View(root, payload, await inflate(bytes), solve);
}

export default { render };
