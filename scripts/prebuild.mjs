/**
 * `npm run prebuild`: prebuildify through the same door (node-gyp, binding.gyp, CMake), into prebuilds/<platform>-<arch>/.
 * Compiles CUDA code for every supported architecture unless KVASIR_CUDA_ARCHS says otherwise.
 */
import { gypEnvironment, packageFile, run } from "./toolchain.mjs";

const prebuildify = packageFile("prebuildify", "bin.js");
if (prebuildify === undefined) throw new Error("prebuildify is not installed; run `npm ci` in the checkout");
const env = gypEnvironment({ KVASIR_CUDA_ARCHS: process.env.KVASIR_CUDA_ARCHS ?? "prebuild" });
process.exitCode = run(process.execPath, [prebuildify, "--napi", "--strip", "-t", process.versions.node], env);
