/** Large host memory as a tensor of a CPU device, page-locked so that GPUs reach it directly. */
import { type Device, nativeDevice } from "./device.js";
import { type DType, dtypeBytes, dtypes } from "./dtype.js";
import { KvasirError, fromNative } from "./errors.js";
import { hostLimits } from "./host_limits.js";
import { checkInteger, checkOptions, describe } from "./options.js";
import { checkShape, elementCount } from "./shape.js";
import { Tensor, nativeTensor } from "./tensor.js";

export interface HostTensorOptions {
  /** The device that is to reach the memory directly: its pages are locked, for this and all devices of that backend. */
  pinnedFor?: Device | undefined;
  /** Where pages cannot be locked: true gives plain memory (`isPinned` tells), false, the default, an error. */
  allowUnpinned?: boolean | undefined;
  /** Native threads that touch and lock pages; by default as many as the CPU device has. */
  threads?: number | undefined;
  /** Called some twenty times a second while the memory is made ready. */
  onProgress?: ((readyBytes: number, totalBytes: number) => void) | undefined;
  /** Gives up; the promise rejects with its reason. */
  signal?: AbortSignal | undefined;
  /**
   * Internal, for tests: the folder whose `proc` and `sys` tell the limits; default "/".
   * @internal
   */
  limitsRoot?: string | undefined;
}

const PROGRESS_MS = 50;
const GIB = 2 ** 30;

/**
 * A tensor of `cpu` whose memory is there from the start: aligned to 2 MiB, in huge pages where the system has them, touched, and with
 * `pinnedFor` page-locked, by several native threads and off the event loop. Contents are undefined. Streams and ops of both devices use
 * it like any tensor of `cpu`; once it and its views are disposed and every use has passed, it is unlocked and unmapped off the event loop.
 * When `pinnedFor` is disposed first, the tensor stays, unpinned.
 *
 * @throws (rejection) ERR_KVASIR_OUT_OF_MEMORY where the process may not take so much (MemAvailable, cgroups, `memoryLimit`), or pages
 * cannot be locked; ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_DISPOSED; the signal's reason
 *
 * @example
 * ```ts
 * import { allocateHostTensor, isPinned, openDevice } from "kvasir";
 *
 * using cpu = openDevice("cpu");
 * using pool = await allocateHostTensor(cpu, "bf16", [16, 1024 * 1024], {
 *   onProgress: (ready, total) => console.error(`${Math.round((100 * ready) / total)} %`),
 * });
 * console.log(pool.shape, isPinned(pool));
 * ```
 */
export async function allocateHostTensor(
  cpu: Device,
  dtype: DType,
  shape: readonly number[],
  options: HostTensorOptions = {},
): Promise<Tensor> {
  const sizes = checkRequest(cpu, dtype, shape, options);
  const { pinnedFor, allowUnpinned = false, threads = cpu.describe().multiprocessors, signal } = options;
  checkInteger("threads", threads, 1, 4096);
  signal?.throwIfAborted();
  const totalBytes = elementCount(sizes) * dtypeBytes[dtype];
  const memlockBytes = checkRoom(totalBytes, options.limitsRoot);
  const pin = pinnedFor === undefined ? undefined : nativeDevice(pinnedFor);
  try {
    const { tensor: native, ready } = nativeDevice(cpu).createHostTensor(
      dtypes.indexOf(dtype),
      sizes,
      pin,
      allowUnpinned,
      threads,
    );
    const tensor = new Tensor(cpu, native, dtype, sizes);
    await prepared(tensor, ready, totalBytes, options);
    return tensor;
  } catch (error) {
    throw explained(fromNative(error), memlockBytes);
  }
}

/** Whether the tensor's memory is page-locked, so that a GPU's copies reach it directly. @throws ERR_KVASIR_DISPOSED */
export function isPinned(tensor: Tensor): boolean {
  return nativeTensor(tensor).pinned();
}

/** Waits until the memory is ready; disposes the tensor where it never will be. */
async function prepared(tensor: Tensor, ready: Promise<boolean>, totalBytes: number, options: HostTensorOptions): Promise<void> {
  const { onProgress, signal } = options;
  const native = nativeTensor(tensor);
  const abort = (): void => native.abortPreparing();
  let timer: NodeJS.Timeout | undefined;
  try {
    const thrown = new Promise<never>((_, reject) => {
      if (onProgress === undefined) return;
      timer = setInterval(() => {
        try {
          onProgress(native.bytesReady(), totalBytes);
        } catch (error) {
          reject(error);
        }
      }, PROGRESS_MS);
    });
    signal?.addEventListener("abort", abort, { once: true });
    const complete = await Promise.race([ready, thrown]);
    signal?.throwIfAborted();
    if (!complete) throw new KvasirError("ERR_KVASIR_DISPOSED", "A device was disposed while its host memory was made ready");
    onProgress?.(totalBytes, totalBytes);
  } catch (error) {
    ready.catch(() => undefined);
    tensor.dispose();
    throw error;
  } finally {
    clearInterval(timer);
    signal?.removeEventListener("abort", abort);
  }
}

function checkRequest(cpu: Device, dtype: DType, shape: readonly number[], options: HostTensorOptions): readonly number[] {
  checkOptions("allocateHostTensor", options, ["pinnedFor", "allowUnpinned", "threads", "onProgress", "signal", "limitsRoot"]);
  if (cpu?.backend !== "cpu") {
    const got = cpu?.backend === "cuda" ? `cuda:${cpu.index}` : describe(cpu);
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `cpu is ${got}, expected a CPU device, openDevice("cpu")`);
  }
  const { pinnedFor, allowUnpinned, signal, onProgress } = options;
  const wrong = (name: string, value: unknown, expected: string): never => {
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `${name} is ${describe(value)}, expected ${expected}`);
  };
  if (pinnedFor !== undefined && typeof pinnedFor?.createTransferStream !== "function") wrong("pinnedFor", pinnedFor, "a Device");
  if (allowUnpinned !== undefined && typeof allowUnpinned !== "boolean") wrong("allowUnpinned", allowUnpinned, "true or false");
  if (signal !== undefined && !(signal instanceof AbortSignal)) wrong("signal", signal, "an AbortSignal");
  if (onProgress !== undefined && typeof onProgress !== "function") wrong("onProgress", onProgress, "a function");
  if (!dtypes.includes(dtype)) {
    throw new KvasirError("ERR_KVASIR_DTYPE", `dtype is ${describe(dtype)}, expected one of ${dtypes.join(", ")}`);
  }
  return checkShape(shape);
}

/** @returns RLIMIT_MEMLOCK */
function checkRoom(bytes: number, root: string | undefined): number {
  const { availableBytes, limitedBy, memlockBytes } = hostLimits(root);
  if (bytes <= availableBytes) return memlockBytes;
  throw new KvasirError(
    "ERR_KVASIR_OUT_OF_MEMORY",
    `A host tensor of ${gib(bytes)} GiB does not fit: ${limitedBy} leaves ${gib(availableBytes)} GiB; ask for at most that`,
  );
}

const gib = (bytes: number): string => (bytes / GIB).toFixed(bytes < GIB ? 4 : 2);

/** Where pages could not be locked, the limit that may be why. */
function explained(error: unknown, memlockBytes: number): unknown {
  if (!(error instanceof KvasirError) || !error.message.includes("page-locked")) return error;
  const limit = Number.isFinite(memlockBytes)
    ? `RLIMIT_MEMLOCK is ${memlockBytes} bytes (ulimit -l; docker: --ulimit memlock=-1)`
    : "RLIMIT_MEMLOCK is unlimited";
  return new KvasirError(error.code, `${error.message.replace(/[.;]?$/, "")}; ${limit}; ask for less, or pass allowUnpinned`);
}
