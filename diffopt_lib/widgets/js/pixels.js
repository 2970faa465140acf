// Heat maps and images: canvases that lie under the figure's own lines.

import { html } from "./dom.js";
import { toX, toY } from "./scales.js";
import { clamp } from "./text.js";

/** Fills RGBA pixels with a matrix, row 0 at the bottom.
 * @param {Uint8ClampedArray} pixels @param {HeatMapMark} mark @param {Float64Array} data */
function heatPixels(pixels, mark, data) {
  const [height, width] = mark.shape;
  const { colors, vmin, vmax } = mark;
  const levels = colors.length / 3 - 1;
  for (let i = 0; i < width * height; i++) {
    const value = data[(height - 1 - Math.floor(i / width)) * width + (i % width)];
    if (Number.isNaN(value)) continue;
    const color = 3 * Math.round(clamp((value - vmin) / (vmax - vmin || 1), 0, 1) * levels);
    for (let c = 0; c < 3; c++) pixels[4 * i + c] = colors[color + c];
    pixels[4 * i + 3] = 255;
  }
}

/** Fills RGBA pixels with a picture, row 0 at the top.
 * @param {Uint8ClampedArray} pixels @param {ImageMark} mark @param {Float64Array} data */
function imagePixels(pixels, mark, data) {
  const [height, width, channels] = mark.shape;
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < channels; c++) pixels[4 * i + c] = data[channels * i + c];
    if (channels === 3) pixels[4 * i + 3] = 255;
  }
}

/** @param {HTMLCanvasElement} canvas @param {PixelMark} mark @param {Float64Array} data */
export function drawPixels(canvas, mark, data) {
  const context = canvas.getContext("2d");
  if (!context) return;
  const picture = context.createImageData(canvas.width, canvas.height);
  if (mark.kind === "image") imagePixels(picture.data, mark, data);
  else heatPixels(picture.data, mark, data);
  context.putImageData(picture, 0, 0);
}

/**
 * A canvas in a window that clips it to its axes; both are placed in percent, so that they grow with the figure.
 * @param {PixelMark} mark
 * @param {Payload} payload
 */
export function buildCanvas(mark, payload) {
  const box = payload.axes[mark.axes];
  const [rows, columns] = mark.shape;
  const [x0, x1, y0, y1] = mark.extent;
  const [left, right, bottom, top] = [toX(box, x0), toX(box, x1), toY(box, y0), toY(box, y1)];
  const canvas = html("canvas", { width: columns, height: rows, class: mark.smooth ? "" : "pixelated" });
  canvas.style.transform = `scale(${right < left ? -1 : 1},${bottom < top ? -1 : 1})`;
  place(canvas, Math.min(left, right) - box.left, Math.abs(right - left), box.width, "left", "width");
  place(canvas, Math.min(top, bottom) - box.top, Math.abs(bottom - top), box.height, "top", "height");
  const frame = html("div", { class: "explorer-pixels", "aria-hidden": "true" }, canvas);
  place(frame, box.left, box.width, payload.width, "left", "width");
  place(frame, box.top, box.height, payload.height, "top", "height");
  return { canvas, frame };
}

/**
 * @param {HTMLElement} node
 * @param {number} start
 * @param {number} size
 * @param {number} whole
 * @param {"left" | "top"} edge
 * @param {"width" | "height"} extent
 */
function place(node, start, size, whole, edge, extent) {
  node.style[edge] = `${(100 * start) / whole}%`;
  node.style[extent] = `${(100 * size) / whole}%`;
}
