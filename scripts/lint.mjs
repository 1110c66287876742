/**
 * `npm run lint`: biome over TypeScript and JSON, clang-format over C++ and CUDA where it is installed, then the layer check.
 * `--fix` (`npm run format`) writes what biome and clang-format would change.
 */
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { packageFile, root, run } from "./toolchain.mjs";

const fix = process.argv.includes("--fix");

function cppFiles() {
  return ["native", "cuda", "tests"].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true })
      .filter((path) => /\.(h|cc|cu|cuh)$/.test(path))
      .map((path) => join(folder, path)),
  );
}

function clangFormat() {
  if (spawnSync("clang-format", ["--version"]).status !== 0) {
    console.log("clang-format is not installed: C++ and CUDA formatting is not checked");
    return 0;
  }
  return run("clang-format", [...(fix ? ["-i"] : ["--dry-run", "-Werror"]), ...cppFiles()]);
}

const biome = packageFile("@biomejs/biome", "bin/biome");
const results = [
  run(process.execPath, [biome, "check", "--max-diagnostics=50", ...(fix ? ["--write"] : ["--error-on-warnings"]), "."]),
  clangFormat(),
  run(process.execPath, [join(root, "scripts", "check_layers.mjs")]),
];
process.exitCode = results.some((status) => status !== 0) ? 1 : 0;
