/** One token per row of logits, each with its own settings and draw: what a prefill's logits end in. */
import { argmax } from "../ops/argmax.js";
import { sample } from "../ops/sample.js";
import type { Device } from "../device.js";
import type { Stream } from "../stream.js";
import type { Tensor } from "../tensor.js";
import type { Sampling } from "./decode_program.js";

/** Enqueues the choice of draw 0; returns i32 `[rows]`, which the caller disposes. */
export function chooseTokens(device: Device, stream: Stream, logits: Tensor, sampling: readonly Sampling[]): Tensor {
  const rows = sampling.length;
  const out = device.empty("i32", [rows]);
  if (sampling.every(({ temperature = 0 }) => temperature === 0)) {
    argmax(stream, { logits, out });
    return out;
  }
  const vector = (dtype: "f32" | "i32", value: (s: Sampling) => number): Tensor =>
    device.tensor(dtype, [rows], sampling.map(value), { stream });
  using temperature = vector("f32", (s) => s.temperature ?? 0);
  using topK = vector("i32", (s) => s.topK ?? 0);
  using topP = vector("f32", (s) => s.topP ?? 1);
  using seed = vector("i32", (s) => s.seed ?? 0);
  using step = device.zeros("i32", [rows], { stream });
  sample(stream, { logits, temperature, topK, topP, seed, step, out });
  return out;
}
