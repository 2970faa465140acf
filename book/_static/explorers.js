// What a page adds to its explorers: a link to the state that one has found, and for paper the states that the buttons
// lead to. Both go through `element.explorer`, so that a chapter is not executed anew when they change.

/** @typedef {Record<string, number | number[] | string>} ExplorerState */
/**
 * @typedef {object} MountedExplorer
 * @property {() => ExplorerState} context
 * @property {() => ExplorerState} anchor
 * @property {(context: ExplorerState) => Promise<void>} set
 * @property {(anchor: ExplorerState) => void} setAnchor
 * @property {Record<string, {note?: string}>} presets
 * @property {(preset: object) => HTMLElement} pictureAt
 */
/** @typedef {HTMLElement & {explorer: MountedExplorer}} ExplorerRoot */

const ANCHOR = "x0.";
const SAID_MS = 2500;

/** @returns {ExplorerRoot[]} */
const explorersOnPage = () => [...document.querySelectorAll(".diffopt-explorer")].map((e) => /** @type {any} */ (e));

// The link: `#explorer=2&x=0.5,1.2&k=3&x0.x=1.5,1` is the second explorer of the page with its controls, and x0.

/** Where each explorer's x0 was when the page opened. @type {WeakMap<ExplorerRoot, ExplorerState>} */
const homes = new WeakMap();

/** @param {ExplorerRoot} root */
function addressOf(root) {
  const { explorer } = root;
  const state = new URLSearchParams({ explorer: String(explorersOnPage().indexOf(root) + 1) });
  for (const [name, value] of Object.entries(explorer.context())) state.set(name, String(value));
  for (const [name, value] of Object.entries(explorer.anchor())) {
    if (String(value) !== String(homes.get(root)?.[name])) state.set(ANCHOR + name, String(value));
  }
  return `#${state.toString().replaceAll("%2C", ",")}`;
}

/** A value as the control at hand has it; undefined where it is none. @param {string} text @param {unknown} like */
function readValue(text, like) {
  if (typeof like === "string") return text;
  const numbers = text.split(",").map((part) => (part.trim() ? Number(part) : NaN));
  const expected = Array.isArray(like) ? like.length : 1;
  if (numbers.length !== expected || !numbers.every(Number.isFinite)) return undefined;
  return Array.isArray(like) ? numbers : numbers[0];
}

/** What of a link means a control of this explorer. @param {URLSearchParams} link @param {ExplorerState} like */
function readState(link, like, prefix = "") {
  /** @type {ExplorerState} */
  const state = {};
  for (const [name, value] of Object.entries(like)) {
    const given = readValue(link.get(prefix + name) ?? "", value);
    if (link.has(prefix + name) && given !== undefined) state[name] = given;
  }
  return state;
}

const linkedState = () => new URLSearchParams(location.hash.slice(1));

/** The explorer that the address names. */
const linkedExplorer = () => explorersOnPage()[Number(linkedState().get("explorer")) - 1];

/** Bring an explorer into the state that the address has for it, and into view. @param {ExplorerRoot} root */
function openLink(root) {
  try {
    root.explorer.setAnchor(readState(linkedState(), root.explorer.anchor(), ANCHOR));
    root.explorer.set(readState(linkedState(), root.explorer.context()));
  } catch {
    // An option that the chapter no longer has: the rest stays as it opens.
  }
  root.scrollIntoView({ block: "center" });
}

/** Into the address bar, and where the browser lets a page do so into the clipboard. @param {ExplorerRoot} root */
async function copyLink(root) {
  history.replaceState(history.state, "", addressOf(root));
  try {
    await navigator.clipboard.writeText(location.href);
    return "Link copied";
  } catch {
    return "Link in the address bar";
  }
}

/** @param {ExplorerRoot} root */
function addButton(root) {
  const text = document.createElement("span");
  text.setAttribute("aria-live", "polite");
  text.textContent = "Copy link";
  const button = document.createElement("button");
  Object.assign(button, { type: "button", className: "quiet copy-link", title: "a link to this page in this state" });
  button.append(text);
  let said = 0;
  button.addEventListener("click", async () => {
    text.textContent = await copyLink(root);
    clearTimeout(said);
    said = window.setTimeout(() => (text.textContent = "Copy link"), SAID_MS);
  });
  [...root.querySelectorAll(".explorer-presets")].at(-1)?.append(button);
}

// Paper has no buttons: it gets a picture of every state that one leads to.

/** @param {ExplorerRoot} root */
function picturesFor(root) {
  const { explorer } = root;
  const pictures = document.createElement("div");
  pictures.className = "explorer-pictures";
  for (const [name, preset] of Object.entries(explorer.presets)) {
    const words = document.createElement("p");
    const title = document.createElement("strong");
    title.textContent = name;
    words.append(title, preset.note ? `: ${preset.note}` : "");
    const picture = explorer.pictureAt(preset);
    picture.prepend(words);
    pictures.append(picture);
  }
  return pictures;
}

addEventListener("beforeprint", () => {
  for (const root of explorersOnPage()) if (root.explorer) root.append(picturesFor(root));
});

addEventListener("afterprint", () => {
  for (const pictures of document.querySelectorAll(".explorer-pictures")) pictures.remove();
});

/** Explorers mount when their tables are inflated, each in its time. @param {ExplorerRoot} root */
function whenMounted(root) {
  return new Promise((resolve) => {
    if (root.explorer) resolve(root);
    const watch = new MutationObserver(() => {
      if (!root.explorer) return;
      watch.disconnect();
      resolve(root);
    });
    watch.observe(root, { childList: true, subtree: true });
  });
}

addEventListener("DOMContentLoaded", async () => {
  const mounting = explorersOnPage().map(async (root) => {
    await whenMounted(root);
    homes.set(root, root.explorer.anchor());
    addButton(root);
    if (root === linkedExplorer()) openLink(root);
  });
  addEventListener("hashchange", () => {
    if (linkedExplorer()?.explorer) openLink(linkedExplorer());
  });
  await Promise.all(mounting);
  // Formulas above have changed the height of the page since.
  await /** @type {any} */ (window).MathJax?.startup?.promise;
  linkedExplorer()?.scrollIntoView({ block: "center" });
});
