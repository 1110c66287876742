/** Float64 attention of single rows, for checking a timed result without a full reference run: a timing without one does not count. */

export interface OracleRow {
  /** The query row, head_dim values. */
  q: Float32Array;
  /** Key (or value) row j. */
  key: (j: number) => Float32Array;
  value: (j: number) => Float32Array;
  /** Keys [0, count) are visible; without any the result is 0. */
  count: number;
  scale: number;
}

export function attendRow({ q, key, value, count, scale }: OracleRow): Float64Array {
  const dim = q.length;
  const scores = new Float64Array(count);
  let max = Number.NEGATIVE_INFINITY;
  for (let j = 0; j < count; j++) {
    const row = key(j);
    let dot = 0;
    for (let e = 0; e < dim; e++) dot += (q[e] as number) * (row[e] as number);
    scores[j] = dot * scale;
    if (dot * scale > max) max = dot * scale;
  }
  const out = new Float64Array(dim);
  let sum = 0;
  for (let j = 0; j < count; j++) {
    const weight = Math.exp((scores[j] as number) - max);
    const row = value(j);
    sum += weight;
    for (let e = 0; e < dim; e++) out[e] = (out[e] as number) + weight * (row[e] as number);
  }
  return count === 0 ? out : out.map((x) => x / sum);
}

export function maxAbsError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    const error = Math.abs((actual[i] as number) - (expected[i] as number));
    if (!(error <= worst)) worst = Number.isNaN(error) ? Number.POSITIVE_INFINITY : error;
  }
  return worst;
}
