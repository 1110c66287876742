/**
 * The disk tier: pages in one slab file, whose index survives the process, also when it is killed. Pages are moved natively, by threads
 * of the file's own, past the page cache where the file system lets them.
 */
import { KvasirError } from "../errors.js";
import { checkInteger, checkOptions, describe } from "../options.js";
import { type SlabDescription, type SlabFaults, SlabFile, type SlabStats } from "../slab_file.js";
import type { Tensor } from "../tensor.js";
import { FAILED, KEY_WORDS, type PageBatch, type TierDriver } from "./tier_driver.js";
import { type TierIdentity, checkIdentity, differences, fingerprint, identityText, parseIdentity } from "./tier_identity.js";
import { checkPools } from "./tier_pools.js";

export interface DiskTierOptions {
  /** The file; it is made where there is none, in a folder that exists. One cache at a time has it open. */
  path: string;
  /** Most bytes of the file; it grows as pages come. When full, the pages least recently used make room. */
  maxBytes: number;
  /** What the pages mean. A file of another identity is refused, or emptied. */
  identity: TierIdentity;
  /** Per layer group the host memory that pages are moved to and from: a tensor [slots, elements of a page] of a CPU device. */
  pools: readonly Tensor[];
  /** Default: io_uring where the kernel offers it, else threads; KVASIR_IO=threads in the environment chooses threads, too. */
  engine?: "io_uring" | "threads" | undefined;
  /** What to do with a file of another identity, or with a damaged header (default "error"). */
  onMismatch?: "error" | "reset" | undefined;
  /**
   * Without it (the default) pages survive the end of the process, however it ends, but not that of the machine. With "close" the file is
   * synced when it is closed, with a number also after so many seconds with writes. A page that a power cut damages is found out.
   */
  sync?: "close" | number | undefined;
  /** @internal Tests, with KVASIR_DEBUG=faults: as on a file system without O_DIRECT. */
  refuseDirect?: boolean | undefined;
}

const OPTIONS = ["path", "maxBytes", "identity", "pools", "engine", "onMismatch", "sync", "refuseDirect"];
const ENGINES = ["io_uring", "threads"];
const ON_MISMATCH = ["error", "reset"];

/**
 * Opens a disk tier, and with it the pages of the last time.
 *
 * @throws (rejections) ERR_KVASIR_TIER_MISMATCH naming each field in which the file's identity differs; ERR_KVASIR_CORRUPT_FILE for a file
 * that is no slab file, or whose header is damaged; ERR_KVASIR_INVALID_ARGUMENT for a path that cannot be written or is in use, and for
 * sizes that cannot be met; ERR_KVASIR_UNSUPPORTED for an engine that the kernel refuses; ERR_KVASIR_UNKNOWN_OPTION
 *
 * @example
 * ```ts
 * import { TIER_VERSION, openDevice, openDiskTier } from "kvasir";
 *
 * using cpu = openDevice("cpu");
 * using pool = cpu.zeros("bf16", [8, 65536]);
 * const group = { layers: [0, 1], numKvHeads: 2, headDim: 128, format: "identity", pageBytes: 131072, storeRotated: true };
 * const identity = { version: TIER_VERSION, model: "example", dtype: "bf16", pageSize: 64, groups: [group] };
 * const tier = await openDiskTier({ path: "/tmp/kvasir.slab", maxBytes: 2 ** 30, identity, pools: [pool] });
 * const page = { group: 0, keys: Uint32Array.of(1, 2, 3, 4), parents: new Uint32Array(4), tokens: new Int32Array(64) };
 * await tier.store({ ...page, slots: Int32Array.of(0) });
 * console.log(await tier.load({ ...page, slots: Int32Array.of(5) })); // Uint8Array [ 0 ]: LOADED, slot 5 is as slot 0 was
 * await tier.close();
 * ```
 */
export async function openDiskTier(options: DiskTierOptions): Promise<DiskTier> {
  checkOptions("openDiskTier", options, OPTIONS);
  const { path, maxBytes, identity, pools, engine, onMismatch = "error", sync, refuseDirect = false } = options;
  if (typeof path !== "string" || path === "")
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `path is ${describe(path)}, expected the path of a file`);
  checkInteger("maxBytes", maxBytes, 1);
  checkIdentity(identity);
  checkPools(pools, identity);
  const native = {
    maxBytes,
    pageSize: identity.pageSize,
    fingerprint: fingerprint(identity),
    identity: identityText(identity),
    engine: engine === undefined ? 0 : 1 + checkOneOf("engine", engine, ENGINES),
    resets: checkOneOf("onMismatch", onMismatch, ON_MISMATCH) === 1,
    syncMs: syncMilliseconds(sync),
    refusesDirect: refuseDirect,
  };
  const file = await SlabFile.open(path, native, pools);
  if (typeof file === "string") throw mismatch(path, file, identity);
  return new DiskTier(path, file);
}

export class DiskTier implements TierDriver {
  readonly name = "disk";
  readonly path: string;
  readonly #file: SlabFile;
  readonly #description: SlabDescription;

  /** @internal */
  constructor(path: string, file: SlabFile) {
    this.path = path;
    this.#file = file;
    this.#description = file.describe();
  }

  async lookup(group: number, keys: Uint32Array): Promise<Uint8Array> {
    return this.#file.closed ? new Uint8Array(keys.length / KEY_WORDS) : this.#file.lookup(group, keys);
  }

  async load(batch: PageBatch, signal?: AbortSignal): Promise<Uint8Array> {
    return this.#file.closed ? allFailed(batch) : this.#file.load(batch, signal);
  }

  async store(batch: PageBatch, signal?: AbortSignal): Promise<Uint8Array> {
    return this.#file.closed ? allFailed(batch) : this.#file.store(batch, signal);
  }

  async remove(group: number, keys: Uint32Array): Promise<void> {
    if (!this.#file.closed) await this.#file.remove(group, keys);
  }

  /** Beside what every tier tells, pages that made room for others. */
  stats(): SlabStats {
    return this.#file.stats();
  }

  /** How the file is driven, and what it has room for. */
  describe(): SlabDescription {
    return this.#description;
  }

  /** Pages under way are finished first; what was stored is there when the file is opened again. */
  close(): Promise<void> {
    return this.#file.close();
  }

  /** @internal Tests, with KVASIR_DEBUG=faults. @throws ERR_KVASIR_UNSUPPORTED */
  injectFaults(faults: SlabFaults): void {
    this.#file.injectFaults(faults);
  }
}

const allFailed = ({ keys }: PageBatch): Uint8Array => new Uint8Array(keys.length / KEY_WORDS).fill(FAILED);

/** The place of a value among those that are known. */
function checkOneOf(name: string, value: string, known: readonly string[]): number {
  const index = known.indexOf(value);
  if (index >= 0) return index;
  const list = known.map((one) => `"${one}"`).join(" or ");
  throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `${name} is ${describe(value)}, expected ${list}`);
}

function syncMilliseconds(sync: "close" | number | undefined): number {
  if (sync === undefined) return -1;
  if (sync === "close") return 0;
  if (typeof sync === "number" && sync >= 0.001 && sync <= 86_400) return Math.round(sync * 1000);
  throw new KvasirError(
    "ERR_KVASIR_INVALID_ARGUMENT",
    `sync is ${describe(sync)}, expected "close" or seconds from 0.001 to 86400`,
  );
}

function mismatch(path: string, text: string, expected: TierIdentity): KvasirError {
  const found = parseIdentity(text);
  const parts = found === undefined ? [] : differences(found, expected);
  const what = parts.length > 0 ? parts.join("; ") : "its identity is of a form that this release does not know";
  return new KvasirError(
    "ERR_KVASIR_TIER_MISMATCH",
    `${path} holds pages of another model or layout: ${what}; give another path, or onMismatch: "reset" to empty it`,
  );
}
