/** `npm run soak -- OPTIONS`: compiles tests/tiers beside the library into build/soak/ and runs it there; tests/tiers/soak.ts has the options. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { packageFile, root, run } from "./toolchain.mjs";

const folder = join(root, "build", "soak");
const compiler = packageFile("typescript", "bin/tsc");
const status = run(process.execPath, [compiler, "-p", join(root, "tests", "tiers", "tsconfig.json"), "--outDir", folder]);
if (status !== 0) process.exit(status);
const program = join(folder, "tests", "tiers", "soak.js");
process.exitCode = spawnSync(process.execPath, [program, ...process.argv.slice(2)], { stdio: "inherit" }).status ?? 1;
