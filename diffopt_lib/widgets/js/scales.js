// Data to SVG coordinates and back.

/** Where a value lies between the ends of its axis. @param {Scale} scale @param {number} value */
export function fractionOf(scale, value) {
  const f = scale.log ? log10 : linear;
  return (f(value) - f(scale.low)) / (f(scale.high) - f(scale.low));
}

/** @param {Scale} scale @param {number} fraction */
export function valueAt(scale, fraction) {
  return scale.log ? scale.low * (scale.high / scale.low) ** fraction : scale.low + (scale.high - scale.low) * fraction;
}

/** @param {Axes} axes @param {number} x */
export const toX = (axes, x) => axes.left + axes.width * fractionOf(axes.x, x);

/** @param {Axes} axes @param {number} y */
export const toY = (axes, y) => axes.top + axes.height * (1 - fractionOf(axes.y, y));

/** @param {number} v */
const linear = (v) => v;

/** @param {number} v */
const log10 = (v) => (v > 0 ? Math.log10(v) : NaN);
