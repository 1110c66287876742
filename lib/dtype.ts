/** Element types of tensors. JavaScript has no array for most of them, so a dtype is always named, never inferred. */
export type DType = "f32" | "f16" | "bf16" | "f8e4m3" | "f8e5m2" | "i32" | "u8" | "i8";

/** In the order of `kvasir_dtype` in native/abi/kvasir_abi.h. */
export const dtypes: readonly DType[] = ["f32", "f16", "bf16", "f8e4m3", "f8e5m2", "i32", "u8", "i8"];

/** Bytes per element. */
export const dtypeBytes: Readonly<Record<DType, number>> = {
  f32: 4,
  f16: 2,
  bf16: 2,
  f8e4m3: 1,
  f8e5m2: 1,
  i32: 4,
  u8: 1,
  i8: 1,
};

/** Arrays that carry a dtype's bits: one element each. */
export type BitArray = Float32Array | Uint16Array | Int32Array | Uint8Array | Int8Array;
