/** Arrays in device memory. */
import type { Device } from "./device.js";
import { type BitArray, type DType, dtypeBytes } from "./dtype.js";
import { type TensorData, bitsOf, bitsOver, floatsOf } from "./elements.js";
import { KvasirError, fromNative, settle } from "./errors.js";
import { track, untrack } from "./leaks.js";
import { type NativeTensor, addon } from "./native.js";
import { checkInteger, checkOptions, describe } from "./options.js";
import { checkShape, checkStrides, contiguousStrides, elementCount, extent, shapeText } from "./shape.js";
import { type Stream, nativeStream } from "./stream.js";

/** Where work is enqueued; the device's own stream by default. */
export interface StreamOption {
  stream?: Stream | undefined;
}

/** Internal: the addon's object behind a tensor. */
export let nativeTensor: (tensor: Tensor) => NativeTensor;

/**
 * A typed, shaped view of device memory, of rank 1 to 4, row-major unless made by `view`. Memory is counted by references: it goes back
 * to the device's pool when the tensor and all its views were disposed and every stream that used it has passed, so `dispose()` is safe
 * straight after enqueueing.
 */
export class Tensor implements Disposable {
  readonly device: Device;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** In elements. */
  readonly strides: readonly number[];
  /** Number of elements. */
  readonly size: number;
  /** Whether elements lie in row-major order without gaps. */
  readonly contiguous: boolean;
  readonly #isView: boolean;
  #native: NativeTensor | undefined;

  /** @internal */
  constructor(device: Device, native: NativeTensor, dtype: DType, shape: readonly number[], strides?: readonly number[]) {
    this.device = device;
    this.dtype = dtype;
    this.shape = shape;
    const dense = contiguousStrides(shape);
    this.strides = strides ?? dense;
    this.size = elementCount(shape);
    this.contiguous = strides === undefined || this.size === 0 || shape.every((n, i) => n === 1 || strides[i] === dense[i]);
    this.#isView = strides !== undefined;
    this.#native = native;
    if (!this.#isView) track(this, `Tensor ${dtype} ${shapeText(shape)}`, () => native.dispose());
  }

  static {
    nativeTensor = (tensor) => {
      if (tensor.#native === undefined) {
        throw new KvasirError(
          "ERR_KVASIR_DISPOSED",
          `Tensor ${tensor.dtype} ${shapeText(tensor.shape)} was disposed; use it before dispose()`,
        );
      }
      return tensor.#native;
    };
  }

  /** Bytes of all elements. */
  get bytes(): number {
    return this.size * dtypeBytes[this.dtype];
  }

  /** Rows [start, end) of dimension 0, over the same memory. @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DISPOSED */
  slice(start: number, end: number): Tensor {
    const rows = this.shape[0] as number;
    if (!Number.isInteger(start) || !Number.isInteger(end) || start < 0 || end < start || end > rows) {
      throw new KvasirError(
        "ERR_KVASIR_SHAPE",
        `slice is [${start}, ${end}), expected a range within [0, ${rows}), the tensor's dimension 0`,
      );
    }
    return this.#over(start * (this.strides[0] as number), [end - start, ...this.shape.slice(1)], this.strides);
  }

  /** Row `index` of dimension 0, which is dropped; the tensor needs two dimensions or more. @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DISPOSED */
  select(index: number): Tensor {
    const rows = this.shape[0] as number;
    if (this.shape.length < 2)
      throw new KvasirError("ERR_KVASIR_SHAPE", "select on a tensor of 1 dimension, expected 2 or more; use slice");
    if (!Number.isInteger(index) || index < 0 || index >= rows) {
      throw new KvasirError(
        "ERR_KVASIR_SHAPE",
        `index is ${describe(index)}, expected 0 to ${rows - 1}, the tensor's dimension 0`,
      );
    }
    return this.#over(index * (this.strides[0] as number), this.shape.slice(1), this.strides.slice(1));
  }

  /** The same elements in another shape; the tensor must be contiguous. @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DISPOSED */
  reshape(shape: readonly number[]): Tensor {
    const to = checkShape(shape);
    if (elementCount(to) !== this.size) {
      throw new KvasirError(
        "ERR_KVASIR_SHAPE",
        `shape is ${shapeText(to)} with ${elementCount(to)} elements, expected ${this.size} elements, from ${shapeText(this.shape)}`,
      );
    }
    this.#needContiguous("reshape");
    return this.#over(0, to, contiguousStrides(to));
  }

  /**
   * Any view within this tensor: `offset` from its first element and `strides`, both in elements; strides default to row-major, and the
   * last one is 1.
   * @throws ERR_KVASIR_SHAPE where the view would reach past the tensor's last element; ERR_KVASIR_DISPOSED
   */
  view(layout: { offset?: number | undefined; shape: readonly number[]; strides?: readonly number[] | undefined }): Tensor {
    checkOptions("view", layout, ["offset", "shape", "strides"]);
    const shape = checkShape(layout.shape);
    const strides = layout.strides === undefined ? contiguousStrides(shape) : checkStrides(layout.strides, shape);
    const offset = checkInteger("offset", layout.offset ?? 0, 0);
    const end = offset + extent(shape, strides);
    const limit = extent(this.shape, this.strides);
    if (end > limit) {
      throw new KvasirError(
        "ERR_KVASIR_SHAPE",
        `view ends at element ${end}, expected at most ${limit}, the extent of ${shapeText(this.shape)}`,
      );
    }
    return this.#over(offset, shape, strides);
  }

  /**
   * Writes all elements, in stream order: bits of the dtype, or numbers that are converted. Bits are not copied first: leave `data` alone
   * until the promise resolves. The tensor must be contiguous.
   * @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_INVALID_ARGUMENT for data that does not fit; ERR_KVASIR_DISPOSED
   */
  async write(data: TensorData, options?: StreamOption): Promise<void> {
    const native = nativeTensor(this);
    const stream = this.#stream("write", options);
    this.#needContiguous("write");
    const bits = bitsOf(this.dtype, this.size, data);
    await settle(() => stream.write(native, bits));
  }

  /** All elements as bits, row-major, once the stream got here. @throws ERR_KVASIR_DISPOSED, ERR_KVASIR_DEVICE_LOST */
  async read(options?: StreamOption): Promise<BitArray> {
    const native = nativeTensor(this);
    const stream = this.#stream("read", options);
    return bitsOver(this.dtype, await settle(() => stream.read(native)));
  }

  /** All elements as float32, converted natively. @throws ERR_KVASIR_DISPOSED, ERR_KVASIR_DEVICE_LOST */
  async readFloats(options?: StreamOption): Promise<Float32Array> {
    return floatsOf(this.dtype, await this.read(options));
  }

  /**
   * Copies all elements of `source`, of the same dtype and shape, in stream order. Between a CPU and a CUDA device it runs on a stream of
   * the CUDA one, by default its own; an event there tells the CPU's streams when the copy is there. Inside a program the host memory of
   * such a copy must be pinned (`allocateHostTensor`).
   * @throws ERR_KVASIR_SHAPE, ERR_KVASIR_DTYPE, ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_UNSUPPORTED, ERR_KVASIR_DISPOSED
   */
  copyFrom(source: Tensor, options?: StreamOption): void {
    if (!(source instanceof Tensor))
      throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `source is ${describe(source)}, expected a Tensor`);
    const target = nativeTensor(this);
    const from = nativeTensor(source);
    if (source.dtype !== this.dtype) {
      throw new KvasirError(
        "ERR_KVASIR_DTYPE",
        `source is ${source.dtype}, expected ${this.dtype}, from the target; convert with cast`,
      );
    }
    if (source.shape.length !== this.shape.length || source.shape.some((n, i) => n !== this.shape[i])) {
      throw new KvasirError(
        "ERR_KVASIR_SHAPE",
        `source has shape ${shapeText(source.shape)}, expected ${shapeText(this.shape)}, from the target`,
      );
    }
    const isAcross = source.device !== this.device;
    if (isAcross) {
      this.#needContiguous("copyFrom another device");
      source.#needContiguous("copyFrom another device");
    }
    const stream = isAcross ? streamBetween(this, source, options) : this.#stream("copyFrom", options);
    try {
      if (this.contiguous && source.contiguous) stream.copy(target, from);
      else stream.enqueue(addon().opNames.indexOf("cast"), from, target);
    } catch (error) {
      throw fromNative(error);
    }
  }

  /** Sets every byte of a contiguous tensor. @throws ERR_KVASIR_INVALID_ARGUMENT, ERR_KVASIR_SHAPE, ERR_KVASIR_DISPOSED */
  fill(byte: number, options?: StreamOption): void {
    const native = nativeTensor(this);
    checkInteger("byte", byte, 0, 255);
    this.#needContiguous("fill");
    try {
      this.#stream("fill", options).fill(native, byte);
    } catch (error) {
      throw fromNative(error);
    }
  }

  /**
   * Loads the file's bytes [offset, offset + bytes) as this tensor's bits, read off the JavaScript thread.
   * @throws ERR_KVASIR_CORRUPT_FILE (rejection) where the file is shorter; ERR_KVASIR_INVALID_ARGUMENT where it cannot be opened
   */
  async loadFile(path: string, offset = 0, options?: StreamOption): Promise<void> {
    const native = nativeTensor(this);
    if (typeof path !== "string")
      throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `path is ${describe(path)}, expected a string`);
    checkInteger("offset", offset, 0);
    this.#needContiguous("loadFile");
    const stream = this.#stream("loadFile", options);
    await settle(() => stream.loadFile(native, path, offset));
  }

  get disposed(): boolean {
    return this.#native === undefined;
  }

  /** Gives this reference to the memory up; safe straight after enqueueing, a no-op the second time. */
  dispose(): void {
    if (this.#native === undefined) return;
    this.#native.dispose();
    this.#native = undefined;
    if (!this.#isView) untrack(this);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #over(offset: number, shape: readonly number[], strides: readonly number[]): Tensor {
    try {
      return new Tensor(this.device, nativeTensor(this).view(offset, shape, strides), this.dtype, shape, strides);
    } catch (error) {
      throw fromNative(error);
    }
  }

  #stream(where: string, options: StreamOption | undefined): ReturnType<typeof nativeStream> {
    checkOptions(where, options, ["stream"]);
    const stream = options?.stream ?? this.device.stream;
    const native = nativeStream(stream);
    if (stream.device !== this.device) {
      throw new KvasirError(
        "ERR_KVASIR_INVALID_ARGUMENT",
        `stream belongs to another device than the tensor; ${where} on one of its own`,
      );
    }
    return native;
  }

  #needContiguous(what: string): void {
    if (this.contiguous) return;
    throw new KvasirError(
      "ERR_KVASIR_SHAPE",
      `${what} on strides ${shapeText(this.strides)}, expected a contiguous tensor; copy it with cast first`,
    );
  }
}

/** A stream that reaches both: CUDA streams read and write host memory, CPU streams only their own. */
function streamBetween(target: Tensor, source: Tensor, options: StreamOption | undefined): ReturnType<typeof nativeStream> {
  checkOptions("copyFrom", options, ["stream"]);
  if (target.device.backend === "cuda" && source.device.backend === "cuda") {
    throw new KvasirError(
      "ERR_KVASIR_UNSUPPORTED",
      "source lives on another CUDA device; copy it through a tensor of a CPU device",
    );
  }
  const able = source.device.backend === "cuda" ? source.device : target.device;
  const stream = options?.stream ?? able.stream;
  const native = nativeStream(stream);
  const isCpuPair = target.device.backend === source.device.backend && stream.device === source.device;
  if (stream.device === able || isCpuPair) return native;
  throw new KvasirError(
    "ERR_KVASIR_INVALID_ARGUMENT",
    `stream belongs to another device, expected one of ${able.backend}:${able.index}`,
  );
}
