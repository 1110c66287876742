/** `kvasir generate`: continues a text; the text streams to stdout as it is made. */
import { parseArgs } from "node:util";
import { loadModel, openDevice } from "../index.js";
import {
  bundledModel,
  deviceKind,
  dtypeOption,
  integerOption,
  modelFlags,
  modelHelp,
  numberOption,
  Progress,
  secondsSince,
} from "./common.js";

const help = `usage: kvasir generate [options] PROMPT      (PROMPT "-" is read from stdin)

  --max-tokens N   default 256
  --temperature T  0, the default, takes the most probable token
  --top-k K        --top-p P        --seed S
${modelHelp}`;

export async function generateCommand(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      ...modelFlags,
      "max-tokens": { type: "string" },
      temperature: { type: "string" },
      "top-k": { type: "string" },
      "top-p": { type: "string" },
      seed: { type: "string" },
    },
  });
  if (values.help || positionals.length === 0) {
    (values.help ? process.stdout : process.stderr).write(help);
    return values.help ? 0 : 2;
  }
  const prompt = positionals[0] === "-" ? await readStdin() : positionals.join(" ");
  const options = {
    maxTokens: integerOption("max-tokens", values["max-tokens"], 256, 1),
    temperature: numberOption("temperature", values.temperature, 0, 0),
    topK: integerOption("top-k", values["top-k"], 0, 0),
    topP: numberOption("top-p", values["top-p"], 1, 0, 1),
    seed: integerOption("seed", values.seed, 0, 0, 0x7fffffff),
  };
  using device = openDevice(deviceKind(values.device));
  const loading = new Progress("loading", 1);
  using model = await loadModel(device, values.model ?? bundledModel(), {
    ...dtypeOption(values.dtype),
    onProgress: (done, total) => loading.update(done / total),
  });
  loading.end();
  const abort = new AbortController();
  const onInterrupt = (): void => abort.abort();
  process.once("SIGINT", onInterrupt);
  const tokens = model.encodePrompt(prompt, true);
  const reading = new Progress("reading", tokens.length);
  let text = "";
  let made = 0;
  let started = performance.now();
  try {
    for await (const token of model.generate(tokens, {
      ...options,
      signal: abort.signal,
      onPrefill: (done) => reading.update(done),
    })) {
      if (made === 0) {
        reading.end();
        started = performance.now();
      }
      made++;
      text += token.text;
      if (!values.json) process.stdout.write(token.text);
    }
  } catch (error) {
    if (!abort.signal.aborted) throw error;
  } finally {
    process.off("SIGINT", onInterrupt);
  }
  const tokensPerSecond = made > 1 ? (made - 1) / secondsSince(started) : 0;
  if (values.json)
    process.stdout.write(
      `${JSON.stringify({ backend: device.backend, promptTokens: tokens.length, tokens: made, tokensPerSecond, text })}\n`,
    );
  else process.stdout.write("\n");
  return abort.signal.aborted ? 130 : 0;
}

async function readStdin(): Promise<string> {
  process.stdin.setEncoding("utf8");
  let text = "";
  for await (const chunk of process.stdin) text += chunk;
  return text;
}
