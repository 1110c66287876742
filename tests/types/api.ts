/** What callers may and may not write, checked by the compiler; api.test.ts runs it, nothing here is executed. */
import { expectTypeOf, test } from "vitest";
import {
  type BitArray,
  type DType,
  type Device,
  type ErrorCode,
  type Event,
  KvasirError,
  type PageTable,
  type Program,
  type Stream,
  type Tensor,
  append,
  attention,
  createPageTable,
  merge,
  openDevice,
  sample,
} from "../../lib/index.js";

declare const device: Device;
declare const stream: Stream;
declare const tensor: Tensor;

test("the public types", async () => {
  expectTypeOf(openDevice).returns.toEqualTypeOf<Device>();
  expectTypeOf(openDevice("cuda:3", { threads: 4, memoryLimit: undefined })).toEqualTypeOf<Device>();
  // @ts-expect-error no such backend
  openDevice("gpu");
  // @ts-expect-error misspelt
  openDevice("cpu", { thread: 4 });

  expectTypeOf(device.backend).toEqualTypeOf<"cpu" | "cuda">();
  expectTypeOf(device.stream).toEqualTypeOf<Stream>();
  expectTypeOf(device.createEvent()).toEqualTypeOf<Event>();
  expectTypeOf(device.tensor("bf16", [2, 3], [1, 2, 3])).toEqualTypeOf<Tensor>();
  device.tensor("f16", [4], new Uint16Array(4), { stream });
  // @ts-expect-error no such dtype
  device.empty("float32", [1]);
  // @ts-expect-error arrays of 64-bit floats fit no dtype
  device.tensor("f32", [1], new Float64Array(1));

  expectTypeOf(tensor.dtype).toEqualTypeOf<DType>();
  expectTypeOf(tensor.shape).toEqualTypeOf<readonly number[]>();
  expectTypeOf(await tensor.read()).toEqualTypeOf<BitArray>();
  expectTypeOf(await tensor.readFloats()).toEqualTypeOf<Float32Array>();
  expectTypeOf(
    tensor
      .slice(0, 1)
      .select(0)
      .reshape([1])
      .view({ shape: [1] }),
  ).toEqualTypeOf<Tensor>();
  expectTypeOf(tensor).toExtend<Disposable>();
  // @ts-expect-error shapes do not change
  tensor.shape = [1];

  expectTypeOf(stream.program(() => undefined)).toEqualTypeOf<Program>();
  expectTypeOf(stream.finished()).toEqualTypeOf<Promise<void>>();

  const table = createPageTable(device, { rows: [[0]], kvLens: [3], pageSize: 16, numPages: 1 });
  expectTypeOf(table).toEqualTypeOf<PageTable>();
  const q = tensor;
  attention(stream, { q, out: q, k: q, v: q, causal: true });
  attention(stream, { q, out: q, pages: q, pageOffsets: q, ...table, pageSize: 16, lse: undefined });
  // @ts-expect-error out is required
  attention(stream, { q, k: q, v: q });
  // @ts-expect-error misspelt
  attention(stream, { q, out: q, k: q, v: q, window_left: 3 });
  // @ts-expect-error a device is no stream
  attention(device, { q, out: q, k: q, v: q });
  // @ts-expect-error settings of sample are vectors
  sample(stream, { logits: q, out: q, temperature: 0.7 });
  // @ts-expect-error pageSize is required
  append(stream, { k: q, v: q, positions: q, slotMapping: q, pages: q, pageOffsets: q });
  expectTypeOf(merge(stream, { parts: q, partsLse: q, out: q })).toEqualTypeOf<void>();

  const error = new KvasirError("ERR_KVASIR_SHAPE", "x");
  expectTypeOf(error.code).toEqualTypeOf<ErrorCode>();
  // @ts-expect-error no such code
  new KvasirError("ERR_SHAPE", "x");
});
