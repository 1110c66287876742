/** Models with room for few pages, conversations, and schedulers that must leave nothing behind. */
import { expect } from "vitest";
import {
  type Device,
  loadModel,
  type Model,
  type ModelOptions,
  Scheduler,
  type SchedulerOptions,
  type Session,
} from "../../lib/index.js";
import { modelFolder } from "./golden.js";

/** Pages of 16 tokens; the model keeps 32 more than these tokens take. */
export const pageSize = 16;
const sparePages = 32;

export const exactModel = (device: Device, pages: number, tiers?: ModelOptions["tiers"]): Promise<Model> =>
  loadModel(device, modelFolder, {
    batchInvariant: true,
    tiers,
    cacheTokens: (pages - sparePages) * pageSize,
    pageSize,
    chunkTokens: 256,
  });

/** Runs `body`; then every session is closed, and no page may be in use. */
export async function withScheduler<T>(
  model: Model,
  options: SchedulerOptions,
  body: (scheduler: Scheduler) => Promise<T>,
): Promise<T> {
  const scheduler = new Scheduler(model, options);
  try {
    return await body(scheduler);
  } finally {
    await scheduler.close();
    model.cache.checkIntegrity();
    expect(model.cache.stats().usedBytes, "bytes left").toBe(0);
  }
}

/** A conversation. */
export interface Plan {
  text: number[];
  questions: { tokens: number[]; maxTokens: number; temperature: number; seed: number }[];
}

/** Conversations of two turns over different parts of a text, half of them greedy. */
export function plans(ids: readonly number[], count: number, maxTokens: number): Plan[] {
  return Array.from({ length: count }, (_, i) => ({
    text: ids.slice(20 * i, 20 * i + 150 + 37 * (i % 4)),
    questions: [0, 1].map((turn) => ({
      tokens: ids.slice(500 + 31 * i + turn, 500 + 31 * i + turn + 5 + 9 * ((i + turn) % 3)),
      maxTokens: maxTokens - i,
      temperature: i % 2,
      seed: i,
    })),
  }));
}

export async function converse(session: Session, plan: Plan, thinkMs: number): Promise<number[][]> {
  await session.prefill(plan.text);
  const answers: number[][] = [];
  for (const { tokens, ...options } of plan.questions) {
    answers.push((await session.ask(tokens, { ...options, stopTokens: [] }).result).tokens);
    if (thinkMs > 0) await new Promise((resolve) => setTimeout(resolve, thinkMs));
  }
  return answers;
}

/** Answers of each conversation alone on a large cache. */
export async function conversedAlone(large: Model, of: readonly Plan[]): Promise<number[][][]> {
  const answers: number[][][] = [];
  for (const plan of of) answers.push(await withScheduler(large, {}, (scheduler) => converse(scheduler.open(), plan, 0)));
  return answers;
}
