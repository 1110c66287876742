/**
 * The three orders between copies and other work that a cache relies on, each put to a race that it loses without its event edge: work
 * that is slow comes first, and what must wait for it is enqueued at once.
 */
import { probeRead, type Stream } from "../../lib/index.js";
import type { PageMover } from "../../lib/cache/page_mover.js";
import { DeviceRig, pageSize, type RigOptions } from "./device_rig.js";

/**
 * store: a page is copied out before what was to be written to it is there. overwrite: a copy comes into a page that earlier work still
 * reads. load: work reads a page before the copy has come.
 */
export const races = ["store", "overwrite", "load"] as const;
export type Race = (typeof races)[number];

/** The mover without the edge that decides the race. */
const without: Record<Race, (right: PageMover, blind: PageMover) => PageMover> = {
  store: (right, blind) => ({
    toHost: blind.toHost.bind(blind),
    toDevice: right.toDevice.bind(right),
    quiet: () => right.quiet(),
  }),
  overwrite: (right, blind) => ({
    toHost: right.toHost.bind(right),
    toDevice: blind.toDevice.bind(blind),
    quiet: () => right.quiet(),
  }),
  load: (right) => ({
    toHost: right.toHost.bind(right),
    toDevice: (group, from, to) => Object.assign(Object.create(right.toDevice(group, from, to)), { hold: () => undefined }),
    quiet: () => right.quiet(),
  }),
};

const pagesOf = 4;

/** Runs a race `rounds` times. Returns in how many of them something was wrong. */
export async function race(
  name: Race,
  hasEdge: boolean,
  options: Omit<RigOptions, "mover" | "disk">,
  rounds: number,
): Promise<number> {
  const rig = await DeviceRig.open({ ...options, mover: hasEdge ? undefined : without[name] });
  const { device } = options;
  using large = device.zeros("i32", [slowWords]);
  using sink = device.empty("i32", [1]);
  let lost = 0;
  try {
    const readOnce = (): void => probeRead(rig.stream, { x: large, out: sink });
    const reads = await readsOf(slowMs, rig.stream, readOnce);
    for (let round = 0; round < rounds; round++) {
      const wrong = await runs[name](rig, round, () => {
        for (let i = 0; i < reads; i++) readOnce();
      });
      if (wrong > 0) lost++;
      await rig.tiers.idle();
    }
  } finally {
    await rig.stream.finished();
    await rig.close();
  }
  return lost;
}

/** Slow work reads so many words, as often as takes longer than anything that does not wait for it. */
const slowWords = 16 << 20;
const slowMs = 12;

/** How often the stream does something in so many milliseconds. */
async function readsOf(ms: number, stream: Stream, readOnce: () => void): Promise<number> {
  const sample = 8;
  readOnce();
  await stream.finished();
  const begun = performance.now();
  for (let i = 0; i < sample; i++) readOnce();
  await stream.finished();
  return Math.min(1000, Math.ceil((ms * sample) / (performance.now() - begun)));
}

type Run = (rig: DeviceRig, round: number, beSlow: () => void) => Promise<number>;

const runs: Record<Race, Run> = {
  store: async (rig, round, beSlow) => {
    using sequence = write(rig, round, beSlow);
    await rig.tiers.swapOut(sequence);
    return await readBack(rig, sequence, round);
  },
  overwrite: async (rig, round, beSlow) => {
    const { tiers, patterns, onDevice, stream } = rig;
    using coming = write(rig, round);
    await tiers.swapOut(coming);
    const leaving = write(rig, round + 500);
    await stream.finished();
    beSlow();
    const slots = slotsOf(rig, leaving.row);
    const seen = patterns.wrongLayers(stream, onDevice, slots, numbersOf(round + 500));
    leaving.dispose(); // its slots are free at once: what reads them comes earlier in the stream
    const { ready } = tiers.resume(coming);
    const wrong = await seen;
    await ready;
    return wrong;
  },
  load: async (rig, round) => {
    using sequence = write(rig, round);
    await rig.tiers.swapOut(sequence);
    // Whatever else lies in the slots that it comes back to.
    using other = write(rig, round + 500);
    await rig.stream.finished();
    other.dispose();
    return await readBack(rig, sequence, round);
  },
};

const numbersOf = (round: number): number[] => Array.from({ length: pagesOf }, (_, i) => (round * pagesOf + i) % 900);

function slotsOf({ cache }: DeviceRig, row: number): number[] {
  const { pool, table } = cache.groups[0] as DeviceRig["cache"]["groups"][number];
  return Array.from(table.pages(row), (page) => pool.slot(page, 0));
}

/** A sequence of pages that are written once the stream is through with what `before` gives it. Nobody can find it: its tokens are untold. */
function write(rig: DeviceRig, round: number, before?: () => void): ReturnType<DeviceRig["cache"]["createSequence"]> {
  const { cache, patterns, onDevice, stream } = rig;
  const sequence = cache.createSequence();
  sequence.reserve(pagesOf * pageSize);
  before?.();
  const numbers = numbersOf(round);
  slotsOf(rig, sequence.row).forEach((slot, i) => {
    patterns.write(stream, onDevice, slot, numbers[i] as number);
  });
  sequence.commit(pagesOf * pageSize);
  return sequence;
}

async function readBack(rig: DeviceRig, sequence: ReturnType<typeof write>, round: number): Promise<number> {
  const { tiers, patterns, onDevice, stream } = rig;
  const resumption = tiers.resume(sequence);
  await resumption.placed;
  resumption.waitLayer();
  const wrong = await patterns.wrongLayers(stream, onDevice, slotsOf(rig, sequence.row), numbersOf(round));
  await resumption.ready;
  return wrong;
}
