import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openCheckpoint, openSafetensors } from "../../lib/model/safetensors.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "kvasir-safetensors-"));
});
afterAll(() => rm(folder, { recursive: true }));

function file(header: object | string, dataBytes: number, claimed?: bigint): Buffer {
  const text = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(claimed ?? BigInt(text.length));
  return Buffer.concat([length, text, Buffer.alloc(dataBytes, 7)]);
}

let count = 0;
async function saved(bytes: Buffer): Promise<string> {
  const path = join(folder, `${count++}.safetensors`);
  await writeFile(path, bytes);
  return path;
}

const a = { dtype: "F32", shape: [2, 3], data_offsets: [0, 24] };
const b = { dtype: "BF16", shape: [4], data_offsets: [24, 32] };

describe("a safetensors file", () => {
  test("says where each tensor's bytes are", async () => {
    const header = { __metadata__: { format: "pt" }, b, a };
    const path = await saved(file(header, 32));
    const checkpoint = await openSafetensors(path);
    const start = 8 + JSON.stringify(header).length;
    expect(checkpoint.names.sort()).toEqual(["a", "b"]);
    expect(checkpoint.entry("b")).toEqual({ file: path, dtype: "BF16", shape: [4], offset: start + 24, bytes: 8 });
    expect(checkpoint.dtype("a")).toBe("f32");
    expect(() => checkpoint.entry("c")).toThrow(/has no tensor c$/);
  });

  test("may hold empty tensors and scalars", async () => {
    const header = {
      none: { dtype: "F32", shape: [0, 5], data_offsets: [0, 0] },
      one: { dtype: "I32", shape: [], data_offsets: [0, 4] },
    };
    const checkpoint = await openSafetensors(await saved(file(header, 4)));
    expect(checkpoint.entry("one").bytes).toBe(4);
    expect(checkpoint.entry("none").bytes).toBe(0);
  });

  test.each<[string, Buffer, RegExp]>([
    ["an empty file", Buffer.alloc(0), /it has 0 bytes, fewer than the 8 of a header length/],
    ["a header longer than the file", file({ a }, 0, 5000n), /claims 5000 bytes but only \d+ follow: the file is truncated/],
    ["a header past the format's limit", file({ a }, 24, 1n << 60n), /claims 1152921504606846976 bytes, more than the limit/],
    ["a header that is not JSON", file("{nonsense", 0), /is not valid JSON/],
    ["a header that is a list", file("[1]", 0), /does not hold a JSON object/],
    ["a truncated tensor", file({ a, b }, 31), /tensor b ends at byte \d+ but the file has \d+: it is truncated/],
    ["bytes after the last tensor", file({ a }, 25), /1 bytes after tensor a belong to no tensor/],
    ["a gap", file({ b }, 32), /24 bytes before tensor b belong to no tensor/],
    ["overlapping tensors", file({ a, b: { ...b, data_offsets: [20, 28] } }, 28), /tensor b overlaps tensor a/],
    [
      "offsets that do not match the shape",
      file({ a: { ...a, data_offsets: [0, 20] } }, 20),
      /tensor a spans 20 bytes, but F32 \[2,3\] takes 24/,
    ],
    ["offsets that run backwards", file({ a: { ...a, data_offsets: [24, 0] } }, 24), /tensor a spans -24 bytes/],
    ["an unknown dtype", file({ a: { ...a, dtype: "F33" } }, 24), /tensor a has unknown dtype "F33"/],
    ["a negative size", file({ a: { ...a, shape: [-2, -3] } }, 24), /tensor a has shape \[-2,-3\], expected/],
    ["sizes whose product overflows", file({ a: { ...a, shape: [2 ** 40, 2 ** 40] } }, 24), /tensor a spans 24 bytes, but/],
    [
      "missing offsets",
      file({ a: { dtype: "F32", shape: [1] } }, 4),
      /tensor a has data_offsets undefined, expected two byte offsets/,
    ],
  ])("is refused for %s", async (_, bytes, message) => {
    const path = await saved(bytes);
    await expect(openSafetensors(path)).rejects.toMatchObject({
      code: "ERR_KVASIR_CORRUPT_FILE",
      message: expect.stringMatching(message),
    });
    await expect(openSafetensors(path)).rejects.toThrow(path);
  });

  test("that is not there is named", async () => {
    await expect(openSafetensors(join(folder, "absent"))).rejects.toMatchObject({ code: "ERR_KVASIR_CORRUPT_FILE" });
  });
});

describe("a sharded checkpoint", () => {
  async function sharded(weight_map: object, name: string): Promise<string> {
    const directory = await mkdtemp(join(folder, `${name}-`));
    await writeFile(join(directory, "one.safetensors"), file({ a }, 24));
    await writeFile(join(directory, "two.safetensors"), file({ b: { ...b, data_offsets: [0, 8] } }, 8));
    await writeFile(join(directory, "model.safetensors.index.json"), JSON.stringify({ metadata: {}, weight_map }));
    return directory;
  }

  test("takes each tensor from its shard", async () => {
    const checkpoint = await openCheckpoint(await sharded({ a: "one.safetensors", b: "two.safetensors" }, "whole"));
    expect(checkpoint.entry("a").file).toMatch(/one\.safetensors$/);
    expect(checkpoint.entry("b").file).toMatch(/two\.safetensors$/);
  });

  test("whose index names a tensor that the shard lacks is refused", async () => {
    const directory = await sharded({ a: "two.safetensors" }, "wrong");
    await expect(openCheckpoint(directory)).rejects.toMatchObject({
      code: "ERR_KVASIR_MISSING_TENSOR",
      message: expect.stringMatching(/two\.safetensors has no tensor a, which .*index\.json says it has/),
    });
  });

  test("may not point outside its folder", async () => {
    await expect(openCheckpoint(await sharded({ a: "../one.safetensors" }, "outside"))).rejects.toMatchObject({
      code: "ERR_KVASIR_CORRUPT_FILE",
    });
  });

  test("with an absent shard is refused", async () => {
    await expect(openCheckpoint(await sharded({ a: "three.safetensors" }, "absent"))).rejects.toThrow(
      /three\.safetensors cannot be opened/,
    );
  });
});
