/** Between JavaScript arrays and the bits of a dtype. Arrays carry bits or float32; conversion to narrow floats is native. */
import { type BitArray, type DType, dtypeBytes, dtypes } from "./dtype.js";
import { KvasirError } from "./errors.js";
import { addon } from "./native.js";
import { describe } from "./options.js";

/** What `tensor` and `write` accept: bits of the dtype's element size, or numbers. */
export type TensorData = BitArray | Uint32Array | Uint8ClampedArray | Float16ArrayLike | readonly number[];

/** `Float16Array`, which Node has from version 24 on; described by shape, so that older type libraries compile. */
export interface Float16ArrayLike extends ArrayBufferView {
  readonly [Symbol.toStringTag]: "Float16Array";
  readonly length: number;
  readonly [index: number]: number;
}

const narrowFloats: ReadonlySet<DType> = new Set<DType>(["f16", "bf16", "f8e4m3", "f8e5m2"]);
const integerRange: Partial<Record<DType, readonly [number, number]>> = {
  i32: [-(2 ** 31), 2 ** 31 - 1],
  u8: [0, 255],
  i8: [-128, 127],
};
const bitArrays: Record<DType, new (buffer: ArrayBuffer) => BitArray> = {
  f32: Float32Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  f8e4m3: Uint8Array,
  f8e5m2: Uint8Array,
  i32: Int32Array,
  u8: Uint8Array,
  i8: Int8Array,
};

/** The array that carries a dtype's bits, over `buffer`. */
export function bitsOver(dtype: DType, buffer: ArrayBuffer): BitArray {
  return new bitArrays[dtype](buffer);
}

/** float32 values of a dtype's bits. */
export function floatsOf(dtype: DType, bits: BitArray): Float32Array {
  if (dtype === "f32") return bits as Float32Array;
  if (narrowFloats.has(dtype)) return addon().decodeFloats(dtypes.indexOf(dtype), bits as Uint16Array | Uint8Array);
  return Float32Array.from(bits);
}

/**
 * `data` as the bits of `dtype`, `size` elements: an array of bits as it is (not copied), numbers converted.
 * @throws ERR_KVASIR_SHAPE on another number of elements; ERR_KVASIR_DTYPE on an array that cannot be meant for the dtype;
 * ERR_KVASIR_INVALID_ARGUMENT on a detached, shared or resizable buffer, and on list entries that are no numbers of the dtype's range.
 */
export function bitsOf(dtype: DType, size: number, data: TensorData): BitArray {
  if (Array.isArray(data)) {
    checkLength(size, data.length);
    return fromNumbers(dtype, data as readonly number[]);
  }
  if (!ArrayBuffer.isView(data) || data instanceof DataView) {
    const expected = `a ${bitArrays[dtype].name} of bits, a Float32Array or a list of numbers`;
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `data is ${describe(data)}, expected ${expected}`);
  }
  const view = data as Exclude<TensorData, readonly number[]>;
  checkBuffer(view);
  const kind = Object.prototype.toString.call(view).slice(8, -1);
  checkLength(size, view.length);
  if (kind === "Float32Array" && dtype !== "f32") {
    if (narrowFloats.has(dtype)) return addon().encodeFloats(dtypes.indexOf(dtype), view as Float32Array);
    throw wrongArray(dtype, kind);
  }
  if (kind === "Float16Array" && dtype !== "f16") {
    if (dtype !== "f32" && !narrowFloats.has(dtype)) throw wrongArray(dtype, kind);
    const floats = Float32Array.from(view);
    return dtype === "f32" ? floats : addon().encodeFloats(dtypes.indexOf(dtype), floats);
  }
  if (kind === "Float64Array" || kind.startsWith("Big") || view.byteLength !== size * dtypeBytes[dtype])
    throw wrongArray(dtype, kind);
  const Bits = bitArrays[dtype] as new (buffer: ArrayBufferLike, offset: number, length: number) => BitArray;
  return new Bits(view.buffer, view.byteOffset, size);
}

function fromNumbers(dtype: DType, values: readonly number[]): BitArray {
  const range = integerRange[dtype];
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    const fits =
      typeof value === "number" && (range === undefined || (Number.isInteger(value) && value >= range[0] && value <= range[1]));
    if (fits) continue;
    const expected = range === undefined ? "a number" : `an integer from ${range[0]} to ${range[1]} for ${dtype}`;
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `data[${i}] is ${describe(value)}, expected ${expected}`);
  }
  if (dtype === "i32") return Int32Array.from(values);
  if (dtype === "u8") return Uint8Array.from(values);
  if (dtype === "i8") return Int8Array.from(values);
  const floats = Float32Array.from(values);
  return dtype === "f32" ? floats : addon().encodeFloats(dtypes.indexOf(dtype), floats);
}

function checkLength(size: number, length: number): void {
  if (length === size) return;
  throw new KvasirError("ERR_KVASIR_SHAPE", `data has ${length} elements, expected ${size}, from the tensor's shape`);
}

/** The bytes are read while JavaScript goes on, so the memory must stay where and as large as it is. */
function checkBuffer(view: ArrayBufferView): void {
  const { buffer } = view;
  if (!(buffer instanceof ArrayBuffer)) {
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      "data lies in a SharedArrayBuffer, expected memory of its own; copy it with slice()",
    );
  }
  if ((buffer as ArrayBuffer & { resizable?: boolean }).resizable === true) {
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      "data lies in a resizable ArrayBuffer, expected a fixed one; copy it with slice()",
    );
  }
  if (view.byteLength === 0 && isDetached(buffer)) {
    throw new KvasirError(
      "ERR_KVASIR_INVALID_ARGUMENT",
      "data lies in a detached ArrayBuffer (transferred away), expected one that is still here",
    );
  }
}

/** `ArrayBuffer.prototype.detached` came after Node 20; making a view of a detached buffer has always thrown. */
function isDetached(buffer: ArrayBuffer): boolean {
  try {
    new Uint8Array(buffer);
    return false;
  } catch {
    return true;
  }
}

function wrongArray(dtype: DType, kind: string): KvasirError {
  const numbers = integerRange[dtype] === undefined ? " of bits, a Float32Array" : "";
  return new KvasirError(
    "ERR_KVASIR_DTYPE",
    `data is a ${kind}, expected for ${dtype} a ${bitArrays[dtype].name}${numbers} or a list of numbers`,
  );
}
