// The two hosts. In JupyterLab `render` gets an anywidget model and every context is answered by the kernel; in a page
// without a kernel `mountAll` finds the data in the page.

import { html } from "./dom.js";
import { View } from "./view.js";

const HELLO_MS = 5000;

/** The table's bytes; none where the page solves for itself. @param {Uint8Array<ArrayBuffer>} bytes */
async function inflate(bytes) {
  if (!bytes.length) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** @param {ExplorerElement} root */
async function mount(root) {
  const payload = JSON.parse(root.querySelector("script")?.textContent ?? "");
  const deflated = Uint8Array.from(atob(payload.table), (c) => c.charCodeAt(0));
  new View(root, payload, await inflate(deflated), null);
}

/** Mount what a page without a kernel carries. @param {ParentNode} page */
export function mountAll(page) {
  const found = page.querySelectorAll(".diffopt-explorer[data-static]:not([data-mounted])");
  for (const root of found) {
    root.setAttribute("data-mounted", "");
    mount(/** @type {ExplorerElement} */ (root));
  }
}

/**
 * The kernel's side of a live widget: `solve` with a number on each request, so that a late answer is recognised.
 * @param {Model} model
 */
function connect(model) {
  /** @type {Map<number, (message: any, buffers: any[]) => void>} */
  const pending = new Map();
  let requests = 0;
  /** @type {Promise<{payload: Payload, bytes: Uint8Array<ArrayBuffer>}>} */
  const hello = new Promise((resolve) => {
    model.on("msg:custom", (message, buffers) => {
      if (message.kind === "payload") resolve({ payload: message.payload, bytes: asBytes(buffers[0]) });
      else pending.get(message.id)?.(message, buffers);
    });
  });
  model.send({ kind: "hello" });
  /** @type {Ask} */
  const solve = (context) =>
    new Promise((resolve, reject) => {
      const id = ++requests;
      pending.set(id, (message, buffers) => {
        pending.delete(id);
        if (message.kind === "error") reject(new Error(message.message));
        else resolve(readAnswer(message, buffers));
      });
      model.send({ kind: "solve", id, context });
    });
  return { hello, solve };
}

/** @param {any} message @param {any[]} buffers @returns {Solved} */
function readAnswer(message, buffers) {
  /** @type {Solution} */
  const solution = { ...message.strings };
  message.names.forEach((/** @type {string} */ name, /** @type {number} */ i) => {
    solution[name] = new Float64Array(asBytes(buffers[i]).slice().buffer);
  });
  return { solution, seconds: message.seconds };
}

/** @param {any} buffer @returns {Uint8Array<ArrayBuffer>} */
const asBytes = (buffer) => new Uint8Array(buffer.buffer ?? buffer, buffer.byteOffset ?? 0, buffer.byteLength);

/** @param {{model: Model, el: HTMLElement}} host */
export async function render({ model, el }) {
  const root = html("div", { class: "diffopt-explorer" });
  el.append(root);
  const { hello, solve } = connect(model);
  const words = "No kernel answers yet. If none is running, run the cell again.";
  const timer = setTimeout(() => root.replaceChildren(html("p", { class: "explorer-status" }, words)), HELLO_MS);
  const { payload, bytes } = await hello;
  clearTimeout(timer);
  new View(root, payload, await inflate(bytes), solve);
}

