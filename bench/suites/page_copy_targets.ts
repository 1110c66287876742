/** What the copies of pages are to reach, and the figures over several rows. */
import { type Bound, type Row, type Target, makeTarget } from "../results.js";

/** One size in one direction. */
export interface CopyTimes {
  direction: "in" | "out";
  /** Of a page. */
  bytes: number;
  /** The fastest of the fixed paths. */
  best: string;
  /** Rate of the chosen path over that of one large copy. */
  share: number;
  /** Time of the chosen path over that of the fastest. */
  overBest: number;
}

const KIB = 1024;
const MIB = 1024 * KIB;

function shareBound(bytes: number): Bound {
  if (bytes >= 4 * MIB) return { at_least: 0.95 };
  if (bytes === 2 * MIB) return { at_least: 0.92 };
  if (bytes === 64 * KIB) return { at_least: 0.8 };
  return bytes === 8 * KIB ? { at_least: 0.7 } : {};
}

const CHOICE: Bound = { at_most: 1.05 };

export function copyTargets({ bytes, share, overBest }: CopyTimes): Target[] {
  const bound = shareBound(bytes);
  const own = Object.keys(bound).length === 0 ? [] : [makeTarget("share of one large copy", share, bound)];
  return [...own, makeTarget("time over the fastest path", overBest, CHOICE)];
}

const sizeText = (bytes: number): string => (bytes >= MIB ? `${bytes / MIB} MiB` : `${bytes / KIB} KiB`);

interface Others {
  both: Row;
  lag: Row;
  /** All threads, then one. */
  pinning: readonly Row[];
}

/** `isBounded`: the bounds are those of a GPU on PCIe; elsewhere the figures are told only. */
export function summariseCopies(times: readonly CopyTimes[], { both, lag, pinning }: Others, isBounded: boolean): Target[] {
  const bound = (wanted: Bound): Bound => (isBounded ? wanted : {});
  const shares = times
    .filter(({ bytes }) => Object.keys(shareBound(bytes)).length > 0)
    .map(({ direction, bytes, share }) =>
      makeTarget(`${direction}, ${sizeText(bytes)}: share of one large copy`, share, bound(shareBound(bytes))),
    );
  const worst = times.reduce((a, b) => (b.overBest > a.overBest ? b : a));
  const name = `slowest choice over the fastest path: ${worst.direction}, ${sizeText(worst.bytes)} (${worst.best})`;
  const [all, one] = pinning.map((row) => (row.figures?.ms_per_gib ?? Number.NaN) / 1e3) as [number, number];
  return [
    ...shares,
    makeTarget(name, worst.overBest, bound(CHOICE)),
    makeTarget("both ways at once over one way", both.share_of_ceiling, bound({ at_least: 1.5 })),
    makeTarget("pinning, s/GiB", all, bound({ at_most: 0.15 })),
    makeTarget("pinning, one thread over all", one / all, {}),
    makeTarget("timer lag while pages move, p99 ms", lag.figures?.p99_ms ?? Number.NaN, { at_most: 5 }),
    makeTarget("timer lag while pinning, p99 ms", pinning[0]?.figures?.lag_p99_ms ?? Number.NaN, { at_most: 10 }),
  ];
}
