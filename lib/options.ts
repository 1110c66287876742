/** Checks of values that callers hand in: option names, numbers, shapes. A misspelt option is an error, never ignored. */
import { KvasirError } from "./errors.js";

/** Throws unless every own key of `options` is in `known`, naming the nearest known one. @throws ERR_KVASIR_UNKNOWN_OPTION */
export function checkOptions(where: string, options: object | undefined, known: readonly string[]): void {
  if (options === undefined) return;
  if (typeof options !== "object" || options === null || Array.isArray(options)) {
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `${where}: options is ${describe(options)}, expected an object`);
  }
  for (const key of Object.keys(options)) {
    if (!known.includes(key)) throw unknownOption(where, key, known);
  }
}

export function unknownOption(where: string, key: string, known: readonly string[]): KvasirError {
  const near = nearest(key, known);
  const list = known.length === 0 ? "it takes none" : `it takes ${known.join(", ")}`;
  return new KvasirError(
    "ERR_KVASIR_UNKNOWN_OPTION",
    `${where} has no option ${key}; ${near === undefined ? list : `did you mean ${near}?`}`,
  );
}

/** An integer of at least `min`. @throws ERR_KVASIR_INVALID_ARGUMENT */
export function checkInteger(name: string, value: unknown, min: number, max: number = Number.MAX_SAFE_INTEGER): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < min || value > max) {
    const range = max === Number.MAX_SAFE_INTEGER ? `an integer of at least ${min}` : `an integer from ${min} to ${max}`;
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `${name} is ${describe(value)}, expected ${range}`);
  }
  return value;
}

/** Names a value in an error: numbers and short strings as they are, the rest by kind. */
export function describe(value: unknown): string {
  if (value === null || value === undefined || typeof value === "number" || typeof value === "boolean") return String(value);
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "string") return value.length <= 40 ? JSON.stringify(value) : "a string";
  if (typeof value === "function") return "a function";
  const name = Object.getPrototypeOf(value)?.constructor?.name;
  return typeof name === "string" && name !== "Object" ? `${/^[AEIO]/.test(name) ? "an" : "a"} ${name}` : "an object";
}

/** The known name that differs least, if by little: a third of its letters, case aside. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let least = Number.POSITIVE_INFINITY;
  for (const candidate of known) {
    const distance = editDistance(plain(name), plain(candidate));
    if (distance < least && distance <= Math.max(1, candidate.length / 3)) {
      best = candidate;
      least = distance;
    }
  }
  return best;
}

const plain = (name: string): string => name.toLowerCase().replaceAll(/[_-]/g, "");

/** Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`. */
function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const current = [i];
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      let least = Math.min((previous[j] ?? 0) + 1, (current[j - 1] ?? 0) + 1, (previous[j - 1] ?? 0) + cost);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) least = Math.min(least, (before[j - 2] ?? 0) + 1);
      current.push(least);
    }
    before = previous;
    previous = current;
  }
  return previous[b.length] ?? 0;
}
