/** In-order queues of work. */
import type { Device } from "./device.js";
import { KvasirError, fromNative, settle } from "./errors.js";
import { type Event, nativeEvent } from "./event.js";
import type { NativeStream } from "./native.js";
import { checkInteger } from "./options.js";
import { Program, nativeProgram } from "./program.js";

/** Slots of `stamp`, as KVASIR_STAMP_SLOTS in native/abi/kvasir_abi.h. */
export const STAMP_SLOTS = 256;

/** Internal: the addon's object behind a stream. */
export let nativeStream: (stream: Stream) => NativeStream;

/**
 * Work in order: an op call validates, enqueues and returns at once; `finished()` and reading a tensor are the only waits. Streams of a
 * device run side by side; events order them.
 *
 * @example
 * ```ts
 * import { openDevice, siluMul } from "kvasir";
 *
 * using device = openDevice("cpu");
 * using gate = device.tensor("f32", [1, 4], [0, 1, 2, 3]);
 * using out = device.empty("f32", [1, 4]);
 * using step = device.stream.program(() => siluMul(device.stream, { gate, up: gate, out }));
 * device.stream.launch(step);
 * console.log(await out.readFloats());
 * ```
 */
export class Stream implements Disposable {
  readonly device: Device;
  #native: NativeStream | undefined;
  #isRecording = false;

  /** @internal */
  constructor(device: Device, native: NativeStream) {
    this.device = device;
    this.#native = native;
  }

  static {
    nativeStream = (stream) => {
      if (typeof stream !== "object" || stream === null || !(#native in stream)) {
        throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", "stream is no Stream; pass device.stream or device.createStream()");
      }
      if (stream.#native === undefined || stream.device.disposed) {
        const what = stream.#native === undefined ? "Stream" : "Device of the stream";
        throw new KvasirError("ERR_KVASIR_DISPOSED", `${what} was disposed; enqueue before dispose()`);
      }
      return stream.#native;
    };
  }

  /**
   * Resolves when everything enqueued so far is done.
   * @throws ERR_KVASIR_DEVICE_LOST (rejection) with the first asynchronous fault; ERR_KVASIR_DISPOSED
   */
  async finished(): Promise<void> {
    await settle(() => nativeStream(this).finished());
  }

  /** Marks this point of the stream in `event`; an earlier mark is forgotten. @throws ERR_KVASIR_DISPOSED */
  record(event: Event): void {
    this.#call((native) => native.recordEvent(nativeEvent(event)));
  }

  /** Holds later work of this stream back until `event`'s latest record, as of this call, is reached. @throws ERR_KVASIR_DISPOSED */
  wait(event: Event): void {
    this.#call((native) => native.waitEvent(nativeEvent(event)));
  }

  /**
   * Records what `body` enqueues on this stream instead of running it. Reading, writing and file loads are refused inside.
   * @throws ERR_KVASIR_INVALID_ARGUMENT if `body` returns a promise (work after an await is not recorded) or records already;
   * whatever `body` throws.
   */
  program(body: () => void): Program {
    if (typeof body !== "function")
      throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", "body is no function; pass () => { ...ops... }");
    if (this.#isRecording) {
      throw new KvasirError(
        "ERR_KVASIR_INVALID_ARGUMENT",
        "stream records a program already; finish it first or use another stream",
      );
    }
    this.#call((native) => native.beginRecording());
    this.#isRecording = true;
    let program: Program | undefined;
    let result: unknown;
    let isComplete = false;
    try {
      result = body();
      isComplete = true;
    } finally {
      this.#isRecording = false;
      // Where body threw, that error counts; the stream must leave recording all the same.
      program = this.#endRecording(isComplete);
    }
    if (program === undefined) throw new KvasirError("ERR_KVASIR_INTERNAL", "recording gave no program");
    if (typeof (result as PromiseLike<void> | undefined)?.then === "function") {
      program.dispose();
      throw new KvasirError(
        "ERR_KVASIR_INVALID_ARGUMENT",
        "body returned a promise, expected a synchronous function: later work is not recorded",
      );
    }
    return program;
  }

  /** Enqueues everything recorded in `program`, in one call. @throws ERR_KVASIR_DISPOSED */
  launch(program: Program): void {
    this.#call((native) => native.launch(nativeProgram(program)));
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

  /** Enqueued work still runs to its end. A no-op the second time. */
  dispose(): void {
    this.#native?.dispose();
    this.#native = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #endRecording(isComplete: boolean): Program | undefined {
    try {
      const program = new Program(nativeStream(this).endRecording());
      if (isComplete) return program;
      program.dispose();
    } catch (error) {
      if (isComplete) throw fromNative(error);
    }
    return undefined;
  }

  #call<T>(action: (native: NativeStream) => T): T {
    try {
      return action(nativeStream(this));
    } catch (error) {
      throw fromNative(error);
    }
  }
}
