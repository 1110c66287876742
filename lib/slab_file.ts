/** A slab file: fixed slots of pages on disk, found by key, moved natively to and from pools of host memory. */
import { KvasirError, fromNative, settle } from "./errors.js";
import { track, untrack } from "./leaks.js";
import {
  type NativeSlab,
  type NativeSlabOptions,
  type SlabDescription,
  type SlabFaults,
  type SlabStats,
  addon,
} from "./native.js";
import { type Tensor, nativeTensor } from "./tensor.js";

export type { SlabDescription, SlabFaults, SlabStats } from "./native.js";

/** Pages of one group, as lib/cache/tier_driver.ts has them. */
export interface SlabPages {
  group: number;
  keys: Uint32Array;
  parents: Uint32Array;
  tokens: Int32Array;
  slots: Int32Array;
}

/** Of a page that was not tried. */
const FAILED = 3;
const WORDS = 4;

export class SlabFile {
  readonly #native: NativeSlab;
  #nextId = 0;
  #closed: Promise<void> | undefined;

  private constructor(native: NativeSlab, path: string) {
    this.#native = native;
    track(this, `Slab file ${path}`, () => void native.close());
  }

  /**
   * Opens or makes the file; a text where it is of another identity, which that text tells.
   * @throws ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_CORRUPT_FILE, ERR_KVASIR_UNSUPPORTED, ERR_KVASIR_OUT_OF_MEMORY, ERR_KVASIR_DISPOSED
   */
  static async open(path: string, options: NativeSlabOptions, pools: readonly Tensor[]): Promise<SlabFile | string> {
    const native = callNative(() => addon().createSlab(path, options, pools.map(nativeTensor)));
    await settle(() => native.open());
    return native.foundIdentity ?? new SlabFile(native, path);
  }

  lookup(group: number, keys: Uint32Array): Uint8Array {
    return callNative(() => this.#native.lookup(group, keys));
  }

  load(pages: SlabPages, signal?: AbortSignal): Promise<Uint8Array> {
    return this.#move("load", pages, signal);
  }

  store(pages: SlabPages, signal?: AbortSignal): Promise<Uint8Array> {
    return this.#move("store", pages, signal);
  }

  async remove(group: number, keys: Uint32Array): Promise<void> {
    await settle(() => this.#native.remove(group, keys));
  }

  stats(): SlabStats {
    return this.#native.stats();
  }

  describe(): SlabDescription {
    return callNative(() => this.#native.describe());
  }

  /** For tests, with KVASIR_DEBUG=faults. @throws ERR_KVASIR_UNSUPPORTED */
  injectFaults(faults: SlabFaults): void {
    callNative(() => this.#native.injectFaults(faults));
  }

  get closed(): boolean {
    return this.#closed !== undefined;
  }

  /** Ends after what is under way. */
  close(): Promise<void> {
    untrack(this);
    this.#closed ??= this.#native.close();
    return this.#closed;
  }

  async #move(verb: "load" | "store", pages: SlabPages, signal: AbortSignal | undefined): Promise<Uint8Array> {
    const { group, keys, parents, tokens, slots } = pages;
    if (signal?.aborted) return new Uint8Array(keys.length / WORDS).fill(FAILED);
    const id = this.#nextId++;
    const abort = (): void => this.#native.abort(id);
    signal?.addEventListener("abort", abort, { once: true });
    try {
      return await settle(() => this.#native[verb](id, group, keys, parents, tokens, slots));
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }
}

function callNative<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw fromNative(error);
  }
}

/** @throws ERR_KVASIR_INVALID_ARGUMENT unless `tensor` holds pages of so many bytes. */
export function checkPool(name: string, tensor: Tensor, pageBytes: number): void {
  const bytes = tensor.bytes / (tensor.shape[0] as number);
  if (bytes === pageBytes) return;
  throw new KvasirError(
    "ERR_KVASIR_INVALID_ARGUMENT",
    `${name} has pages of ${bytes} bytes, expected ${pageBytes}, the group's pageBytes`,
  );
}
