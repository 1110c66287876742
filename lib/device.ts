/** Where tensors live and ops run. */
import { type DType, dtypes } from "./dtype.js";
import { type TensorData, bitsOf } from "./elements.js";
import { KvasirError, fromNative } from "./errors.js";
import { Event } from "./event.js";
import { track, untrack } from "./leaks.js";
import { type NativeDevice, type NativeTensor, addon } from "./native.js";
import { checkInteger, checkOptions, describe, nearest } from "./options.js";
import { checkShape } from "./shape.js";
import { Stream, nativeStream } from "./stream.js";
import { type StreamOption, Tensor, nativeTensor } from "./tensor.js";
import { TransferStream } from "./transfer_stream.js";

export type Backend = "cpu" | "cuda";

/** `cuda:1` is the second CUDA device. */
export type DeviceKind = Backend | `cuda:${number}`;

export interface DeviceOptions {
  /** CPU: threads that work, the calling stream's included; by default one per core that the process may use. */
  threads?: number | undefined;
  /** Bytes that the device's tensors and scratch may take at once; by default no limit but the memory itself. */
  memoryLimit?: number | undefined;
}

/** What `device.describe()` tells. */
export interface DeviceDescription {
  backend: Backend;
  /** Among the devices of its backend. */
  index: number;
  /** "NVIDIA H100 80GB HBM3", "Intel(R) Xeon(R) ...". */
  name: string;
  /** CPU: amx, avx512_bf16, avx512, avx2 or portable; CUDA: sm_90. */
  isa: string;
  totalBytes: number;
  /** CUDA: streaming multiprocessors; CPU: threads. */
  multiprocessors: number;
  driverVersion: number;
  runtimeVersion: number;
  /** CUDA: whether cuBLASLt was found. */
  hasBlas: boolean;
  l2Bytes: number;
  /** Why this device: asked for by the caller, by KVASIR_BACKEND, or the best that is usable. */
  chosenBy: "caller" | "KVASIR_BACKEND" | "best usable";
  /** The other backends: usable devices, and where there are none the reasons, outermost layer first. */
  others: Partial<Record<Backend, { devices: number; reasons: readonly string[] }>>;
}

export interface DeviceMemory {
  /** Live tensors. */
  allocatedBytes: number;
  /** Held by the pool, live tensors included. */
  reservedBytes: number;
  freeBytes: number;
  totalBytes: number;
}

/** Best first. */
const backends: readonly Backend[] = ["cuda", "cpu"];

/** Usable devices of every backend, and where there are none the reasons. @throws ERR_KVASIR_BACKEND_UNAVAILABLE without the addon */
export function probeBackends(): Record<Backend, { devices: number; reasons: readonly string[] }> {
  return { cuda: addon().probe("cuda"), cpu: addon().probe("cpu") };
}

/**
 * Opens a device. Without `kind` the environment variable KVASIR_BACKEND decides, else the best usable backend is taken, and
 * `device.describe()` says which and why not the others. A backend that is asked for is never replaced by another.
 *
 * @throws ERR_KVASIR_BACKEND_UNAVAILABLE with every reason (library, driver, device, compute capability);
 * ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNKNOWN_OPTION for arguments.
 *
 * @example
 * ```ts
 * import { openDevice } from "kvasir";
 *
 * using device = openDevice();
 * console.log(device.describe());
 * ```
 */
export function openDevice(kind?: DeviceKind, options: DeviceOptions = {}): Device {
  checkOptions("openDevice", options, ["threads", "memoryLimit"]);
  const forced = process.env.KVASIR_BACKEND;
  const chosenBy = kind !== undefined ? "caller" : forced !== undefined && forced !== "" ? "KVASIR_BACKEND" : "best usable";
  const wanted = chosenBy === "caller" ? kind : chosenBy === "KVASIR_BACKEND" ? forced : bestUsable();
  const [backend, index] = parseKind(wanted, chosenBy === "KVASIR_BACKEND" ? "KVASIR_BACKEND" : "kind");
  if (options.threads !== undefined && backend !== "cpu") {
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      `threads is ${describe(options.threads)}, expected none for ${backend}: it is for cpu`,
    );
  }
  const threads = options.threads === undefined ? 0 : checkInteger("threads", options.threads, 1, 4096);
  const memoryLimit = options.memoryLimit === undefined ? 0 : checkInteger("memoryLimit", options.memoryLimit, 1);
  const { devices, reasons } = addon().probe(backend);
  if (index >= devices) {
    const why = devices > 0 ? `there are ${devices} usable devices, numbered from 0` : reasons.join("; ");
    throw new KvasirError("ERR_KVASIR_BACKEND_UNAVAILABLE", `${wanted} is not available: ${why}`);
  }
  try {
    return new Device(backend, index, chosenBy, addon().openDevice(backend, index, threads, memoryLimit));
  } catch (error) {
    throw fromNative(error);
  }
}

function bestUsable(): Backend {
  const found = backends.find((backend) => addon().probe(backend).devices > 0);
  if (found !== undefined) return found;
  const reasons = backends.map((backend) => `${backend}: ${addon().probe(backend).reasons.join("; ")}`);
  throw new KvasirError("ERR_KVASIR_BACKEND_UNAVAILABLE", `No backend is available: ${reasons.join(". ")}`);
}

function parseKind(kind: unknown, from: string): [Backend, number] {
  const match = typeof kind === "string" ? /^(cpu|cuda)(?::(\d{1,4}))?$/.exec(kind) : null;
  if (match === null || (match[1] === "cpu" && match[2] !== undefined)) {
    const near = typeof kind === "string" ? nearest(kind, backends) : undefined;
    const hint = near === undefined ? "" : `; did you mean ${near}?`;
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      `${from} is ${describe(kind)}, expected "cpu", "cuda" or "cuda:<index>"${hint}`,
    );
  }
  return [match[1] as Backend, Number(match[2] ?? 0)];
}

/** Internal: the addon's object behind a device. */
export let nativeDevice: (device: Device) => NativeDevice;

/**
 * A CPU or a GPU: owns memory and streams. Made by `openDevice`.
 *
 * Once work on it failed asynchronously (a CUDA fault), every later call throws ERR_KVASIR_DEVICE_LOST; other devices are untouched.
 */
export class Device implements Disposable {
  readonly backend: Backend;
  readonly index: number;
  /** The stream that calls use unless they name another. */
  readonly stream: Stream;
  readonly #chosenBy: DeviceDescription["chosenBy"];
  #native: NativeDevice | undefined;

  /** @internal */
  constructor(backend: Backend, index: number, chosenBy: DeviceDescription["chosenBy"], native: NativeDevice) {
    this.backend = backend;
    this.index = index;
    this.#chosenBy = chosenBy;
    this.#native = native;
    this.stream = new Stream(this, native.createStream());
    track(this, `Device ${backend}:${index}`, () => native.dispose());
  }

  static {
    nativeDevice = (device) => {
      if (device.#native === undefined) {
        throw new KvasirError(
          "ERR_KVASIR_DISPOSED",
          `Device ${device.backend}:${device.index} was disposed; open another with openDevice()`,
        );
      }
      return device.#native;
    };
  }

  /** A further stream, which runs beside the others. @throws ERR_KVASIR_DISPOSED, ERR_KVASIR_DEVICE_LOST */
  createStream(): Stream {
    return new Stream(
      this,
      this.#call((native) => native.createStream()),
    );
  }

  /** A stream that moves pages between this device's memory and host memory. @throws ERR_KVASIR_DISPOSED, ERR_KVASIR_DEVICE_LOST */
  createTransferStream(): TransferStream {
    return new TransferStream(
      this,
      this.#call((native) => native.createTransferStream()),
    );
  }

  /** An event, usable with streams of every device. @throws ERR_KVASIR_DISPOSED */
  createEvent(): Event {
    return new Event(this.#call((native) => native.createEvent()));
  }

  /** A tensor of undefined contents. @throws ERR_KVASIR_OUT_OF_MEMORY, ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_DISPOSED */
  empty(dtype: DType, shape: readonly number[]): Tensor {
    const code = dtypes.indexOf(dtype);
    if (code < 0) {
      throw new KvasirError("ERR_KVASIR_DTYPE", `dtype is ${describe(dtype)}, expected one of ${dtypes.join(", ")}`);
    }
    const sizes = checkShape(shape);
    return new Tensor(
      this,
      this.#call((native): NativeTensor => native.createTensor(code, sizes)),
      dtype,
      sizes,
    );
  }

  /** A tensor of zeros. @throws as `empty` */
  zeros(dtype: DType, shape: readonly number[], options?: StreamOption): Tensor {
    const tensor = this.empty(dtype, shape);
    try {
      tensor.fill(0, options);
    } catch (error) {
      tensor.dispose();
      throw error;
    }
    return tensor;
  }

  /**
   * A tensor with contents: bits of the dtype (an array of its element size), or a Float32Array or a list of numbers, which is converted
   * natively, round to nearest even. The data is copied before the call returns.
   * @throws as `empty` and as `tensor.write`
   */
  tensor(dtype: DType, shape: readonly number[], data: TensorData, options?: StreamOption): Tensor {
    const tensor = this.empty(dtype, shape);
    try {
      checkOptions("tensor", options, ["stream"]);
      const bits = bitsOf(dtype, tensor.size, data);
      const own = (data as ArrayBufferView).buffer === bits.buffer ? bits.slice() : bits;
      // A failure to copy means that the device is lost, and every later call on it says so.
      nativeStream(options?.stream ?? this.stream)
        .write(nativeTensor(tensor), own)
        .catch(() => undefined);
    } catch (error) {
      tensor.dispose();
      throw fromNative(error);
    }
    return tensor;
  }

  /** Which device this is, why it was chosen, and why not the others. @throws ERR_KVASIR_DISPOSED */
  describe(): DeviceDescription {
    const info = this.#call((native) => native.info());
    const others: DeviceDescription["others"] = {};
    for (const backend of backends) {
      if (backend !== this.backend) others[backend] = addon().probe(backend);
    }
    return { backend: this.backend, index: this.index, ...info, chosenBy: this.#chosenBy, others };
  }

  /** Bytes in use and free, as the pool and the backend count them. @throws ERR_KVASIR_DISPOSED */
  memory(): DeviceMemory {
    return this.#call((native) => native.memory());
  }

  /** Gives pooled memory that nothing uses back to the system. @throws ERR_KVASIR_DISPOSED */
  trim(): void {
    this.#call((native) => native.trim());
  }

  /** Throws if work on the device has failed. @throws ERR_KVASIR_DEVICE_LOST, ERR_KVASIR_DISPOSED */
  check(): void {
    this.#call((native) => native.check());
  }

  get disposed(): boolean {
    return this.#native === undefined;
  }

  /** Ends the device: enqueued work runs to its end, its streams and tensors can no longer be used. A no-op the second time. */
  dispose(): void {
    if (this.#native === undefined) return;
    this.stream.dispose();
    this.#native.dispose();
    this.#native = undefined;
    untrack(this);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #call<T>(action: (native: NativeDevice) => T): T {
    try {
      return action(nativeDevice(this));
    } catch (error) {
      throw fromNative(error);
    }
  }
}
