/** The plan functions that the kernels cut attention by: C++ programs check them, built here with the host's compiler. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";

const answers = (program: string): boolean => spawnSync(program, ["--version"]).status === 0;
const compiler = [process.env.CXX, "c++", "g++", "clang++"].find((program) => program !== undefined && answers(program));

describe.skipIf(compiler === undefined)(`native/core${compiler === undefined ? ": no C++ compiler on this host" : ""}`, () => {
  const folder = mkdtempSync(join(tmpdir(), "kvasir-plans-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test.each([
    ["stream_k", "runs, owners, slots and the number of workers keep their promises"],
    ["key_segments", "walks of any number of workers cover every tile once, in one order, and keep the pipeline's rhythm"],
  ])("%s.h: %s", { timeout: 120_000 }, (stem) => {
    const program = join(folder, stem);
    // An overflow or a division by zero ends the program with a signal.
    const checks = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", "-Wall", "-Wextra", "-Werror"];
    const files = ["-I", "native/core", `tests/native/${stem}_test.cc`, "-o", program];
    const built = spawnSync(compiler as string, ["-std=c++20", "-O2", ...checks, ...files], { encoding: "utf8" });
    expect(built.stderr).toBe("");
    const ran = spawnSync(program, { encoding: "utf8" });
    expect(ran.stdout).toMatch(/^\d{7,} checks, 0 failed\n$/);
    expect(ran.status).toBe(0);
  });
});
