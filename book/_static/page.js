// What scrolls sideways can be reached with the keyboard: formulas and tables become stops of the Tab key while they
// are wider than the page, and only then.

const SCROLLS = "mjx-container, div.math, .pst-scrollable-table-container, .output, .output div, pre";

function reachable(element) {
  if (element.querySelector("a[href], button, input, summary, [tabindex='0']")) return true;
  return !["auto", "scroll"].includes(getComputedStyle(element).overflowX);
}

function addStops() {
  const elements = [...document.querySelectorAll(".bd-article")].flatMap((a) => [...a.querySelectorAll(SCROLLS)]);
  // All sizes first, then all changes, so that the page is laid out once.
  const wide = elements.filter((element) => element.scrollWidth > element.clientWidth + 1);
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

addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  addStops();
  let waiting = 0;
  new ResizeObserver(() => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(addStops);
  }).observe(document.querySelector(".bd-article") ?? document.body);
});
