/** The model runner's decode step: the bundled model and a Llama-shaped one with random weights, recorded (one launch a step) and eager
 * (every op of every step enqueued). A context is a length set over a cache full of random pages. Bytes are those of weights and KV. */
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type Device, type DType, type Model, type Sequence, attention, loadModel, randomModel } from "../../lib/index.js";
import { bytesOf, Pattern } from "../data.js";
import { measure, type Timing, summarise } from "../harness.js";
import { llama8b, llamaConfig, llamaSmall, type ModelShape } from "../models.js";
import type { Row } from "../results.js";

interface Subject {
  name: string;
  shape: ModelShape;
  contexts: readonly number[];
  load(device: Device, options: { cacheTokens: number; chunkTokens: number }): Promise<Model>;
}

const batches = [1, 8];
const PAGE_SIZE = 64;
/** What a cache may take: all that is free belongs to others too where that is the host's memory. */
const CPU_CACHE_BYTES = 4e9;
const CHECKED_STEPS = 3;

/** The bundled model's folder, also when this file runs from dist/bench. */
function bundledFolder(): string {
  const places = ["../../examples/model", "../../../examples/model"].map((path) => fileURLToPath(new URL(path, import.meta.url)));
  return places.find((path) => existsSync(path)) as string;
}

function subjects({ backend }: Device): Subject[] {
  const folder = bundledFolder();
  const random = backend === "cuda" ? llama8b : llamaSmall;
  const contexts = [1024, 8192, 32768];
  return [
    {
      name: "bundled",
      shape: JSON.parse(readFileSync(`${folder}/config.json`, "utf8")) as ModelShape,
      contexts,
      load: (device, options) => loadModel(device, folder, options),
    },
    {
      name: backend === "cuda" ? "llama 8b" : "llama small",
      shape: random,
      contexts: backend === "cuda" ? [...contexts, 131072] : contexts,
      load: (device, options) => randomModel(device, llamaConfig(random), options),
    },
  ];
}

const tokenBytes = (s: ModelShape, dtype: DType): number =>
  bytesOf(dtype, 2, s.num_hidden_layers, s.num_key_value_heads, s.head_dim);

/** Weights that a step reads; of the embedding, as a rule a tensor of the head's size, only some rows. */
function weightBytes(s: ModelShape, dtype: DType): number {
  const projections = 2 * (s.num_attention_heads + s.num_key_value_heads) * s.head_dim + 3 * s.intermediate_size;
  return bytesOf(dtype, s.hidden_size, s.num_hidden_layers * projections + s.vocab_size);
}

/** Fills every page: what a step reads must be numbers, and no two tokens alike. */
export async function fillCache(model: Model): Promise<void> {
  const pattern = await Pattern.create(model.device, model.dtype, 5);
  const pages = model.store.pages(0);
  using flat = pages.reshape([pages.size]);
  using block = await pattern.tensor(model.device, [Math.min(flat.size, pattern.values.length)]);
  for (let at = 0; at < flat.size; at += block.size) {
    using to = flat.slice(at, Math.min(flat.size, at + block.size));
    using from = block.slice(0, to.size);
    to.copyFrom(from);
  }
  await model.stream.finished();
}

/** The step of one batch at one context: sequences begin `steps` tokens short of it, every time anew. */
class StepBench {
  readonly #model: Model;
  readonly #sequences: readonly Sequence[];
  readonly #from: number;

  constructor(model: Model, sequences: readonly Sequence[], context: number, steps: number) {
    this.#model = model;
    this.#sequences = sequences;
    this.#from = context - steps;
    for (const sequence of sequences) {
      sequence.reserve(context);
      sequence.commit(this.#from);
    }
  }

  /** Runs `body` on a batch whose sequences stand at the beginning. */
  async #run<T>(recorded: boolean, body: (batch: ReturnType<Model["decode"]>) => Promise<T>): Promise<T> {
    for (const sequence of this.#sequences) sequence.truncate(this.#from);
    using batch = this.#model.decode(this.#sequences, undefined, { recorded });
    batch.startFrom(this.#sequences.map((_, i) => i + 1));
    await this.#model.stream.finished();
    return await body(batch);
  }

  /** Device time of `steps` steps that nobody reads, by stamps; a step. */
  device(recorded: boolean, steps: number): Promise<number> {
    return this.#run(recorded, async (batch) => {
      const { stream } = this.#model;
      stream.stamp(0);
      for (let i = 0; i < steps; i++) batch.enqueueStep();
      stream.stamp(1);
      await stream.finished();
      return stream.elapsedMicroseconds(0, 1) / steps;
    });
  }

  /** Wall-clock time a step of a loop that reads every token, the device one step ahead: what `generate` does. */
  wall(recorded: boolean, steps: number): Promise<number> {
    return this.#run(recorded, async (batch) => {
      const begin = performance.now();
      let coming = batch.step();
      for (let i = 1; i < steps; i++) {
        const next = batch.step();
        await coming;
        coming = next;
      }
      await coming;
      return ((performance.now() - begin) * 1e3) / steps;
    });
  }

  logits(recorded: boolean): Promise<Float32Array> {
    return this.#run(recorded, async (batch) => {
      for (let i = 0; i < CHECKED_STEPS; i++) batch.enqueueStep();
      return (await batch.logits.readFloats()).subarray(0, this.#sequences.length * this.#model.config.vocabSize);
    });
  }

  /** Device time of a step's attention calls alone. */
  async attention(): Promise<number> {
    const { device, stream, store, cache, config, dtype } = this.#model;
    const batch = this.#sequences.length;
    const table = cache.groups[0]?.table;
    using q = device.zeros(dtype, [batch, config.numQoHeads, config.headDim]);
    using out = device.empty(dtype, q.shape);
    using kvLen = device.tensor(
      "i32",
      [batch],
      Int32Array.from(this.#sequences, (sequence) => sequence.length),
    );
    using rowStart = device.tensor(
      "i32",
      [batch],
      Int32Array.from(this.#sequences, ({ row }) => table?.rowStart(row) as number),
    );
    const paged = { pages: store.pages(0), pageIndices: store.pageIndices(0), pageSize: cache.pageSize, kvLen, rowStart };
    using program = stream.program(() => {
      for (let layer = 0; layer < config.numLayers; layer++)
        attention(stream, { q, out, causal: true, pageOffsets: store.offsets(0, layer), ...paged });
    });
    const timing = await measure("attention", stream, () => stream.launch(program), { budgetMs: 4000 });
    return timing.median_us;
  }
}

async function sampled(device: Device, count: number, once: () => Promise<number>): Promise<Timing> {
  const [warmup, budgetMs] = device.backend === "cuda" ? [3, 20_000] : [1, 4000];
  for (let i = 0; i < warmup; i++) await once();
  const samples: number[] = [];
  for (const begin = performance.now(); samples.length < count; ) {
    samples.push(await once());
    if (samples.length >= 5 && performance.now() - begin > budgetMs) break;
  }
  return summarise(samples);
}

/** Recorded against eager: the same kernels on the same values. */
function difference(a: Float32Array, b: Float32Array): number {
  return a.reduce((worst, value, i) => {
    const error = Math.abs(value - (b[i] as number));
    return error <= worst ? worst : Number.isNaN(error) ? Number.POSITIVE_INFINITY : error;
  }, 0);
}

async function* runCase(model: Model, subject: Subject, batch: number, context: number, readGbPerS: number): AsyncGenerator<Row> {
  const { device, dtype, config } = model;
  const steps = device.backend === "cuda" ? 8 : 4;
  const sequences = Array.from({ length: batch }, () => model.createSequence());
  try {
    const bench = new StepBench(model, sequences, context, steps);
    const error = difference(await bench.logits(true), await bench.logits(false));
    const attentionUs = await bench.attention();
    const gigabytes = (weightBytes(subject.shape, dtype) + batch * context * tokenBytes(subject.shape, dtype)) / 1e9;
    for (const recorded of [true, false]) {
      const timing = await sampled(device, 30, () => bench.device(recorded, steps));
      const wall = await sampled(device, 10, () => bench.wall(recorded, steps));
      const rate = gigabytes / (timing.median_us / 1e6);
      yield {
        op: "decode_step",
        variant: `${subject.name} ${recorded ? "recorded" : "eager"}`,
        shape: {
          batch,
          qoLen: 1,
          kvLen: context,
          qoHeads: config.numQoHeads,
          kvHeads: config.numKvHeads,
          headDim: config.headDim,
          pageSize: PAGE_SIZE,
        },
        dtype,
        ...timing,
        ceiling: { name: "read_gb_per_s", value: readGbPerS },
        share_of_ceiling: rate / readGbPerS,
        figures: {
          gb_per_s: rate,
          tokens_per_s: (batch * 1e6) / wall.median_us,
          wall_us: wall.median_us,
          attention_us: attentionUs,
        },
        peers: {},
        max_abs_err: error,
        tolerance: 0,
        pass: error === 0,
      };
    }
  } finally {
    for (const sequence of sequences) sequence.dispose();
  }
}

export async function decodeStep(device: Device, ceilings: Record<string, number>, report: (row: Row) => void): Promise<void> {
  const dtype = device.backend === "cuda" ? "bf16" : "f32";
  for (const subject of subjects(device)) {
    const { shape } = subject;
    // The embedding besides the head, where they are two.
    const weights =
      weightBytes(shape, dtype) + (shape.tie_word_embeddings ? 0 : bytesOf(dtype, shape.vocab_size, shape.hidden_size));
    const room = device.backend === "cuda" ? 0.92 * device.memory().freeBytes - weights : CPU_CACHE_BYTES;
    const cases = batches
      .flatMap((batch) => subject.contexts.map((context) => ({ batch, context, tokens: batch * context })))
      .filter(({ tokens }) => tokens * tokenBytes(shape, dtype) <= room);
    const cacheTokens = Math.max(...cases.map(({ tokens }) => tokens));
    using model = await subject.load(device, { cacheTokens, chunkTokens: Math.max(...batches) });
    await fillCache(model);
    for (const { batch, context } of cases)
      for await (const row of runCase(model, subject, batch, context, ceilings.read_gb_per_s as number)) report(row);
    device.trim();
  }
}
