/**
 * The recall task: facts planted in running text, then questions about them. Its form, and the words, are those of the bundled model's
 * training data; pieces are encoded one by one and their tokens joined, as there.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { KvasirError, type Model, type Sequence, type Tensor } from "../index.js";

export interface Question {
  tokens: number[];
  /** Five digits. */
  answer: string;
}

export interface RecallContext {
  tokens: number[];
  questions: Question[];
}

export interface RecallPlan {
  contextTokens: number;
  contexts: number;
  questions: number;
  seed: number;
}

/** As many facts as a context had at most in training, and on average. */
export const maxFacts = 16;
export const usualFacts = 8;
/** Tokens that an answer and its end can take. */
export const answerTokens = 14;
/** Characters of text that surely give as many tokens. */
const charactersPerToken = 6;
const answerDigits = 5;

/** Numbers in [0, 1) from a seed (mulberry32). */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Contexts with their questions; the same plan and seed give the same ones. @throws ERR_KVASIR_INVALID_ARGUMENT */
export function makeRecall(model: Model, directory: string, plan: RecallPlan): RecallContext[] {
  const text = readFileSync(join(directory, "moby-dick.txt"), "utf8");
  const words = JSON.parse(readFileSync(join(directory, "recall_words.json"), "utf8")) as string[];
  const random = generator(plan.seed);
  const span = plan.contextTokens * charactersPerToken;
  // Contexts start evenly spread over the book, each with enough of it behind its start.
  const stride = Math.floor(Math.max(0, text.length - span) / Math.max(1, plan.contexts - 1));
  return Array.from({ length: plan.contexts }, (_, i) => {
    const facts = Math.ceil((plan.questions - i) / plan.contexts);
    if (facts > maxFacts) {
      throw new KvasirError(
        "ERR_KVASIR_INVALID_ARGUMENT",
        `${plan.questions} questions in ${plan.contexts} contexts, expected at most ${maxFacts} each; raise --contexts`,
      );
    }
    const part = text.slice(i * stride, i * stride + span);
    return makeContext(model, model.tokenizer.encode(part), words, facts, plan.contextTokens, random);
  });
}

function makeContext(
  model: Model,
  book: number[],
  words: string[],
  count: number,
  contextTokens: number,
  random: () => number,
): RecallContext {
  const { tokenizer, config } = model;
  const pick = (n: number): number => Math.floor(random() * n);
  const firstWords = new Set<string>();
  while (firstWords.size < count) firstWords.add(words[pick(words.length)] as string);
  const facts = [...firstWords].map((word) => {
    const name = `${word} ${words[pick(words.length)]}`;
    const digits = Array.from({ length: answerDigits }, () => pick(10));
    return {
      planted: tokenizer.encode(`\nThe magic number of ${name} is ${digits.join(" ")}.\n`),
      question: {
        tokens: tokenizer.encode(`\nQuestion: what is the magic number of ${name}? Answer: `),
        answer: digits.join(""),
      },
    };
  });
  const start = config.bosToken === undefined ? [] : [config.bosToken];
  const bodyTokens = contextTokens - start.length - facts.reduce((sum, { planted }) => sum + planted.length, 0);
  if (bodyTokens < 64 || book.length < bodyTokens) {
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      `--context is ${contextTokens}, expected room for ${count} facts and no more than the book has`,
    );
  }
  const cuts = facts.map(() => pick(bodyTokens)).sort((a, b) => a - b);
  const tokens = start;
  facts.forEach(({ planted }, i) => {
    tokens.push(...book.slice(cuts[i - 1] ?? 0, cuts[i]), ...planted);
  });
  tokens.push(...book.slice(cuts.at(-1) ?? 0, bodyTokens));
  return { tokens, questions: facts.map(({ question }) => question) };
}

export interface RecallScore {
  questions: number;
  /** What was answered, question by question. */
  answers: string[];
  right: number;
  digits: number;
  digitsRight: number;
  prefillTokens: number;
  prefillSeconds: number;
  decodeTokens: number;
  decodeSeconds: number;
}

export interface RecallHooks {
  signal?: AbortSignal | undefined;
  onPrefill?: (contextIndex: number, tokens: number) => void;
  /** Called with all sequences, none of them at work: before each question is put, and before the answers. The context comes first. */
  betweenTurns?: ((sequences: readonly Sequence[]) => Promise<void>) | undefined;
}

/** Asks every question on a fork of its context, all of a context in one batch, with greedy answers. */
export async function runRecall(model: Model, contexts: readonly RecallContext[], hooks: RecallHooks = {}): Promise<RecallScore> {
  const score: RecallScore = {
    questions: 0,
    answers: [],
    right: 0,
    digits: 0,
    digitsRight: 0,
    prefillTokens: 0,
    prefillSeconds: 0,
    decodeTokens: 0,
    decodeSeconds: 0,
  };
  for (const [index, { tokens, questions }] of contexts.entries()) {
    using context = model.createSequence();
    const started = performance.now();
    const { signal } = hooks;
    const logits = await model.prefill([{ sequence: context, tokens }], {
      signal,
      onProgress: (done) => hooks.onPrefill?.(index, done),
    });
    logits.dispose();
    score.prefillTokens += tokens.length;
    score.prefillSeconds += (performance.now() - started) / 1000;
    const forks: Sequence[] = [];
    try {
      for (const _ of questions) {
        await hooks.betweenTurns?.([context, ...forks]);
        forks.push(context.fork());
      }
      using first = await model.prefill(
        questions.map((question, i) => ({ sequence: forks[i] as Sequence, tokens: question.tokens })),
      );
      await hooks.betweenTurns?.([context, ...forks]);
      const answers = await answer(model, forks, first, score);
      questions.forEach((question, i) => {
        count(score, question.answer, answers[i] ?? "");
      });
    } finally {
      for (const fork of forks) fork.dispose();
    }
  }
  return score;
}

/** Greedy answers up to the end of the line. */
async function answer(model: Model, forks: readonly Sequence[], first: Tensor, score: RecallScore): Promise<string[]> {
  const started = performance.now();
  using batch = model.decode(forks);
  let coming = batch.start(first);
  const tokens: number[][] = forks.map(() => []);
  for (let made = 0; made < answerTokens; made++) {
    const isLast = made + 1 === answerTokens;
    const next = isLast ? undefined : batch.step();
    next?.catch(() => undefined); // awaited in the next round
    const chosen = await coming;
    chosen.forEach((token, i) => {
      tokens[i]?.push(token);
    });
    if (next !== undefined) coming = next;
  }
  score.decodeTokens += forks.length * (answerTokens - 1); // the first ones came from the prefill
  score.decodeSeconds += (performance.now() - started) / 1000;
  return tokens.map((list) => model.tokenizer.decode(list).split("\n")[0] ?? "");
}

function count(score: RecallScore, expected: string, text: string): void {
  const digits = text.replaceAll(/\D/g, "");
  score.questions++;
  score.answers.push(text);
  score.digits += expected.length;
  if (digits === expected) score.right++;
  [...expected].forEach((digit, i) => {
    if (digits[i] === digit) score.digitsRight++;
  });
}
