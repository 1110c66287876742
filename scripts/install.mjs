/**
 * npm's install script: does nothing where a binary for this host came in the package and loads, else builds one.
 *
 * node-gyp-build finds binaries here as it does at run time, so the package works with this script blocked wherever it carries a
 * prebuild. `npm install --build-from-source` builds in any case; in a checkout there is no prebuild, so `npm ci` builds.
 */
import { createRequire } from "node:module";
import { buildNative } from "./build_native.mjs";
import { root } from "./toolchain.mjs";

const require = createRequire(import.meta.url);

/** The prebuild's path when it loads here, else undefined: too old a glibc, another platform, or no prebuild at all. */
function workingPrebuild() {
  const outer = process.env.PREBUILDS_ONLY;
  process.env.PREBUILDS_ONLY = "1";
  try {
    const path = require("node-gyp-build").resolve(root);
    require(path);
    return path;
  } catch (error) {
    if (!/No native build/.test(error.message)) console.error(`kvasir: the prebuilt addon does not load here: ${error.message}`);
    return undefined;
  } finally {
    if (outer === undefined) delete process.env.PREBUILDS_ONLY;
    else process.env.PREBUILDS_ONLY = outer;
  }
}

const asked = ["true", "kvasir"].includes(process.env.npm_config_build_from_source ?? "");
if (asked || workingPrebuild() === undefined) process.exitCode = buildNative();
