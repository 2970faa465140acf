// What a built page does by itself: stops for the keyboard, and what paper needs.

// What scrolls sideways can be reached with the keyboard: formulas and tables become stops of the Tab key while they
// are wider than the page, and only then.

/** Less than this is an accent beside its letter, and nothing that one would scroll to. */
const SLACK_PX = 4;
const SCROLLS = "mjx-container, div.math, .pst-scrollable-table-container, .output, .output div, pre";

/** @param {HTMLElement} element */
function reachable(element) {
  if (element.querySelector("a[href], button, input, summary, [tabindex='0']")) return true;
  return !["auto", "scroll"].includes(getComputedStyle(element).overflowX);
}

function addStops() {
  const elements = /** @type {HTMLElement[]} */ ([...document.querySelectorAll(`.bd-article :is(${SCROLLS})`)]);
  // All sizes first, then all changes, so that the page is laid out once.
  const wide = elements.filter((element) => element.scrollWidth > element.clientWidth + SLACK_PX);
  for (const element of elements) {
    if (element.dataset.stop && !wide.includes(element)) {
      element.removeAttribute("tabindex");
      delete element.dataset.stop;
    }
  }
  for (const element of wide) {
    if (element.hasAttribute("tabindex") ? element.tabIndex === 0 : reachable(element)) continue;
    element.tabIndex = 0;
    element.dataset.stop = "yes";
  }
}

// For print.css: how wide each displayed formula is, in its own ems, and its number beside it.
function measureFormulas() {
  const displayed = document.querySelectorAll('div.math mjx-container[display="true"]');
  const formulas = /** @type {HTMLElement[]} */ ([...displayed]);
  const sizes = formulas.map((formula) => {
    const width = formula.querySelector("mjx-math")?.getBoundingClientRect().width ?? 0;
    const number = formula.closest("div.math")?.querySelector(".eqno");
    return [width / parseFloat(getComputedStyle(formula).fontSize), number ? 60 : 0];
  });
  formulas.forEach((formula, i) => {
    if (sizes[i][0] > 0) formula.style.setProperty("--ems", String(1.02 * sizes[i][0]));
    formula.style.setProperty("--number", `${sizes[i][1]}px`);
  });
}

// Paper is light and has nothing folded, whatever the screen shows.
const root = document.documentElement;
/** @type {{theme: string | undefined, folded: HTMLDetailsElement[]}} */
const onScreen = { theme: undefined, folded: [] };

addEventListener("beforeprint", () => {
  onScreen.theme = root.dataset.theme;
  root.dataset.theme = "light";
  onScreen.folded = [...document.querySelectorAll("details")].filter((details) => !details.open);
  for (const details of onScreen.folded) details.open = true;
});

addEventListener("afterprint", () => {
  if (onScreen.theme) root.dataset.theme = onScreen.theme;
  for (const details of onScreen.folded) details.open = false;
});

addEventListener("load", async () => {
  await /** @type {any} */ (window).MathJax?.startup?.promise;
  await document.fonts.ready; // formulas have their widths once their letters are there
  measureFormulas();
  addStops();
  let waiting = 0;
  new ResizeObserver(() => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(addStops);
  }).observe(document.querySelector(".bd-article") ?? document.body);
});
