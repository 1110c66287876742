/** Exact tiled attention over ragged KV: TFLOP/s against the GEMM rate (CUDA) or the f32 FMA peak (CPU), PyTorch beside it. */
import { type Device, type DType, attention } from "../../lib/index.js";
import { Pattern } from "../data.js";
import { measure } from "../harness.js";
import { attendRow, maxAbsError } from "../oracle.js";
import { type PeerTimes, timePeers } from "../peers.js";
import type { AttentionShape, Row } from "../results.js";

export interface PrefillCase {
  variant: "causal" | "full" | "chunk";
  dtype: DType;
  shape: AttentionShape;
}

const caseId = ({ variant, dtype, shape: s }: PrefillCase): string =>
  `${variant}-${dtype}-b${s.batch}-q${s.qoLen}-k${s.kvLen}-h${s.qoHeads}/${s.kvHeads}-d${s.headDim}`;

export function prefillCases(device: Device): PrefillCase[] {
  const cases: PrefillCase[] = [];
  if (device.backend === "cpu") {
    for (const headDim of [64, 128]) {
      for (const dtype of ["f32", "bf16"] as const) {
        cases.push({ variant: "causal", dtype, shape: { batch: 1, qoLen: 4096, kvLen: 4096, qoHeads: 4, kvHeads: 2, headDim } });
      }
    }
    cases.push({
      variant: "chunk",
      dtype: "bf16",
      shape: { batch: 1, qoLen: 512, kvLen: 16384, qoHeads: 4, kvHeads: 2, headDim: 128 },
    });
    return cases;
  }
  for (const headDim of [64, 96, 128, 192, 256]) {
    for (const variant of ["causal", "full"] as const) {
      for (const length of [1024, 4096, 16384]) {
        const heads = Math.floor(2048 / headDim);
        const shape = { batch: 16384 / length, qoLen: length, kvLen: length, qoHeads: heads, kvHeads: heads, headDim };
        cases.push({ variant, dtype: "bf16", shape });
      }
    }
  }
  const gqa = { batch: 1, qoHeads: 64, kvHeads: 8, headDim: 128 };
  for (const length of [4096, 16384])
    cases.push({ variant: "causal", dtype: "bf16", shape: { ...gqa, qoLen: length, kvLen: length } });
  for (const kvLen of [8192, 32768, 131072]) {
    cases.push({
      variant: "chunk",
      dtype: "bf16",
      shape: { batch: 1, qoLen: 512, kvLen, qoHeads: 32, kvHeads: 8, headDim: 128 },
    });
  }
  return cases;
}

/** Query-key pairs under a bottom-right causal mask (or all of them), of one head of one request. */
function visiblePairs({ qoLen, kvLen }: AttentionShape, causal: boolean): number {
  return causal ? qoLen * (kvLen - qoLen) + (qoLen * (qoLen + 1)) / 2 : qoLen * kvLen;
}

async function runCase(device: Device, test: PrefillCase, ceilings: Record<string, number>, peers: PeerTimes): Promise<Row> {
  const { shape, dtype } = test;
  const { batch, qoLen, kvLen, qoHeads, kvHeads, headDim } = shape;
  const causal = test.variant !== "full";
  const pattern = await Pattern.create(device, dtype, 1 + Math.floor(Math.random() * 1e6));
  const shifts = { q: 0, k: 1_000_003, v: 2_000_003 };
  using q = await pattern.tensor(device, [batch * qoLen, qoHeads, headDim], shifts.q);
  using k = await pattern.tensor(device, [batch * kvLen, kvHeads, headDim], shifts.k);
  using v = await pattern.tensor(device, [batch * kvLen, kvHeads, headDim], shifts.v);
  using out = device.empty(dtype, [batch * qoLen, qoHeads, headDim]);
  const indptr = (length: number) =>
    device.tensor(
      "i32",
      [batch + 1],
      Int32Array.from({ length: batch + 1 }, (_, b) => b * length),
    );
  using qoIndptr = indptr(qoLen);
  using kvIndptr = indptr(kvLen);
  out.fill(0xff);
  const timing = await measure(
    caseId(test),
    device.stream,
    () => attention(device.stream, { q, k, v, out, qoIndptr, kvIndptr, causal }),
    device.backend === "cpu" ? { repeats: 30, warmup: 1, budgetMs: 8000 } : {},
  );
  let error = 0;
  for (const sample of [0, Math.floor(qoLen / 3), qoLen - 1]) {
    const b = batch - 1;
    const row = b * qoLen + sample;
    const head = sample % qoHeads;
    const kvHead = Math.floor(head / (qoHeads / kvHeads));
    const rowAt = (shift: number) => (j: number) => pattern.row(((b * kvLen + j) * kvHeads + kvHead) * headDim, headDim, shift);
    const expected = attendRow({
      q: pattern.row((row * qoHeads + head) * headDim, headDim, shifts.q),
      key: rowAt(shifts.k),
      value: rowAt(shifts.v),
      count: causal ? kvLen - qoLen + sample + 1 : kvLen,
      scale: 1 / Math.sqrt(headDim),
    });
    const actual = await out.slice(row, row + 1).readFloats();
    error = Math.max(error, maxAbsError(actual.subarray(head * headDim, (head + 1) * headDim), expected));
  }
  const tolerance = dtype === "f32" ? 1e-4 : dtype === "f16" ? 2e-3 : 1e-2;
  const tflops = (4 * headDim * qoHeads * batch * visiblePairs(shape, causal)) / 1e12 / (timing.median_us / 1e6);
  const ceilingName = device.backend === "cuda" ? "gemm_bf16_tflops" : "fma_f32_tflops";
  const ceiling = { name: ceilingName, value: ceilings[ceilingName] as number };
  return {
    op: "attention",
    variant: test.variant,
    shape,
    dtype,
    ...timing,
    tflops,
    ceiling,
    share_of_ceiling: tflops / ceiling.value,
    peers: peers.get(caseId(test)) ?? {},
    max_abs_err: error,
    tolerance,
    pass: error <= tolerance,
  };
}

export async function attentionPrefill(
  device: Device,
  ceilings: Record<string, number>,
  report: (row: Row) => void,
): Promise<void> {
  const cases = prefillCases(device);
  // SDPA's is_causal aligns top-left, so chunks against a longer cache have no peer of the same meaning.
  const peers = await timePeers(
    cases
      .filter((test) => test.variant !== "chunk")
      .map((test) => ({
        id: caseId(test),
        device: device.backend,
        dtype: test.dtype,
        causal: test.variant === "causal",
        ...test.shape,
      })),
  );
  for (const test of cases) {
    report(await runCase(device, test, ceilings, peers));
    device.trim();
  }
}
