/** Asserts one clear coded sentence: the code, every named part, and nothing like a stack or a second line. */
import { expect } from "vitest";
import { type ErrorCode, KvasirError } from "../lib/index.js";

function check(error: unknown, code: ErrorCode, parts: readonly (string | RegExp)[]): void {
  expect(error, "nothing was thrown").toBeDefined();
  if (!(error instanceof KvasirError)) throw error;
  expect(error.code, error.message).toBe(code);
  for (const part of parts) expect(error.message).toMatch(part);
  expect(error.message).not.toMatch(/\n|\[SHAPE\]|\[DTYPE\]|undefined/);
  expect(error.message.length).toBeGreaterThan(15);
}

export function expectError(code: ErrorCode, parts: readonly (string | RegExp)[], action: () => unknown): void {
  let caught: unknown;
  try {
    action();
  } catch (error) {
    caught = error;
  }
  check(caught, code, parts);
}

export async function expectRejection(
  code: ErrorCode,
  parts: readonly (string | RegExp)[],
  pending: Promise<unknown>,
): Promise<void> {
  check(
    await pending.then(
      () => undefined,
      (error: unknown) => error,
    ),
    code,
    parts,
  );
}
