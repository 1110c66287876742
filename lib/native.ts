/**
 * The addon, and the types of what it exports. The only importer of the binary: everything above speaks to these interfaces.
 *
 * Every native object keeps its own resources alive: a stream holds its device, a tensor its storage, a program the storages it uses.
 * Errors thrown from here carry `code` (an `ErrorCode`) and one sentence; lib/errors.ts turns them into KvasirError.
 */
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { BitArray } from "./dtype.js";
import { KvasirError } from "./errors.js";

/** Index of an op in the ABI's table; `addon.opNames[i]` is its name. */
export type OpId = number;

/** What an op's field may hold. */
export type NativeValue = NativeTensor | number | boolean | undefined;

export interface NativeAddon {
  readonly version: string;
  readonly opNames: readonly string[];
  /** Names of the JavaScript fields that each op accepts, by op id. */
  readonly opFields: readonly (readonly string[])[];
  /** Usable devices of a backend ("cpu", "cuda"); 0 comes with every reason, outermost layer first. */
  probe(backend: string): { devices: number; reasons: string[] };
  openDevice(backend: string, index: number, threads: number, memoryLimit: number): NativeDevice;
  /** A slab file and the pools that it moves pages of; `open` opens it. Throws for options that make no sense. */
  createSlab(path: string, options: NativeSlabOptions, pools: readonly NativeTensor[]): NativeSlab;
  /** Converts between float32 and the bits of a dtype, round to nearest even; f16, bf16, f8e4m3, f8e5m2. */
  encodeFloats(dtype: number, values: Float32Array): Uint16Array | Uint8Array;
  decodeFloats(dtype: number, bits: Uint16Array | Uint8Array): Float32Array;
  /** How pages are hashed here: "sha_ni" or "portable". */
  readonly sha256Isa: string;
  /**
   * Keys of the full pages of `tokens`, 4 words each, into `keys`, hashed on the background thread from a copy of the tokens. The word
   * behind them is the number of keys that are there already.
   */
  pageKeys(tokens: Int32Array, pageSize: number, parent: Uint32Array, keys: Uint32Array): Promise<void>;
  /** The same at once, for at most 4096 tokens. */
  pageKeysSync(tokens: Int32Array, pageSize: number, parent: Uint32Array): ArrayBuffer;
  /** Slots of a tensor in host memory into a SharedArrayBuffer, each behind its envelope; on a native thread. */
  sealPages(...pages: NativeStagedPages): Promise<void>;
  /** The other way round; a byte for each page, 0 where it is whole and the one that was asked for. */
  openPages(...pages: [...NativeStagedPages, lengths: Float64Array]): Promise<ArrayBuffer>;
  /** Bytes of the envelope before a page of so many tokens. */
  envelopeBytes(pageSize: number): number;
}

export type NativeStagedPages = [
  pool: NativeTensor,
  slots: Int32Array,
  staging: Uint8Array,
  offsets: Float64Array,
  fingerprint: Uint8Array,
  group: number,
  pageSize: number,
  keys: Uint32Array,
  parents: Uint32Array,
  tokens: Int32Array,
];

export interface NativeDeviceInfo {
  name: string;
  isa: string;
  totalBytes: number;
  multiprocessors: number;
  driverVersion: number;
  runtimeVersion: number;
  hasBlas: boolean;
  l2Bytes: number;
}

export interface NativeDevice {
  info(): NativeDeviceInfo;
  /** allocated: live tensors; reserved: held by the pool, allocated included; free and total as the backend reports them. */
  memory(): { allocatedBytes: number; reservedBytes: number; freeBytes: number; totalBytes: number };
  /** Returns pooled memory that nothing uses to the backend. */
  trim(): void;
  createStream(): NativeStream;
  createTransferStream(): NativeTransferStream;
  createEvent(): NativeEvent;
  /** Uninitialised memory. Throws ERR_KVASIR_OUT_OF_MEMORY. */
  createTensor(dtype: number, shape: readonly number[]): NativeTensor;
  /**
   * Memory of this CPU device that `threads` threads touch, and page-lock for `pinnedFor`. `ready` resolves with whether all is done (false:
   * aborted), and rejects where pages cannot be locked unless `allowUnpinned`. The tensor must not be used before.
   */
  createHostTensor(
    dtype: number,
    shape: readonly number[],
    pinnedFor: NativeDevice | undefined,
    allowUnpinned: boolean,
    threads: number,
  ): { tensor: NativeTensor; ready: Promise<boolean> };
  /** Whether nothing asynchronous has failed; throws ERR_KVASIR_DEVICE_LOST otherwise. */
  check(): void;
  /** Makes the device fail as if a kernel had faulted, to test what follows. Only with KVASIR_DEBUG=faults. */
  injectFault(): void;
  dispose(): void;
}

export interface NativeStream {
  /** Checks the arguments, one for each field in the order of `opFields[op]` (absent: undefined), and enqueues the op. */
  enqueue(op: OpId, ...values: readonly NativeValue[]): void;
  /** Scratch bytes that `enqueue` with these arguments takes from the stream's own scratch buffer. */
  workspaceBytes(op: OpId, ...values: readonly NativeValue[]): number;
  /** Resolves when all work enqueued so far is done; rejects with the first asynchronous error. */
  finished(): Promise<void>;
  recordEvent(event: NativeEvent): void;
  waitEvent(event: NativeEvent): void;
  beginRecording(): void;
  endRecording(): NativeProgram;
  launch(program: NativeProgram): void;
  /** Bytes of `data` into the tensor (contiguous), in stream order. The array must not change until the returned promise resolves. */
  write(tensor: NativeTensor, data: BitArray): Promise<void>;
  /** The tensor's elements into a fresh array, in stream order. Strided tensors are gathered. */
  read(tensor: NativeTensor): Promise<ArrayBuffer>;
  /** File bytes [offset, offset + tensor bytes) into the tensor, read off the JS thread. */
  loadFile(tensor: NativeTensor, path: string, offset: number): Promise<void>;
  copy(target: NativeTensor, source: NativeTensor): void;
  fill(tensor: NativeTensor, byte: number): void;
  /** Timestamps on the device, slots 0..255, and microseconds between two of them (after `finished`). */
  stamp(slot: number): void;
  elapsedMicroseconds(from: number, to: number): number;
  dispose(): void;
}

/** Its backend calls are made by a thread of its own; every call here only notes what is to be done. */
export interface NativeTransferStream {
  /**
   * Checks all slots, then enqueues the copy of page `fromSlots[i]` to `toSlots[i]`; both tensors are [slots, elements_per_page].
   * Offsets and `bytes` in bytes within a page; `path` as kvasir_copy_path of the ABI.
   */
  copyPages(
    to: NativeTensor,
    toSlots: Int32Array,
    toOffset: number,
    from: NativeTensor,
    fromSlots: Int32Array,
    fromOffset: number,
    bytes: number,
    path: number,
  ): NativeTransfer;
  finished(): Promise<void>;
  recordEvent(event: NativeEvent): void;
  waitEvent(event: NativeEvent): void;
  stamp(slot: number): void;
  /** After `finished`. */
  elapsedMicroseconds(from: number, to: number): number;
  dispose(): void;
}

export interface NativeTransfer {
  /** true: the pages are there; false: cancelled before it began. Rejects where the copy failed. */
  readonly settled: Promise<boolean>;
  /** Whether the copy will not happen. */
  cancel(): boolean;
}

/** A point in a stream that other streams, of either backend, can wait for; a wait means the latest record at the time of the call. */
export interface NativeEvent {
  /** Whether the latest record was reached. */
  query(): boolean;
  dispose(): void;
}

export interface NativeTensor {
  readonly dtype: number;
  readonly shape: readonly number[];
  /** In elements. */
  readonly strides: readonly number[];
  /** Another tensor over the same storage. `offset` in elements from this tensor's first element. */
  view(offset: number, shape: readonly number[], strides: readonly number[]): NativeTensor;
  /** Whether it is host memory that a device reaches directly. */
  pinned(): boolean;
  /** Of a host tensor: bytes that are touched and, where asked for, page-locked. */
  bytesReady(): number;
  abortPreparing(): void;
  /** Drops this reference; the memory returns to the pool once every stream that used it has passed. A no-op the second time. */
  dispose(): void;
}

export interface NativeProgram {
  /** Number of recorded ops. */
  readonly length: number;
  dispose(): void;
}

export interface NativeSlabOptions {
  maxBytes: number;
  /** Tokens of a page. */
  pageSize: number;
  /** 16 bytes; a file with others is of another identity. */
  fingerprint: Uint8Array;
  identity: string;
  /** 0: io_uring, else threads; 1: io_uring; 2: threads. */
  engine: number;
  /** Whether a file of another identity, or with a damaged header, is emptied. */
  resets: boolean;
  /** fdatasync after so much time with writes, and on closing; 0 on closing only, -1 never. */
  syncMs: number;
  /** As on a file system without O_DIRECT; only with KVASIR_DEBUG=faults. */
  refusesDirect: boolean;
}

/** What a slab file shall fail at, only with KVASIR_DEBUG=faults; each call replaces the one before. */
export interface SlabFaults {
  /** The n-th read or write from now fails with `errno` (default EIO), and `failCount` in a row (default 1). */
  failRead?: number;
  failWrite?: number;
  failCount?: number;
  errno?: number;
  /** No transfer moves more bytes at once. */
  mostBytes?: number;
  delayMicroseconds?: number;
  /** 1: the file system has no room left. */
  noSpace?: number;
}

export interface SlabStats {
  pages: number;
  bytes: number;
  capacityBytes: number;
  loads: number;
  loadedBytes: number;
  stores: number;
  storedBytes: number;
  misses: number;
  damaged: number;
  failures: number;
  refused: number;
  evictions: number;
}

export interface SlabDescription {
  engine: "io_uring" | "threads";
  /** Why it is not io_uring. */
  whyNotRing?: string;
  /** Whether transfers pass the page cache by (O_DIRECT). */
  isDirect: boolean;
  /** Bytes of a page's place in the file, header included. */
  slotBytes: number;
  capacityPages: number;
  /** Index entries that were torn or stale when the file was opened. */
  droppedEntries: number;
}

/** Batches are copied before a call returns, pages are not; statuses as in lib/cache/tier_driver.ts. */
export interface NativeSlab {
  /** Opens, or finds the file to be of another identity, which `foundIdentity` then tells; the slab is of no use in that case. */
  open(): Promise<void>;
  readonly foundIdentity: string | undefined;
  lookup(group: number, keys: Uint32Array): Uint8Array;
  /** `id` is for `abort`. */
  load(
    id: number,
    group: number,
    keys: Uint32Array,
    parents: Uint32Array,
    tokens: Int32Array,
    slots: Int32Array,
  ): Promise<Uint8Array>;
  store(
    id: number,
    group: number,
    keys: Uint32Array,
    parents: Uint32Array,
    tokens: Int32Array,
    slots: Int32Array,
  ): Promise<Uint8Array>;
  remove(group: number, keys: Uint32Array): Promise<Uint8Array>;
  /** Pages of the call that were not begun fail. */
  abort(id: number): void;
  stats(): SlabStats;
  describe(): SlabDescription;
  injectFaults(faults: SlabFaults): void;
  /** Resolves when all that was asked for is done and the file is closed. */
  close(): Promise<void>;
}

/** Exports without which the addon is not the one that these types describe. */
const REQUIRED = [
  "opNames",
  "opFields",
  "probe",
  "openDevice",
  "createSlab",
  "encodeFloats",
  "decodeFloats",
  "pageKeys",
  "sealPages",
] as const;

let loaded: NativeAddon | undefined;

/**
 * The addon, loaded at first use, so that importing kvasir works (and `doctor` can explain) where it does not.
 * @throws ERR_KVASIR_BACKEND_UNAVAILABLE with every reason and what to do about it.
 */
export function addon(): NativeAddon {
  loaded ??= load();
  return loaded;
}

/** Where the addon was looked for; undefined where it cannot be found. */
export function addonPath(): string | undefined {
  try {
    return finder().resolve(packageRoot());
  } catch {
    return undefined; // the reason comes with the error of addon()
  }
}

interface Finder {
  resolve(root: string): string;
}

function finder(): Finder {
  return createRequire(import.meta.url)("node-gyp-build") as Finder;
}

function load(): NativeAddon {
  const reasons: string[] = [];
  let path: string | undefined;
  try {
    path = finder().resolve(packageRoot());
    const exports = createRequire(import.meta.url)(path) as Record<string, unknown>;
    const missing = REQUIRED.filter((name) => exports[name] === undefined);
    if (missing.length === 0) return exports as unknown as NativeAddon;
    reasons.push(`${path} lacks ${missing.join(", ")}: it was built from another version`);
  } catch (error) {
    const [first] = (error instanceof Error ? error.message : String(error)).split("\n");
    reasons.push(path === undefined ? String(first) : `${path} does not load: ${first}`);
  }
  throw new KvasirError(
    "ERR_KVASIR_BACKEND_UNAVAILABLE",
    `The native addon is not available for ${process.platform}-${process.arch}, Node ${process.versions.node}: ${reasons.join("; ")}. ` +
      "Build it with `npx kvasir build`; that needs a C++20 compiler, and no CUDA.",
  );
}

/** The folder of kvasir's package.json: two levels up from dist/lib, one from lib. */
function packageRoot(): string {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    const manifest = join(folder, "package.json");
    if (existsSync(manifest) && (JSON.parse(readFileSync(manifest, "utf8")) as { name?: string }).name === "kvasir")
      return folder;
    if (dirname(folder) === folder) throw new Error("package.json of kvasir was not found above its own files");
  }
}
