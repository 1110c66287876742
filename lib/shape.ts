/** Shapes and strides: plain lists of integers, strides in elements. */
import { KvasirError } from "./errors.js";
import { describe } from "./options.js";

/** As KVASIR_MAX_RANK in native/abi/kvasir_abi.h. */
const MAX_RANK = 4;

/** A copy of `shape`. @throws ERR_KVASIR_SHAPE unless it is a list of 1 to 4 sizes of 0 or more */
export function checkShape(shape: readonly number[]): readonly number[] {
  if (!Array.isArray(shape))
    throw new KvasirError("ERR_KVASIR_SHAPE", `shape is ${describe(shape)}, expected a list of 1 to ${MAX_RANK} sizes`);
  if (shape.length < 1 || shape.length > MAX_RANK) {
    throw new KvasirError(
      "ERR_KVASIR_SHAPE",
      `shape is ${shapeText(shape)} with ${shape.length} dimensions, expected 1 to ${MAX_RANK}`,
    );
  }
  let size = 1;
  for (const [i, n] of shape.entries()) {
    if (!Number.isSafeInteger(n) || n < 0) {
      throw new KvasirError("ERR_KVASIR_SHAPE", `shape[${i}] is ${describe(n)}, expected an integer of at least 0`);
    }
    size *= n;
  }
  // Eight bytes an element at most keep every byte offset exact in a double.
  if (size > Number.MAX_SAFE_INTEGER / 8) {
    throw new KvasirError("ERR_KVASIR_SHAPE", `shape is ${shapeText(shape)} with ${size} elements, expected fewer than 2^50`);
  }
  return [...shape];
}

/** A copy of `strides`. @throws ERR_KVASIR_SHAPE unless there is one of at least 1 for each dimension, 1 for the last */
export function checkStrides(strides: readonly number[], shape: readonly number[]): readonly number[] {
  if (!Array.isArray(strides) || strides.length !== shape.length) {
    const got = Array.isArray(strides) ? shapeText(strides) : describe(strides);
    throw new KvasirError("ERR_KVASIR_SHAPE", `strides is ${got}, expected ${shape.length} numbers, one a dimension of shape`);
  }
  for (const [i, n] of strides.entries()) {
    if (!Number.isSafeInteger(n) || n < 1) {
      throw new KvasirError("ERR_KVASIR_SHAPE", `strides[${i}] is ${describe(n)}, expected an integer of at least 1`);
    }
  }
  const last = strides.length - 1;
  if (strides[last] !== 1) {
    throw new KvasirError(
      "ERR_KVASIR_SHAPE",
      `strides[${last}] is ${strides[last]}, expected 1: the innermost dimension is contiguous`,
    );
  }
  return [...strides];
}

export function contiguousStrides(shape: readonly number[]): readonly number[] {
  const strides = new Array<number>(shape.length);
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = step;
    step *= Math.max(1, shape[i] as number);
  }
  return strides;
}

export function elementCount(shape: readonly number[]): number {
  let count = 1;
  for (let i = 0; i < shape.length; i++) count *= shape[i] as number;
  return count;
}

/** Elements from the first to past the last; 0 for an empty shape. */
export function extent(shape: readonly number[], strides: readonly number[]): number {
  if (elementCount(shape) === 0) return 0;
  let last = 0;
  for (let i = 0; i < shape.length; i++) last += ((shape[i] as number) - 1) * (strides[i] as number);
  return last + 1;
}

export function shapeText(shape: readonly number[]): string {
  return `[${shape.join(", ")}]`;
}
