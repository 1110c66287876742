/** Every kind of bad input gets one clear coded sentence, and the device works on afterwards. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type AttentionArgs,
  type Device,
  type Tensor,
  attention,
  createPageTable,
  linear,
  openDevice,
  rmsNorm,
  workspaceBytes,
} from "../../lib/index.js";
import { unusable } from "../device.js";
import { expectError, expectRejection } from "../expect_error.js";

let device: Device;
let good: { q: Tensor; k: Tensor; v: Tensor; out: Tensor };

beforeAll(() => {
  device = openDevice("cpu", { threads: 1 });
  good = {
    q: device.zeros("f32", [2, 4, 64]),
    k: device.zeros("f32", [6, 2, 64]),
    v: device.zeros("f32", [6, 2, 64]),
    out: device.empty("f32", [2, 4, 64]),
  };
});
afterAll(() => device.dispose());

const run = (args: Partial<AttentionArgs>): void => attention(device.stream, { ...good, ...args });

describe("shapes name the dimension", () => {
  test("v differs from k", () => {
    using v = device.zeros("f32", [6, 2, 32]);
    expectError("ERR_KVASIR_SHAPE", ["v[head_dim] is 32, expected 64, from q"], () => run({ v }));
  });
  test("another rank", () => {
    using k = device.zeros("f32", [6, 128]);
    expectError("ERR_KVASIR_SHAPE", ["k has shape [6, 128]", "3 dimensions [total_kv, num_kv_heads, head_dim]"], () =>
      run({ k }),
    );
  });
  test("bad shapes of new tensors", () => {
    expectError("ERR_KVASIR_SHAPE", ["shape[1] is -1"], () => device.empty("f32", [2, -1]));
    expectError("ERR_KVASIR_SHAPE", ["shape[0] is 1.5"], () => device.empty("f32", [1.5]));
    expectError("ERR_KVASIR_SHAPE", ["5 dimensions", "1 to 4"], () => device.empty("f32", [1, 1, 1, 1, 1]));
    expectError("ERR_KVASIR_SHAPE", ["0 dimensions", "1 to 4"], () => device.empty("f32", []));
    expectError("ERR_KVASIR_SHAPE", ["shape is 4"], () => device.empty("f32", 4 as unknown as number[]));
    expectError("ERR_KVASIR_SHAPE", ["2^50"], () => device.empty("u8", [2 ** 30, 2 ** 30]));
  });
});

describe("dtypes", () => {
  test("of an argument", () => {
    using k = device.zeros("f16", [6, 2, 64]);
    expectError("ERR_KVASIR_DTYPE", ["k is f16, expected f32, from q"], () => run({ k }));
    using q = device.zeros("i32", [2, 4, 64]);
    expectError("ERR_KVASIR_DTYPE", ["q is i32, expected f32, f16 or bf16"], () => run({ q }));
  });
  test("of a new tensor", () => {
    expectError("ERR_KVASIR_DTYPE", ['dtype is "float32"', "expected one of f32, f16"], () =>
      device.empty("float32" as "f32", [1]),
    );
  });
});

describe("options", () => {
  test("misspelt", () => {
    expectError("ERR_KVASIR_UNKNOWN_OPTION", ["attention", "windowleft", "did you mean windowLeft?"], () =>
      run({ windowleft: 3 } as Partial<AttentionArgs>),
    );
    expectError("ERR_KVASIR_UNKNOWN_OPTION", ["openDevice", "thread", "did you mean threads?"], () =>
      openDevice("cpu", { thread: 1 } as object),
    );
    expectError("ERR_KVASIR_UNKNOWN_OPTION", ["tensor", "strem"], () =>
      device.tensor("f32", [1], [1], { strem: device.stream } as object),
    );
  });
  test("of another kind", () => {
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["q is a Float32Array", "Tensor"], () =>
      run({ q: new Float32Array(4) as unknown as Tensor }),
    );
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["q is null"], () => run({ q: null as unknown as Tensor }));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", [/\bq\b/, /tensor/i], () => run({ q: 3 as unknown as Tensor }));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["smScale"], () => run({ smScale: good.q as unknown as number }));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["causal"], () => run({ causal: 7 as unknown as boolean }));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["numSplits", "1.5"], () => run({ numSplits: 1.5 }));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["windowLeft"], () => run({ windowLeft: 2 ** 40 }));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", [/\bout\b/], () => run({ out: undefined as unknown as Tensor }));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["args is null", "object of tensors"], () =>
      attention(device.stream, null as unknown as AttentionArgs),
    );
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["stream", "device.stream"], () => attention(device as never, good));
  });
  test("scales that are no finite positive number", () => {
    for (const smScale of [Number.NaN, -1, Number.POSITIVE_INFINITY]) {
      expectError("ERR_KVASIR_INVALID_ARGUMENT", [/smScale is (nan|-?nan|-1|inf)/i, "finite number above 0"], () =>
        run({ smScale }),
      );
    }
    for (const logitsSoftCap of [Number.NaN, -30, Number.POSITIVE_INFINITY]) {
      expectError("ERR_KVASIR_INVALID_ARGUMENT", ["logitsSoftCap is ", "finite number above 0"], () => run({ logitsSoftCap }));
    }
  });
  test("of openDevice", () => {
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["threads is 0"], () => openDevice("cpu", { threads: 0 }));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["memoryLimit is NaN"], () => openDevice("cpu", { memoryLimit: Number.NaN }));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ['kind is "cudda"', "did you mean cuda?"], () => openDevice("cudda" as "cuda"));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ['kind is "cpu:1"'], () => openDevice("cpu:1" as "cpu"));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["threads is 2", "for cpu"], () => openDevice("cuda", { threads: 2 }));
  });
});

describe("data", () => {
  test("of another size", () => {
    expectError("ERR_KVASIR_SHAPE", ["data has 3 elements, expected 4"], () => device.tensor("f32", [2, 2], [1, 2, 3]));
    expectError("ERR_KVASIR_SHAPE", ["data has 5 elements, expected 4"], () => device.tensor("bf16", [4], new Uint16Array(5)));
  });
  test("detached, shared or resizable", async () => {
    const gone = new Float32Array(4);
    structuredClone(gone.buffer, { transfer: [gone.buffer] });
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["detached"], () => device.tensor("f32", [4], gone));
    const shared = new Float32Array(new SharedArrayBuffer(16)) as unknown as Float32Array<ArrayBuffer>;
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["SharedArrayBuffer", "slice()"], () => device.tensor("f32", [4], shared));
    using tensor = device.zeros("f32", [4]);
    await expectRejection("ERR_KVASIR_INVALID_ARGUMENT", ["SharedArrayBuffer"], tensor.write(shared));
    const Resizable = ArrayBuffer as unknown as new (bytes: number, options: { maxByteLength: number }) => ArrayBuffer;
    const grows = new Float32Array(new Resizable(16, { maxByteLength: 64 }));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["resizable"], () => device.tensor("f32", [4], grows));
  });
  test("in an array that cannot be meant", () => {
    expectError("ERR_KVASIR_DTYPE", ["Float64Array", "Float32Array"], () =>
      device.tensor("f32", [2], new Float64Array(2) as never),
    );
    expectError("ERR_KVASIR_DTYPE", ["Float32Array", "i32", "Int32Array"], () => device.tensor("i32", [2], new Float32Array(2)));
    expectError("ERR_KVASIR_DTYPE", ["Uint8Array", "bf16", "Uint16Array"], () => device.tensor("bf16", [2], new Uint8Array(2)));
    expectError("ERR_KVASIR_DTYPE", ["BigInt64Array"], () => device.tensor("f32", [2], new BigInt64Array(2) as never));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["data is a DataView"], () =>
      device.tensor("f32", [1], new DataView(new ArrayBuffer(4)) as never),
    );
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ['data is "abc"'], () => device.tensor("f32", [3], "abc" as never));
  });
  test("numbers out of a dtype's range", () => {
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["data[1] is 256", "0 to 255 for u8"], () => device.tensor("u8", [2], [1, 256]));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["data[0] is 0.5", "for i32"], () => device.tensor("i32", [1], [0.5]));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ['data[1] is "2"', "a number"], () =>
      device.tensor("f32", [2], [1, "2"] as number[]),
    );
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["data[0] is an Array"], () =>
      device.tensor("f32", [1], [[1]] as unknown as number[]),
    );
  });
});

describe("page tables", () => {
  const table = { rows: [[0, 3], [7]], kvLens: [20, 5], pageSize: 16, numPages: 8 };
  test("a page index out of range names its row, entry and range", () => {
    expectError("ERR_KVASIR_PAGE_OUT_OF_RANGE", ["rows[1][0] is page 8, expected 0 to 7"], () =>
      createPageTable(device, { ...table, rows: [[0, 3], [8]] }),
    );
    expectError("ERR_KVASIR_PAGE_OUT_OF_RANGE", ["rows[0][1] is page -1"], () =>
      createPageTable(device, { ...table, rows: [[0, -1], [7]] }),
    );
    expectError("ERR_KVASIR_PAGE_OUT_OF_RANGE", ["rows[0][0] is page 1.5"], () =>
      createPageTable(device, { ...table, rows: [[1.5, 1], [7]] }),
    );
  });
  test("lists that do not fit one another", () => {
    expectError("ERR_KVASIR_SHAPE", ["rows[0] has 1 pages, expected at least 2", "kvLens[0] = 20"], () =>
      createPageTable(device, { ...table, rows: [[0], [7]] }),
    );
    expectError("ERR_KVASIR_SHAPE", ["kvLens has 1 rows, expected 2"], () => createPageTable(device, { ...table, kvLens: [20] }));
    expectError("ERR_KVASIR_SHAPE", ["pageStart[1] has 0 entries, expected 1"], () =>
      createPageTable(device, { ...table, pageStart: [[0, 16], []] }),
    );
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["pageLen[0][1] is 17", "0 to 16"], () =>
      createPageTable(device, { ...table, pageLen: [[16, 17], [5]] }),
    );
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["kvLens[1] is -5"], () =>
      createPageTable(device, { ...table, kvLens: [20, -5] }),
    );
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["pageSize is 20"], () => createPageTable(device, { ...table, pageSize: 20 }));
    expectError("ERR_KVASIR_UNKNOWN_OPTION", ["numpages", "numPages"], () =>
      createPageTable(device, { ...table, numpages: 8 } as typeof table),
    );
  });
  test("a good one arrives as it was", async () => {
    using made = createPageTable(device, { ...table, pageStart: [[0, 16], [0]], pageLen: [[16, 4], [5]] });
    expect(Array.from(await made.rowStart.read())).toEqual([0, 2]);
    expect(Array.from(await made.kvLen.read())).toEqual([20, 5]);
    expect(Array.from(await made.pageIndices.read())).toEqual([0, 3, 7]);
    expect(Array.from(await (made.pageStart as Tensor).read())).toEqual([0, 16, 0]);
    expect(Array.from(await (made.pageLen as Tensor).read())).toEqual([16, 4, 5]);
  });
});

describe("views", () => {
  test("stay within their tensor", () => {
    using x = device.zeros("f32", [4, 6]);
    expectError("ERR_KVASIR_SHAPE", ["slice is [2, 5)", "[0, 4)"], () => x.slice(2, 5));
    expectError("ERR_KVASIR_SHAPE", ["slice is [3, 2)"], () => x.slice(3, 2));
    expectError("ERR_KVASIR_SHAPE", ["index is 4", "0 to 3"], () => x.select(4));
    expectError("ERR_KVASIR_SHAPE", ["[5, 5]", "25 elements", "expected 24"], () => x.reshape([5, 5]));
    expectError("ERR_KVASIR_SHAPE", ["view ends at element 25", "24"], () => x.view({ offset: 1, shape: [4, 6] }));
    expectError("ERR_KVASIR_SHAPE", ["strides[0] is 0"], () => x.view({ shape: [4, 6], strides: [0, 1] }));
    expectError("ERR_KVASIR_SHAPE", ["strides[1] is 2, expected 1"], () => x.view({ shape: [4, 2], strides: [6, 2] }));
    expectError("ERR_KVASIR_UNKNOWN_OPTION", ["stride", "strides"], () => x.view({ shape: [4, 6], stride: [6, 1] } as never));
    using column = x.view({ shape: [4, 2], strides: [6, 1] });
    expectError("ERR_KVASIR_SHAPE", ["reshape", "contiguous"], () => column.reshape([8]));
    expectError("ERR_KVASIR_SHAPE", ["fill", "contiguous"], () => column.fill(0));
  });
  test("copies fit", () => {
    using a = device.zeros("f32", [4]);
    using b = device.zeros("f16", [4]);
    using c = device.zeros("f32", [5]);
    expectError("ERR_KVASIR_DTYPE", ["source is f16, expected f32", "cast"], () => a.copyFrom(b));
    expectError("ERR_KVASIR_SHAPE", ["source has shape [5], expected [4]"], () => a.copyFrom(c));
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["byte is 256", "0 to 255"], () => a.fill(256));
  });
});

describe("backends", () => {
  test("another device's tensor", () => {
    using other = openDevice("cpu", { threads: 1 });
    using q = other.zeros("f32", [2, 4, 64]);
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["attention: q lives on", "cpu:0"], () => run({ q }));
  });
  test.skipIf(unusable("cuda") === undefined)("a forced backend that is absent says why, and none takes its place", () => {
    expectError("ERR_KVASIR_BACKEND_UNAVAILABLE", ["cuda is not available: ", /.{20}/], () => openDevice("cuda"));
    process.env.KVASIR_BACKEND = "cuda";
    try {
      expectError("ERR_KVASIR_BACKEND_UNAVAILABLE", ["cuda is not available"], () => openDevice());
      process.env.KVASIR_BACKEND = "gpu";
      expectError("ERR_KVASIR_INVALID_ARGUMENT", ['KVASIR_BACKEND is "gpu"', '"cuda"'], () => openDevice());
    } finally {
      delete process.env.KVASIR_BACKEND;
    }
    using best = openDevice();
    const { backend, chosenBy, others } = best.describe();
    expect([backend, chosenBy, others.cuda?.devices]).toEqual(["cpu", "best usable", 0]);
    expect(others.cuda?.reasons.join()).not.toBe("");
  });
  test("KVASIR_BACKEND decides where the caller does not", () => {
    process.env.KVASIR_BACKEND = "cpu";
    try {
      using forced = openDevice();
      expect(forced.describe()).toMatchObject({ backend: "cpu", chosenBy: "KVASIR_BACKEND" });
    } finally {
      delete process.env.KVASIR_BACKEND;
    }
  });
});

test("workspace queries check like the op", () => {
  using v = device.zeros("f32", [6, 2, 32]);
  expectError("ERR_KVASIR_SHAPE", ["v[head_dim] is 32"], () => workspaceBytes("attention", device.stream, { ...good, v }));
  expect(workspaceBytes("attention", device.stream, good)).toBeGreaterThanOrEqual(0);
});

test("after all that, the device still computes", async () => {
  using x = device.tensor("f32", [1, 2], [3, 4]);
  using weight = device.tensor("f32", [2, 2], [1, 0, 1, 1]);
  using out = device.empty("f32", [1, 2]);
  linear(device.stream, { x, weight, out });
  expect(Array.from(await out.readFloats())).toEqual([3, 7]);
  expectError("ERR_KVASIR_INVALID_ARGUMENT", ["eps is 0"], () =>
    rmsNorm(device.stream, { x, weight: weight.select(0), out, eps: 0 }),
  );
});
