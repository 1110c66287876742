// Runs a Hugging Face checkpoint. Run: node examples/run_checkpoint.mjs [FOLDER] [PROMPT]
import { fileURLToPath } from "node:url";
import { loadModel, openDevice } from "kvasir";

const [folder = fileURLToPath(new URL("model", import.meta.url)), prompt = "It was a dark night, and the ship"] =
  process.argv.slice(2);
const device = openDevice();
const model = await loadModel(device, folder);
process.stdout.write(prompt);
for await (const { text } of model.generate(prompt, { maxTokens: 64, temperature: 0.7, topP: 0.9, seed: 1 }))
  process.stdout.write(text);
process.stdout.write("\n");
model.dispose();
device.dispose();
