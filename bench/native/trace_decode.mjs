/** Decodes as many steps as its argument says with the bundled model on CUDA, reading nothing until the end; trace_decode.sh counts it. */
import { loadModel, openDevice } from "../../dist/lib/index.js";

const steps = Number(process.argv[2]);
const device = openDevice("cuda");
const model = await loadModel(device, "examples/model", { cacheTokens: 4096 });
const sequence = model.createSequence();
const logits = await model.prefill([{ sequence, tokens: Array.from({ length: 1000 }, (_, i) => 1 + ((i * 31) % 4000)) }]);
const batch = model.decode([sequence]);
await batch.start(logits);
for (let i = 0; i < steps; i++) batch.enqueueStep();
const [token] = await batch.step();
console.log(`${steps + 1} steps to a context of ${sequence.length} tokens; the last chose token ${token}`);
batch.dispose();
logits.dispose();
model.dispose();
device.dispose();
