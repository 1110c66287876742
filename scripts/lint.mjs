/**
 * `npm run lint`: biome over TypeScript and JSON, clang-format over C++ and CUDA where its release is installed, then the layer check.
 * `--fix` (`npm run format`) writes what biome and clang-format would change.
 */
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { packageFile, root, run } from "./toolchain.mjs";

const fix = process.argv.includes("--fix");

/** The release that the sources are formatted with: others break lines elsewhere. */
const CLANG_FORMAT = 14;

function cppFiles() {
  return ["native", "cuda", "tests", "bench"].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true })
      .filter((path) => /\.(h|cc|cu|cuh)$/.test(path))
      .map((path) => join(folder, path)),
  );
}

function clangFormat() {
  const program = [`clang-format-${CLANG_FORMAT}`, "clang-format"].find((name) => {
    const { status, stdout } = spawnSync(name, ["--version"], { encoding: "utf8" });
    return status === 0 && stdout.includes(`version ${CLANG_FORMAT}.`);
  });
  if (program === undefined) {
    console.log(`clang-format ${CLANG_FORMAT} is not installed: C++ and CUDA formatting is not checked`);
    return 0;
  }
  return run(program, [...(fix ? ["-i"] : ["--dry-run", "-Werror"]), ...cppFiles()]);
}

const biome = packageFile("@biomejs/biome", "bin/biome");
const results = [
  run(process.execPath, [biome, "check", "--max-diagnostics=50", ...(fix ? ["--write"] : ["--error-on-warnings"]), "."]),
  clangFormat(),
  run(process.execPath, [join(root, "scripts", "check_layers.mjs")]),
];
process.exitCode = results.some((status) => status !== 0) ? 1 : 0;
