/** Builds the native part, incrementally: with CMake where it is on PATH, else with the node-gyp that npm brings (CPU backend only). */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { gypEnvironment, haveCmake, nodeGyp, root, run } from "./toolchain.mjs";

/** Returns the exit status of the build. */
export function buildNative() {
  if (haveCmake()) return run(process.execPath, [join(root, "scripts", "cmake_build.mjs")]);
  if (process.env.KVASIR_CUDA?.toUpperCase() === "ON") {
    console.error("kvasir: KVASIR_CUDA=ON needs CMake 3.22 or later on PATH");
    return 1;
  }
  const gyp = nodeGyp();
  if (gyp === undefined) {
    console.error("kvasir: building needs CMake 3.22 or later on PATH, or npm's node-gyp; neither was found");
    return 1;
  }
  console.error("kvasir: no CMake 3.22 or later on PATH, so gyp builds the CPU backend only");
  const [program, ...args] = gyp;
  const configured = existsSync(join(root, "build", "kvasir.target.mk"));
  const verbs = configured ? ["configure", "build"] : ["rebuild"];
  for (const verb of verbs) {
    const status = run(program, [...args, verb, "--silent", "-j", "max"], gypEnvironment());
    if (status !== 0) return status;
  }
  return 0;
}
