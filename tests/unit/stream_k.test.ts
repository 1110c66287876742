/** The plan functions that both backends cut attention by: a C++ program checks them, built here with the host's compiler. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";

const answers = (program: string): boolean => spawnSync(program, ["--version"]).status === 0;
const compiler = [process.env.CXX, "c++", "g++", "clang++"].find((program) => program !== undefined && answers(program));

describe.skipIf(compiler === undefined)(`stream_k.h${compiler === undefined ? ": no C++ compiler on this host" : ""}`, () => {
  const folder = mkdtempSync(join(tmpdir(), "kvasir-stream-k-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test("runs, owners, slots and the number of workers keep their promises", { timeout: 120_000 }, () => {
    const program = join(folder, "stream_k_test");
    // An overflow or a division by zero ends the program with a signal.
    const checks = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", "-Wall", "-Wextra", "-Werror"];
    const files = ["-I", "native/core", "tests/native/stream_k_test.cc", "-o", program];
    const built = spawnSync(compiler as string, ["-std=c++20", "-O2", ...checks, ...files], { encoding: "utf8" });
    expect(built.stderr).toBe("");
    const ran = spawnSync(program, { encoding: "utf8" });
    expect(ran.stdout).toMatch(/^\d{8,} checks, 0 failed\n$/);
    expect(ran.status).toBe(0);
  });
});
