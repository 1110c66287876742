/**
 * Builds kvasir.node and, where there is a working nvcc, kvasir_cuda.so with CMake: `cmake_build.mjs [output folder]`.
 *
 * cmake-js configures when it is installed, for it knows the Node-API headers; plain CMake asks the same packages itself. CMake's own
 * files stay in build/cmake, away from gyp's build/Makefile. Nothing is downloaded.
 */
import { availableParallelism } from "node:os";
import { join, resolve } from "node:path";
import { packageFile, root, run } from "./toolchain.mjs";

const output = resolve(process.argv[2] ?? join(root, "build", "Release"));
const folder = join(root, "build", "cmake");
const definitions = {
  CMAKE_BUILD_TYPE: process.env.KVASIR_BUILD_TYPE ?? "Release",
  KVASIR_OUTPUT_DIR: output,
  KVASIR_CUDA: process.env.KVASIR_CUDA ?? "AUTO",
  KVASIR_CUDA_ARCHS: process.env.KVASIR_CUDA_ARCHS ?? "",
};

function configure() {
  const cmakeJs = packageFile("cmake-js", "bin/cmake-js");
  const pairs = Object.entries(definitions).map(([name, value]) => `${name}=${value}`);
  if (cmakeJs === undefined) return run("cmake", ["-S", root, "-B", folder, ...pairs.map((pair) => `-D${pair}`)]);
  return run(process.execPath, [
    cmakeJs,
    "configure",
    "-d",
    root,
    "-O",
    folder,
    "-l",
    "warn",
    ...pairs.map((pair) => `--CD${pair}`),
  ]);
}

function build() {
  const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(availableParallelism());
  return run("cmake", ["--build", folder, "--config", definitions.CMAKE_BUILD_TYPE, "--parallel", jobs]);
}

process.exitCode = configure() || build();
