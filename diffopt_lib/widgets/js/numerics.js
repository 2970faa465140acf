// Small numerical pieces that explorers solve with in the page: dense, exact to rounding, for a handful of unknowns.

/** @typedef {number[]} Vector */
/** @typedef {number[][]} Matrix */

/** @param {number} low @param {number} high @param {number} count */
const linspace = (low, high, count) =>
  Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));

/** @param {Vector} a @param {Vector} b */
const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);

/** M v. @param {Matrix} M @param {Vector} v */
const times = (M, v) => M.map((row) => dot(row, v));

/** @param {Matrix} M */
const transpose = (M) => M[0].map((_, j) => M.map((row) => row[j]));

/** A B. @param {Matrix} A @param {Matrix} B @returns {Matrix} */
const product = (A, B) => {
  const columns = transpose(B);
  return A.map((row) => columns.map((column) => dot(row, column)));
};

/** u vᵀ. @param {Vector} u @param {Vector} v */
const outer = (u, v) => u.map((a) => v.map((b) => a * b));

/** @param {number} n */
const identity = (n) => Array.from({ length: n }, (_, i) => Array.from({ length: n }, (__, j) => Number(i === j)));

/**
 * X with A X = B, by elimination with row pivoting; null if A is singular to rounding.
 * @param {Matrix} A
 * @param {Matrix} B
 * @returns {Matrix | null}
 */
function solveLinear(A, B) {
  const n = A.length;
  const rows = A.map((row, i) => [...row, ...B[i]]);
  const size = Math.max(...A.flat().map(Math.abs));
  for (let k = 0; k < n; k++) {
    let pivot = k;
    for (let i = k + 1; i < n; i++) if (Math.abs(rows[i][k]) > Math.abs(rows[pivot][k])) pivot = i;
    if (!(Math.abs(rows[pivot][k]) > 1e-12 * size)) return null;
    [rows[k], rows[pivot]] = [rows[pivot], rows[k]];
    for (let i = 0; i < n; i++) {
      if (i === k) continue;
      const factor = rows[i][k] / rows[k][k];
      if (factor) for (let j = k; j < rows[i].length; j++) rows[i][j] -= factor * rows[k][j];
    }
  }
  return rows.map((row, k) => row.slice(n).map((v) => v / row[k]));
}

/** Every subset of {0, ..., n − 1} of at most `most`, small ones first. @param {number} n @param {number} most */
function subsets(n, most) {
  /** @type {number[][]} */
  let last = [[]];
  const all = [...last];
  for (let size = 1; size <= most; size++) {
    last = last.flatMap((set) => {
      const from = set.length ? set[set.length - 1] + 1 : 0;
      return Array.from({ length: n - from }, (_, i) => [...set, from + i]);
    });
    all.push(...last);
  }
  return all;
}

/**
 * min ½ yᵀQy + pᵀy over Gy ≤ h, by trying every active set of at most as many rows as there are unknowns.
 *
 * Q may be singular where the constraints hold a vertex (a linear program). Gives y, a multiplier for each row, the
 * active rows, and K, the matrix of the conditions of that set: [Q G_Aᵀ; G_A 0] (y, λ_A) = (−p, h_A).
 * @param {Matrix} Q
 * @param {Vector} p
 * @param {Matrix} G
 * @param {Vector} h
 */
function smallQP(Q, p, G, h) {
  const n = p.length;
  let best = null;
  for (const active of subsets(h.length, n)) {
    const top = Q.map((row, i) => [...row, ...active.map((j) => G[j][i])]);
    const K = [...top, ...active.map((j) => [...G[j], ...active.map(() => 0)])];
    const z = solveLinear(K, [...p.map((v) => [-v]), ...active.map((j) => [h[j]])])?.map(([v]) => v);
    if (!z) continue;
    const y = z.slice(0, n);
    const multipliers = h.map(() => 0);
    active.forEach((j, i) => (multipliers[j] = z[n + i]));
    const violation = Math.max(...G.map((row, i) => dot(row, y) - h[i]), ...multipliers.map((v) => -v));
    if (!best || violation < best.violation) best = { y, multipliers, active, K, violation };
    if (violation <= 1e-9) break;
  }
  return best;
}

/** The root of an increasing function between two points, to the last digit. @param {(t: number) => number} f */
function bisect(f, /** @type {number} */ low, /** @type {number} */ high) {
  let [a, b] = [low, high];
  for (let i = 0; i < 200; i++) {
    const middle = (a + b) / 2;
    if (middle <= a || middle >= b) break;
    if (f(middle) < 0) a = middle;
    else b = middle;
  }
  return (a + b) / 2;
}

/** The indices of a vector from its largest entry to its smallest; equal ones as they stand. @param {Vector} x */
const descending = (x) => x.map((_, i) => i).sort((i, j) => x[j] - x[i] || i - j);

/**
 * The non-increasing vector nearest to `values`, by pooling adjacent violators, and which block each entry is in.
 * @param {Vector} values
 */
function pool(values) {
  /** @type {{sum: number, count: number}[]} */
  const blocks = [];
  for (const value of values) {
    let block = { sum: value, count: 1 };
    while (blocks.length && mean(blocks[blocks.length - 1]) < mean(block)) {
      const last = /** @type {{sum: number, count: number}} */ (blocks.pop());
      block = { sum: last.sum + block.sum, count: last.count + block.count };
    }
    blocks.push(block);
  }
  return {
    values: blocks.flatMap((block) => Array(block.count).fill(mean(block))),
    blocks: blocks.flatMap((block, number) => Array(block.count).fill(number)),
  };
}

/** @param {{sum: number, count: number}} block */
const mean = ({ sum, count }) => sum / count;

/** The eigenvalues of a symmetric matrix, largest first, by Jacobi's rotations. @param {Matrix} matrix */
function eigenvalues(matrix) {
  const M = matrix.map((row) => [...row]);
  const n = M.length;
  for (let sweep = 0; sweep < 30; sweep++) {
    let off = 0;
    for (let i = 0; i < n; i++) {
      for (let j = i + 1; j < n; j++) {
        off = Math.max(off, Math.abs(M[i][j]));
        rotate(M, i, j);
      }
    }
    if (off < 1e-300) break;
  }
  return M.map((row, i) => row[i]).sort((a, b) => b - a);
}

/** Turn in the plane of axes i and j so that M_ij vanishes. @param {Matrix} M @param {number} i @param {number} j */
function rotate(M, i, j) {
  if (M[i][j] === 0) return;
  const ratio = (M[j][j] - M[i][i]) / (2 * M[i][j]);
  const t = (ratio < 0 ? -1 : 1) / (Math.abs(ratio) + Math.hypot(ratio, 1));
  const c = 1 / Math.hypot(t, 1);
  const s = t * c;
  for (const row of M) [row[i], row[j]] = [c * row[i] - s * row[j], s * row[i] + c * row[j]];
  const [a, b] = [M[i], M[j]];
  M[i] = a.map((v, k) => c * v - s * b[k]);
  M[j] = a.map((v, k) => s * v + c * b[k]);
}

/** What an explorer's solve for the page is handed as its third argument. */
export const numerics = {
  bisect,
  descending,
  dot,
  eigenvalues,
  identity,
  linspace,
  outer,
  pool,
  product,
  smallQP,
  solveLinear,
  subsets,
  times,
  transpose,
};
