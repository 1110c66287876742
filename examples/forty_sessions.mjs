// Forty people read forty long texts and ask about them, on a cache that holds four: every answer is that of a run without anyone else.
// Run: node examples/forty_sessions.mjs [--sessions 40] [--tokens 16384] [--held 4] [--turns 2] [--questions 2] [--think 2000]
//        [--page 64] [--device cpu|cuda] [--host-mib 4096] [--disk FOLDER] [--disk-mib 16384] [--remote redis://127.0.0.1:6379] [--seed 1] [--json]
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { loadModel, openDevice, Scheduler } from "kvasir";

const folder = join(dirname(fileURLToPath(import.meta.url)), "model");
const answerTokens = 14;
/** Pages that a model keeps beyond `cacheTokens`. */
const sparePages = 32;

/** Numbers in [0, 1) from a seed. */
function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    let x = Math.imul(state ^ (state >>> 16), 0x45d9f3b);
    x = Math.imul(x ^ (x >>> 16), 0x45d9f3b);
    return ((x ^ (x >>> 16)) >>> 0) / 2 ** 32;
  };
}

/** A stretch of the book with facts planted in it, and a question about each, in the form that the model was trained on. */
function makeText(model, book, words, index, { sessions, tokens: length, turns, questions, seed }) {
  const { tokenizer, config } = model;
  const random = generator(seed * 1000 + index);
  const pick = (n) => Math.floor(random() * n);
  const names = new Set();
  while (names.size < turns * questions) names.add(`${words[pick(words.length)]} ${words[pick(words.length)]}`);
  const facts = [...names].map((name) => {
    const digits = Array.from({ length: 5 }, () => pick(10));
    return {
      planted: tokenizer.encode(`\nThe magic number of ${name} is ${digits.join(" ")}.\n`),
      question: tokenizer.encode(`\nQuestion: what is the magic number of ${name}? Answer: `),
      answer: digits.join(""),
    };
  });
  const body = length - 1 - facts.reduce((sum, { planted }) => sum + planted.length, 0);
  if (body < 64) throw new RangeError(`--tokens ${length} has no room for ${facts.length} facts`);
  const start = Math.floor(((book.length - 6 * length) / Math.max(1, sessions - 1)) * index);
  const prose = tokenizer.encode(book.slice(Math.max(0, start), Math.max(0, start) + 6 * length));
  const cuts = facts.map(() => pick(body)).sort((a, b) => a - b);
  const tokens = [config.bosToken];
  facts.forEach(({ planted }, i) => {
    tokens.push(...prose.slice(cuts[i - 1] ?? 0, cuts[i]), ...planted);
  });
  tokens.push(...prose.slice(cuts.at(-1), body));
  return { tokens, facts };
}

/** One person: reads, asks, thinks, asks again. */
async function converse(session, { tokens, facts }, newline, think, { turns, questions }) {
  await session.prefill(tokens);
  const asked = [];
  for (let turn = 0; turn < turns; turn++) {
    await think();
    for (const { question, answer } of facts.slice(turn * questions, (turn + 1) * questions)) {
      const prompt = asked.length > 0 ? [newline, ...question] : question;
      const result = await session.ask(prompt, { maxTokens: answerTokens, stopTokens: [newline] }).result;
      asked.push({ ...result, isRight: result.text.replaceAll(/\D/g, "") === answer });
    }
  }
  return asked;
}

/** Bytes that went down to each tier, and came back from it. */
function movedBytes({ moves, keyed }) {
  return {
    host: { out: moves.outBytes, in: moves.inBytes },
    ...Object.fromEntries(
      Object.entries(keyed).map(([tier, { storedBytes, loadedBytes }]) => [tier, { out: storedBytes, in: loadedBytes }]),
    ),
  };
}

/** All sessions, at once or one after another; returns their answers, and what scheduler and tiers counted. */
async function run(device, options, { atOnce, pages, tiers }) {
  const pageSize = options.page;
  const model = await loadModel(device, folder, {
    batchInvariant: true,
    pageSize,
    cacheTokens: Math.max(1, pages - sparePages) * pageSize,
    ...(tiers === undefined ? {} : { tiers }),
  });
  const scheduler = new Scheduler(model);
  const book = readFileSync(join(folder, "moby-dick.txt"), "utf8");
  const words = JSON.parse(readFileSync(join(folder, "recall_words.json"), "utf8"));
  const newline = model.tokenizer.encode("\n").at(-1);
  const texts = Array.from({ length: options.sessions }, (_, i) => makeText(model, book, words, i, options));
  const random = generator(options.seed);
  const think = () => new Promise((resolve) => setTimeout(resolve, atOnce ? options.think * random() : 0));
  const begun = performance.now();
  const answers = [];
  const one = async (index) => {
    const session = scheduler.open();
    answers[index] = await converse(session, texts[index], newline, think, options);
    if (!atOnce) await session.close();
  };
  if (atOnce) await Promise.all(texts.map((_, i) => one(i)));
  else for (const i of texts.keys()) await one(i);
  const seconds = (performance.now() - begun) / 1000;
  const stats = scheduler.stats();
  const tierStats = model.tiers?.stats();
  await scheduler.close();
  model.cache.checkIntegrity();
  await model.close();
  return { answers, stats, tierStats, seconds };
}

const number = (value, least) => {
  const parsed = Number(value);
  if (!Number.isInteger(parsed) || parsed < least) throw new RangeError(`${value} is no integer of at least ${least}`);
  return parsed;
};

const { values } = parseArgs({
  options: {
    sessions: { type: "string", default: "40" },
    tokens: { type: "string", default: "16384" },
    held: { type: "string", default: "4" },
    turns: { type: "string", default: "2" },
    questions: { type: "string", default: "2" },
    think: { type: "string", default: "2000" },
    page: { type: "string", default: "64" },
    device: { type: "string" },
    "host-mib": { type: "string" },
    disk: { type: "string" },
    "disk-mib": { type: "string", default: "16384" },
    remote: { type: "string" },
    seed: { type: "string", default: "1" },
    json: { type: "boolean", default: false },
  },
});
const options = {
  sessions: number(values.sessions, 1),
  tokens: number(values.tokens, 128),
  held: number(values.held, 1),
  turns: number(values.turns, 1),
  questions: number(values.questions, 1),
  think: number(values.think, 0),
  page: number(values.page, 16),
  seed: number(values.seed, 0),
};
const mib = 2 ** 20;
const tiers = {
  ...(values["host-mib"] === undefined ? {} : { host: { bytes: number(values["host-mib"], 1) * mib } }),
  ...(values.disk === undefined ? {} : { disk: { path: values.disk, maxBytes: number(values["disk-mib"], 1) * mib } }),
  ...(values.remote === undefined ? {} : { remote: { url: values.remote } }),
};
const log = (text) => values.json || process.stdout.write(`${text}\n`);

const device = openDevice(values.device);
const perSession = Math.ceil((options.tokens + options.turns * options.questions * (48 + answerTokens)) / options.page);
log(`${options.sessions} sessions of ${options.tokens} tokens on a cache that holds ${options.held}; ${device.backend}`);
const alone = await run(device, options, { atOnce: false, pages: perSession + sparePages });
log(`one after another: ${alone.seconds.toFixed(1)} s`);
const shared = await run(device, options, {
  atOnce: true,
  pages: options.held * perSession,
  tiers: Object.keys(tiers).length > 0 ? tiers : undefined,
});

const asked = shared.answers.flat();
const same = asked.filter(({ tokens }, i) => tokens.join() === alone.answers.flat()[i].tokens.join()).length;
const { stats, tierStats, seconds } = shared;
// Tokens that had been read before and were needed back, by where they were found; texts that were new to everyone are none of them.
const found = { ...(tierStats?.foundTokens ?? stats.hits), recomputed: stats.recomputedTokens };
const moved = tierStats === undefined ? {} : movedBytes(tierStats);
const inAll = (way) => Object.values(moved).reduce((sum, bytes) => sum + bytes[way], 0);
const foundTokens = Object.values(found).reduce((sum, tokens) => sum + tokens, 0);
const result = {
  backend: device.backend,
  ...options,
  questions: asked.length,
  right: asked.filter(({ isRight }) => isRight).length,
  rightAlone: alone.answers.flat().filter(({ isRight }) => isRight).length,
  same,
  seconds,
  secondsAlone: alone.seconds,
  hitRates: Object.fromEntries(Object.entries(found).map(([tier, tokens]) => [tier, tokens / Math.max(1, foundTokens)])),
  moved,
  bytesIn: inAll("in"),
  bytesOut: inAll("out"),
  mostPreemptions: stats.mostPreemptions,
  preemptions: stats.swapPreemptions + stats.recomputePreemptions,
  swapShare: stats.copyWaitSeconds / seconds,
  recomputeShare: stats.recomputeSeconds / seconds,
};
device.dispose();

const percent = (share) => `${(100 * share).toFixed(1)} %`;
if (values.json) process.stdout.write(`${JSON.stringify(result)}\n`);
log(`all at once:       ${seconds.toFixed(1)} s`);
log(`answers            ${result.right} of ${asked.length} right (${result.rightAlone} alone), ${same} the same as alone`);
log(
  `tokens came from   ${Object.entries(result.hitRates)
    .map(([tier, rate]) => `${tier} ${percent(rate)}`)
    .join(", ")}`,
);
for (const [tier, bytes] of Object.entries(moved)) {
  log(`${`moved, ${tier}`.padEnd(18)} ${(bytes.out / mib).toFixed(0)} MiB out, ${(bytes.in / mib).toFixed(0)} MiB in`);
}
log(`preemptions        ${result.preemptions}, at most ${stats.mostPreemptions} of a request`);
log(`time               ${percent(result.swapShare)} waiting for copies, ${percent(result.recomputeShare)} reading again`);
if (same !== asked.length) process.exitCode = 1;
