// Attention over ragged keys and values: two requests of different lengths in one call. Run: node examples/direct_kernels.mjs
import { attention, openDevice } from "kvasir";

const device = openDevice();
const [numQoHeads, numKvHeads, headDim] = [8, 2, 64];
const random = (...shape) => {
  const size = shape.reduce((product, n) => product * n, 1);
  return device.tensor(
    "bf16",
    shape,
    Float32Array.from({ length: size }, () => Math.random() - 0.5),
  );
};

// Request 0 decodes one token over 1000 keys; request 1 reads three tokens of its four.
const q = random(4, numQoHeads, headDim);
const k = random(1004, numKvHeads, headDim);
const v = random(1004, numKvHeads, headDim);
const qoIndptr = device.tensor("i32", [3], [0, 1, 4]);
const kvIndptr = device.tensor("i32", [3], [0, 1000, 1004]);
const out = device.empty("bf16", [4, numQoHeads, headDim]);
const lse = device.empty("f32", [4, numQoHeads]);

attention(device.stream, { q, k, v, out, lse, qoIndptr, kvIndptr, causal: true });

console.log("out[0, 0, :4]", (await out.readFloats()).slice(0, 4));
const logSumExp = await lse.readFloats();
console.log(
  "lse[:, 0]",
  logSumExp.filter((_, i) => i % numQoHeads === 0),
);
for (const tensor of [q, k, v, qoIndptr, kvIndptr, out, lse]) tensor.dispose();
device.dispose();
