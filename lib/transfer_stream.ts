/** Copies of scattered pages between a device and host memory, beside everything else. */
import type { Device } from "./device.js";
import { dtypeBytes } from "./dtype.js";
import { KvasirError, fromNative, settle } from "./errors.js";
import { type Event, nativeEvent } from "./event.js";
import type { NativeTransfer, NativeTransferStream } from "./native.js";
import { checkInteger, checkOptions, describe } from "./options.js";
import { shapeText } from "./shape.js";
import { STAMP_SLOTS } from "./stream.js";
import { Tensor, nativeTensor } from "./tensor.js";
import { type CopyPath, type TransferDirection, pathsOf } from "./transfer_fit.js";

export interface CopyPagesArgs {
  /** [slots, elements_per_page]; one of the two lies on the stream's device, the other there or on a CPU device. */
  to: Tensor;
  /** Where page i goes; no slot twice. The array may change once the call has returned. */
  toSlots: Int32Array;
  /** [slots, elements_per_page] */
  from: Tensor;
  /** Where page i comes from, as many as `toSlots`. */
  fromSlots: Int32Array;
  /** Bytes from the start of a page; default 0. */
  toOffset?: number | undefined;
  fromOffset?: number | undefined;
  /** Bytes of each page; by default the whole page, which must then be equally large on both sides. */
  bytes?: number | undefined;
  /** Default "auto": the fastest by what `measureTransferPaths` found on this device, or by a table before it was called. */
  path?: "auto" | CopyPath | undefined;
  /** Milliseconds after which `done` resolves with "late". */
  deadlineMs?: number | undefined;
}

/**
 * `done`: every page is there. `cancelled`: the copy never began. `late`: the deadline passed first; a copy that had not begun does not
 * happen any more, one that had goes on, and `settled` tells when its memory is free. `failed`: see `transfer.error`.
 */
export type TransferOutcome = "done" | "cancelled" | "late" | "failed";

/** One call of `copyPages`. */
export class Transfer {
  /** Bytes that the transfer moves. */
  readonly bytes: number;
  /** How it ended. Never rejects. */
  readonly done: Promise<TransferOutcome>;
  /** Resolves when neither side is touched any more, whatever became of the transfer: its slots may be used again. Never rejects. */
  readonly settled: Promise<void>;
  readonly #native: NativeTransfer;
  #error: KvasirError | undefined;

  /** @internal */
  constructor(native: NativeTransfer, bytes: number, deadlineMs: number | undefined) {
    this.#native = native;
    this.bytes = bytes;
    const outcome = native.settled.then(
      (copied): TransferOutcome => (copied ? "done" : "cancelled"),
      (error: unknown): TransferOutcome => {
        this.#error = fromNative(error) as KvasirError;
        return "failed";
      },
    );
    this.settled = outcome.then(() => undefined);
    this.done = deadlineMs === undefined ? outcome : this.#within(deadlineMs, outcome);
  }

  /** Why the outcome is "failed". */
  get error(): KvasirError | undefined {
    return this.#error;
  }

  /**
   * Calls the copy off if it has not begun. Events recorded behind it are raised all the same, in order.
   * @returns whether the copy will not happen
   */
  cancel(): boolean {
    return this.#native.cancel();
  }

  #within(deadlineMs: number, outcome: Promise<TransferOutcome>): Promise<TransferOutcome> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#native.cancel();
        resolve("late");
      }, deadlineMs);
      outcome.then((result) => {
        clearTimeout(timer);
        resolve(result);
      });
    });
  }
}

/** As kvasir_copy_path of native/abi/kvasir_abi.h. */
const PATH_CODES: Record<CopyPath, number> = { dma: 1, batch: 2, kernel: 3 };

/**
 * Moves pages, in order, beside the device's other streams; events order it with them in both directions, as they do streams. Its calls of
 * the driver are made by a thread of its own, so that long lists hold nobody up. Made by `device.createTransferStream()`; two of them move
 * pages in both directions at once.
 *
 * @example
 * ```ts
 * import { openDevice } from "kvasir";
 *
 * using device = openDevice("cpu");
 * using pool = device.zeros("bf16", [8, 1024]);
 * using host = device.zeros("bf16", [64, 1024]);
 * using out = device.createTransferStream();
 * using written = device.createEvent();
 * device.stream.record(written); // what the device's stream writes to the pool before this is what is copied
 * out.wait(written);
 * const transfer = out.copyPages({ to: host, toSlots: Int32Array.of(40, 7), from: pool, fromSlots: Int32Array.of(0, 3) });
 * console.log(await transfer.done); // "done"
 * ```
 */
export class TransferStream implements Disposable {
  readonly device: Device;
  #native: NativeTransferStream | undefined;

  /** @internal */
  constructor(device: Device, native: NativeTransferStream) {
    this.device = device;
    this.#native = native;
  }

  /**
   * Copies page `fromSlots[i]` of `from` to page `toSlots[i]` of `to`, for every i, in no particular order among them. Neighbours on both
   * sides travel as one. Everything is checked before anything is enqueued. Both tensors may be disposed right after the call.
   *
   * Host memory should be pinned (`allocateHostTensor`): other memory passes through staging, at a fraction of the speed, and only by the
   * path "dma", which "auto" then takes.
   *
   * @throws ERR_KVASIR_PAGE_OUT_OF_RANGE for a slot outside its tensor; ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_SHAPE for the rest;
   * ERR_KVASIR_DISPOSED, ERR_KVASIR_DEVICE_LOST
   */
  copyPages(args: CopyPagesArgs): Transfer {
    const { to, from, toSlots, fromSlots, deadlineMs } = checkArgs(args);
    const [toOffset, fromOffset] = [
      checkInteger("toOffset", args.toOffset ?? 0, 0),
      checkInteger("fromOffset", args.fromOffset ?? 0, 0),
    ];
    const bytes = checkInteger("bytes", args.bytes ?? wholePage(to, from), 0);
    return this.#call((native) => {
      const path = this.#path(args, bytes);
      const transfer = native.copyPages(
        nativeTensor(to),
        toSlots,
        toOffset,
        nativeTensor(from),
        fromSlots,
        fromOffset,
        bytes,
        path,
      );
      return new Transfer(transfer, bytes * toSlots.length, deadlineMs);
    });
  }

  /** Resolves when everything enqueued so far is done or cancelled. @throws ERR_KVASIR_DEVICE_LOST (rejection), ERR_KVASIR_DISPOSED */
  async finished(): Promise<void> {
    await settle(() => this.#open().finished());
  }

  /** Marks this point of the stream in `event`. @throws ERR_KVASIR_DISPOSED */
  record(event: Event): void {
    this.#call((native) => native.recordEvent(nativeEvent(event)));
  }

  /** Holds later transfers back until `event`'s latest record, as of this call, is reached. @throws ERR_KVASIR_DISPOSED */
  wait(event: Event): void {
    this.#call((native) => native.waitEvent(nativeEvent(event)));
  }

  /** Stamps slot 0..255 with the device's clock when the stream gets here. */
  stamp(slot: number): void {
    checkInteger("slot", slot, 0, STAMP_SLOTS - 1);
    this.#call((native) => native.stamp(slot));
  }

  /** Microseconds on the device between two stamps; both must have been passed (`await finished()`). */
  elapsedMicroseconds(from: number, to: number): number {
    checkInteger("from", from, 0, STAMP_SLOTS - 1);
    checkInteger("to", to, 0, STAMP_SLOTS - 1);
    return this.#call((native) => native.elapsedMicroseconds(from, to));
  }

  get disposed(): boolean {
    return this.#native === undefined;
  }

  /** What was enqueued still runs to its end. A no-op the second time. */
  dispose(): void {
    this.#native?.dispose();
    this.#native = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #path(args: CopyPagesArgs, bytes: number): number {
    const { path = "auto", to, from, toSlots, fromSlots } = args;
    if (path !== "auto") return PATH_CODES[path];
    const host = to.device === this.device ? from.device : to.device;
    if (host === this.device || !nativeTensor(host === to.device ? to : from).pinned()) return PATH_CODES.dma;
    const isDense = [to, from].every((side) => bytes === (side.strides[0] as number) * dtypeBytes[side.dtype]);
    const runs = isDense ? countRuns(toSlots, fromSlots) : toSlots.length;
    const direction: TransferDirection = to.device === this.device ? "in" : "out";
    return PATH_CODES[pathsOf(this.device).choose(direction, (bytes * toSlots.length) / Math.max(1, runs), runs)];
  }

  #open(): NativeTransferStream {
    if (this.#native !== undefined && !this.device.disposed) return this.#native;
    const what = this.#native === undefined ? "TransferStream" : "Device of the transfer stream";
    throw new KvasirError("ERR_KVASIR_DISPOSED", `${what} was disposed; enqueue before dispose()`);
  }

  #call<T>(action: (native: NativeTransferStream) => T): T {
    try {
      return action(this.#open());
    } catch (error) {
      throw fromNative(error);
    }
  }
}

/** Copies that the list falls into when neighbours travel as one. */
function countRuns(toSlots: Int32Array, fromSlots: Int32Array): number {
  let runs = 0;
  for (let i = 0; i < toSlots.length; i++) {
    const follows = i > 0 && toSlots[i] === (toSlots[i - 1] as number) + 1 && fromSlots[i] === (fromSlots[i - 1] as number) + 1;
    if (!follows) runs++;
  }
  return runs;
}

function wholePage(to: Tensor, from: Tensor): number {
  const [toBytes, fromBytes] = [to, from].map(({ shape, dtype }) => (shape[1] ?? 1) * dtypeBytes[dtype]) as [number, number];
  if (toBytes === fromBytes) return toBytes;
  throw new KvasirError(
    "ERR_KVASIR_SHAPE",
    `a page of to has ${toBytes} bytes and one of from ${fromBytes}, expected the same, or bytes to be given`,
  );
}

/** Kinds and names; the addon checks ranges. */
function checkArgs(args: CopyPagesArgs): CopyPagesArgs {
  checkOptions("copyPages", args, [
    "to",
    "toSlots",
    "from",
    "fromSlots",
    "toOffset",
    "fromOffset",
    "bytes",
    "path",
    "deadlineMs",
  ]);
  for (const name of ["to", "from"] as const) {
    const tensor: unknown = args?.[name];
    if (!(tensor instanceof Tensor))
      throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `${name} is ${describe(tensor)}, expected a Tensor`);
    if (tensor.shape.length !== 2)
      throw new KvasirError(
        "ERR_KVASIR_SHAPE",
        `${name} has shape ${shapeText(tensor.shape)}, expected [slots, elements_per_page]`,
      );
  }
  for (const name of ["toSlots", "fromSlots"] as const) {
    if (args[name] instanceof Int32Array) continue;
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `${name} is ${describe(args[name])}, expected an Int32Array`);
  }
  const { path = "auto", deadlineMs } = args;
  if (path !== "auto" && !Object.hasOwn(PATH_CODES, path)) {
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      `path is ${describe(path)}, expected "auto", "dma", "batch" or "kernel"`,
    );
  }
  if (deadlineMs !== undefined && !(typeof deadlineMs === "number" && deadlineMs >= 0 && deadlineMs < 2 ** 31)) {
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      `deadlineMs is ${describe(deadlineMs)}, expected milliseconds of 0 or more`,
    );
  }
  return args;
}
