/** Checkpoints as they come: sharded, damaged, incomplete, or not ours to run. */
import { copyFile, mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Device, loadModel } from "../../lib/index.js";
import { onBackend } from "../device.js";
import { expectRejection } from "../expect_error.js";
import { greedy, modelFolder } from "./golden.js";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "kvasir-checkpoint-"));
  for (const name of ["config.json", "tokenizer.json", "model.safetensors"])
    await copyFile(join(modelFolder, name), join(folder, name));
});
afterEach(() => rm(folder, { recursive: true }));

type Header = Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;

async function readShard(): Promise<{ header: Header; data: Buffer }> {
  const bytes = await readFile(join(modelFolder, "model.safetensors"));
  const length = Number(bytes.readBigUInt64LE());
  const { __metadata__: _, ...header } = JSON.parse(bytes.toString("utf8", 8, 8 + length));
  return { header, data: bytes.subarray(8 + length) };
}

async function writeShard(name: string, header: Header, data: Buffer): Promise<void> {
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  await writeFile(join(folder, name), Buffer.concat([length, text, data]));
}

/** A shard with some of the tensors. */
async function writePart(name: string, wanted: (tensor: string) => boolean): Promise<string[]> {
  const { header, data } = await readShard();
  const part: Header = {};
  const pieces: Buffer[] = [];
  let end = 0;
  for (const [
    tensor,
    {
      dtype,
      shape,
      data_offsets: [from, to],
    },
  ] of Object.entries(header)) {
    if (!wanted(tensor)) continue;
    part[tensor] = { dtype, shape, data_offsets: [end, end + to - from] };
    pieces.push(data.subarray(from, to));
    end += to - from;
  }
  await writeShard(name, part, Buffer.concat(pieces));
  return Object.keys(part);
}

async function editConfig(change: object): Promise<void> {
  const config = JSON.parse(await readFile(join(folder, "config.json"), "utf8"));
  await writeFile(join(folder, "config.json"), JSON.stringify({ ...config, ...change }));
}

onBackend("cpu", (device: Device) => {
  test("a sharded checkpoint gives what the single file gives", async () => {
    const isEarly = (tensor: string): boolean => /layers\.[0-5]\./.test(tensor);
    const weight_map: Record<string, string> = {};
    for (const [name, wanted] of [
      ["a.safetensors", isEarly],
      ["b.safetensors", (tensor: string) => !isEarly(tensor)],
    ] as const) {
      for (const tensor of await writePart(name, wanted)) weight_map[tensor] = name;
    }
    await writeFile(join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map }));
    await rm(join(folder, "model.safetensors"));
    using sharded = await loadModel(device, folder);
    using single = await loadModel(device, modelFolder);
    expect(await greedy(sharded, [0, 5, 6, 7], 12)).toEqual(await greedy(single, [0, 5, 6, 7], 12));
  });

  describe("is refused, and memory is given back", () => {
    /** Bytes of live tensors, once the stream has passed the disposed ones. */
    const allocated = async (): Promise<number> => {
      await device.stream.finished();
      return device.memory().allocatedBytes;
    };
    const refused = async (code: Parameters<typeof expectRejection>[0], parts: (string | RegExp)[]): Promise<void> => {
      const before = await allocated();
      await expectRejection(code, parts, loadModel(device, folder));
      expect(await allocated()).toBe(before);
    };

    test("truncated", async () => {
      const file = await open(join(folder, "model.safetensors"), "r+");
      await file.truncate(10_000_000);
      await file.close();
      await refused("ERR_KVASIR_CORRUPT_FILE", [/model\.safetensors/, /it is truncated/]);
    });

    test("with garbage for a header", async () => {
      await writeFile(join(folder, "model.safetensors"), Buffer.alloc(4096, 0x41));
      await refused("ERR_KVASIR_CORRUPT_FILE", [/its header claims/]);
    });

    test("without a tensor", async () => {
      await writePart("model.safetensors", (tensor) => tensor !== "model.layers.7.mlp.up_proj.weight");
      await refused("ERR_KVASIR_MISSING_TENSOR", [/has no tensor model\.layers\.7\.mlp\.up_proj\.weight/]);
    });

    test("with a tensor of another shape than the config says", async () => {
      await editConfig({ intermediate_size: 700 });
      await refused("ERR_KVASIR_SHAPE", [
        /model\.layers\.0\.mlp\.gate_proj\.weight is \[704, 256\]/,
        /= \[700, 256\] from config\.json/,
      ]);
    });

    test("without config.json", async () => {
      await rm(join(folder, "config.json"));
      await refused("ERR_KVASIR_CORRUPT_FILE", [/config\.json cannot be read/]);
    });

    test.each<[string, object, RegExp]>([
      [
        "another architecture",
        { architectures: ["MambaForCausalLM"] },
        /architecture MambaForCausalLM is not supported; supported: LlamaForCausalLM/,
      ],
      ["no architecture", { architectures: [] }, /architecture \(none\) is not supported/],
      ["another activation", { hidden_act: "gelu" }, /hidden_act "gelu" is not supported; supported: "silu"/],
      ["another rope type", { rope_scaling: { rope_type: "longrope", factor: 2 } }, /rope type "longrope" is not supported/],
      ["quantized weights", { quantization_config: { quant_method: "gptq" } }, /quantized weights are not supported/],
      [
        "heads that do not divide",
        { num_key_value_heads: 3 },
        /num_attention_heads is 4, expected a multiple of num_key_value_heads, 3/,
      ],
      ["a layer count that is no number", { num_hidden_layers: "12" }, /num_hidden_layers is "12", expected a positive integer/],
    ])("for %s", async (_, change, message) => {
      await editConfig(change);
      await refused("ERR_KVASIR_UNSUPPORTED_MODEL", [message]);
    });

    test("for a misspelt option", async () => {
      // @ts-expect-error the option does not exist
      const loading = loadModel(device, folder, { dtpye: "f32" });
      await expectRejection("ERR_KVASIR_UNKNOWN_OPTION", [/dtpye; did you mean dtype\?/], loading);
    });
  });
});
