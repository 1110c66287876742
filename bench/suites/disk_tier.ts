/** The disk tier against fio on the same file system, in turns: pages stored and loaded in sequence, past the page cache where the file
 * system lets both. And how soon a file of a million pages is open again. */
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type Device,
  type DiskTier,
  type PageBatch,
  TIER_VERSION,
  type Tensor,
  type TierIdentity,
  openDevice,
  openDiskTier,
} from "../../lib/index.js";
import { type Timing, summarise } from "../harness.js";
import { type Row, type SuiteOptions, type Target, makeTarget, noAttention } from "../results.js";
import { fillIndex } from "../slab_index.js";

const MIB = 2 ** 20;
const PAGE_MIB = [1, 2, 4, 8];
/** Moved by one sample. */
const SAMPLE_BYTES = 1024 * MIB;
/** Of host memory that pages are moved from and to. */
const POOL_BYTES = 256 * MIB;
const PAGE_SIZE = 16;
const REPEATS = 5;
const INDEX_PAGES = 1_000_000;
const LEAST_SHARE = 0.85;

const identityOf = (pageBytes: number): TierIdentity => ({
  version: TIER_VERSION,
  model: "bench",
  dtype: "u8",
  pageSize: PAGE_SIZE,
  groups: [{ layers: [0], numKvHeads: 1, headDim: 1, format: "identity", pageBytes, storeRotated: true }],
});

/** Pages that no other round has, in all slots of the pool, again and again. */
function batchOf(count: number, slots: number, round: number): PageBatch {
  return {
    group: 0,
    keys: Uint32Array.from({ length: count * 4 }, (_, i) => (i % 4 === 0 ? round : i)),
    parents: new Uint32Array(count * 4),
    tokens: new Int32Array(count * PAGE_SIZE),
    slots: Int32Array.from({ length: count }, (_, i) => i % slots),
  };
}

type Move = "store" | "load";

/** Microseconds of one batch; every page must be stored or loaded. */
async function timeTier(tier: DiskTier, move: Move, batch: PageBatch): Promise<number> {
  const begin = performance.now();
  const statuses = await tier[move](batch);
  const us = (performance.now() - begin) * 1e3;
  if (statuses.some((status) => status !== 0))
    throw new Error(`${move}: not every page was moved, ${JSON.stringify(tier.stats())}`);
  return us;
}

/** Microseconds that fio takes for as many bytes in pieces of a page; undefined where it is not installed. */
async function timeFio(
  folder: string,
  move: Move,
  pageBytes: number,
  engine: string,
  isDirect: boolean,
): Promise<number | undefined> {
  const child = spawn("fio", [
    "--name=kvasir",
    `--filename=${join(folder, "fio.data")}`,
    `--size=${SAMPLE_BYTES}`,
    `--rw=${move === "store" ? "write" : "read"}`,
    `--bs=${pageBytes}`,
    "--iodepth=32",
    `--ioengine=${engine}`,
    `--direct=${isDirect ? 1 : 0}`,
    "--output-format=json",
  ]);
  let out = "";
  child.stdout.on("data", (chunk) => {
    out += chunk;
  });
  const code = await new Promise<number | null>((resolve) => {
    child.on("error", () => resolve(null));
    child.on("close", resolve);
  });
  if (code === null) return undefined;
  const { jobs } = JSON.parse(out.slice(out.indexOf("{"))) as {
    jobs: { error: number; read: { bw_bytes: number }; write: { bw_bytes: number } }[];
  };
  const job = jobs[0];
  if (job === undefined || job.error !== 0) throw new Error(`fio ended with ${code}, error ${job?.error}`);
  return (SAMPLE_BYTES / (move === "store" ? job.write : job.read).bw_bytes) * 1e6;
}

interface Times {
  tier: number[];
  fio: number[];
}

function copyRow(move: Move, pageBytes: number, times: Times, describe: string, targets: Target[]): Row {
  const timing = summarise(times.tier);
  const rate = (us: number): number => SAMPLE_BYTES / us / 1e3;
  const fio = times.fio.length === 0 ? Number.NaN : summarise(times.fio).median_us;
  const share = fio / timing.median_us;
  const own =
    times.fio.length === 0 ? [] : [makeTarget(`${move} ${pageBytes / MIB} MiB / fio`, share, { at_least: LEAST_SHARE })];
  targets.push(...own);
  return {
    op: "disk_tier",
    variant: `${move} ${describe}`,
    shape: noAttention,
    pages: { bytes: pageBytes, count: SAMPLE_BYTES / pageBytes },
    dtype: "u8",
    ...timing,
    gb_per_s: rate(timing.median_us),
    ceiling: { name: times.fio.length === 0 ? "none: fio is not installed" : "fio_gb_per_s", value: rate(fio) },
    share_of_ceiling: share,
    peers: times.fio.length === 0 ? {} : { fio },
    max_abs_err: 0,
    tolerance: 0,
    pass: true,
    targets: own,
  };
}

async function copies(
  cpu: Device,
  folder: string,
  pageBytes: number,
  report: (row: Row) => void,
  targets: Target[],
): Promise<void> {
  const slots = POOL_BYTES / pageBytes;
  const count = SAMPLE_BYTES / pageBytes;
  using pool = cpu.zeros("u8", [slots, pageBytes]);
  await cpu.stream.finished();
  const path = join(folder, "tier.slab");
  // Room for one round: each one after the first evicts the one before and writes over it, as fio does.
  const maxBytes = 2 ** 17 * Math.ceil(count / 1024) + count * (pageBytes + 4096);
  const tier = await openDiskTier({ path, maxBytes, identity: identityOf(pageBytes), pools: [pool] });
  try {
    const { engine, isDirect } = tier.describe();
    const fioEngine = engine === "io_uring" ? "io_uring" : "libaio";
    const times: Record<Move, Times> = { store: { tier: [], fio: [] }, load: { tier: [], fio: [] } };
    for (let round = -1; round < REPEATS; round++) {
      for (const move of ["store", "load"] as const) {
        const own = await timeTier(tier, move, batchOf(count, slots, round + 1));
        const fio = await timeFio(folder, move, pageBytes, fioEngine, isDirect);
        if (round < 0) continue; // the first round lays the files out
        times[move].tier.push(own);
        if (fio !== undefined) times[move].fio.push(fio);
      }
    }
    const describe = `${engine}${isDirect ? "" : " buffered"}`;
    for (const move of ["store", "load"] as const) report(copyRow(move, pageBytes, times[move], describe, targets));
  } finally {
    await tier.close();
    rmSync(path);
  }
}

async function reload(pool: Tensor, folder: string, report: (row: Row) => void, targets: Target[]): Promise<void> {
  const path = join(folder, "index.slab");
  const pageBytes = pool.shape[1] as number;
  const options = { path, maxBytes: 2 ** 35, identity: identityOf(pageBytes), pools: [pool] };
  const fresh = await openDiskTier(options);
  const { slotBytes } = fresh.describe();
  await fresh.close();
  fillIndex(path, INDEX_PAGES, slotBytes, pageBytes);
  const samples: number[] = [];
  for (let repeat = 0; repeat < REPEATS; repeat++) {
    const begin = performance.now();
    const tier = await openDiskTier(options);
    samples.push((performance.now() - begin) * 1e3);
    const { pages } = tier.stats();
    await tier.close();
    if (pages !== INDEX_PAGES) throw new Error(`the index has ${pages} pages, expected ${INDEX_PAGES}`);
  }
  const timing: Timing = summarise(samples);
  const target = makeTarget("index of 1 M pages, seconds", timing.median_us / 1e6, { at_most: 2 });
  targets.push(target);
  report({
    op: "disk_tier",
    variant: "reload index",
    shape: noAttention,
    pages: { bytes: pageBytes, count: INDEX_PAGES },
    dtype: "u8",
    ...timing,
    ceiling: { name: "limit_us", value: 2e6 },
    share_of_ceiling: timing.median_us / 2e6,
    peers: {},
    max_abs_err: 0,
    tolerance: 0,
    pass: true,
    targets: [target],
  });
}

export async function diskTier(
  _device: Device,
  _ceilings: Record<string, number>,
  report: (row: Row) => void,
  options: SuiteOptions,
): Promise<void> {
  const parent = options.dir ?? tmpdir();
  mkdirSync(parent, { recursive: true });
  const folder = mkdtempSync(join(parent, "kvasir-disk-tier-"));
  const targets: Target[] = [];
  using cpu = openDevice("cpu");
  try {
    for (const pageMib of PAGE_MIB) await copies(cpu, folder, pageMib * MIB, report, targets);
    using pool = cpu.zeros("u8", [1, 4096]);
    await reload(pool, folder, report, targets);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  options.conclude?.(targets);
}
