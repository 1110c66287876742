/** Calls that bring pages to a sequence, followed to their end. */
import { codeOf, cutText } from "./model_step.js";
import { type Doubt, type Entry, pageSize, type World } from "./world.js";

/** Whether the call may end so: the sequence is gone, the signal fired, memory is full, or a copy failed. */
function mayEnd(world: World, entry: Entry, signal: AbortSignal | undefined): (error: unknown) => boolean {
  return (error) => {
    if (signal?.aborted === true && error === signal.reason) return true;
    const code = codeOf(error);
    if (code === "ERR_KVASIR_DISPOSED") return entry.sequence.disposed;
    if (code === "ERR_KVASIR_DEVICE_LOST") return world.moveFaults > 0;
    return code === "ERR_KVASIR_OUT_OF_PAGES";
  };
}

/** Whether a call may end so: its sequence is gone. */
export const isGone =
  (entry: Entry) =>
  (error: unknown): boolean =>
    codeOf(error) === "ERR_KVASIR_DISPOSED" && entry.sequence.disposed;

/** Compares an entry that is back with its text; tokens may be fewer where pages can be lost. */
function cameBack(world: World, entry: Entry): void {
  const { length } = entry.sequence;
  const had = entry.text.length;
  if (length !== had) {
    const losses = world.tiers.reduce((sum, tier) => sum + tier.losses, 0);
    if (length > had) world.fail(`sequence ${entry.id} grew from ${had} to ${length} tokens`);
    else if (losses === 0) world.fail(`sequence ${entry.id} of ${had} tokens lost all from ${length}`);
    else if (length % pageSize !== 0) world.fail(`sequence ${entry.id} was cut to ${length} tokens, not at a page`);
    cutText(entry, Math.min(length, had));
    world.deeds.cut++;
  }
  world.read(entry);
}

export function resume(world: World, entry: Entry, signal: AbortSignal | undefined, told?: (error?: unknown) => void): void {
  const { suspensions } = entry;
  const resumption = world.manager.resume(entry.sequence, { signal });
  const doubt: Doubt = { state: "open" };
  const isWanted = (): boolean => !entry.sequence.disposed && entry.state !== "broken" && entry.suspensions === suspensions;
  const refused = (error: unknown): boolean => {
    const isSuspended = codeOf(error) === "ERR_KVASIR_DISPOSED" && entry.suspensions !== suspensions;
    return isSuspended || mayEnd(world, entry, signal)(error);
  };
  entry.returning++;
  world.track(
    "resume",
    resumption.placed ?? resumption.ready.then(() => undefined),
    () => {
      entry.returning--;
      if (!isWanted()) return;
      if (world.config.sabotage !== "no-hold") resumption.waitLayer();
      entry.state = "running";
      entry.doubts = [...entry.doubts.filter(({ state }) => state !== "came"), doubt];
      cameBack(world, entry);
    },
    (error) => {
      entry.returning--;
      return refused(error);
    },
  );
  world.track(
    "readiness",
    resumption.ready,
    () => {
      doubt.state = "came";
      world.deeds.resumed++;
      told?.();
    },
    (error) => {
      if (codeOf(error) === "ERR_KVASIR_DEVICE_LOST") {
        doubt.state = "lost";
        entry.state = "broken";
        for (const other of world.entries) if (other.doubts.includes(doubt)) other.state = "broken";
      }
      told?.(error);
      world.deeds.refused++;
      return refused(error);
    },
  );
}

export function adopt(
  world: World,
  entry: Entry,
  tokens: Int32Array,
  signal?: AbortSignal,
  told?: (count: number) => void,
): void {
  entry.adopting = tokens;
  world.track(
    "adopt",
    world.manager.adopt(entry.sequence, tokens, { signal }),
    (given) => {
      entry.adopting = undefined;
      if (entry.sequence.disposed) return;
      const count = entry.sequence.length; // fewer where it was truncated meanwhile
      if (count > given || given >= Math.max(1, tokens.length))
        world.fail(`adopt of ${tokens.length} tokens gave ${given}, and ${count} are in`);
      for (let i = 0; i < count; i++) entry.text.push(tokens[i] as number);
      entry.noted = count;
      if (count > 0) world.deeds.adopted++;
      world.read(entry);
      told?.(count);
    },
    (error) => {
      entry.adopting = undefined;
      entry.state = "broken";
      return codeOf(error) !== "ERR_KVASIR_OUT_OF_PAGES" && mayEnd(world, entry, signal)(error);
    },
  );
}
