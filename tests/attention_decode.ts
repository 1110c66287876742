/** Decode attention on any device: the grid and the batches against the oracle, the same bits every time, and every neighbour in a stream. */
import { afterAll, describe, expect, test } from "vitest";
import {
  type AttentionArgs,
  append,
  attention,
  attentionReference,
  createPageTable,
  type Device,
  openDevice,
  type Tensor,
} from "../lib/index.js";
import { type AttentionCase, decodeBatches, pairwiseDecodeCases } from "./attention_cases.js";
import { checkCase, runSeed, upload } from "./attention_check.js";
import { makeInputs } from "./attention_inputs.js";

const name = (c: AttentionCase): string =>
  Object.entries(c)
    .map(([key, value]) => `${key} ${value}`)
    .join(", ");

const ragged: AttentionCase = {
  sq: 1,
  sk: 3000,
  kvLens: [3000, 5, 0, 700, 64, 0, 1290],
  dtype: "bf16",
  headDim: 128,
  group: 4,
  kvHeads: 2,
  pageSize: 16,
  causal: true,
};

/** Batches whose requests are no multiples of a worker's share, so that runs cross from one to the next. */
const repeated: Readonly<Record<string, AttentionCase>> = {
  paged: ragged,
  "ragged, 4 queries": { ...ragged, pageSize: 0, sq: 4, group: 5, dtype: "f16" },
  "65 requests": { ...ragged, kvLens: Array.from({ length: 65 }, (_, i) => (i * 97) % 411), headDim: 64, pageSize: 64 },
  "group 16 with a window": { ...ragged, group: 16, kvHeads: 1, windowLeft: 1000, headDim: 256 },
};

export function attentionDecodeSuite(device: Device): void {
  const cpu = device.backend === "cpu" ? device : openDevice("cpu");
  afterAll(() => cpu.dispose());

  describe("decode agrees with the oracle", () => {
    test.each(pairwiseDecodeCases().map((c) => [name(c), c] as const))("%s", (_, c) => checkCase(device, cpu, c, runSeed));
    test.each(Object.entries(decodeBatches))("%s", (_, c) => checkCase(device, cpu, c, runSeed));
  });

  test.each(Object.entries(repeated))("the same bits over 100 repeats: %s", async (_, c) => {
    const { args, owned } = upload(device, c, makeInputs(c, runSeed));
    let first: Awaited<ReturnType<Tensor["read"]>>[] | undefined;
    for (let repeat = 0; repeat < 100; repeat += 1) {
      args.out.fill(0xff);
      args.lse!.fill(0xff);
      attention(device.stream, args);
      const bits = [await args.out.read(), await args.lse!.read()];
      first ??= bits;
      expect(
        bits.every((part, i) => Buffer.compare(bytes(part), bytes(first![i]!)) === 0),
        `repeat ${repeat}`,
      ).toBe(true);
    }
    for (const tensor of owned) tensor.dispose();
  });

  test("a recorded launch replayed as 5 requests grow at different rates equals eager calls, and the oracle", () =>
    growing(device, cpu));

  describe("reads what the stream did just before, and is read by what comes after:", () => neighbours(device));
}

const bytes = (part: ArrayBufferView): Uint8Array => new Uint8Array(part.buffer, part.byteOffset, part.byteLength);

/** Tokens that a request gains in a step; the last one never has any. */
const rates: readonly ((step: number) => number)[] = [
  () => 1,
  (step) => (step % 3 === 2 ? 1 : 0),
  () => 2,
  (step) => (step < 200 ? 0 : 4),
  () => 0,
];

async function growing(device: Device, cpu: Device): Promise<void> {
  const [steps, kvHeads, headDim, pageSize, heads] = [300, 2, 128, 16, 8];
  const most = rates.map((rate) => Array.from({ length: steps }, (_, i) => rate(i)).reduce((a, b) => a + b));
  // Pages dealt to the requests in turn: no two of a request lie side by side.
  let dealt = 0;
  const rows: number[][] = rates.map(() => []);
  while (rows.some((row, b) => row.length * pageSize < most[b]!))
    for (const [b, row] of rows.entries()) if (row.length * pageSize < most[b]!) row.push(dealt++);
  using table = createPageTable(device, { rows, kvLens: rates.map(() => 0), pageSize, numPages: dealt });
  using pages = device.empty("bf16", [dealt, kvHeads * 2 * pageSize * headDim]);
  pages.fill(0xff); // NaN in every slot that is not written yet
  const offsets = [0, 1, 2, 3].map((i) => i * pageSize * headDim * 2);
  using pageOffsets = device.tensor("i32", [kvHeads, 2], offsets);
  const random = (count: number): Float32Array => Float32Array.from({ length: count }, () => Math.random() * 2 - 1);
  using q = device.tensor("bf16", [rates.length, heads, headDim], random(rates.length * heads * headDim));
  using recorded = device.empty("bf16", q.shape);
  using eager = device.empty("bf16", q.shape);
  const common = { q, pages, pageOffsets, pageSize, causal: true };
  using program = device.stream.program(() => attention(device.stream, { ...common, ...table, out: recorded }));
  const lengths = rates.map(() => 0);
  for (let step = 0; step < steps; step += 1) {
    const positions: number[] = [];
    const slots: number[] = [];
    rates.forEach((rate, b) => {
      for (let i = rate(step); i > 0; i -= 1) {
        const position = lengths[b]!++;
        positions.push(position);
        slots.push(rows[b]![Math.floor(position / pageSize)]! * pageSize + (position % pageSize));
      }
    });
    const [k, v] = [0, 1].map(() =>
      device.tensor("bf16", [slots.length, kvHeads, headDim], random(slots.length * kvHeads * headDim)),
    ) as [Tensor, Tensor];
    const [at, slotMapping] = [positions, slots].map((values) => device.tensor("i32", [values.length], values)) as [
      Tensor,
      Tensor,
    ];
    append(device.stream, { k, v, positions: at, slotMapping, pages, pageOffsets, pageSize });
    for (const tensor of [k, v, at, slotMapping]) tensor.dispose();
    table.kvLen.write(Int32Array.from(lengths));
    device.stream.launch(program);
    attention(device.stream, { ...common, ...table, out: eager });
    if (step % 10 === 9) expect(await recorded.read()).toEqual(await eager.read());
  }
  expect(lengths).toEqual(most);
  using hostPages = cpu.tensor("bf16", pages.shape, (await pages.read()) as Uint16Array);
  using hostQ = cpu.tensor("bf16", q.shape, (await q.read()) as Uint16Array);
  using hostOffsets = cpu.tensor("i32", [kvHeads, 2], offsets);
  using hostTable = createPageTable(cpu, { rows, kvLens: lengths, pageSize, numPages: dealt });
  using exact = cpu.empty("f32", q.shape);
  const host = { q: hostQ, pages: hostPages, pageOffsets: hostOffsets, pageSize, causal: true };
  attentionReference(cpu.stream, { ...host, ...hostTable, out: exact });
  const [actual, expected] = [await recorded.readFloats(), await exact.readFloats()];
  const error = expected.map((value, i) => Math.abs(value - actual[i]!));
  expect(error.every((x) => x < 1e-2)).toBe(true); // NaN is no number below it
}

/**
 * The work around an attention call may start before the call has ended or end after it has begun, but nobody may notice. Everything is
 * enqueued at once, eagerly and as one program, over inputs that change from call to call; expected is each call alone.
 */
function neighbours(device: Device): void {
  const { stream } = device;
  const calls = 24;
  const width = 7 * 8 * 128;

  interface Scene {
    /** Arguments whose q and kvLen the scenes overwrite. */
    args: AttentionArgs & { kvLen: Tensor };
    /** Queries and lengths to overwrite them with. */
    queries: Tensor[];
    lens: Tensor[];
    /** Results `[calls, width]`. */
    results: Tensor;
    into(call: number): Tensor;
    /** The bits of a call with these queries and lengths, with nothing around it. */
    alone(query: number, lens: number): Promise<Uint16Array>;
  }

  async function inScene(body: (scene: Scene) => Promise<void>): Promise<void> {
    const { args, owned } = upload(device, ragged, makeInputs(ragged, runSeed));
    const other = upload(device, ragged, makeInputs(ragged, runSeed + 1));
    const own = (tensor: Tensor): Tensor => owned[owned.push(tensor) - 1]!;
    const { kvLen } = args as { kvLen: Tensor };
    const first = own(device.empty("bf16", args.q.shape));
    first.copyFrom(args.q);
    const given = own(device.tensor("i32", [7], [...ragged.kvLens!]));
    const shorter = own(device.tensor("i32", [7], [0, 5, 0, 699, 1, 0, 640]));
    const results = own(device.empty("bf16", [calls, width]));
    results.fill(0xff);
    const scene: Scene = {
      args: { ...args, lse: undefined, kvLen },
      queries: [first, other.args.q],
      lens: [given, shorter],
      results,
      into: (call) => own(own(results.select(call)).reshape(args.q.shape)),
      async alone(query, lens) {
        args.q.copyFrom(this.queries[query]!);
        kvLen.copyFrom(this.lens[lens]!);
        await stream.finished();
        args.out.fill(0xff);
        await stream.finished();
        attention(stream, this.args);
        await stream.finished();
        return (await args.out.read()) as Uint16Array;
      },
    };
    await body(scene);
    for (const tensor of [...owned, ...other.owned]) tensor.dispose();
  }

  /** Runs `enqueue` eagerly and, unless it uses other streams, as a program launched three times; checks every call's result. */
  async function check(scene: Scene, expected: Uint16Array[], enqueue: () => void, recordable = true): Promise<void> {
    const compare = async (how: string): Promise<void> => {
      const bits = (await scene.results.read()) as Uint16Array;
      for (let call = 0; call < calls; call += 1) {
        const same = Buffer.compare(bytes(bits.subarray(call * width, (call + 1) * width)), bytes(expected[call]!)) === 0;
        expect(same, `${how}: call ${call} of ${calls}; KVASIR_TEST_SEED=${runSeed}`).toBe(true);
      }
      scene.results.fill(0xff);
    };
    enqueue();
    await compare("eager");
    if (!recordable) return;
    using program = stream.program(enqueue);
    for (let launch = 0; launch < 3; launch += 1) stream.launch(program);
    await compare("recorded");
  }

  test("copies of its queries, lengths and results", () =>
    inScene(async (scene) => {
      const { args, queries, lens } = scene;
      const pick = (call: number) => [call % 2, Math.floor(call / 3) % 2] as const;
      const alone = [await scene.alone(0, 0), await scene.alone(1, 0), await scene.alone(0, 1), await scene.alone(1, 1)];
      const targets = Array.from({ length: calls }, (_, call) => scene.into(call));
      const expected = targets.map((_, call) => alone[pick(call)[0] + 2 * pick(call)[1]]!);
      await check(scene, expected, () => {
        targets.forEach((target, call) => {
          args.q.copyFrom(queries[pick(call)[0]]!);
          args.kvLen.copyFrom(lens[pick(call)[1]]!);
          attention(stream, args);
          target.copyFrom(args.out);
        });
      });
    }));

  test("fills of its lengths, queries and results", () =>
    inScene(async (scene) => {
      const { args, queries, lens } = scene;
      const full = await scene.alone(0, 0);
      const targets = Array.from({ length: calls }, (_, call) => scene.into(call));
      // Every other call has lengths of 0: nothing is seen, the result is 0.
      const expected = targets.map((_, call) => (call % 2 === 0 ? full : new Uint16Array(width)));
      await check(scene, expected, () => {
        targets.forEach((out, call) => {
          args.q.copyFrom(queries[0]!);
          if (call % 2 === 0) args.kvLen.copyFrom(lens[0]!);
          else args.kvLen.fill(0);
          out.fill(0xff);
          attention(stream, { ...args, out });
          args.q.fill(0xff);
        });
      });
    }));

  test("an event of another stream that writes its queries", () =>
    inScene(async (scene) => {
      const { args, queries } = scene;
      const alone = [await scene.alone(0, 0), await scene.alone(1, 0)];
      using writer = device.createStream();
      using written = device.createEvent();
      using read = device.createEvent();
      const targets = Array.from({ length: calls }, (_, call) => scene.into(call));
      const expected = targets.map((_, call) => alone[call % 2]!);
      const enqueue = () => {
        targets.forEach((out, call) => {
          args.q.copyFrom(queries[call % 2]!, { stream: writer });
          writer.record(written);
          stream.wait(written);
          attention(stream, { ...args, out });
          stream.record(read);
          writer.wait(read);
        });
      };
      await check(scene, expected, enqueue, false);
    }));

  test("other attention calls: one reads the queries that the last one wrote, and all share scratch", () =>
    inScene(async (scene) => {
      const { args, queries, lens } = scene;
      const targets = Array.from({ length: calls }, (_, call) => scene.into(call));
      const lensOf = lens.map((kvLen) => ({ kvLen }));
      const chained = (call: number): AttentionArgs => ({
        ...args,
        ...lensOf[call % 2],
        q: call % 6 === 0 ? queries[0]! : targets[call - 1]!,
        out: targets[call]!,
      });
      const expected: Uint16Array[] = [];
      for (let call = 0; call < calls; call += 1) {
        attention(stream, chained(call));
        await stream.finished();
        expected.push((await targets[call]!.read()) as Uint16Array);
      }
      scene.results.fill(0xff);
      await check(scene, expected, () => {
        for (let call = 0; call < calls; call += 1) attention(stream, chained(call));
      });
    }));
}
