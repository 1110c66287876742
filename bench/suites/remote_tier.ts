/** Pages to and from a Redis or Valkey server: the remote tier beside redis-benchmark with values of the same size over as many
 * connections, in turns. Without --url the suite starts servers on loopback, which share the cores with both. New
 * pages take the place of old ones, as in a server that has been full once. redis-benchmark writes and reads one key again and again. */
import { randomBytes } from "node:crypto";
import {
  type Device,
  type PageBatch,
  type RemoteTier,
  TIER_VERSION,
  type Tensor,
  openDevice,
  openRemoteTier,
} from "../../lib/index.js";
import { summarise } from "../harness.js";
import { type RedisTarget, redisBenchmark, startRedis } from "../redis.js";
import { makeTarget, noAttention, type Row, type SuiteOptions, type Target } from "../results.js";

const KB = 1024;
const MB = KB * KB;
const SIZES = [256 * KB, MB, 2 * MB, 8 * MB];
const CONNECTIONS = [1, 2, 4, 8];
/** Bytes of a batch, and of what redis-benchmark sends in one go. */
const BATCH_BYTES = 64 * MB;
const PEER_BYTES = 128 * MB;
/** Of pages in the server. */
const HELD_BYTES = 512 * MB;
const ROUNDS = 4;
const BATCHES_A_ROUND = 4;
const PAGE_SIZE = 64;
/** What is to be reached with values of 1 MB. */
const LEAST_RATIO = 0.6;

interface Rates {
  store: number[];
  load: number[];
  /** redis-benchmark's SET and GET, in microseconds a batch. */
  set: number[];
  get: number[];
  wrongPages: number;
}

const words = (count: number): Uint32Array => {
  const bytes = randomBytes(4 * count);
  return Uint32Array.from({ length: count }, (_, i) => bytes.readUInt32LE(4 * i));
};

const freshBatch = (pages: number): Omit<PageBatch, "slots"> => {
  return { group: 0, keys: words(4 * pages), parents: words(4 * pages), tokens: new Int32Array(PAGE_SIZE * pages) };
};

/** Stores fresh pages in place of the oldest and loads them elsewhere, in turns with redis-benchmark. */
async function measureCell(
  tier: RemoteTier,
  pool: Tensor,
  url: string,
  connections: number,
  held: Uint32Array[],
): Promise<Rates> {
  const pages = (pool.shape[0] as number) / 2;
  const bytes = pool.shape[1] as number;
  const rates: Rates = { store: [], load: [], set: [], get: [], wrongPages: 0 };
  const first = Int32Array.from({ length: pages }, (_, i) => i);
  const requests = Math.max(16, PEER_BYTES / bytes);
  for (let round = -1; round < ROUNDS; round++) {
    const peer = await redisBenchmark(url, bytes, connections, requests);
    for (let i = 0; i < (round < 0 ? 1 : BATCHES_A_ROUND); i++) {
      const batch = freshBatch(pages);
      await tier.remove(0, held.shift() as Uint32Array);
      held.push(batch.keys);
      const begin = performance.now();
      const stored = await tier.store({ ...batch, slots: first });
      const middle = performance.now();
      const loaded = await tier.load({ ...batch, slots: first.map((slot) => slot + pages) });
      const end = performance.now();
      rates.wrongPages += stored.filter((status) => status !== 0).length + loaded.filter((status) => status !== 0).length;
      if (round < 0) continue; // warms up
      rates.store.push((middle - begin) * 1e3);
      rates.load.push((end - middle) * 1e3);
    }
    if (round < 0) continue;
    rates.set.push((pages / peer.set) * 1e6);
    rates.get.push((pages / peer.get) * 1e6);
  }
  const both = (await pool.read()) as Uint8Array;
  if (Buffer.compare(both.subarray(0, pages * bytes), both.subarray(pages * bytes)) !== 0) rates.wrongPages++;
  return rates;
}

const cellName = (bytes: number, connections: number): string => `${bytes / KB} KB, ${connections} conn.`;

function rowOf(kind: "store" | "load", rates: Rates, bytes: number, connections: number): Row {
  const timing = summarise(rates[kind]);
  const peer = summarise(kind === "store" ? rates.set : rates.get).median_us;
  const count = BATCH_BYTES / bytes;
  const perSecond = (us: number): number => BATCH_BYTES / 1e9 / (us / 1e6);
  return {
    op: "remote_tier",
    variant: `${kind} ${cellName(bytes, connections)}`,
    shape: noAttention,
    pages: { bytes, count },
    dtype: "u8",
    ...timing,
    gb_per_s: perSecond(timing.median_us),
    ceiling: { name: "redis_benchmark_gb_per_s", value: perSecond(peer) },
    share_of_ceiling: peer / timing.median_us,
    peers: { redis_benchmark: peer },
    max_abs_err: rates.wrongPages,
    tolerance: 0,
    pass: rates.wrongPages === 0,
  };
}

/** Values of one size over each number of connections. */
async function measureSize(cpu: Device, url: string, bytes: number, only: string): Promise<Row[]> {
  const wanted = CONNECTIONS.filter((connections) => cellName(bytes, connections).includes(only));
  if (wanted.length === 0) return [];
  const count = BATCH_BYTES / bytes;
  using pool = cpu.empty("u8", [2 * count, bytes]);
  for (let page = 0; page < count; page++) await pool.slice(page, page + 1).write(new Uint8Array(randomBytes(bytes)));
  const group = { layers: [0], numKvHeads: 1, headDim: 64, format: "identity", pageBytes: bytes, storeRotated: true };
  const identity = { version: TIER_VERSION, model: "bench", dtype: "u8", pageSize: PAGE_SIZE, groups: [group] };
  const rows: Row[] = [];
  const held: Uint32Array[] = [];
  for (const connections of wanted) {
    const tier = await openRemoteTier({ url, identity, pools: [pool], connections });
    while (held.length < HELD_BYTES / BATCH_BYTES) {
      const batch = freshBatch(count);
      await tier.store({ ...batch, slots: Int32Array.from({ length: count }, (_, i) => i) });
      held.push(batch.keys);
    }
    const rates = await measureCell(tier, pool, url, connections, held);
    if (connections === wanted.at(-1)) for (const keys of held) await tier.remove(0, keys);
    await tier.close();
    for (const kind of ["store", "load"] as const) rows.push(rowOf(kind, rates, bytes, connections));
  }
  return rows;
}

/** The best over the connections, of each side. */
function targets(rows: readonly Row[]): Target[] {
  return (["store", "load"] as const).flatMap((kind) => {
    const some = rows.filter(({ variant, pages }) => variant.startsWith(kind) && pages?.bytes === MB);
    if (some.length === 0) return [];
    const ours = Math.max(...some.map((row) => row.gb_per_s as number));
    const theirs = Math.max(...some.map((row) => row.ceiling.value));
    return [makeTarget(`${kind} of 1 MB pages / redis-benchmark, each at its best`, ours / theirs, { at_least: LEAST_RATIO })];
  });
}

export async function remoteTier(
  _device: Device,
  _ceilings: Record<string, number>,
  report: (row: Row) => void,
  options: SuiteOptions,
): Promise<void> {
  using cpu = openDevice("cpu");
  const rows: Row[] = [];
  const server = options.url === undefined ? await startRedis() : undefined;
  const url = options.url ?? (server as RedisTarget).url;
  try {
    for (const bytes of SIZES) {
      for (const row of await measureSize(cpu, url, bytes, options.only ?? "")) {
        rows.push(row);
        report(row);
      }
    }
  } finally {
    await server?.stop();
  }
  options.conclude?.(targets(rows));
}
