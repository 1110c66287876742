/** Headers, checksums and the index of stored pages: C++ programs check them, built here with the host's compiler. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";

const answers = (program: string): boolean => spawnSync(program, ["--version"]).status === 0;
const compiler = [process.env.CXX, "c++", "g++", "clang++"].find((program) => program !== undefined && answers(program));

describe.skipIf(compiler === undefined)(`stored pages${compiler === undefined ? ": no C++ compiler on this host" : ""}`, () => {
  const folder = mkdtempSync(join(tmpdir(), "kvasir-stored-pages-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test.each([
    ["page_envelope_test", []],
    ["slab_index_test", ["native/addon/slab_index.cc"]],
  ])("%s", { timeout: 120_000 }, (name, sources) => {
    const program = join(folder, name);
    // An overflow or a shift too far ends the program with a signal.
    const checks = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", "-Wall", "-Wextra", "-Werror"];
    const files = ["-I", "native/core", `tests/native/${name}.cc`, ...sources, "-o", program];
    const built = spawnSync(compiler as string, ["-std=c++20", "-O2", ...checks, ...files], { encoding: "utf8" });
    expect(built.stderr).toBe("");
    const ran = spawnSync(program, { encoding: "utf8" });
    expect(ran.stdout).toMatch(/^\d{5,} checks, 0 failed\n$/);
    expect(ran.status).toBe(0);
  });
});
