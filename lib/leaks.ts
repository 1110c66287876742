/** A net under forgotten dispose() calls: it frees what was collected and warns, once; it is no substitute for dispose(). */

interface Held {
  readonly what: string;
  readonly stack: string | undefined;
  release(): void;
}

const wantsStacks = (process.env.KVASIR_DEBUG ?? "").split(",").includes("leaks");
let hasWarned = false;

const registry = new FinalizationRegistry<Held>((held) => {
  held.release();
  if (hasWarned && !wantsStacks) return;
  hasWarned = true;
  const where = held.stack === undefined ? "; KVASIR_DEBUG=leaks shows where each was created" : `, created at\n${held.stack}`;
  process.emitWarning(`${held.what} was garbage-collected without dispose()${where}`, { code: "KVASIR_LEAK" });
});

/** Watches `object`; `release` must not refer to it. */
export function track(object: object, what: string, release: () => void): void {
  const stack = wantsStacks ? new Error().stack?.split("\n").slice(3).join("\n") : undefined;
  registry.register(object, { what, stack, release }, object);
}

export function untrack(object: object): void {
  registry.unregister(object);
}
