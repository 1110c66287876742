/** Errors that carry a code and the next step. */

/** What went wrong, for programs; `message` is one sentence for people. */
export type ErrorCode =
  | "ERR_KVASIR_INVALID_ARGUMENT"
  | "ERR_KVASIR_SHAPE"
  | "ERR_KVASIR_DTYPE"
  | "ERR_KVASIR_UNKNOWN_OPTION"
  | "ERR_KVASIR_UNSUPPORTED"
  | "ERR_KVASIR_OUT_OF_MEMORY"
  | "ERR_KVASIR_DEVICE_LOST"
  | "ERR_KVASIR_BACKEND_UNAVAILABLE"
  | "ERR_KVASIR_DISPOSED"
  | "ERR_KVASIR_OUT_OF_PAGES"
  | "ERR_KVASIR_PAGE_OUT_OF_RANGE"
  | "ERR_KVASIR_CORRUPT_FILE"
  | "ERR_KVASIR_TIER_MISMATCH"
  | "ERR_KVASIR_MISSING_TENSOR"
  | "ERR_KVASIR_UNSUPPORTED_MODEL"
  | "ERR_KVASIR_INTERNAL";

/**
 * Every error that kvasir throws. `message` names the argument, the value received and what would work.
 *
 * Codes about the kind of a value (`INVALID_ARGUMENT`, `DTYPE`, `UNKNOWN_OPTION`) make it an instance of `TypeError` too, codes about
 * its size or range (`SHAPE`, `PAGE_OUT_OF_RANGE`) an instance of `RangeError`.
 *
 * @example
 * ```ts
 * import { KvasirError, openDevice } from "kvasir";
 *
 * try {
 *   openDevice("cuda");
 * } catch (error) {
 *   if (!(error instanceof KvasirError)) throw error;
 *   console.log(error.code); // "ERR_KVASIR_BACKEND_UNAVAILABLE" where there is no GPU
 * }
 * ```
 */
export class KvasirError extends Error {
  readonly #code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.#code = code;
    if (new.target === KvasirError) Object.setPrototypeOf(this, prototypeOf(code));
  }

  get code(): ErrorCode {
    return this.#code;
  }

  /** Instances whose prototype chain goes through TypeError or RangeError are recognised by their private field. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    // biome-ignore lint/complexity/noThisInStatic: inherited by subclasses, which are recognised in the ordinary way
    const isOwn = this === KvasirError;
    // biome-ignore lint/complexity/noThisInStatic: as above
    if (!isOwn) return Function.prototype[Symbol.hasInstance].call(this, value);
    return typeof value === "object" && value !== null && #code in value;
  }
}
Object.defineProperty(KvasirError.prototype, "name", { value: "KvasirError", configurable: true, writable: true });

/** A prototype with KvasirError's own members over a built-in error's. */
function over(base: object): object {
  return Object.create(base, Object.getOwnPropertyDescriptors(KvasirError.prototype));
}
const typeErrorPrototype = over(TypeError.prototype);
const rangeErrorPrototype = over(RangeError.prototype);

function prototypeOf(code: ErrorCode): object {
  switch (code) {
    case "ERR_KVASIR_INVALID_ARGUMENT":
    case "ERR_KVASIR_DTYPE":
    case "ERR_KVASIR_UNKNOWN_OPTION":
      return typeErrorPrototype;
    case "ERR_KVASIR_SHAPE":
    case "ERR_KVASIR_PAGE_OUT_OF_RANGE":
      return rangeErrorPrototype;
    default:
      return KvasirError.prototype;
  }
}

/** Turns what the addon threw into a KvasirError whose stack starts at the JavaScript caller; anything else passes through. */
export function fromNative(error: unknown): unknown {
  if (error instanceof KvasirError || !(error instanceof Error)) return error;
  const { code } = error as { code?: unknown };
  if (typeof code !== "string" || !code.startsWith("ERR_KVASIR_")) return error;
  return new KvasirError(code as ErrorCode, error.message, error.cause === undefined ? undefined : { cause: error.cause });
}

/** The same for an asynchronous call, which may also throw at once. */
export async function settle<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    throw fromNative(error);
  }
}
