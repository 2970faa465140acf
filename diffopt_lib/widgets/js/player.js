// Plays frames of an animation: outlines of lines and polygons as SVG points, one list for each frame.

/**
 * @typedef {{ outlines: string[][], seconds: number }} Frames  each shape's points in each frame; a frame's length
 */

/**
 * Connect the button and the slider of an animation to its shapes.
 * @param {Element} root
 * @param {Frames} frames
 */
export function play(root, frames) {
  const shapes = root.querySelectorAll("[data-shape]");
  const button = /** @type {HTMLButtonElement} */ (root.querySelector("button"));
  const slider = /** @type {HTMLInputElement} */ (root.querySelector("input"));
  const time = /** @type {HTMLOutputElement} */ (root.querySelector("output"));
  const last = Number(slider.max);
  let running = false;
  let begun = 0;

  /** @param {number} frame */
  function show(frame) {
    shapes.forEach((shape, i) => shape.setAttribute("points", frames.outlines[i][frame]));
    slider.value = String(frame);
    time.value = `${(frame * frames.seconds).toFixed(2)} s`;
  }

  function stop() {
    running = false;
    button.textContent = "Play";
  }

  /** @param {number} now */
  function step(now) {
    if (!running) return;
    const frame = Math.floor((now - begun) / 1000 / frames.seconds);
    show(Math.min(frame, last));
    if (frame < last) requestAnimationFrame(step);
    else stop();
  }

  button.addEventListener("click", () => {
    if (running) {
      stop();
      return;
    }
    const from = Number(slider.value) < last ? Number(slider.value) : 0;
    running = true;
    begun = performance.now() - 1000 * frames.seconds * from;
    button.textContent = "Pause";
    requestAnimationFrame(step);
  });
  slider.addEventListener("input", () => {
    stop();
    show(Number(slider.value));
  });
  show(0);
}
