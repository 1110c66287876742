/** Figures of the decode suite that follow from several times: shares and ratios against their bounds. */
import { type Bound, type Row, type SplitTimes, type Target, makeTarget } from "../results.js";
import { type DecodeCell, kvBytes } from "./attention_decode_cells.js";

/** Fixed split counts that are tried for all requests alike. */
export const splitCounts = [1, 2, 4, 8, 16, 32, 64] as const;
const CHUNK_KEYS = 2048;
const MOST_CHUNKS = 128;

/** Splits of about 2048 keys of the longest request. */
export const chunkSplits = ({ lens }: DecodeCell): number => Math.min(MOST_CHUNKS, Math.ceil(Math.max(...lens) / CHUNK_KEYS));

/** Our time over that of the fastest peer; undefined without one. */
export function overPeer({ peers, median_us }: Row): number | undefined {
  const times = Object.values(peers);
  return times.length === 0 ? undefined : median_us / Math.min(...times);
}

/** The fastest fixed count's time over ours: at least 1 where no count beats the default. */
const gain = (splits: SplitTimes): number => splits.best_us / splits.default_us;

const SPLIT_BOUND: Bound = { at_least: 0.98 };

/** What the row itself is to reach. */
export function rowTargets(cell: DecodeCell, row: Row): Target[] {
  const targets: Target[] = [];
  if (cell.us !== undefined) targets.push(makeTarget("us", row.median_us, cell.us));
  if (cell.share !== undefined) targets.push(makeTarget("share of read bandwidth", row.share_of_ceiling, cell.share));
  const peer = overPeer(row);
  if (cell.overPeer !== undefined && peer !== undefined)
    targets.push(makeTarget("time over the fastest peer", peer, cell.overPeer));
  if (row.splits !== undefined) targets.push(makeTarget("best split count over default", gain(row.splits), SPLIT_BOUND));
  return targets;
}

export interface Measured {
  cell: DecodeCell;
  row: Row;
}

function worst<T>(items: readonly T[], value: (item: T) => number, sign: 1 | -1): T | undefined {
  return items.reduce<T | undefined>(
    (found, item) => (found === undefined || sign * value(item) > sign * value(found) ? item : found),
    undefined,
  );
}

function comparisons(measured: readonly Measured[]): Target[] {
  return measured.flatMap(({ cell, row }) => {
    const other = measured.find(({ cell: { id } }) => id === cell.against?.id);
    if (cell.against === undefined || other === undefined) return [];
    const { quantity, bound } = cell.against;
    const bytes = kvBytes(cell) / kvBytes(other.cell);
    const note = bytes === 1 ? "" : ` (bytes ${bytes.toFixed(4)})`;
    const value =
      quantity === "time" ? row.median_us / other.row.median_us : (row.gb_per_s as number) / (other.row.gb_per_s as number);
    return [makeTarget(`${cell.id}: ${quantity} over ${other.cell.id}${note}`, value, bound)];
  });
}

function peerWorst(measured: readonly Measured[]): Target[] {
  const bounded = measured.filter(({ cell, row }) => cell.overPeer !== undefined && overPeer(row) !== undefined);
  const slowest = worst(bounded, ({ row }) => overPeer(row) as number, 1);
  if (slowest === undefined) return [];
  const bound = slowest.cell.overPeer as Bound;
  return [makeTarget(`slowest against the fastest peer: ${slowest.cell.id}`, overPeer(slowest.row) as number, bound)];
}

function spread(measured: readonly Measured[]): Target[] {
  const rates = measured.filter(({ cell }) => cell.group === "narrow").map(({ row }) => row.gb_per_s as number);
  if (rates.length < 2) return [];
  return [makeTarget("narrow: fastest over slowest rate", Math.max(...rates) / Math.min(...rates), { at_most: 1.1 })];
}

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

function splitTargets(measured: readonly Measured[]): Target[] {
  const swept = measured.flatMap(({ cell, row }) => (row.splits === undefined ? [] : [{ cell, splits: row.splits }]));
  const lowest = worst(swept, ({ splits }) => gain(splits), -1);
  if (lowest === undefined) return [];
  const targets = [
    makeTarget(
      `lowest best split count over default: ${lowest.cell.id} (${lowest.splits.best})`,
      gain(lowest.splits),
      SPLIT_BOUND,
    ),
  ];
  const ragged = swept.filter(({ cell }) => cell.group === "ragged").map(({ splits }) => splits);
  if (ragged.length > 0) {
    const chunk = (splits: SplitTimes): number => splits.chunk_us / splits.default_us;
    targets.push(makeTarget("ragged: best split count over default, mean", mean(ragged.map(gain)), { at_least: 1.15 }));
    targets.push(makeTarget("ragged: chunk-sized splits over default, mean", mean(ragged.map(chunk))));
  }
  const longest = swept.find(({ cell }) => cell.group === "length" && cell.lens[0] === 524288);
  if (longest !== undefined) {
    const { us, default_us } = longest.splits;
    targets.push(makeTarget(`${longest.cell.id}: non-split over default`, (us["1"] as number) / default_us, { at_least: 8 }));
  }
  return targets;
}

/** Every figure that was to be reached, cell by cell where it stands alone. */
export function summarise(measured: readonly Measured[]): Target[] {
  const own = measured.flatMap(({ cell, row }) =>
    rowTargets(cell, row)
      .filter(({ name }) => name === "us" || name === "share of read bandwidth")
      .map((target) => ({ ...target, name: `${cell.id}: ${target.name}` })),
  );
  return [...own, ...comparisons(measured), ...spread(measured), ...splitTargets(measured), ...peerWorst(measured)];
}
