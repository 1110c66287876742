/**
 * `npm run build`: the native part, then TypeScript into dist/. Both are incremental, so a second run takes seconds.
 * `--native` and `--types` build one of the two.
 */
import { chmodSync, existsSync } from "node:fs";
import { join } from "node:path";
import { buildNative } from "./build_native.mjs";
import { packageFile, root, run } from "./toolchain.mjs";

function buildTypeScript() {
  const compiler = packageFile("typescript", "bin/tsc");
  if (compiler !== undefined) {
    const status = run(process.execPath, [compiler, "-p", join(root, "tsconfig.json")]);
    if (status === 0) chmodSync(join(root, "dist", "lib", "cli", "main.js"), 0o755); // npx in the checkout runs it as a program
    return status;
  }
  // An installed package carries dist/ and no compiler.
  if (existsSync(join(root, "dist", "lib", "index.js"))) return 0;
  console.error("kvasir: TypeScript is not installed; run `npm ci` in the checkout");
  return 1;
}

const [only] = process.argv.slice(2);
const native = only === "--types" ? 0 : buildNative();
process.exitCode = native || (only === "--native" ? 0 : buildTypeScript());
