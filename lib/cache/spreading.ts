/**
 * Making a suspended sequence ready to run with its pages where they lie: those on the device stay there, those in the host pool stay
 * there, and only its last pages, to which tokens are added, are brought to the device. See `decodeHybrid`.
 */
import { KvasirError } from "../errors.js";
import { checkInteger } from "../options.js";
import type { ArenaMoves } from "./arena_moves.js";
import type { Evictor } from "./evictor.js";
import type { KeyedMoves } from "./keyed_moves.js";
import type { KvCache } from "./kv_cache.js";
import { NONE } from "./page_pool.js";
import type { Sequence } from "./sequence.js";

export interface SpreadOptions {
  /** How many of the last pages are brought to the device, as far as they are not there; at least the last one. Default 1. */
  devicePages?: number | undefined;
  signal?: AbortSignal | undefined;
}

export interface SpreadParts {
  cache: KvCache;
  moves: ArenaMoves;
  keyed: KeyedMoves;
  evictor: Evictor;
}

/** By one caller at a time. @throws as `CacheTiers.spread`, and then the sequence is suspended as before */
export async function spreadSequence(parts: SpreadParts, sequence: Sequence, options: SpreadOptions): Promise<void> {
  const { cache } = parts;
  const devicePages = checkInteger("devicePages", options.devicePages ?? 1, 1);
  const row = cache.rowOf(sequence);
  if (!cache.isSuspended(row))
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", "sequence is not suspended; suspend it before it is spread");
  cache.unsuspend(row);
  try {
    for (const group of cache.groups.keys()) await liftLast(parts, sequence, group, devicePages, options.signal);
  } catch (error) {
    if (!sequence.disposed) cache.suspend(row);
    throw error;
  }
  cache.spread(row);
}

async function liftLast(
  { cache, moves, keyed, evictor }: SpreadParts,
  sequence: Sequence,
  group: number,
  devicePages: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { pool } = cache.groups[group] as KvCache["groups"][number];
  const pages = (): number[] => [...cache.rowPages(group, sequence.row)].filter((page) => page !== NONE);
  check(cache, sequence, signal);
  while (pages().some((page) => pool.marks(page) !== 0)) {
    await moves.idle();
    await keyed.idle();
    check(cache, sequence, signal);
  }
  const absent = pages().filter((page) => !pool.isResident(page)).length;
  if (absent > 0) {
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      `sequence has ${absent} pages on disk or in a store alone, expected all on the device and in the host pool; raise tiers.host.bytes`,
    );
  }
  for (const page of pages()) if (!pool.isSealed(page)) keyed.forgetPrivate(group, page);
  const lacking = (): number[] =>
    pages()
      .slice(-devicePages)
      .filter((page) => !pool.isValid(page, 0));
  const need = lacking().length;
  if (need === 0) return;
  const room = await evictor.makeRoom(group, 0, need);
  check(cache, sequence, signal);
  const some = lacking();
  if (room < some.length) {
    throw new KvasirError(
      "ERR_KVASIR_OUT_OF_PAGES",
      `Need ${some.length} pages but only ${room} of ${pool.numSlots(0)} can be freed; suspend or dispose a sequence, or lower devicePages`,
    );
  }
  for (const page of some) if (pool.slot(page, 0) === NONE) pool.takeSlot(page, 0);
  const outcome = await moves.in(group, some).over;
  if (outcome !== "done")
    throw new KvasirError("ERR_KVASIR_DEVICE_LOST", `Pages did not come to the device: the copy ended as ${outcome}`);
  check(cache, sequence, signal);
}

function check(cache: KvCache, sequence: Sequence, signal: AbortSignal | undefined): void {
  signal?.throwIfAborted();
  const what = sequence.disposed ? "disposed" : cache.isSuspended(sequence.row) ? "suspended" : undefined;
  if (what !== undefined) throw new KvasirError("ERR_KVASIR_DISPOSED", `Sequence was ${what} while it was made ready`);
}
