/** `kvasir demo`: the bundled model reads a long text with planted facts and answers questions about them, per cache mode. */
import { parseArgs } from "node:util";
import { type Device, openDevice } from "../index.js";
import { bundledModel, deviceKind, dtypeOption, integerOption, modelFlags, modelHelp, Progress } from "./common.js";
import { type CacheMode, modesHelp, selectModes } from "./modes.js";
import { answerTokens, makeRecall, maxFacts, type RecallPlan, runRecall, usualFacts } from "./recall.js";
import { openMode, type SwapCounts } from "./swapping.js";

const help = `usage: kvasir demo [options]

  --context N      tokens of text in a context; default 8192 on the CPU, 30720 on CUDA
  --questions N    default 64 on the CPU, 112 on CUDA
  --contexts N     texts over which the questions are spread, ${usualFacts} each by default, at most ${maxFacts}
  --mode LIST      cache modes by commas, or all; default identity
${modesHelp}  --seed S         of facts and places; default 1
${modelHelp}`;

export interface ModeResult {
  name: string;
  questions: number;
  answers: string[];
  right: number;
  digits: number;
  digitsRight: number;
  prefillTokensPerSecond: number;
  decodeTokensPerSecond: number;
  kvBytesPerToken: number;
  kvBytesPeak: number;
  /** Of the modes that swap. */
  swaps?: SwapCounts;
}

/** Tokens that a question and its answer may add to a fork. */
const forkTokens = 64 + answerTokens;

export async function demo(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      ...modelFlags,
      context: { type: "string" },
      questions: { type: "string" },
      contexts: { type: "string" },
      mode: { type: "string", default: "identity" },
      seed: { type: "string" },
    },
  });
  if (values.help) {
    process.stdout.write(help);
    return 0;
  }
  const modes = selectModes(values.mode);
  using device = openDevice(deviceKind(values.device));
  const isGpu = device.backend === "cuda";
  const questions = integerOption("questions", values.questions, isGpu ? 112 : 64, 1);
  const plan: RecallPlan = {
    contextTokens: integerOption("context", values.context, isGpu ? 30720 : 8192, 128),
    questions,
    contexts: integerOption("contexts", values.contexts, Math.ceil(questions / usualFacts), 1, questions),
    seed: integerOption("seed", values.seed, 1, 0, 0xffffffff),
  };
  const { name } = device.describe();
  if (!values.json) {
    const times = plan.contexts === 1 ? "a context" : `${plan.contexts} contexts`;
    process.stdout.write(
      `${times} of ${plan.contextTokens} tokens, ${questions} questions, each on a fork; ${device.backend}: ${name}\n`,
    );
  }
  const results: ModeResult[] = [];
  for (const mode of modes) {
    const result = await runMode(device, values.model ?? bundledModel(), mode, plan, dtypeOption(values.dtype));
    results.push(result);
    if (!values.json) process.stdout.write(describe(result));
  }
  if (values.json) {
    process.stdout.write(
      `${JSON.stringify({ backend: device.backend, device: name, contextTokens: plan.contextTokens, modes: results })}\n`,
    );
  }
  return 0;
}

async function runMode(
  device: Device,
  directory: string,
  mode: CacheMode,
  plan: RecallPlan,
  dtype: ReturnType<typeof dtypeOption>,
): Promise<ModeResult> {
  const cacheTokens = plan.contextTokens + Math.min(maxFacts, plan.questions) * forkTokens;
  const { model, swapping, close } = await openMode(device, directory, mode, { ...dtype, cacheTokens });
  try {
    const contexts = makeRecall(model, bundledModel(), plan);
    const bar = new Progress(mode.name, plan.contexts * plan.contextTokens);
    const score = await runRecall(model, contexts, {
      onPrefill: (context, tokens) => bar.update(context * plan.contextTokens + tokens),
      betweenTurns: swapping && ((sequences) => swapping.switchAll(sequences)),
    });
    bar.end();
    const { bytesPerToken, peakBytes } = model.cache.stats();
    return {
      name: mode.name,
      questions: score.questions,
      answers: score.answers,
      right: score.right,
      digits: score.digits,
      digitsRight: score.digitsRight,
      prefillTokensPerSecond: score.prefillTokens / score.prefillSeconds,
      decodeTokensPerSecond: score.decodeTokens / score.decodeSeconds,
      kvBytesPerToken: bytesPerToken,
      kvBytesPeak: peakBytes,
      ...(swapping === undefined ? {} : { swaps: swapping.counts }),
    };
  } finally {
    await close();
  }
}

function describe(result: ModeResult): string {
  const share = (part: number, whole: number): string => `${part} of ${whole} (${((100 * part) / whole).toFixed(1)} %)`;
  return [
    `${result.name}:`,
    `  digits right   ${share(result.digitsRight, result.digits)}`,
    `  answers right  ${share(result.right, result.questions)}`,
    `  prefill        ${Math.round(result.prefillTokensPerSecond)} tokens/s`,
    `  decode         ${Math.round(result.decodeTokensPerSecond)} tokens/s`,
    `  KV cache       ${Math.round(result.kvBytesPerToken)} bytes per token, ${(result.kvBytesPeak / 2 ** 20).toFixed(1)} MiB at most`,
    ...(result.swaps === undefined ? [] : [describeSwaps(result.swaps)]),
    "",
  ].join("\n");
}

function describeSwaps({ tier, switches, bytesOut, bytesIn, secondsOut, secondsIn }: SwapCounts): string {
  const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  const each = (seconds: number): string => `${((1000 * seconds) / switches).toFixed(1)} ms`;
  const moved = `${mib(bytesOut)} out, ${mib(bytesIn)} in`;
  return `  swapped        ${switches} times through ${tier}: ${moved}; ${each(secondsOut)} out and ${each(secondsIn)} in per switch`;
}
