import { describe, expect, test } from "vitest";
import { fromNative } from "../../lib/errors.js";
import { KvasirError } from "../../lib/index.js";

describe("KvasirError", () => {
  test.each([
    ["ERR_KVASIR_INVALID_ARGUMENT", TypeError],
    ["ERR_KVASIR_DTYPE", TypeError],
    ["ERR_KVASIR_UNKNOWN_OPTION", TypeError],
    ["ERR_KVASIR_SHAPE", RangeError],
    ["ERR_KVASIR_PAGE_OUT_OF_RANGE", RangeError],
  ] as const)("%s is a KvasirError and a %o", (code, Base) => {
    const error = new KvasirError(code, "q is wrong");
    expect(error).toBeInstanceOf(Base);
    expect(error).toBeInstanceOf(KvasirError);
    expect(error).toBeInstanceOf(Error);
    expect([error.code, error.name, error.message]).toEqual([code, "KvasirError", "q is wrong"]);
    expect(error.stack).toContain("errors.test.ts");
  });

  test("other codes are plain errors", () => {
    const error = new KvasirError("ERR_KVASIR_OUT_OF_MEMORY", "too much");
    expect(error).toBeInstanceOf(KvasirError);
    expect(error).not.toBeInstanceOf(TypeError);
    expect(error).not.toBeInstanceOf(RangeError);
  });

  test("other errors, look-alikes and nothing are not KvasirErrors", () => {
    for (const value of [
      new TypeError("x"),
      Object.assign(new Error("x"), { code: "ERR_KVASIR_SHAPE" }),
      null,
      undefined,
      "x",
      {},
    ]) {
      expect(value).not.toBeInstanceOf(KvasirError);
    }
  });

  test("a subclass keeps its own kind", () => {
    class Narrow extends KvasirError {}
    expect(new Narrow("ERR_KVASIR_SHAPE", "x")).toBeInstanceOf(Narrow);
    expect(new Narrow("ERR_KVASIR_SHAPE", "x")).toBeInstanceOf(KvasirError);
    expect(new KvasirError("ERR_KVASIR_SHAPE", "x")).not.toBeInstanceOf(Narrow);
  });

  test("the cause is kept", () => {
    const cause = new Error("below");
    expect(new KvasirError("ERR_KVASIR_INTERNAL", "x", { cause }).cause).toBe(cause);
  });
});

test("what the addon throws becomes a KvasirError, everything else passes through", () => {
  const native = Object.assign(new Error("k is f16, expected f32, from q"), { code: "ERR_KVASIR_DTYPE" });
  const error = fromNative(native) as KvasirError;
  expect(error).toBeInstanceOf(KvasirError);
  expect(error).toBeInstanceOf(TypeError);
  expect([error.code, error.message]).toEqual(["ERR_KVASIR_DTYPE", native.message]);
  const plain = new RangeError("x");
  expect(fromNative(plain)).toBe(plain);
  expect(fromNative(error)).toBe(error);
});
