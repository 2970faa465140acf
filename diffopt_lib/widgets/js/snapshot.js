// A picture of another state: what paper shows in the place of a button.

import { html } from "./dom.js";

/**
 * The figure and the legend's numbers at a preset, as copies that nothing moves; what is shown stays.
 * @param {import("./view.js").View} view
 * @param {Preset} preset
 */
export function pictureAt(view, preset) {
  const { context, anchor, pinned, payload } = view;
  view.context = { ...structuredClone(payload.start), ...preset.set };
  view.setAnchor(preset.anchor ?? payload.anchor);
  view.draw();
  const copy = html("div", { class: "explorer-snapshot" }, copyOf(view.picture.frame));
  const legend = view.side.querySelector(".explorer-legend");
  if (legend) copy.append(legend.cloneNode(true));
  Object.assign(view, { context, anchor, pinned });
  view.draw();
  return copy;
}

/** A copy without what one can hold on to, with its pixels. @param {HTMLElement} frame */
function copyOf(frame) {
  const copy = /** @type {HTMLElement} */ (frame.cloneNode(true));
  copy.querySelectorAll("[tabindex]").forEach((node) => node.removeAttribute("tabindex"));
  const pixels = frame.querySelectorAll("canvas");
  copy.querySelectorAll("canvas").forEach((canvas, i) => canvas.getContext("2d")?.drawImage(pixels[i], 0, 0));
  return copy;
}
