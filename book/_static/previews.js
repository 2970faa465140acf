// A reference to an equation, theorem, exercise, figure, term or work shows it in place: under the pointer, on focus,
// and at the first tap of a finger; the second tap follows the link. Escape puts it away. Which links have something to
// show is for book/_ext/previews.py to say. What stands on another page is in preview_targets.js, since a page opened
// from disk may not read its neighbours.

const REFERENCES = ".bd-article a[data-preview]";
const SHOW_MS = 250;
const HIDE_MS = 250;

const bookRoot = new URL(document.documentElement.dataset.content_root ?? "./", location.href);
const box = document.createElement("div");
Object.assign(box, { id: "preview", hidden: true });
box.setAttribute("role", "tooltip");

/** @type {HTMLAnchorElement | null} */
let previewed = null;
let previewTimer = 0;
let lastPointer = "mouse";
/** @type {Promise<Record<string, string>> | undefined} */
let loading;

/** What other pages hold, loaded once. @returns {Promise<Record<string, string>>} */
function elsewhere() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = new URL("_static/preview_targets.js", bookRoot).href;
    script.onload = () => resolve(/** @type {any} */ (window).previewTargets);
    script.onerror = reject;
    document.head.append(script);
  });
  return loading;
}

/** The target of a link, if it is on this page. @param {HTMLAnchorElement} link */
function targetHere(link) {
  const samePage = link.pathname === location.pathname;
  return samePage ? document.getElementById(decodeURIComponent(link.hash.slice(1))) : null;
}

/** @param {Element} target */
function copyOf(target) {
  if (target.matches("dt")) {
    const list = document.createElement("dl");
    list.className = "glossary";
    let part = /** @type {Element | null} */ (target);
    for (; part && part.matches("dt"); part = part.nextElementSibling) list.append(part.cloneNode(true));
    if (part) list.append(part.cloneNode(true));
    return list;
  }
  return /** @type {Element} */ (target.cloneNode(true));
}

/** The target as something that is only looked at. @param {HTMLAnchorElement} link */
async function contentOf(link) {
  const here = targetHere(link);
  const content = document.createElement("div");
  if (here) {
    content.append(copyOf(here));
  } else {
    const page = decodeURIComponent(link.pathname.slice(bookRoot.pathname.length));
    content.innerHTML = (await elsewhere())[page + decodeURIComponent(link.hash)] ?? "";
    for (const image of content.querySelectorAll("img")) {
      image.src = new URL(image.getAttribute("src") ?? "", bookRoot).href;
    }
  }
  for (const part of content.querySelectorAll(".headerlink, button, script")) part.remove();
  for (const part of content.querySelectorAll("a")) part.replaceWith(...part.childNodes);
  // One entry of a list is no list, and nothing in here is a place to go to.
  for (const part of content.querySelectorAll("[id], [tabindex], [role='listitem']")) {
    for (const name of ["id", "tabindex", "role"]) part.removeAttribute(name);
  }
  if (!here) await /** @type {any} */ (window).MathJax?.typesetPromise?.([content]);
  await Promise.allSettled([...content.querySelectorAll("img")].map((image) => image.decode()));
  return content;
}

/** A formula that is wider than the box is drawn smaller. */
function fitFormulas() {
  for (const formula of /** @type {NodeListOf<HTMLElement>} */ (box.querySelectorAll("mjx-container[display]"))) {
    const width = formula.querySelector("mjx-math")?.getBoundingClientRect().width ?? 0;
    const room = formula.clientWidth - 4; // beside its number
    const size = parseFloat(getComputedStyle(formula).fontSize);
    if (width > room) formula.style.fontSize = `${(size * room) / width}px`;
  }
}

/** Below the line that the link ends on, or above where there is more room; never beyond the window. */
function place(/** @type {HTMLAnchorElement} */ link) {
  const article = /** @type {HTMLElement} */ (box.parentElement);
  const frame = article.getBoundingClientRect();
  const lines = link.getClientRects();
  const line = lines[lines.length - 1];
  const header = document.querySelector(".bd-header-article")?.getBoundingClientRect().bottom ?? 0;
  const rooms = { above: lines[0].top - Math.max(header, 0), below: innerHeight - line.bottom };
  const above = rooms.below < box.offsetHeight && rooms.above > rooms.below;
  box.style.maxHeight = `${Math.max(above ? rooms.above : rooms.below, 120) - 6}px`;
  const left = Math.max(0, Math.min(line.left - frame.left - 8, frame.width - box.offsetWidth));
  box.style.left = `${left}px`;
  box.style.top = `${above ? lines[0].top - frame.top - box.offsetHeight : line.bottom - frame.top}px`;
}

/** @param {HTMLAnchorElement} link */
async function show(link) {
  clearTimeout(previewTimer);
  if (previewed === link) return;
  hide();
  previewed = link;
  const content = await contentOf(link);
  if (previewed !== link || !content.textContent) return;
  const hint = Object.assign(document.createElement("p"), { className: "preview-hint" });
  if (lastPointer === "touch") content.append(hint);
  box.replaceChildren(content);
  box.hidden = false;
  box.style.maxHeight = "";
  link.removeAttribute("title"); // the browser would lay it over the box
  link.setAttribute("aria-describedby", box.id);
  fitFormulas();
  place(link);
}

function hide() {
  clearTimeout(previewTimer);
  previewed?.removeAttribute("aria-describedby");
  previewed = null;
  box.hidden = true;
  box.replaceChildren();
}

/** @param {Event} event @returns {HTMLAnchorElement | null} */
function referenceOf(event) {
  const link = event.target instanceof Element ? event.target.closest(REFERENCES) : null;
  return link instanceof HTMLAnchorElement ? link : null;
}

/** @param {() => void} act @param {number} wait */
function later(act, wait) {
  clearTimeout(previewTimer);
  previewTimer = window.setTimeout(act, wait);
}

function listenForReferences() {
  document.addEventListener("pointerdown", (event) => (lastPointer = event.pointerType), true);
  document.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "mouse") return;
    const link = referenceOf(event);
    if (link) later(() => show(link), SHOW_MS);
    else if (event.target instanceof Node && box.contains(event.target)) clearTimeout(previewTimer);
    else if (previewed && document.activeElement !== previewed) later(hide, HIDE_MS);
    else if (!previewed) clearTimeout(previewTimer);
  });
  document.addEventListener("focusin", (event) => {
    const link = referenceOf(event);
    if (link?.matches(":focus-visible")) show(link);
    else if (previewed !== link) hide();
  });
  document.addEventListener("focusout", (event) => {
    if (event.target === previewed) hide();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    else lastPointer = "keyboard";
  });
  document.addEventListener("click", (event) => {
    const link = referenceOf(event);
    if (link && lastPointer === "touch" && previewed !== link) {
      event.preventDefault();
      show(link);
    } else if (!(event.target instanceof Node && box.contains(event.target))) {
      hide();
    }
  });
}

addEventListener("DOMContentLoaded", () => {
  const article = document.querySelector("article.bd-article");
  if (!article) return;
  article.append(box);
  listenForReferences();
});
