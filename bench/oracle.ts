/** Float64 attention of single rows, for checking a timed result without a full reference run: a timing without one does not count. */

export interface OracleRow {
  /** The query row, head_dim values. */
  q: ArrayLike<number>;
  /** Element e of key (or value) j. */
  key: (j: number, e: number) => number;
  value: (j: number, e: number) => number;
  /** Keys [0, count) are visible. */
  count: number;
  scale: number;
}

export function attendRow({ q, key, value, count, scale }: OracleRow): Float64Array {
  const dim = q.length;
  const scores = new Float64Array(count);
  let max = Number.NEGATIVE_INFINITY;
  for (let j = 0; j < count; j++) {
    let dot = 0;
    for (let e = 0; e < dim; e++) dot += (q[e] as number) * key(j, e);
    scores[j] = dot * scale;
    if (dot * scale > max) max = dot * scale;
  }
  const out = new Float64Array(dim);
  let sum = 0;
  for (let j = 0; j < count; j++) {
    const weight = Math.exp((scores[j] as number) - max);
    sum += weight;
    for (let e = 0; e < dim; e++) out[e] = (out[e] as number) + weight * value(j, e);
  }
  return out.map((x) => x / sum);
}

export function maxAbsError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    const error = Math.abs((actual[i] as number) - (expected[i] as number));
    if (!(error <= worst)) worst = Number.isNaN(error) ? Number.POSITIVE_INFINITY : error;
  }
  return worst;
}
