/** An addon that is missing or broken is explained at first use, not at import. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openDevice } from "../../lib/index.js";
import { addonPath } from "../../lib/native.js";
import { expectError } from "../expect_error.js";

const CODE = "ERR_KVASIR_BACKEND_UNAVAILABLE";
const folder = mkdtempSync(join(tmpdir(), "kvasir-"));
const before = process.env.KVASIR_PREBUILD;

beforeAll(() => {
  process.env.KVASIR_PREBUILD = folder;
});
afterAll(() => {
  if (before === undefined) delete process.env.KVASIR_PREBUILD;
  else process.env.KVASIR_PREBUILD = before;
  rmSync(folder, { recursive: true });
});

test("missing, then broken, then there again", () => {
  expectError(CODE, ["No native build was found", "Build it with"], () => openDevice("cpu"));
  expect(addonPath()).toBeUndefined();
  mkdirSync(join(folder, "build", "Release"), { recursive: true });
  writeFileSync(join(folder, "build", "Release", "kvasir.node"), "no library");
  expectError(CODE, ["kvasir.node does not load", "Build it with"], () => openDevice());
  if (before === undefined) delete process.env.KVASIR_PREBUILD;
  else process.env.KVASIR_PREBUILD = before;
  using device = openDevice("cpu", { threads: 1 });
  expect(device.describe().multiprocessors).toBe(1);
});
