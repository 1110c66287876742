/** Decode attention: GB/s of KV read against the read bandwidth of the same run, over batches of every shape, PyTorch beside the uniform
 * ones. Several layers lie in memory and the timed programs go through them, so that each node reads what no cache holds. */
import { type Device, type DType, KvasirError } from "../../lib/index.js";
import { readBandwidth } from "../ceilings.js";
import { Pattern } from "../data.js";
import { type MeasureOptions, measure, measureInTurns } from "../harness.js";
import { type PeerTimes, timePeers } from "../peers.js";
import { type Row, type SplitTimes, type SuiteOptions, makeTarget } from "../results.js";
import { DecodeBatch, type Rotation, rotationOf } from "./attention_decode_batch.js";
import { type DecodeCell, decodeCells, isUniform, kvBytes, selectCells, sumOf } from "./attention_decode_cells.js";
import { type Measured, chunkSplits, rowTargets, splitCounts, summarise } from "./attention_decode_targets.js";

/** Bytes that one pass over the layers must exceed: L2 keeps at most a twentieth of them from one pass to the next. */
const ROTATE_BYTES = 2 ** 30;
/** From here on a few nodes are enough to find the best split count. */
const FEW_NODES_BYTES = 2 ** 28;
const SWEEP: MeasureOptions = { repeats: 10, warmup: 1, budgetMs: 400, least: 3 };
const TOLERANCE: Partial<Record<DType, number>> = { f32: 1e-4, f16: 2e-3, bf16: 1e-2 };

/** Peers know no pages and no ragged batches: cells that differ in nothing else share a time. */
const peerId = ({ dtype, lens, qoLen, qoHeads, kvHeads, headDim }: DecodeCell): string =>
  `${dtype}-b${lens.length}-q${qoLen}-k${lens[0]}-h${qoHeads}/${kvHeads}-d${headDim}`;

function timeCellPeers(device: Device, cells: readonly DecodeCell[], rotateBytes: number): Promise<PeerTimes> {
  const unlike = new Map(cells.filter(isUniform).map((cell) => [peerId(cell), cell]));
  const shapes = Array.from(unlike, ([id, cell]) => {
    const { dtype, lens, qoLen, qoHeads, kvHeads, headDim } = cell;
    const { layers, nodes } = rotationOf(cell, device.backend, rotateBytes);
    const shape = { batch: lens.length, qoLen, kvLen: lens[0] as number, qoHeads, kvHeads, headDim };
    return { id, device: device.backend, dtype, causal: false, ...shape, sets: layers, nodes };
  });
  return timePeers(shapes);
}

/** Times of fixed split counts and the largest error that any of them made. */
async function sweep(device: Device, cell: DecodeCell, batch: DecodeBatch, { nodes }: Rotation): Promise<[SplitTimes, number]> {
  const { stream } = device;
  const fewNodes = kvBytes(cell) < FEW_NODES_BYTES ? nodes : Math.min(nodes, 8);
  const us: Record<string, number> = {};
  let samples = Number.POSITIVE_INFINITY;
  let error = 0;
  for (const splits of splitCounts) {
    using program = batch.program(fewNodes, splits);
    batch.clear();
    const timing = await measure(cell.id, stream, () => stream.launch(program), { ...SWEEP, nodes: fewNodes });
    us[splits] = timing.median_us;
    samples = Math.min(samples, timing.samples);
    error = Math.max(error, await batch.error());
  }
  const best = splitCounts.reduce((a, b) => ((us[b] as number) < (us[a] as number) ? b : a));
  using standard = batch.program(nodes);
  using fixed = batch.program(nodes, best);
  using chunks = batch.program(nodes, chunkSplits(cell));
  const bodies = [standard, fixed, chunks].map((program) => () => stream.launch(program));
  batch.clear();
  const [default_us = Number.NaN, best_us = Number.NaN, chunk_us = Number.NaN] = await measureInTurns(stream, bodies, nodes);
  error = Math.max(error, await batch.error());
  return [{ samples, us, best, best_us, default_us, chunk_us }, error];
}

async function measureCell(
  device: Device,
  cell: DecodeCell,
  rotation: Rotation,
  pattern: Pattern,
  ceiling: () => Promise<number>,
  peers: PeerTimes,
): Promise<Row> {
  const { dtype, lens, qoLen, qoHeads, kvHeads, headDim, pageSize } = cell;
  const before = await ceiling();
  using batch = await DecodeBatch.create(device, cell, rotation.layers, pattern);
  using program = batch.program(rotation.nodes);
  batch.clear();
  const timing = await measure(
    cell.id,
    device.stream,
    () => device.stream.launch(program),
    device.backend === "cpu" ? { warmup: 2, nodes: rotation.nodes, budgetMs: 8000 } : { nodes: rotation.nodes },
  );
  let error = await batch.error();
  let splits: SplitTimes | undefined;
  if (cell.sweep) {
    const [times, sweepError] = await sweep(device, cell, batch, rotation);
    splits = times;
    error = Math.max(error, sweepError);
  }
  const read = { name: "read_gb_per_s", value: Math.max(before, await ceiling()) };
  const gbPerS = kvBytes(cell) / 1e9 / (timing.median_us / 1e6);
  const tolerance = TOLERANCE[dtype] as number;
  const longest = isUniform(cell) ? {} : { longest: Math.max(...lens) };
  const paged = pageSize === undefined ? {} : { pageSize };
  const kvLen = Math.round(sumOf(lens) / lens.length);
  const row: Row = {
    op: "attention",
    variant: `decode-${cell.group}`,
    shape: { batch: lens.length, qoLen, kvLen, ...longest, qoHeads, kvHeads, headDim, ...paged },
    dtype,
    ...timing,
    gb_per_s: gbPerS,
    ceiling: read,
    share_of_ceiling: gbPerS / read.value,
    peers: (isUniform(cell) && peers.get(peerId(cell))) || {},
    max_abs_err: error,
    tolerance,
    pass: error <= tolerance,
    ...(splits === undefined ? {} : { splits }),
  };
  return { ...row, targets: rowTargets(cell, row) };
}

export interface DecodeOptions extends SuiteOptions {
  cells?: readonly DecodeCell[];
  rotateBytes?: number;
  /** GB/s of reading at this moment. */
  ceiling?: () => Promise<number>;
}

export async function attentionDecode(
  device: Device,
  ceilings: Record<string, number>,
  report: (row: Row) => void,
  options: DecodeOptions = {},
): Promise<void> {
  const { only, withPeers = true, conclude, cells = decodeCells(device.backend), rotateBytes = ROTATE_BYTES } = options;
  // A host with other work on it is not the same all through a run: the CPU's ceiling is measured beside each cell.
  const known = ceilings.read_gb_per_s as number;
  const { ceiling = () => (device.backend === "cpu" ? readBandwidth(device, 7) : Promise.resolve(known)) } = options;
  const chosen = selectCells(cells, only);
  const peers = withPeers ? await timeCellPeers(device, chosen, rotateBytes) : new Map();
  const patterns = new Map<DType, Pattern>();
  const measured: Measured[] = [];
  let failed = 0;
  for (const cell of chosen) {
    const pattern = patterns.get(cell.dtype) ?? (await Pattern.create(device, cell.dtype, 11));
    patterns.set(cell.dtype, pattern);
    const rotation = rotationOf(cell, device.backend, rotateBytes);
    try {
      const row = await measureCell(device, cell, rotation, pattern, ceiling, peers);
      measured.push({ cell, row });
      report(row);
    } catch (error) {
      if (!(error instanceof KvasirError)) throw error;
      failed++; // the other cells of a long run still count
      process.stderr.write(`${cell.id}: ${error.message} (${error.code})\n`);
    }
    device.trim();
  }
  conclude?.([...summarise(measured), makeTarget("cells that could not run", failed, { at_most: 0 })]);
}
