/** Parity with Hugging Face transformers in float32, from golden.safetensors. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { crossEntropy, type Device, loadModel, type Model, type Tensor } from "../../lib/index.js";
import { eachBackend, onBackend } from "../device.js";
import { cached, golden, greedy, lastLogits, maxAbs, maxDifference, modelFolder } from "./golden.js";

/** Mean loss over tokens 1.. of the sequence, and each one's. */
async function losses(model: Model, tokens: Int32Array): Promise<Float32Array> {
  const count = tokens.length - 1;
  using sequence = model.createSequence();
  using nll = model.device.empty("f32", [count]);
  using targets = model.device.tensor("i32", [count], tokens.slice(1));
  const onLogits = (logits: Tensor, _: number, from: number, rows: number): void => {
    const end = Math.min(from + rows, count);
    if (from >= end) return;
    using part = logits.slice(0, end - from);
    using wanted = targets.slice(from, end);
    using out = nll.slice(from, end);
    crossEntropy(model.stream, { logits: part, targets: wanted, nll: out });
  };
  (await model.prefill([{ sequence, tokens }], { onLogits })).dispose();
  return nll.readFloats();
}

function mean(values: Float32Array): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

onBackend("cpu", (device) => {
  describe("in f32", () => {
    let model: Model;
    beforeAll(async () => {
      model = await loadModel(device, modelFolder, { dtype: "f32" });
    });
    afterAll(() => model.dispose());

    test.each([7, 130, 1024])("logits after %i tokens are within 2e-3, and 48 greedy tokens are the same", async (n) => {
      const { ints } = await golden(`ids_${n}`);
      using sequence = model.createSequence();
      const difference = maxDifference(await lastLogits(model, sequence, ints, 4), (await golden(`logits_last4_${n}`)).floats);
      expect(difference).toBeLessThanOrEqual(2e-3);
      expect(await greedy(model, [...ints], 48)).toEqual([...(await golden(`greedy_${n}`)).ints]);
    });

    test.each([130, 4096])("the loss of every one of %i tokens is within 2e-3, the mean within 1e-5", async (n) => {
      const [ours, reference] = [await losses(model, (await golden(`ids_${n}`)).ints), (await golden(`nll_${n}`)).floats];
      expect(maxDifference(ours, reference)).toBeLessThanOrEqual(2e-3);
      expect(Math.abs(mean(ours) - mean(reference))).toBeLessThanOrEqual(1e-5);
    });
  });
});

eachBackend((device: Device) => {
  const isGpu = device.backend === "cuda";

  test("keys and values of 130 tokens match", async () => {
    using model = await loadModel(device, modelFolder);
    using sequence = model.createSequence();
    (await model.prefill([{ sequence, tokens: (await golden("ids_130")).ints }])).dispose();
    for (const layer of [0, 5, 11]) {
      for (const part of [0, 1] as const) {
        const reference = (await golden(`${part === 0 ? "k" : "v"}_130_layer${layer}`)).floats;
        const ours = await cached(model, sequence, layer, part);
        // bf16 keeps 8 bits: each of the layers before adds roundings of that size to values of this magnitude.
        const tolerance = model.dtype === "f32" ? 1e-3 : (2 + layer) * 2 ** -8 * maxAbs(reference);
        expect(maxDifference(ours, reference), `layer ${layer} part ${part}`).toBeLessThanOrEqual(tolerance);
      }
    }
  });

  // 16 384 tokens take minutes on a small CPU; the 4 096 of float32 are checked above.
  test.each(isGpu ? [4096, 16384] : [1024])("bf16: the mean loss over %i tokens is within 0.01 nats", async (n) => {
    using model = await loadModel(device, modelFolder, { dtype: "bf16" });
    const ours = mean(await losses(model, (await golden(`ids_${n}`)).ints));
    expect(Math.abs(ours - mean((await golden(`nll_${n}`)).floats))).toBeLessThanOrEqual(0.01);
  });

  test("f16: the mean loss over 1024 tokens is within 0.01 nats", async () => {
    using model = await loadModel(device, modelFolder, { dtype: "f16" });
    const ours = mean(await losses(model, (await golden("ids_1024")).ints));
    expect(Math.abs(ours - mean((await golden("nll_1024")).floats))).toBeLessThanOrEqual(0.01);
  });
});
