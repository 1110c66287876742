/** Decode attention over a paged cache with shuffled pages: GB/s of KV read against the read bandwidth of the same run.
 * The pool holds several layers and every node of the timed program reads another one, as a model's step does: no cache helps. */
import { type Device, type DType, type Tensor, attention, createPageTable } from "../../lib/index.js";
import { Pattern, bytesOf } from "../data.js";
import { measure } from "../harness.js";
import { attendRow, maxAbsError } from "../oracle.js";
import { type PeerTimes, timePeers } from "../peers.js";
import type { AttentionShape, Row } from "../results.js";

export interface DecodeCase {
  variant: string;
  dtype: DType;
  shape: AttentionShape & { pageSize: number };
}

const caseId = ({ variant, dtype, shape: s }: DecodeCase): string =>
  `${variant}-${dtype}-b${s.batch}-k${s.kvLen}-h${s.qoHeads}/${s.kvHeads}-d${s.headDim}-p${s.pageSize}`;

/** Bytes that one pass over the nodes must exceed, so that nothing read twice is still in a cache. */
const ROTATE_BYTES = 256 * 2 ** 20;

export function decodeCases(device: Device): DecodeCase[] {
  const base = { batch: 1, qoLen: 1, kvLen: 32768, qoHeads: 32, kvHeads: 8, headDim: 128, pageSize: 64 };
  const make = (shape: Partial<typeof base>, variant = "paged"): DecodeCase => ({
    variant,
    dtype: "bf16",
    shape: { ...base, ...shape },
  });
  if (device.backend === "cpu") {
    return [
      make({}),
      make({ kvLen: 8192 }),
      make({ headDim: 64 }),
      { ...make({}), dtype: "f32" },
      make({ batch: 4, kvLen: 8192 }),
    ];
  }
  return [
    ...[1024, 4096, 8192, 32768, 131072, 524288].map((kvLen) => make({ kvLen })),
    make({ batch: 16, kvLen: 8192 }),
    make({ batch: 64, kvLen: 8192 }),
    make({ batch: 16, kvLen: 4096, kvHeads: 32 }),
    make({ batch: 32, kvLen: 32768, qoHeads: 8, kvHeads: 1 }),
    make({ batch: 32, kvLen: 8192, qoHeads: 64, headDim: 64 }),
    make({ batch: 8, kvLen: 16384, qoHeads: 16, headDim: 256 }),
    make({ kvLen: 131072, pageSize: 16 }),
    make({ kvLen: 131072, pageSize: 256 }),
  ];
}

/** `[0, count)` in a random order: a cache in use has no two neighbouring pages side by side. */
function shuffled(count: number): Int32Array {
  const order = Int32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [order[i], order[j]] = [order[j] as number, order[i] as number];
  }
  return order;
}

async function runCase(device: Device, test: DecodeCase, ceilings: Record<string, number>, peers: PeerTimes): Promise<Row> {
  const { shape, dtype } = test;
  const { batch, kvLen, qoHeads, kvHeads, headDim, pageSize } = shape;
  const kvBytes = bytesOf(dtype, 2, batch, kvLen, kvHeads, headDim);
  const layers = Math.max(1, Math.min(32, Math.ceil(ROTATE_BYTES / kvBytes)));
  const nodes = kvBytes < ROTATE_BYTES && device.backend === "cuda" ? Math.max(32, layers) : layers;
  const pagesPerRow = Math.ceil(kvLen / pageSize);
  const slots = batch * pagesPerRow;
  const run = pageSize * headDim; // one head's K (or V) of one page, elements
  const pageElements = layers * kvHeads * 2 * run;
  const pattern = await Pattern.create(device, dtype, 1 + Math.floor(Math.random() * 1e6));
  using pages = await pattern.tensor(device, [slots, pageElements]);
  using q = await pattern.tensor(device, [batch, qoHeads, headDim], 3_000_017);
  using out = device.empty(dtype, [batch, qoHeads, headDim]);
  out.fill(0xff);
  const order = shuffled(slots);
  using table = createPageTable(device, {
    rows: Array.from({ length: batch }, (_, b) => Array.from(order.subarray(b * pagesPerRow, (b + 1) * pagesPerRow))),
    kvLens: new Array<number>(batch).fill(kvLen),
    pageSize,
    numPages: slots,
  });
  const offsets: Tensor[] = Array.from({ length: layers }, (_, layer) =>
    device.tensor(
      "i32",
      [kvHeads, 2],
      Int32Array.from({ length: kvHeads * 2 }, (_, i) => bytesOf(dtype, (layer * kvHeads * 2 + i) * run)),
    ),
  );
  const node = (i: number): void =>
    attention(device.stream, { q, out, pages, pageOffsets: offsets[i % layers] as Tensor, pageSize, causal: true, ...table });
  using program = device.stream.program(() => {
    for (let i = 0; i < nodes; i++) node(i);
  });
  const timing = await measure(
    caseId(test),
    device.stream,
    () => device.stream.launch(program),
    device.backend === "cpu" ? { repeats: 30, warmup: 2, nodes, budgetMs: 8000 } : { nodes },
  );
  const lastLayer = (nodes - 1) % layers;
  const actual = await out.readFloats();
  let error = 0;
  for (const [b, head] of [
    [0, 0],
    [batch - 1, qoHeads - 1],
  ] as const) {
    const kvHead = Math.floor(head / (qoHeads / kvHeads));
    const at = (isValue: 0 | 1) => (j: number, e: number) => {
      const slot = order[b * pagesPerRow + Math.floor(j / pageSize)] as number;
      return pattern.at(
        slot * pageElements + ((lastLayer * kvHeads + kvHead) * 2 + isValue) * run + (j % pageSize) * headDim + e,
      );
    };
    const query = Float64Array.from({ length: headDim }, (_, e) => pattern.at((b * qoHeads + head) * headDim + e, 3_000_017));
    const expected = attendRow({ q: query, key: at(0), value: at(1), count: kvLen, scale: 1 / Math.sqrt(headDim) });
    const from = (b * qoHeads + head) * headDim;
    error = Math.max(error, maxAbsError(actual.subarray(from, from + headDim), expected));
  }
  for (const tensor of offsets) tensor.dispose();
  const tolerance = dtype === "f32" ? 1e-4 : 1e-2;
  const gbPerS = kvBytes / 1e9 / (timing.median_us / 1e6);
  const ceiling = { name: "read_gb_per_s", value: ceilings.read_gb_per_s as number };
  return {
    op: "attention",
    variant: `decode-${test.variant}`,
    shape,
    dtype,
    ...timing,
    gb_per_s: gbPerS,
    ceiling,
    share_of_ceiling: gbPerS / ceiling.value,
    peers: peers.get(caseId(test)) ?? {},
    max_abs_err: error,
    tolerance,
    pass: error <= tolerance,
  };
}

export async function attentionDecode(
  device: Device,
  ceilings: Record<string, number>,
  report: (row: Row) => void,
): Promise<void> {
  const cases = decodeCases(device);
  const peers = await timePeers(
    cases.map((test) => ({ id: caseId(test), device: device.backend, dtype: test.dtype, causal: false, ...test.shape })),
  );
  for (const test of cases) {
    report(await runCase(device, test, ceilings, peers));
    device.trim();
  }
}
