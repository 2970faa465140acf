// Numbers as text.

/** @param {number} v @param {number} low @param {number} high */
export const clamp = (v, low, high) => Math.min(Math.max(v, low), high);

/** The entries of an array of numbers, or of strings. @param {Data} data @returns {(number | string)[]} */
export const items = (data) => Array.from(/** @type {ArrayLike<number | string>} */ (data));

/** @param {string} text */
const minus = (text) => text.replace("-", "−");

/** @param {string[]} parts */
export const tuple = (parts) => (parts.length === 1 ? parts[0] : `(${parts.join(", ")})`);

/** @param {{unit?: string}} of */
export const suffix = ({ unit }) => (unit ? ` ${unit}` : "");

/**
 * A number with as many decimals as a quantity of this span deserves, so that its width does not jitter.
 * @param {number | null} value
 * @param {number} span
 */
export function decimal(value, span, log = false) {
  if (value == null || Number.isNaN(value)) return "–";
  const tiny = Math.abs(value) < 1e-3 && value !== 0;
  const huge = Math.abs(value) >= 1e5;
  if (log) return minus(tiny || huge ? value.toExponential(1) : value.toPrecision(3));
  if (span > 0 && (span < 1e-3 || span >= 1e6)) return minus(value.toExponential(2));
  const places = span > 0 ? clamp(2 - Math.floor(Math.log10(span)), 0, 5) : 2;
  return minus((Math.abs(value) < 0.5 * 10 ** -places ? 0 : value).toFixed(places));
}

/** One significant digit; of a bound rounded up. @param {number} number */
export function rough(number, bound = false) {
  if (number === 0) return "0";
  const unit = 10 ** Math.floor(Math.log10(number));
  const value = bound ? Math.ceil(number / unit - 1e-9) * unit : number;
  return value < 1e-3 || value >= 1e4 ? minus(value.toExponential(0)) : String(Number(value.toPrecision(1)));
}

const FIELD = /\{(\d*)(?::(\+?)(?:\.(\d+))?([fegsd%]?))?\}/g;

/**
 * Python's format() for the fields that `marks.Text` admits.
 * @param {string} format
 * @param {(number | string)[]} values
 */
export function formatFields(format, values) {
  let next = 0;
  return format.replace(FIELD, (_, index, plus, digits, type) => {
    const value = values[index ? Number(index) : next++];
    if (typeof value === "string" || value === undefined) return value ?? "";
    return minus((plus && value >= 0 ? "+" : "") + formatNumber(value, type, digits));
  });
}

/** @param {number} value @param {string} type @param {string | undefined} digits */
function formatNumber(value, type, digits) {
  const places = digits === undefined ? 6 : Number(digits);
  switch (type || (digits === undefined ? "" : "g")) {
    case "f":
      return value.toFixed(places);
    case "e":
      return value.toExponential(places);
    case "g":
      return String(Number(value.toPrecision(places || 1)));
    case "d":
      return value.toFixed(0);
    case "%":
      return `${(100 * value).toFixed(places)}%`;
    default:
      return String(value);
  }
}
