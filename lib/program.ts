/** Recorded work that one call replays. */
import { KvasirError } from "./errors.js";
import type { NativeProgram } from "./native.js";

/** Internal: the addon's object behind a program. */
export let nativeProgram: (program: Program) => NativeProgram;

/**
 * Ops recorded by `stream.program(body)`: a CUDA graph on CUDA, a list of calls on the CPU. It keeps the tensors that it uses alive and
 * reads their contents afresh at every launch, so lengths, page tables and tokens may change between launches; shapes may not.
 */
export class Program implements Disposable {
  #native: NativeProgram | undefined;

  /** @internal */
  constructor(native: NativeProgram) {
    this.#native = native;
  }

  static {
    nativeProgram = (program) => {
      if (typeof program !== "object" || program === null || !(#native in program)) {
        throw new KvasirError(
          "ERR_KVASIR_INVALID_ARGUMENT",
          "program is no Program; make one with stream.program(() => { ... })",
        );
      }
      if (program.#native === undefined) throw new KvasirError("ERR_KVASIR_DISPOSED", "Program was disposed; record another");
      return program.#native;
    };
  }

  /** Number of recorded calls. @throws ERR_KVASIR_DISPOSED */
  get length(): number {
    return nativeProgram(this).length;
  }

  get disposed(): boolean {
    return this.#native === undefined;
  }

  /** Safe while launched work is in flight; a no-op the second time. */
  dispose(): void {
    this.#native?.dispose();
    this.#native = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
