import { expect, test } from "vitest";
import { checkInteger, checkOptions, describe as name, nearest } from "../../lib/options.js";
import { expectError } from "../expect_error.js";

const known = ["windowLeft", "logitsSoftCap", "smScale", "pageSize"];

test.each([
  ["windowleft", "windowLeft"],
  ["window_left", "windowLeft"],
  ["sm_scale", "smScale"],
  ["smScael", "smScale"],
  ["logitSoftCap", "logitsSoftCap"],
  ["pagesize", "pageSize"],
])("%s is near %s", (typed, meant) => {
  expect(nearest(typed, known)).toBe(meant);
  expectError("ERR_KVASIR_UNKNOWN_OPTION", ["attention", typed, `did you mean ${meant}?`], () =>
    checkOptions("attention", { [typed]: 1 }, known),
  );
});

test("a name that is near none gets the list", () => {
  expect(nearest("banana", known)).toBeUndefined();
  expectError("ERR_KVASIR_UNKNOWN_OPTION", ["banana", "windowLeft, logitsSoftCap, smScale, pageSize"], () =>
    checkOptions("attention", { banana: 1 }, known),
  );
});

test("known names, nothing and undefined values pass", () => {
  checkOptions("attention", undefined, known);
  checkOptions("attention", {}, known);
  checkOptions("attention", { smScale: undefined, pageSize: 16 }, known);
});

test("options that are no object are refused", () => {
  for (const options of [null, 3, "x", []]) {
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["attention", "expected an object"], () =>
      checkOptions("attention", options as object, known),
    );
  }
});

test("integers are checked with their range", () => {
  expect(checkInteger("n", 3, 0)).toBe(3);
  for (const value of [-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, "3", null, 3n]) {
    expectError("ERR_KVASIR_INVALID_ARGUMENT", ["n is ", "an integer of at least 0"], () => checkInteger("n", value, 0));
  }
  expectError("ERR_KVASIR_INVALID_ARGUMENT", ["n is 300", "from 0 to 255"], () => checkInteger("n", 300, 0, 255));
});

test("values are named by what they are", () => {
  expect([name(null), name(1.5), name("x"), name([1]), name(new Map()), name({}), name(2n), name(() => 1)]).toEqual([
    "null",
    "1.5",
    '"x"',
    "an Array",
    "a Map",
    "an object",
    "2n",
    "a function",
  ]);
});
