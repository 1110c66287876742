/** `kvasir eval`: accuracy of a cache mode against the exact identity cache: loss and divergence on running text, and recall. */
import { readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { compareLogits, crossEntropy, type Device, loadModel, type Model, openDevice, type Tensor } from "../index.js";
import { bundledModel, deviceKind, dtypeOption, integerOption, modelFlags, modelHelp, Progress } from "./common.js";
import { type CacheMode, modesHelp, selectModes } from "./modes.js";
import { answerTokens, makeRecall, maxFacts, runRecall } from "./recall.js";
import { openMode, type OpenMode } from "./swapping.js";

const help = `usage: kvasir eval [options]

Prints one JSON object a line, one for each mode. The text after a cached context is scored against the same tokens read in one go.

  --context N      tokens of context; default 8192
  --tail N         tokens scored after it; default 384
  --questions N    recall questions, at most ${maxFacts}; default 12
  --mode LIST      cache modes by commas, or all; default identity
${modesHelp}  --seed S         default 1
${modelHelp}`;

interface Plan {
  contextTokens: number;
  tailTokens: number;
  questions: number;
  seed: number;
}

interface TextScore {
  nll: number;
  logits: Tensor;
}

export async function evaluate(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      ...modelFlags,
      context: { type: "string" },
      tail: { type: "string" },
      questions: { type: "string" },
      mode: { type: "string", default: "identity" },
      seed: { type: "string" },
    },
  });
  if (values.help) {
    process.stdout.write(help);
    return 0;
  }
  const modes = selectModes(values.mode);
  const plan: Plan = {
    contextTokens: integerOption("context", values.context, 8192, 128),
    tailTokens: integerOption("tail", values.tail, 384, 2),
    questions: integerOption("questions", values.questions, 12, 1, maxFacts),
    seed: integerOption("seed", values.seed, 1, 0, 0xffffffff),
  };
  const directory = values.model ?? bundledModel();
  using device = openDevice(deviceKind(values.device));
  const dtype = dtypeOption(values.dtype);
  const reference = await referenceScore(device, directory, plan, dtype);
  try {
    for (const mode of modes) {
      const result = await evaluateMode(device, directory, mode, plan, dtype, reference);
      process.stdout.write(
        `${JSON.stringify({ backend: device.backend, model: basename(resolve(directory)), contextTokens: plan.contextTokens, ...result })}\n`,
      );
    }
  } finally {
    reference.logits.dispose();
  }
  return 0;
}

function cacheTokens(plan: Plan): number {
  return plan.contextTokens + Math.max(plan.tailTokens, plan.questions * (64 + answerTokens));
}

/** The book's first tokens: a context, then a tail that is scored. */
function textTokens(model: Model, plan: Plan): number[] {
  const count = plan.contextTokens + plan.tailTokens;
  const text = readFileSync(join(bundledModel(), "moby-dick.txt"), "utf8").slice(0, count * 6);
  return model.encodePrompt(text, true).slice(0, count);
}

/** All tokens in one go, through the identity cache. */
async function referenceScore(
  device: Device,
  directory: string,
  plan: Plan,
  dtype: ReturnType<typeof dtypeOption>,
): Promise<TextScore> {
  using model = await loadModel(device, directory, { ...dtype, cacheTokens: cacheTokens(plan) });
  using sequence = model.createSequence();
  const tokens = textTokens(model, plan);
  const bar = new Progress("reference", tokens.length);
  const score = await scoreTail(model, sequence, tokens, plan.contextTokens, (done) => bar.update(done));
  bar.end();
  return score;
}

/** Reads `tokens` into the sequence; returns the mean loss of those after token `from`, and the logits that predict them. */
async function scoreTail(
  model: Model,
  sequence: ReturnType<Model["createSequence"]>,
  tokens: readonly number[],
  from: number,
  onProgress?: (done: number) => void,
): Promise<TextScore> {
  const { device, config, stream } = model;
  const count = tokens.length - 1 - from;
  const logits = device.empty("f32", [count, config.vocabSize]);
  const onLogits = (part: Tensor, _: number, start: number, rows: number): void => {
    const first = Math.max(start, from);
    const end = Math.min(start + rows, tokens.length - 1);
    if (first >= end) return;
    using target = logits.slice(first - from, end - from);
    using source = part.slice(first - start, end - start);
    target.copyFrom(source, { stream });
  };
  (await model.prefill([{ sequence, tokens }], { onLogits, onProgress })).dispose();
  using targets = device.tensor("i32", [count], tokens.slice(from + 1));
  using nll = device.empty("f32", [count]);
  crossEntropy(stream, { logits, targets, nll });
  return { nll: mean(await nll.readFloats()), logits };
}

async function evaluateMode(
  device: Device,
  directory: string,
  mode: CacheMode,
  plan: Plan,
  dtype: ReturnType<typeof dtypeOption>,
  reference: TextScore,
): Promise<object> {
  const open = await openMode(device, directory, mode, { ...dtype, cacheTokens: cacheTokens(plan) });
  try {
    return await evaluateOpen(open, mode.name, plan, reference);
  } finally {
    await open.close();
  }
}

async function evaluateOpen({ model, swapping }: OpenMode, name: string, plan: Plan, reference: TextScore): Promise<object> {
  const { device, stream } = model;
  const tokens = textTokens(model, plan);
  const bar = new Progress(name, 2 * plan.contextTokens);
  let nll: number;
  let meanKl: number;
  let agreement: number;
  {
    using context = model.createSequence();
    const read = { sequence: context, tokens: tokens.slice(0, plan.contextTokens) };
    (await model.prefill([read], { onProgress: (done) => bar.update(done) })).dispose();
    await swapping?.switchAll([context]);
    using fork = context.fork();
    const tail = await scoreTail(model, fork, tokens.slice(plan.contextTokens), 0);
    using logits = tail.logits;
    const rows = logits.shape[0] as number;
    using kl = device.empty("f32", [rows]);
    using agree = device.empty("i32", [rows]);
    compareLogits(stream, { reference: reference.logits, logits, kl, agree });
    nll = tail.nll;
    meanKl = mean(await kl.readFloats());
    agreement = mean((await agree.read()) as Int32Array);
  }
  const contexts = makeRecall(model, bundledModel(), {
    contextTokens: plan.contextTokens,
    contexts: 1,
    questions: plan.questions,
    seed: plan.seed,
  });
  const recall = await runRecall(model, contexts, {
    onPrefill: (_, done) => bar.update(plan.contextTokens + done),
    betweenTurns: swapping && ((sequences) => swapping.switchAll(sequences)),
  });
  bar.end();
  return {
    mode: name,
    questions: recall.questions,
    right: recall.right,
    digits: recall.digits,
    digitsRight: recall.digitsRight,
    meanNll: nll,
    deltaNll: nll - reference.nll,
    meanKl,
    top1Agreement: agreement,
    kvBytesPerToken: model.cache.stats().bytesPerToken,
  };
}

function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] as number;
  return sum / values.length;
}
