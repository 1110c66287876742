/** Models with room for few pages, and schedulers that must leave nothing behind. */
import { expect } from "vitest";
import { type Device, loadModel, type Model, Scheduler, type SchedulerOptions } from "../../lib/index.js";
import { modelFolder } from "./golden.js";

/** Pages of 16 tokens; the model keeps 32 more than these tokens take. */
export const pageSize = 16;
const sparePages = 32;

export const exactModel = (device: Device, pages: number): Promise<Model> =>
  loadModel(device, modelFolder, {
    batchInvariant: true,
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
